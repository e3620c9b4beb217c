//! A prompt's embedding: the engine computes the prompt and gathers its hidden states.

use std::sync::Arc;
use std::time::Duration;

use super::request::{GenerateError, GenerateLimits, PromptPiece};
use super::{LoadedModel, WhenFull};
use crate::cancel::CancelFlag;
use crate::engine::{
    EndReason, Events, Job, PrefixRoot, PrefixUse, SequenceEvent, StopRule, Verdict,
};
use crate::sampling::{Sampler, SamplerTokens, SamplingParameters};
use crate::token::TokenId;

/// What a prompt is to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// `[hidden]`, as the model's pooling gives them; all 0 if the model gave nothing.
    pub values: Vec<f32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// An embedding that is being computed. Dropping it cancels it.
pub struct PendingEmbedding {
    events: Events,
    timeout: Option<Duration>,
}

impl LoadedModel {
    /// Begins an embedding. The engine's queue is asked for room before the text is tokenized.
    pub fn embed(
        &self,
        text: &[PromptPiece],
        limits: &GenerateLimits,
        cancel: &CancelFlag,
    ) -> Result<PendingEmbedding, GenerateError> {
        if !self.details.embeds {
            return Err(GenerateError::NoHiddenStates);
        }
        let reserved = self.engine.reserve(1);
        let mut reservation = reserved.map_err(|error| self.refusal(&error))?;
        let adapters = self.adapters.set();
        let job = Job {
            prompt: self.text_tokens(text, cancel)?,
            max_tokens: 0,
            end_tokens: Arc::clone(&self.end_tokens),
            sampler: Sampler::new(SamplingParameters::openai(), 0, SamplerTokens::default()),
            constraint: None,
            stop: Box::new(NeverStops),
            slot: None,
            prefix: match self.details.generates {
                true => PrefixUse {
                    readable: usize::MAX,
                    root: self.prefix_root(limits.owner.cache_namespace, None, &adapters),
                },
                // What a token is depends on those behind it: nobody else's will do.
                false => PrefixUse {
                    readable: 0,
                    root: PrefixRoot(rand::random()),
                },
            },
            adapters,
            when_full: WhenFull::Stop,
            priority: limits.max_priority.min(0),
            timeout: limits.timeout,
            embed: Some(self.details.pooling),
            score: None,
            report_prefill: false,
        };
        let submitted = self.engine.submit_reserved(job, &mut reservation);
        let (_, events) = submitted.map_err(|error| self.refusal(&error))?;
        Ok(PendingEmbedding {
            events,
            timeout: limits.timeout,
        })
    }
}

impl PendingEmbedding {
    /// Waits until it is there.
    pub async fn finish(mut self) -> Result<Embedding, GenerateError> {
        let mut values = Vec::new();
        while let Some(event) = self.events.recv().await {
            match event {
                SequenceEvent::Started { .. }
                | SequenceEvent::Prefill(_)
                | SequenceEvent::Prompt(_)
                | SequenceEvent::Token(_)
                | SequenceEvent::EndToken(_) => {}
                SequenceEvent::Embedding(gathered) => values = gathered,
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
                SequenceEvent::Unfollowable(error) => {
                    return Err(GenerateError::Failed(error.to_string()));
                }
            }
        }
        Err(GenerateError::Failed(
            "the engine ended without a word".to_owned(),
        ))
    }
}

/// Nothing is generated that could end.
struct NeverStops;

impl StopRule for NeverStops {
    fn after(&mut self, _: TokenId) -> Verdict {
        Verdict::Continue
    }
}
