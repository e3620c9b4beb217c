//! The program: parses the command line, then runs the server (listen, load, serve, stop) or a command on model files.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ortolan::api::{self, ApiSettings, ResponseStore};
use ortolan::cli::{Cli, Invocation};
use ortolan::commands;
use ortolan::config::{Config, ModelSource};
use ortolan::logging::Logging;
use ortolan::model::load;
use ortolan::model::{ModelState, PreparationPool, remove_partial_slot_files};
use ortolan::platform;
use ortolan::runtime;
use ortolan::server::{Server, StopSignals};
use ortolan::terminal::{self, PendingModel};
use ortolan::web;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{oneshot, watch};

/// How long the preparation of requests (template, tokenizer, grammar) may continue after a stop signal. It usually
/// takes some milliseconds.
const PREPARATION_STOP_DELAY: Duration = Duration::from_secs(1);

/// How long file operations on blocking threads may continue after all responses have ended. A slot file that is still
/// incomplete then is removed at the next start.
const FILE_WORK_STOP_DELAY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // SAFETY: no other thread has been started, so none reads the environment.
    unsafe { runtime::disable_telemetry() };
    fail_writes_past_file_size_limit();
    return_freed_memory();
    let invocation =
        Invocation::from_args(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let result = match invocation {
        Invocation::Serve(cli) => start(*cli),
        Invocation::Command(command) => commands::run(command, &mut std::io::stdout().lock()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The message may quote a file, so control characters are escaped.
            let message = format!("{error:#}");
            let lines: Vec<String> = message.lines().map(terminal::printable).collect();
            eprintln!("error: {}", lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// Makes a write past the process's file size limit (`ulimit -f`) fail with an error instead of ending the process by
/// the signal `SIGXFSZ`.
fn fail_writes_past_file_size_limit() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal runs no code of this program, and any thread may do it at any time.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Makes glibc's allocator return freed memory to the system. By default, the allocator raises its thresholds to the
/// size of the largest freed block (at most 32 MiB), and each thread's arena keeps that much freed memory.
fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        const THRESHOLD_BYTES: libc::c_int = 1 << 20;
        // SAFETY: `mallopt` takes two integers, and no other thread runs. It ignores invalid values.
        unsafe { libc::mallopt(parameter, THRESHOLD_BYTES) };
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let _logging = Logging::start(cli.logging.log_format, cli.logging.otlp_endpoint.as_deref())?;
    let config = Config::new(cli)?;
    if let Err(error) = platform::raise_open_file_limit() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    if let Some(placement) = &config.placement {
        placement.restrict_current_thread().context("--numa")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.http_threads)
        .thread_name("http")
        .enable_all()
        .build()?;
    block_on_and_shut_down(runtime, run(config))
}

/// Runs a future, then shuts the runtime down. Waits for blocking operations at most [`FILE_WORK_STOP_DELAY`].
fn block_on_and_shut_down<T>(runtime: Runtime, future: impl Future<Output = T>) -> T {
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(FILE_WORK_STOP_DELAY);
    result
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let pending_model = match config.model {
        ModelSource::File(path) => {
            PendingModel::Local(Box::new(load::inspect(&path, config.load)?))
        }
        ModelSource::Download(download) => {
            config.load.check()?;
            PendingModel::Download(download, Box::new(config.load))
        }
    };
    if let Some(folder) = &config.endpoints.slot_files {
        remove_partial_slot_files(&folder.path)
            .with_context(|| format!("--slot-save-path {}", folder.path.display()))?;
    }
    let server = Server::bind(config.serve.clone()).await.map_err(|error| {
        let (host, port) = (&config.serve.host, config.serve.port);
        anyhow::anyhow!("cannot listen on {host}:{port}: {error}")
    })?;
    let address = server.url();
    tracing::info!(
        address,
        model = pending_model.name(),
        "listening; the model is loading"
    );
    let (state, model) = watch::channel(ModelState::Loading { done: 0.0 });
    let (load_guard, load_end) = watch::channel(());
    let (serve_guard, served) = watch::channel(());
    let (send_load_error, load_error) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::spawn(move || {
        if let Err(error) =
            terminal::load(pending_model, &state, &address, &runtime, dropped(served))
        {
            // The receiver is gone if the program is already stopping.
            let _ = send_load_error.send(error);
        }
        drop(load_guard);
    });

    let preparations = Arc::new(PreparationPool::new(config.max_waiting_preparations)?);
    let routes = api::routes(ApiSettings {
        model: model.clone(),
        preparations: Arc::clone(&preparations),
        endpoints: config.endpoints,
        limits: config.limits,
        defaults: config.defaults,
        bodies: config.bodies,
        responses: Arc::new(ResponseStore::new(config.max_stored_responses)),
        strict_model_names: config.strict_model_names,
        key_policy: config.key_policy,
    });
    let routes = web::with_pages(routes, api::document::has, &config.pages);
    let (abort_guard, abort) = watch::channel(());
    let (send_failure, mut failure) = oneshot::channel();
    let stop = async move {
        let error: Option<anyhow::Error> = tokio::select! {
            () = signals.next() => None,
            Ok(error) = load_error => Some(error),
        };
        if let Some(error) = error {
            // The receiver lives until the server has stopped.
            let _ = send_failure.send(error);
            return;
        }
        tracing::info!("stopping: running requests can finish; a second signal stops immediately");
        tokio::spawn(async move {
            tokio::time::sleep(PREPARATION_STOP_DELAY).await;
            preparations.stop();
        });
        tokio::spawn(async move {
            signals.next().await;
            drop(abort_guard);
        });
    };
    server.serve(routes, stop, dropped(abort.clone())).await;
    drop(serve_guard);
    // Exiting while ONNX Runtime creates a session would destroy state that its threads still use.
    tokio::select! {
        () = dropped(load_end) => {}
        () = dropped(abort) => {}
    }
    if let ModelState::Ready(model) = &*model.borrow() {
        model.stop();
    }
    failure.try_recv().map_or(Ok(()), Err)
}

/// Waits until the sender is dropped.
async fn dropped(mut receiver: watch::Receiver<()>) {
    while receiver.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn blocking_work_that_does_not_end_does_not_prevent_the_exit() {
        let (release, released) = mpsc::channel::<()>();
        let (notify, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = Runtime::new().unwrap();
            block_on_and_shut_down(runtime, async {
                tokio::task::spawn_blocking(move || released.recv());
            });
            notify.send(()).unwrap();
        });
        let deadline = FILE_WORK_STOP_DELAY + Duration::from_secs(30);
        assert_eq!(ended.recv_timeout(deadline), Ok(()));
        drop(release);
    }
}
