//! The program: reads the command line, listens, loads, serves, stops.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use ortolan::api::{self, ApiSettings};
use ortolan::cli::{Cli, LogFormat};
use ortolan::config::Config;
use ortolan::model::load::{self, Inspected};
use ortolan::model::{ModelDetails, ModelState};
use ortolan::server::{Server, StopSignals};
use tokio::sync::watch;

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    start_logging(cli.log_format);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let config = Config::new(cli)?;
    let inspected = load::inspect(config.load)?;
    let details = inspected.details().clone();
    let server = Server::bind(config.serve.clone()).await.map_err(|error| {
        let (host, port) = (&config.serve.host, config.serve.port);
        anyhow::anyhow!("cannot listen on {host}:{port}: {error}")
    })?;
    let address = format!("http://{}", server.address());
    tracing::info!(address, model = %details.path.display(), "listening; the model is loading");
    let (publish, model) = watch::channel(ModelState::Loading { done: 0.0 });
    let (loading, load_end) = watch::channel(());
    std::thread::spawn(move || {
        load_and_tell(inspected, &details, &publish, &address);
        drop(loading);
    });

    let routes = api::routes(ApiSettings {
        model: model.clone(),
        slots_visible: config.slots_visible,
        max_tokens: config.max_tokens,
    });
    let (cutting, cut) = watch::channel(());
    let stop = async move {
        signals.next().await;
        tracing::info!("stopping: running answers are finished; once more stops at once");
        tokio::spawn(async move {
            signals.next().await;
            drop(cutting);
        });
    };
    server.serve(routes, stop, dropped(cut.clone())).await;
    // Ending the process while ONNX Runtime makes a session would tear it down under its own threads.
    tokio::select! {
        () = dropped(load_end) => {}
        () = dropped(cut) => {}
    }
    if let ModelState::Ready(model) = &*model.borrow() {
        model.stop();
    }
    Ok(())
}

/// Waits until the sender is dropped.
async fn dropped(mut receiver: watch::Receiver<()>) {
    while receiver.changed().await.is_ok() {}
}

/// Loads the model and publishes how far it is. What goes wrong is told to clients, too.
fn load_and_tell(
    inspected: Inspected,
    details: &ModelDetails,
    publish: &watch::Sender<ModelState>,
    address: &str,
) {
    let bar = indicatif::ProgressBar::new(100)
        .with_message(format!("loading {}", details.path.display()));
    let style = indicatif::ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %");
    bar.set_style(style.expect("the template is valid"));
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let tell = |done| {
        bar.set_position((done * 100.0) as u64);
        publish.send_replace(ModelState::Loading { done });
    };
    // A panic is told like any other failure; without that the server would load for ever.
    let loaded = catch_unwind(AssertUnwindSafe(|| inspected.load(&tell)));
    let loaded = loaded.unwrap_or_else(|_| Err(anyhow::anyhow!("loading it panicked")));
    bar.finish_and_clear();
    publish.send_replace(match loaded {
        Ok(model) => {
            greet(model.details(), address);
            ModelState::Ready(Arc::new(model))
        }
        Err(error) => {
            tracing::error!("the model cannot be loaded: {error:#}");
            ModelState::Failed(format!("{error:#}"))
        }
    });
}

/// What a person wants to know first: said at the terminal, not in the log.
fn greet(details: &ModelDetails, address: &str) {
    let ModelDetails {
        name,
        architecture,
        context_tokens,
        slots,
        device,
        ..
    } = details;
    let millions = details.parameters as f64 / 1e6;
    // A terminal that is gone is no reason to stop.
    let _ = writeln!(
        std::io::stdout(),
        "{name}\n  {millions:.0} M weights ({architecture}) on {device}\n  \
         {slots} at once, {context_tokens} tokens of context each\n  \
         serving at {address} — open {address}/docs in a browser"
    );
}

/// Log lines go to standard error; `RUST_LOG` chooses which.
fn start_logging(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say on standard error that standard error is closed.
        .log_internal_errors(false);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
