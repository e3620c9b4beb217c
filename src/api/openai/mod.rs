//! The OpenAI surface: the routes under `/v1`.

use std::time::{SystemTime, UNIX_EPOCH};

pub(super) mod chat;
pub(super) mod completions;
mod constraint;
pub(super) mod embeddings;
pub(super) mod models;
mod options;
pub(super) mod reasoning;
pub(super) mod rerank;
mod response_parts;
pub(super) mod responses;
mod tools;

/// Returns the Unix time in seconds; 0 for times before 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
