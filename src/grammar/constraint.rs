//! Decoding with a compiled grammar: masks the logits of forbidden tokens, and advances with each token.

use std::sync::Arc;

use llguidance::Matcher;

use super::digits::DigitLimit;
use super::reasoning::ReasoningState;
use super::{GrammarError, Relaxation, one_line_message};
use crate::token::TokenId;

/// A compiled grammar and the state of its parser after the tokens accepted so far.
#[derive(Clone)]
pub struct Constraint {
    /// `Some` until the reasoning ends; the grammar applies afterwards.
    pub(super) reasoning: Option<Box<ReasoningState>>,
    /// Tokens forced at the end of the reasoning, until [`Self::take_forced`] returns them.
    pub(super) forced: Vec<TokenId>,
    pub(super) relaxations: Arc<[Relaxation]>,
    pub(super) digit_limit: Option<DigitLimit>,
    /// `None` allows any text.
    pub(super) matcher: Option<Matcher>,
}

impl Constraint {
    /// Returns a copy that shares no parser caches with `self`: both can be used at the same time.
    pub fn deep_clone(&self) -> Self {
        Self {
            matcher: self.matcher.as_ref().map(Matcher::deep_clone),
            reasoning: self.reasoning.clone(),
            forced: self.forced.clone(),
            relaxations: Arc::clone(&self.relaxations),
            digit_limit: self.digit_limit.clone(),
        }
    }

    /// The dropped constraints of the JSON Schemas.
    pub fn relaxations(&self) -> &[Relaxation] {
        &self.relaxations
    }

    /// Sets the logits of the tokens that the grammar forbids at this position to negative infinity.
    ///
    /// # Errors
    /// If the parser exceeds a limit of llguidance.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        if let Some(reasoning) = &self.reasoning {
            reasoning.mask(logits);
            return Ok(());
        }
        let Some(matcher) = &mut self.matcher else {
            return Ok(());
        };
        let allowed = matcher
            .compute_mask_or_eos()
            .map_err(|error| GrammarError::CannotContinue(one_line_message(&error.to_string())))?;
        allowed.iter_unset_entries(|token| {
            if let Some(logit) = logits.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        });
        let vocabulary_size = allowed.len().min(logits.len());
        logits[vocabulary_size..].fill(f32::NEG_INFINITY);
        if let Some(digit_limit) = &self.digit_limit {
            digit_limit.mask(logits);
        }
        Ok(())
    }

    /// Advances the parser by a token that the mask allowed.
    ///
    /// # Errors
    /// If the grammar forbids the token at this position.
    pub fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if let Some(reasoning) = &mut self.reasoning {
            if let Some(forced) = reasoning.accept(token) {
                self.reasoning = None;
                self.forced = forced;
            }
            return Ok(());
        }
        let Some(matcher) = &mut self.matcher else {
            return Ok(());
        };
        if let Some(digit_limit) = &mut self.digit_limit {
            digit_limit.accept(token);
        }
        matcher
            .consume_token(token.0)
            .map_err(|error| GrammarError::CannotContinue(one_line_message(&error.to_string())))
    }

    /// Returns the forced tokens, and advances the parser past them. Tokens are forced while the grammar allows only
    /// one continuation of the text; the mask would allow no other token. With [`Tokenization::Any`], only the end of
    /// the reasoning forces tokens.
    ///
    /// # Errors
    /// If the parser exceeds a limit of llguidance.
    pub fn take_forced(&mut self) -> Result<Vec<TokenId>, GrammarError> {
        let mut forced = std::mem::take(&mut self.forced);
        let Some(matcher) = self.matcher.as_mut().filter(|_| self.reasoning.is_none()) else {
            return Ok(forced);
        };
        for token in matcher.consume_ff_tokens().into_iter().map(TokenId) {
            if let Some(digit_limit) = &mut self.digit_limit {
                digit_limit.accept(token);
            }
            forced.push(token);
        }
        match matcher.get_error() {
            Some(error) => Err(GrammarError::CannotContinue(one_line_message(&error))),
            None => Ok(forced),
        }
    }

    /// Whether the text is complete: the grammar allows no more tokens.
    pub fn is_complete(&self) -> bool {
        let matcher = self.matcher.as_ref().filter(|_| self.reasoning.is_none());
        matcher.is_some_and(Matcher::is_stopped)
    }
}
