//! What the answers of the routes that generate have in common.

use std::time::SystemTime;

use super::unix_seconds;
use crate::api::types;
use crate::model::{AnswerToken, FinishReason, Summary, TokenLogprob};

/// Which program answered.
const FINGERPRINT: &str = concat!("ortolan-", env!("CARGO_PKG_VERSION"));

/// JSON has no infinity: what was impossible is as good as that.
const IMPOSSIBLE: f64 = -9999.0;

/// What every part of an answer begins with.
#[derive(Clone)]
pub(super) struct Heading {
    /// A new one.
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model that answers.
    pub(super) model: String,
    /// Which program answers.
    pub(super) fingerprint: String,
}

impl Heading {
    /// With an id that begins with that.
    pub(super) fn new(prefix: &str, model: &str) -> Self {
        Self {
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            created: unix_seconds(SystemTime::now()),
            model: model.to_owned(),
            fingerprint: FINGERPRINT.to_owned(),
        }
    }
}

/// Why an answer ended.
pub(super) fn finish_reason(reason: &FinishReason) -> types::FinishReason {
    match reason {
        FinishReason::EndOfText | FinishReason::StopString(_) => types::FinishReason::Stop,
        FinishReason::TokenLimit | FinishReason::ContextFull => types::FinishReason::Length,
    }
}

/// A log-probability as it is told.
pub(super) fn logprob(token: &TokenLogprob) -> f64 {
    token.logprob.clamp(IMPOSSIBLE, 0.0)
}

/// What is told of tokens whose log-probabilities were asked for.
pub(super) fn token_logprobs(tokens: &[AnswerToken]) -> Vec<types::TokenLogprob> {
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

/// What the answers to one prompt took together. It was computed by the one that found the least of it in the cache.
pub(super) fn usage(summaries: &[Summary]) -> types::Usage {
    let prompt_tokens = summaries.first().map_or(0, |summary| summary.prompt_tokens);
    let cached_tokens = summaries.iter().map(|summary| summary.cached_tokens).min();
    let completion_tokens: usize = summaries
        .iter()
        .map(|summary| summary.generated_tokens)
        .sum();
    let thought_tokens: usize = summaries.iter().map(|summary| summary.thought_tokens).sum();
    types::Usage {
        prompt_tokens: prompt_tokens as u64,
        completion_tokens: completion_tokens as u64,
        total_tokens: (prompt_tokens + completion_tokens) as u64,
        prompt_tokens_details: types::PromptTokensDetails {
            cached_tokens: cached_tokens.unwrap_or(0) as u64,
        },
        completion_tokens_details: types::CompletionTokensDetails {
            reasoning_tokens: thought_tokens as u64,
        },
    }
}
