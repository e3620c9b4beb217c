//! The response fields `timings` and `prompt_progress`, in the format of llama.cpp's server.

use super::types;
use crate::model::{GenerationProgress, GenerationSummary, Timings};

/// Returns the timings of a generation that has ended.
pub(super) fn timings(summary: &GenerationSummary) -> types::Timings {
    let GenerationSummary {
        prompt_tokens,
        cached_tokens,
        generated_tokens,
        timings,
        ..
    } = summary;
    timings_of(*prompt_tokens, *cached_tokens, *generated_tokens, timings)
}

/// Returns the timings of a running generation.
pub(super) fn timings_so_far(progress: &GenerationProgress) -> types::Timings {
    timings_of(
        progress.prompt_tokens,
        progress.cached_tokens,
        progress.generated_tokens,
        &progress.timings,
    )
}

/// Returns how much of the prompt is computed; `None` after the first generated token.
pub(super) fn prompt_progress(progress: &GenerationProgress) -> Option<types::PromptProgress> {
    (progress.generated_tokens == 0).then_some(types::PromptProgress {
        total: progress.prompt_tokens as u64,
        cache: progress.cached_tokens as u64,
        processed: progress.processed_tokens as u64,
        time_ms: progress.timings.prompt.as_millis() as u64,
    })
}

fn timings_of(
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    timings: &Timings,
) -> types::Timings {
    let Timings { prompt, decode, .. } = timings;
    let evaluated = prompt_tokens.saturating_sub(cached_tokens);
    let (prompt_ms, predicted_ms) = (prompt.as_secs_f64() * 1000.0, decode.as_secs_f64() * 1000.0);
    types::Timings {
        cache_n: cached_tokens as u64,
        prompt_n: evaluated as u64,
        prompt_ms,
        prompt_per_token_ms: ratio(prompt_ms, evaluated as f64),
        prompt_per_second: ratio(evaluated as f64 * 1000.0, prompt_ms),
        predicted_n: generated_tokens as u64,
        predicted_ms,
        predicted_per_token_ms: ratio(predicted_ms, generated_tokens as f64),
        predicted_per_second: ratio(generated_tokens as f64 * 1000.0, predicted_ms),
    }
}

/// Divides two numbers; 0 if the divisor is 0, because JSON has no infinity.
fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 {
        dividend / divisor
    } else {
        0.0
    }
}
