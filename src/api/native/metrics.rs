//! `GET /metrics`: the engine's statistics for Prometheus.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::error::Error;
use crate::api::payload::TextResponse;
use crate::metrics::{self, Subject};
use crate::model::{GenerateError, LoadedModel};

/// The response header with the server's start time as Unix time in seconds.
const START_TIME: &str = "Process-Start-Time-Unix";

/// Handles `GET /metrics`.
pub(in crate::api) fn metrics(
    model: &LoadedModel,
    started_at: SystemTime,
) -> Result<TextResponse, Error> {
    let details = model.details();
    let stats = model.stats();
    let subject = Subject {
        model: &details.name,
        version: env!("CARGO_PKG_VERSION"),
        block_tokens: details.cache_tokens / stats.blocks.total.max(1),
    };
    let failed = |error| GenerateError::Failed(format!("the metrics cannot be written: {error}"));
    let text = metrics::text(&stats, &subject).map_err(failed)?;
    let since = started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(TextResponse {
        text: text.into(),
        headers: vec![(START_TIME, since.as_secs().to_string())],
    })
}
