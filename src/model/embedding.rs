//! Embeddings: the engine evaluates a text as a prompt and pools its hidden states.

use std::sync::Arc;
use std::time::Duration;

use super::request::{GenerateError, GenerateLimits, PromptPiece};
use super::{ContextOverflow, LoadedModel};
use crate::cancel::CancelFlag;
use crate::engine::{
    CacheNamespace, EndReason, PrefixCacheOptions, SequenceEvent, SequenceEvents, SequenceRequest,
    StopDecision, StopRule,
};
use crate::sampling::{Sampler, SamplerInputs, SamplingParameters};
use crate::token::TokenId;

/// The embedding of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Pooled hidden state, `[hidden_size]`, not normalized.
    pub values: Vec<f32>,
    /// Number of tokens of the text.
    pub prompt_tokens: usize,
}

/// An embedding that is queued or computed. Dropping it cancels the computation.
pub struct PendingEmbedding {
    events: SequenceEvents,
    timeout: Option<Duration>,
}

impl LoadedModel {
    /// Starts the computation of an embedding. Reserves a place in the engine's queue before tokenizing the text.
    pub fn embed(
        &self,
        text: &[PromptPiece],
        limits: &GenerateLimits,
        cancel: &CancelFlag,
    ) -> Result<PendingEmbedding, GenerateError> {
        if !self.details.embeds {
            return Err(GenerateError::EmbeddingsUnsupported);
        }
        let reservation = self.engine.reserve(1);
        let mut reservation = reservation.map_err(|error| self.generate_error(&error))?;
        let adapters = self.adapters.default_scales();
        let request = SequenceRequest {
            prompt: self.text_tokens(text, cancel)?,
            max_tokens: 0,
            eog_tokens: Arc::clone(&self.eog_tokens),
            sampler: Sampler::new(SamplingParameters::openai(), 0, SamplerInputs::default()),
            constraint: None,
            stop: Box::new(NoStopRule),
            slot: None,
            prefix_cache: match self.details.generates {
                true => PrefixCacheOptions {
                    max_reused_tokens: usize::MAX,
                    namespace: self.cache_namespace_of(
                        limits.owner.cache_namespace,
                        None,
                        &adapters,
                    ),
                },
                // An encoder's hidden states depend on later tokens, so no prefix can be reused: the namespace is
                // unique.
                false => PrefixCacheOptions {
                    max_reused_tokens: 0,
                    namespace: CacheNamespace(rand::random()),
                },
            },
            adapters,
            context_overflow: ContextOverflow::Stop,
            priority: limits.max_priority.min(0),
            timeout: limits.timeout,
            pooling: Some(self.details.pooling),
            prompt_logprobs: None,
            report_prefill: false,
        };
        let submitted = self.engine.submit_reserved(request, &mut reservation);
        let (_, events) = submitted.map_err(|error| self.generate_error(&error))?;
        Ok(PendingEmbedding {
            events,
            timeout: limits.timeout,
        })
    }
}

impl PendingEmbedding {
    /// Waits for the result.
    pub async fn finish(mut self) -> Result<Embedding, GenerateError> {
        let mut values = Vec::new();
        while let Some(event) = self.events.recv().await {
            match event {
                SequenceEvent::Started { .. }
                | SequenceEvent::Prefill(_)
                | SequenceEvent::PromptLogprobs(_)
                | SequenceEvent::Token(_)
                | SequenceEvent::EogToken(_) => {}
                SequenceEvent::Embedding(pooled) => values = pooled,
                SequenceEvent::Ended {
                    reason: EndReason::DeadlinePassed,
                    ..
                } => {
                    let timeout = self.timeout.unwrap_or_default();
                    return Err(GenerateError::DeadlinePassed { timeout });
                }
                SequenceEvent::Ended { report, .. } => {
                    return Ok(Embedding {
                        values,
                        prompt_tokens: report.prompt_tokens,
                    });
                }
                SequenceEvent::Failed(cause) => return Err(GenerateError::Failed(cause)),
                SequenceEvent::ConstraintFailed(error) => {
                    return Err(GenerateError::Failed(error.to_string()));
                }
            }
        }
        Err(GenerateError::Failed(
            "the engine stopped unexpectedly".to_owned(),
        ))
    }
}

/// A stop rule that never stops: embeddings generate no tokens.
struct NoStopRule;

impl StopRule for NoStopRule {
    fn after_token(&mut self, _: TokenId) -> StopDecision {
        StopDecision::Continue
    }
}
