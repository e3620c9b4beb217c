//! Terminal output: progress bars while a model is downloaded and loaded, and the message when it is ready.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::hub::{Download, DownloadProgress, HubError};
use crate::model::load::{self, InspectedModel, LoadOptions};
use crate::model::{ModelDetails, ModelState};

/// A model that is not loaded yet.
pub enum PendingModel {
    /// A local model whose files were inspected.
    Local(Box<InspectedModel>),
    /// A model to download, and the options to load it with.
    Download(Box<Download>, Box<LoadOptions>),
}

impl PendingModel {
    /// Returns the model's name: its alias, path or download source.
    pub fn name(&self) -> String {
        match self {
            Self::Local(inspected) => inspected.details().name.clone(),
            Self::Download(download, options) => options
                .alias
                .clone()
                .unwrap_or_else(|| download.to_string()),
        }
    }
}

/// Fraction of the total loading progress that is assigned to the download.
const DOWNLOAD_FRACTION: f32 = 0.9;

/// Downloads the model if needed and loads it, with progress bars. Publishes the progress and the result to `state`.
/// Logs errors, and prints a message when the model is ready. `address` is the server's URL. `stop` cancels a download.
///
/// # Errors
/// If a retry would fail in the same way, for example because the repository does not exist or ONNX Runtime cannot run
/// the model. Other failures are only published and logged.
pub fn load(
    pending: PendingModel,
    state: &watch::Sender<ModelState>,
    address: &str,
    runtime: &Handle,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // A panic is reported like any other failure; otherwise the server would report forever that the model is loading.
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        let (inspected, start) = match pending {
            PendingModel::Local(inspected) => (inspected, 0.0),
            PendingModel::Download(download, options) => {
                let report = |fraction| {
                    let done = fraction * DOWNLOAD_FRACTION;
                    state.send_replace(ModelState::Loading { done });
                };
                let download = async {
                    tokio::select! {
                        path = run_download(&download, report) => path.map(Some),
                        () = stop => Ok(None),
                    }
                };
                let Some(path) = runtime.block_on(download)? else {
                    return Ok(None);
                };
                (Box::new(load::inspect(&path, *options)?), DOWNLOAD_FRACTION)
            }
        };
        let message = format!("loading {}", inspected.details().path.display());
        let bar = PercentBar::new(&message);
        let loaded = inspected.load(&|fraction| {
            bar.set(fraction);
            let done = start + fraction * (1.0 - start);
            state.send_replace(ModelState::Loading { done });
        });
        drop(bar);
        loaded.map(Some)
    }));
    let loaded = loaded.unwrap_or_else(|_| Err(anyhow::anyhow!("loading panicked")));
    match loaded {
        Ok(None) => {}
        Ok(Some(model)) => {
            let model = Arc::new(model);
            state.send_replace(ModelState::Ready(Arc::clone(&model)));
            tracing::info!(model = model.details().name, "the model is ready");
            print_ready_message(model.details(), address);
        }
        Err(error) => {
            state.send_replace(ModelState::Failed(format!("{error:#}")));
            tracing::error!("cannot load the model: {error:#}");
            let download_error = error.downcast_ref::<HubError>();
            if download_error.is_some_and(HubError::is_permanent) {
                return Err(error.context("cannot download the model"));
            }
            if load::is_compute_failure(&error) {
                return Err(error.context("cannot load the model"));
            }
        }
    }
    Ok(())
}

/// Downloads a model: with a progress bar on a terminal, else with a log line every 10 %.
async fn run_download(download: &Download, report: impl Fn(f32)) -> anyhow::Result<PathBuf> {
    let template = "{msg} {wide_bar} {bytes} of {total_bytes} {bytes_per_sec} {eta}";
    let bar = bar(format!("downloading {download}"), template);
    let mut tenths = 0;
    let mut on_progress = |progress: DownloadProgress| {
        bar.set_length(progress.bytes.unwrap_or(progress.bytes_done));
        bar.set_position(progress.bytes_done);
        let fraction = progress.fraction();
        report(fraction);
        let now = (fraction * 10.0) as u32;
        if bar.is_hidden() && now > tenths {
            tenths = now;
            tracing::info!(percent = now * 10, "downloading the model");
        }
    };
    tracing::info!(from = %download, "downloading the model");
    let path = download.run(&mut on_progress).await?;
    bar.finish_and_clear();
    tracing::info!(path = %path.display(), "the model is downloaded");
    Ok(path)
}

/// A progress bar in percent; hidden unless standard error is a terminal.
pub struct PercentBar(ProgressBar);

impl PercentBar {
    /// Shows a bar at 0 %.
    pub fn new(message: &str) -> Self {
        let bar = bar(printable(message), "{msg} {wide_bar} {percent:>3} %");
        bar.set_length(100);
        Self(bar)
    }

    /// Sets the progress, from 0 to 1.
    pub fn set(&self, fraction: f32) {
        self.0.set_position((fraction * 100.0) as u64);
    }
}

impl Drop for PercentBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A progress bar in bytes of a known total; hidden unless standard error is a terminal.
pub struct ByteBar(ProgressBar);

impl ByteBar {
    /// Shows a bar at 0 of `bytes` bytes.
    pub fn new(message: &str, bytes: u64) -> Self {
        let template = "{msg} {wide_bar} {bytes} of {total_bytes} {bytes_per_sec} {eta}";
        let bar = bar(printable(message), template);
        bar.set_length(bytes);
        Self(bar)
    }

    /// Advances the bar by `bytes`.
    pub fn add(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for ByteBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Returns a progress bar; hidden unless standard error is a terminal.
fn bar(message: String, template: &str) -> ProgressBar {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::no_length(),
        false => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
    };
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    bar.with_style(style).with_message(message)
}

/// Escapes characters of untrusted text that could control the terminal or change the text's direction.
pub fn printable(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match is_unsafe_to_print(char) {
            true => escaped.extend(char.escape_default()),
            false => escaped.push(char),
        }
    }
    escaped
}

/// Whether the character is a control character, sets the text direction, or is invisible.
pub fn is_unsafe_to_print(char: char) -> bool {
    let sets_direction =
        matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    char.is_control() || sets_direction || matches!(char, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Prints the model's properties and URLs to standard output.
fn print_ready_message(details: &ModelDetails, address: &str) {
    let ModelDetails {
        name,
        architecture,
        context_tokens,
        slots,
        device,
        ..
    } = details;
    let millions = details.parameters as f64 / 1e6;
    // The server continues if standard output is closed.
    let _ = writeln!(
        std::io::stdout(),
        "{name}\n  {millions:.0} M parameters ({architecture}) on {device}\n  \
         {slots} slots, each with a context of {context_tokens} tokens\n  \
         chat at {address}, API documentation at {address}/docs"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let hostile = "a\u{1b}[2J\r\n\u{9b}\u{202e}é\"\"";
        assert_eq!(printable(hostile), "a\\u{1b}[2J\\r\\n\\u{9b}\\u{202e}é\"\"");
    }
}
