//! What the program says to people: the progress bar while the model loads, the greeting.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::hub::{Download, HubError, Progress};
use crate::model::load::{self, Inspected, LoadOptions};
use crate::model::{ModelDetails, ModelState};

/// A model that is to be loaded.
pub enum Pending {
    /// Its file was looked at.
    Here(Box<Inspected>),
    /// Its file is to be fetched first.
    Elsewhere(Box<Download>, Box<LoadOptions>),
}

impl Pending {
    /// What it is called until it is loaded.
    pub fn name(&self) -> String {
        match self {
            Self::Here(inspected) => inspected.details().name.clone(),
            Self::Elsewhere(download, options) => options
                .alias
                .clone()
                .unwrap_or_else(|| download.to_string()),
        }
    }
}

/// The share of the way that fetching is.
const FETCHED: f32 = 0.9;

/// Loads the model, fetching it if it is elsewhere, with a progress bar, and publishes how far it is; greets when
/// it is there. What goes wrong is logged and published. `address` is where the server listens; when it stops, what
/// is not fetched yet is not waited for.
///
/// # Errors
/// The model cannot be fetched until the operator changes something: there is no such repository, for example.
pub fn load(
    pending: Pending,
    publish: &watch::Sender<ModelState>,
    address: &str,
    runtime: &Handle,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // A panic is told like any other failure; without that the server would load for ever.
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        let (inspected, begin) = match pending {
            Pending::Here(inspected) => (inspected, 0.0),
            Pending::Elsewhere(download, options) => {
                let tell = |share| {
                    let done = share * FETCHED;
                    publish.send_replace(ModelState::Loading { done });
                };
                let fetched = async {
                    tokio::select! {
                        fetched = fetch(&download, tell) => fetched.map(Some),
                        () = stop => Ok(None),
                    }
                };
                let Some(path) = runtime.block_on(fetched)? else {
                    return Ok(None);
                };
                (Box::new(load::inspect(&path, *options)?), FETCHED)
            }
        };
        let message = format!("loading {}", inspected.details().path.display());
        let bar = ShareBar::new(&message);
        let loaded = inspected.load(&|share| {
            bar.set(share);
            let done = begin + share * (1.0 - begin);
            publish.send_replace(ModelState::Loading { done });
        });
        drop(bar);
        loaded.map(Some)
    }));
    let loaded = loaded.unwrap_or_else(|_| Err(anyhow::anyhow!("loading it panicked")));
    match loaded {
        Ok(None) => {}
        Ok(Some(model)) => {
            let model = Arc::new(model);
            publish.send_replace(ModelState::Ready(Arc::clone(&model)));
            tracing::info!(model = model.details().name, "the model is ready");
            greet(model.details(), address);
        }
        Err(error) => {
            publish.send_replace(ModelState::Failed(format!("{error:#}")));
            tracing::error!("the model cannot be loaded: {error:#}");
            let fetching = error.downcast_ref::<HubError>();
            if fetching.is_some_and(HubError::is_permanent) {
                return Err(error.context("the model cannot be fetched"));
            }
            if load::cannot_compute(&error) {
                return Err(error.context("the model cannot be loaded"));
            }
        }
    }
    Ok(())
}

/// Fetches a model: with a bar on a terminal, with a line in the log for each tenth elsewhere.
async fn fetch(download: &Download, tell: impl Fn(f32)) -> anyhow::Result<PathBuf> {
    let line = "{msg} {wide_bar} {bytes} of {total_bytes} {bytes_per_sec} {eta}";
    let bar = bar(format!("fetching {download}"), line);
    let mut tenths = 0;
    let mut hear = |progress: Progress| {
        bar.set_length(progress.bytes.unwrap_or(progress.bytes_done));
        bar.set_position(progress.bytes_done);
        let share = progress.share();
        tell(share);
        let now = (share * 10.0) as u32;
        if bar.is_hidden() && now > tenths {
            tenths = now;
            tracing::info!(percent = now * 10, "fetching the model");
        }
    };
    tracing::info!(from = %download, "fetching the model");
    let path = download.run(&mut hear).await?;
    bar.finish_and_clear();
    tracing::info!(path = %path.display(), "the model is fetched");
    Ok(path)
}

/// How much of a whole is done, if somebody sees it.
pub struct ShareBar(ProgressBar);

impl ShareBar {
    /// Nothing is done yet.
    pub fn new(message: &str) -> Self {
        let bar = bar(printable(message), "{msg} {wide_bar} {percent:>3} %");
        bar.set_length(100);
        Self(bar)
    }

    /// So much is done, from 0 to 1.
    pub fn set(&self, share: f32) {
        self.0.set_position((share * 100.0) as u64);
    }
}

impl Drop for ShareBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How many bytes of a known number are done, if somebody sees it.
pub struct ByteBar(ProgressBar);

impl ByteBar {
    /// Nothing is done yet.
    pub fn new(message: &str, bytes: u64) -> Self {
        let line = "{msg} {wide_bar} {bytes} of {total_bytes} {bytes_per_sec} {eta}";
        let bar = bar(printable(message), line);
        bar.set_length(bytes);
        Self(bar)
    }

    /// So many more are done.
    pub fn add(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for ByteBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A progress bar, if somebody sees it.
fn bar(message: String, line: &str) -> ProgressBar {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::no_length(),
        false => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
    };
    let style = ProgressStyle::with_template(line).expect("the template is valid");
    bar.with_style(style).with_message(message)
}

/// A text from a file as a terminal may be given it: what would steer the terminal, or turn the text around, is spelt out.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match steers(char) {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    shown
}

/// Whether it is a control character, or one that sets the direction of a text, or shows nothing.
pub fn steers(char: char) -> bool {
    let directs = matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    char.is_control() || directs || matches!(char, '\u{2060}'..='\u{206f}' | '\u{feff}')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_spelt_out() {
        let hostile = "a\u{1b}[2J\r\n\u{9b}\u{202e}é\"\"";
        assert_eq!(printable(hostile), "a\\u{1b}[2J\\r\\n\\u{9b}\\u{202e}é\"\"");
    }
}
