//! `timings` and `prompt_progress`, which all surfaces give in the form of llama.cpp's server.

use super::types;
use crate::model::{GenerationProgress, Summary, Timings};

/// How long a generation took.
pub(super) fn timings(summary: &Summary) -> types::Timings {
    let Summary {
        prompt_tokens,
        cached_tokens,
        generated_tokens,
        timings,
        ..
    } = summary;
    measured(*prompt_tokens, *cached_tokens, *generated_tokens, timings)
}

/// How long a generation took so far.
pub(super) fn timings_so_far(progress: &GenerationProgress) -> types::Timings {
    measured(
        progress.prompt_tokens,
        progress.cached_tokens,
        progress.generated_tokens,
        &progress.timings,
    )
}

/// How much of a prompt was evaluated; `None` once there is text.
pub(super) fn prompt_progress(progress: &GenerationProgress) -> Option<types::PromptProgress> {
    (progress.generated_tokens == 0).then_some(types::PromptProgress {
        total: progress.prompt_tokens as u64,
        cache: progress.cached_tokens as u64,
        processed: progress.processed_tokens as u64,
        time_ms: progress.timings.prompt.as_millis() as u64,
    })
}

fn measured(
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    timings: &Timings,
) -> types::Timings {
    let Timings { prompt, decode, .. } = timings;
    let computed = prompt_tokens.saturating_sub(cached_tokens);
    let (prompt_ms, predicted_ms) = (prompt.as_secs_f64() * 1000.0, decode.as_secs_f64() * 1000.0);
    types::Timings {
        cache_n: cached_tokens as u64,
        prompt_n: computed as u64,
        prompt_ms,
        prompt_per_token_ms: ratio(prompt_ms, computed as f64),
        prompt_per_second: ratio(computed as f64 * 1000.0, prompt_ms),
        predicted_n: generated_tokens as u64,
        predicted_ms,
        predicted_per_token_ms: ratio(predicted_ms, generated_tokens as f64),
        predicted_per_second: ratio(generated_tokens as f64 * 1000.0, predicted_ms),
    }
}

/// A quotient; over nothing it is 0, because JSON has no infinity.
fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 {
        dividend / divisor
    } else {
        0.0
    }
}
