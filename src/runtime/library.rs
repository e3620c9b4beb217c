//! Loads the shared library of ONNX Runtime, once per process.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;

/// ONNX Runtime's shared library cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot load ONNX Runtime from {path}: {cause} (set the path of the library with --onnxruntime)"
)]
pub struct LibraryError {
    path: PathBuf,
    cause: String,
}

/// Disables ONNX Runtime's telemetry. Otherwise the library creates a database and a device id in the user's cache
/// folder when it is loaded, before [`environment`] can turn telemetry off.
///
/// # Safety
/// No other thread may read or write environment variables during the call. Call this before any thread starts.
pub unsafe fn disable_telemetry() {
    // SAFETY: the caller guarantees that no other thread accesses environment variables.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

/// Returns the environment of ONNX Runtime for this process, loading the library at `path` on the first call.
/// Later calls return the same environment and ignore `path`: a process loads one ONNX Runtime.
pub fn environment(path: &Path) -> Result<Environment, LibraryError> {
    static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = environment.as_ref() {
        return Ok(environment.clone());
    }
    let failed = |cause: String| LibraryError {
        path: path.to_owned(),
        cause,
    };
    // `ort` panics if the library has ONNX Runtime's entry point but does not return the expected API.
    let loaded = catch_unwind(|| {
        ort::init_from(path)
            .map_err(|error| error.to_string())?
            .with_name(env!("CARGO_PKG_NAME"))
            .with_telemetry(false)
            .build()
            .map_err(|error| error.to_string())
    });
    let loaded = loaded
        .unwrap_or_else(|_| Err("it does not provide the ONNX Runtime API".to_owned()))
        .map_err(failed)?;
    // Less severe messages would repeat on the terminal what the returned errors say.
    loaded.set_log_level(ort::logging::LogLevel::Error);
    Ok(environment.insert(loaded).clone())
}

/// Serializes the creation of sessions with custom operators. ONNX Runtime adds the operator domain to a process-wide
/// table, and two sessions created concurrently could both find the domain missing.
pub(super) fn lock_session_creation() -> MutexGuard<'static, ()> {
    static SESSION_CREATION: Mutex<()> = Mutex::new(());
    SESSION_CREATION
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}
