//! OpenAI's surface: the routes under `/v1`.

use std::time::{SystemTime, UNIX_EPOCH};

pub(super) mod chat;
pub(super) mod completions;
mod constraint;
pub(super) mod embeddings;
mod heading;
pub(super) mod models;
mod options;
pub(super) mod rerank;
pub(super) mod responses;
pub(super) mod thoughts;
mod tools;

/// Seconds since 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
