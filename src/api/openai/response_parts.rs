//! Parts that the responses of OpenAI's generating routes share: metadata, finish reasons, log probabilities and usage.

use std::time::SystemTime;

use super::unix_seconds;
use crate::api::types;
use crate::model::{FinishReason, GenerationSummary, OutputToken, TokenLogprob};

/// The `system_fingerprint` of all responses.
const FINGERPRINT: &str = concat!("ortolan-", env!("CARGO_PKG_VERSION"));

/// Lowest reported log probability. Impossible tokens have negative infinity, which JSON cannot represent.
const MIN_LOGPROB: f64 = -9999.0;

/// Fields that have the same value in a response and in all of its chunks.
#[derive(Clone)]
pub(super) struct ResponseMetadata {
    pub(super) id: String,
    /// Unix time in seconds.
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) fingerprint: String,
}

impl ResponseMetadata {
    /// Creates metadata with a new random id that begins with `prefix`.
    pub(super) fn new(prefix: &str, model: &str) -> Self {
        Self {
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            created: unix_seconds(SystemTime::now()),
            model: model.to_owned(),
            fingerprint: FINGERPRINT.to_owned(),
        }
    }
}

/// Converts the finish reason of a text without tool calls.
pub(super) fn finish_reason(reason: &FinishReason) -> types::FinishReason {
    match reason {
        FinishReason::EndOfText | FinishReason::StopString(_) => types::FinishReason::Stop,
        FinishReason::TokenLimit | FinishReason::ContextFull => types::FinishReason::Length,
    }
}

/// Returns a log probability as a finite number.
pub(super) fn logprob(token: &TokenLogprob) -> f64 {
    token.logprob.clamp(MIN_LOGPROB, 0.0)
}

/// Converts the log probabilities of tokens. Skips tokens without log probabilities.
pub(super) fn token_logprobs(tokens: &[OutputToken]) -> Vec<types::TokenLogprob> {
    let text = |token: &TokenLogprob| String::from_utf8_lossy(&token.bytes).into_owned();
    let tokens = tokens.iter().filter_map(|token| token.logprobs.as_ref());
    let tokens = tokens.map(|(chosen, top)| {
        let top = top.iter().map(|token| types::TopLogprob {
            token: text(token),
            logprob: logprob(token),
            bytes: token.bytes.clone(),
        });
        types::TokenLogprob {
            token: text(chosen),
            logprob: logprob(chosen),
            bytes: chosen.bytes.clone(),
            top_logprobs: top.collect(),
        }
    });
    tokens.collect()
}

/// Returns the token usage of all choices of one prompt. The cached tokens are the fewest of any choice, because later
/// choices may reuse blocks that the first choice computed.
pub(super) fn usage(summaries: &[GenerationSummary]) -> types::Usage {
    let prompt_tokens = summaries.first().map_or(0, |summary| summary.prompt_tokens);
    let cached_tokens = summaries.iter().map(|summary| summary.cached_tokens).min();
    let completion_tokens: usize = summaries
        .iter()
        .map(|summary| summary.generated_tokens)
        .sum();
    let reasoning_tokens: usize = summaries
        .iter()
        .map(|summary| summary.reasoning_tokens)
        .sum();
    types::Usage {
        prompt_tokens: prompt_tokens as u64,
        completion_tokens: completion_tokens as u64,
        total_tokens: (prompt_tokens + completion_tokens) as u64,
        prompt_tokens_details: types::PromptTokensDetails {
            cached_tokens: cached_tokens.unwrap_or(0) as u64,
        },
        completion_tokens_details: types::CompletionTokensDetails {
            reasoning_tokens: reasoning_tokens as u64,
        },
    }
}
