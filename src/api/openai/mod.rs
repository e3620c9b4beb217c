//! OpenAI's surface: the routes under `/v1`.

use std::time::{SystemTime, UNIX_EPOCH};

pub(super) mod chat;
pub(super) mod embeddings;
pub(super) mod models;

/// Seconds since 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
