//! Loading ONNX Runtime's shared library, once in a process.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;

/// Why the library does not serve.
#[derive(Debug, thiserror::Error)]
#[error("cannot load ONNX Runtime from {path}: {cause} (--onnxruntime names the library)")]
pub struct LibraryError {
    path: PathBuf,
    cause: String,
}

/// Keeps ONNX Runtime from telling its makers anything, and from leaving a database and a device's number in the user's cache
/// folder: what [`environment`] asks of it comes after it has made them.
///
/// # Safety
/// Nothing else reads or writes the process's environment variables meanwhile: it is to be called before there are threads.
pub unsafe fn forbid_telemetry() {
    // SAFETY: as the caller says.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

/// The process's environment, made with the library at `path`. Later calls get the first one's,
/// whatever they name: a process holds one ONNX Runtime.
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
    // A library that has ONNX Runtime's entry point and does not answer as expected makes `ort` panic.
    let loaded = catch_unwind(|| {
        ort::init_from(path)
            .map_err(|error| error.to_string())?
            .with_name(env!("CARGO_PKG_NAME"))
            .with_telemetry(false)
            .build()
            .map_err(|error| error.to_string())
    });
    let loaded = loaded
        .unwrap_or_else(|_| Err("it does not offer the API of ONNX Runtime".to_owned()))
        .map_err(failed)?;
    // Its own log repeats on the terminal what the errors say.
    loaded.set_log_level(ort::logging::LogLevel::Error);
    Ok(environment.insert(loaded).clone())
}

/// Held while a session with operators of ours is made: the runtime enters their domain into a table of the
/// process, and two sessions that are made at once can both find it missing there.
pub(super) fn one_session_at_a_time() -> MutexGuard<'static, ()> {
    static MAKING: Mutex<()> = Mutex::new(());
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}
