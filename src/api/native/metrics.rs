//! `GET /metrics`: the engine's numbers for Prometheus.

use crate::api::error::Error;
use crate::metrics::{self, Subject};
use crate::model::{GenerateError, LoadedModel};

/// The numbers in Prometheus' text format.
pub(in crate::api) fn metrics(model: &LoadedModel) -> Result<String, Error> {
    let details = model.details();
    let stats = model.stats();
    let subject = Subject {
        model: &details.name,
        version: env!("CARGO_PKG_VERSION"),
        block_tokens: details.cache_tokens / stats.blocks.total.max(1),
    };
    let failed = |error| GenerateError::Failed(format!("the metrics cannot be written: {error}"));
    Ok(metrics::text(&stats, &subject).map_err(failed)?)
}
