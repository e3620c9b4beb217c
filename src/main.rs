//! The program: reads the command line, listens, loads, serves, stops; or does something else with a model's file.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ortolan::api::{self, ApiSettings, ResponseStore};
use ortolan::cli::{Cli, Invocation};
use ortolan::commands;
use ortolan::config::{Config, ModelSource};
use ortolan::logging::Logging;
use ortolan::machine;
use ortolan::model::load;
use ortolan::model::{ModelState, Preparations, remove_slot_parts};
use ortolan::server::{Server, StopSignals};
use ortolan::terminal::{self, Pending};
use ortolan::web;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{oneshot, watch};

/// How long a request's preparation may continue after a stop is asked for: usual ones take some milliseconds.
const PREPARATION_STOP_DELAY: Duration = Duration::from_secs(1);

/// How long file work on blocking threads may continue when all answers have ended. A saved slot that is incomplete by then is
/// removed at the next start.
const FILE_WORK_STOP_DELAY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // SAFETY: this is the only thread.
    unsafe { load::forbid_telemetry() };
    fail_writes_past_file_size_limit();
    return_freed_memory();
    let invocation = Invocation::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let done = match invocation {
        Invocation::Serve(cli) => start(*cli),
        Invocation::Command(command) => commands::run(command, &mut std::io::stdout().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // It may name what a file says.
            let message = format!("{error:#}");
            let lines: Vec<String> = message.lines().map(terminal::printable).collect();
            eprintln!("error: {}", lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// Makes a write past the process's file size limit (`ulimit -f`) fail with an error. The signal that the system sends otherwise
/// (`SIGXFSZ`) would end the process.
fn fail_writes_past_file_size_limit() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal runs no code of this program, and any thread may do it at any time.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Makes glibc's allocator return freed memory to the system. By default, it raises its thresholds with the largest block that was
/// freed, and keeps what large requests took: up to 32 MiB in each thread's arena.
fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        const BYTES: libc::c_int = 1 << 20;
        // SAFETY: `mallopt` takes two integers, and this is the only thread. A value that it refuses changes nothing.
        unsafe { libc::mallopt(parameter, BYTES) };
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let _logging = Logging::start(cli.logging.log_format, cli.logging.otlp_endpoint.as_deref())?;
    let config = Config::new(cli)?;
    if let Err(error) = machine::raise_open_file_limit() {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    if let Some(placement) = &config.placement {
        placement.confine().context("--numa")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.http_threads)
        .thread_name("http")
        .enable_all()
        .build()?;
    complete(runtime, run(config))
}

/// Runs a future, and ends the runtime without waiting longer for blocking work than [`FILE_WORK_STOP_DELAY`].
fn complete<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(FILE_WORK_STOP_DELAY);
    result
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let pending = match config.model {
        ModelSource::File(path) => Pending::Here(Box::new(load::inspect(&path, config.load)?)),
        ModelSource::Download(download) => {
            config.load.check()?;
            Pending::Elsewhere(download, Box::new(config.load))
        }
    };
    if let Some(folder) = &config.endpoints.slot_files {
        remove_slot_parts(&folder.path)
            .with_context(|| format!("--slot-save-path {}", folder.path.display()))?;
    }
    let server = Server::bind(config.serve.clone()).await.map_err(|error| {
        let (host, port) = (&config.serve.host, config.serve.port);
        anyhow::anyhow!("cannot listen on {host}:{port}: {error}")
    })?;
    let address = server.url();
    tracing::info!(
        address,
        model = pending.name(),
        "listening; the model is loading"
    );
    let (publish, model) = watch::channel(ModelState::Loading { done: 0.0 });
    let (loading, load_end) = watch::channel(());
    let (serving, served) = watch::channel(());
    let (give_up, given_up) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::spawn(move || {
        if let Err(error) = terminal::load(pending, &publish, &address, &runtime, dropped(served)) {
            // The receiver is gone if the program stops already.
            let _ = give_up.send(error);
        }
        drop(loading);
    });

    let preparations = Arc::new(Preparations::new(config.preparations_waiting)?);
    let routes = api::routes(ApiSettings {
        model: model.clone(),
        preparations: Arc::clone(&preparations),
        endpoints: config.endpoints,
        limits: config.limits,
        defaults: config.defaults,
        bodies: config.bodies,
        responses: Arc::new(ResponseStore::new(config.responses_kept)),
        strict_model_names: config.strict_model_names,
        key_policy: config.key_policy,
    });
    let routes = web::beside(routes, api::document::has, &config.pages);
    let (cutting, cut) = watch::channel(());
    let (fail, mut failed) = oneshot::channel();
    let stop = async move {
        let error: Option<anyhow::Error> = tokio::select! {
            () = signals.next() => None,
            Ok(error) = given_up => Some(error),
        };
        if let Some(error) = error {
            // The receiver lives until the server has stopped.
            let _ = fail.send(error);
            return;
        }
        tracing::info!("stopping: running answers are finished; once more stops at once");
        tokio::spawn(async move {
            tokio::time::sleep(PREPARATION_STOP_DELAY).await;
            preparations.stop();
        });
        tokio::spawn(async move {
            signals.next().await;
            drop(cutting);
        });
    };
    server.serve(routes, stop, dropped(cut.clone())).await;
    drop(serving);
    // Ending the process while ONNX Runtime makes a session would tear it down under its own threads.
    tokio::select! {
        () = dropped(load_end) => {}
        () = dropped(cut) => {}
    }
    if let ModelState::Ready(model) = &*model.borrow() {
        model.stop();
    }
    failed.try_recv().map_or(Ok(()), Err)
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
    fn blocking_work_that_does_not_end_does_not_keep_the_program() {
        let (release, released) = mpsc::channel::<()>();
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = Runtime::new().unwrap();
            complete(runtime, async {
                tokio::task::spawn_blocking(move || released.recv());
            });
            tell.send(()).unwrap();
        });
        let patience = FILE_WORK_STOP_DELAY + Duration::from_secs(30);
        assert_eq!(ended.recv_timeout(patience), Ok(()));
        drop(release);
    }
}
