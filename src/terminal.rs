//! What the program says to people: its log, the progress bar while the model loads, the greeting.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::watch;

use crate::cli::LogFormat;
use crate::model::load::Inspected;
use crate::model::{ModelDetails, ModelState};

/// Log lines go to standard error; `RUST_LOG` chooses which.
pub fn start_logging(format: LogFormat) {
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

/// Loads the model with a progress bar and publishes how far it is; greets when it is there. What goes wrong
/// is logged and published. `address` is where the server listens.
pub fn load(inspected: Inspected, publish: &watch::Sender<ModelState>, address: &str) {
    let bar = indicatif::ProgressBar::new(100)
        .with_message(format!("loading {}", inspected.details().path.display()));
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
            tracing::info!(model = model.details().name, "the model is ready");
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
         chat at {address}, all routes at {address}/docs"
    );
}
