//! Samples the next tokens of one sequence with its sampler and constraint, and verifies the draft tokens.
//! [`Sequence::append`](super::sequence::Sequence::append) processes the sampled tokens.

use std::collections::VecDeque;

use super::output_checks::{InvalidOutput, check_logits};
use crate::grammar::{Constraint, GrammarError};
use crate::sampling::{SampledToken, Sampler};
use crate::token::TokenId;

/// The fields of a sequence that sampling needs, borrowed for one step.
pub(super) struct SequenceSampler<'a> {
    pub(super) sampler: &'a mut Sampler,
    pub(super) constraint: Option<&'a mut Constraint>,
    /// Forced tokens that the constraint has already accepted.
    pub(super) forced: &'a mut VecDeque<TokenId>,
    /// The draft tokens of the step, to be verified.
    pub(super) draft: &'a [TokenId],
}

/// Why no token can be sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SampleError {
    /// The constraint and the other options allow no token.
    Grammar(GrammarError),
    /// The logits contain NaN or infinity, or exclude every token.
    InvalidOutput(InvalidOutput),
}

impl From<GrammarError> for SampleError {
    fn from(error: GrammarError) -> Self {
        Self::Grammar(error)
    }
}

/// The tokens that a step adds to a sequence.
pub(super) struct SamplerOutput {
    /// At least one token. All but the last are accepted draft tokens.
    pub(super) sampled: Vec<SampledToken>,
    /// Forced tokens that follow `sampled`: the constraint allows no other tokens there.
    pub(super) forced: Vec<TokenId>,
    /// Whether the constraint allows no token after `sampled` and `forced`.
    pub(super) is_complete: bool,
}

impl SequenceSampler<'_> {
    /// Samples a token from the first row of logits, then from each next row while the sampled token equals the draft
    /// token at its position. Overwrites the rows.
    pub(super) fn sample(mut self, rows: Vec<&mut [f32]>) -> Result<SamplerOutput, SampleError> {
        let mut sampled = Vec::with_capacity(rows.len());
        let mut draft = self.draft.iter();
        for logits in rows {
            check_logits(logits).map_err(SampleError::InvalidOutput)?;
            let token = self.sample_one(logits)?;
            let is_accepted = draft.next() == Some(&token.token);
            sampled.push(token);
            if !is_accepted {
                break;
            }
        }
        Ok(self.into_output(sampled))
    }

    fn sample_one(&mut self, logits: &mut [f32]) -> Result<SampledToken, GrammarError> {
        if let Some(token) = self.forced.pop_front() {
            return Ok(self.sampler.accept_forced(token, logits));
        }
        let Some(constraint) = &mut self.constraint else {
            return Ok(self.sampler.sample_with_logprobs(logits, |_| ()));
        };
        let mut masked = Ok(());
        let sampled = self.sampler.sample_with_logprobs(logits, |logits| {
            masked = constraint.mask(logits);
            if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) && masked.is_ok() {
                let problem = "every token that could follow is forbidden by other options";
                masked = Err(GrammarError::CannotContinue(problem.to_owned()));
            }
        });
        masked?;
        constraint.accept(sampled.token)?;
        self.forced.extend(constraint.take_forced()?);
        Ok(sampled)
    }

    /// Adds the forced tokens. With log probabilities, each forced token instead takes a step of its own.
    fn into_output(self, sampled: Vec<SampledToken>) -> SamplerOutput {
        let forced = match self.sampler.returns_logprobs() {
            true => Vec::new(),
            false => self.forced.drain(..).collect(),
        };
        self.sampler.accept(&forced);
        let constraint = self.constraint.as_deref();
        SamplerOutput {
            sampled,
            forced,
            is_complete: self.forced.is_empty() && constraint.is_some_and(Constraint::is_complete),
        }
    }
}

impl SamplerOutput {
    /// Number of draft tokens that were accepted.
    pub(super) fn accepted_draft_tokens(&self) -> usize {
        self.sampled.len() - 1
    }
}
