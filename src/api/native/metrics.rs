//! `GET /metrics`: the engine's numbers for Prometheus.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::error::Error;
use crate::api::payload::Text;
use crate::metrics::{self, Subject};
use crate::model::{GenerateError, LoadedModel};

/// The header with the time when the server started, in seconds since 1970.
const START_TIME: &str = "Process-Start-Time-Unix";

/// The numbers in Prometheus' text format, of a server that started at that time.
pub(in crate::api) fn metrics(model: &LoadedModel, started: SystemTime) -> Result<Text, Error> {
    let details = model.details();
    let stats = model.stats();
    let subject = Subject {
        model: &details.name,
        version: env!("CARGO_PKG_VERSION"),
        block_tokens: details.cache_tokens / stats.blocks.total.max(1),
    };
    let failed = |error| GenerateError::Failed(format!("the metrics cannot be written: {error}"));
    let text = metrics::text(&stats, &subject).map_err(failed)?;
    let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Text {
        text: text.into(),
        headers: vec![(START_TIME, since.as_secs().to_string())],
    })
}
