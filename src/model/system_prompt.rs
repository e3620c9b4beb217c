//! What comes before the prompt of every request: set at the start, or by a request at any time.

use std::sync::{Arc, PoisonError};

use super::LoadedModel;
use super::request::GenerateError;
use crate::cancel::CancelFlag;
use crate::text::{SpecialTokens, Tokenizer};
use crate::token::TokenId;

/// A system prompt, and what clients want to know of it to write prompts that go on with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemPrompt {
    /// The text; empty is that there is none.
    pub prompt: String,
    /// What begins the user's turns.
    pub user_name: String,
    /// What begins the assistant's turns.
    pub assistant_name: String,
}

/// A system prompt with its tokens.
#[derive(Debug, Default)]
pub(super) struct SystemTokens {
    pub(super) words: SystemPrompt,
    /// With the beginning-of-text token, if the model wants one; none without a text.
    pub(super) tokens: Vec<TokenId>,
}

impl SystemTokens {
    /// Tokenizes it.
    ///
    /// # Errors
    /// It leaves no room in a context of `context_tokens`.
    pub(super) fn new(
        words: SystemPrompt,
        tokenizer: &Tokenizer,
        context_tokens: usize,
    ) -> Result<Self, GenerateError> {
        if words.prompt.is_empty() {
            return Ok(Self {
                words,
                tokens: Vec::new(),
            });
        }
        let beginning = tokenizer.beginning().filter(|_| tokenizer.adds_beginning());
        let text = tokenizer.encode(&words.prompt, SpecialTokens::Parse);
        let tokens: Vec<TokenId> = beginning.into_iter().chain(text).collect();
        // A prompt of one token and an answer of one.
        if tokens.len() + 2 > context_tokens {
            return Err(GenerateError::SystemPromptTooLong {
                prompt_tokens: tokens.len(),
                context_tokens,
            });
        }
        Ok(Self { words, tokens })
    }
}

impl LoadedModel {
    /// Puts another system prompt before all prompts from now on.
    pub fn set_system_prompt(
        &self,
        words: SystemPrompt,
        cancel: &CancelFlag,
    ) -> Result<(), GenerateError> {
        let system = self.system_tokens(words, cancel)?;
        let mut place = self.system.write().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(system);
        Ok(())
    }

    /// The system prompt as it was set.
    pub fn system_words(&self) -> SystemPrompt {
        self.system_prompt().words.clone()
    }

    pub(super) fn system_tokens(
        &self,
        words: SystemPrompt,
        cancel: &CancelFlag,
    ) -> Result<SystemTokens, GenerateError> {
        cancel.check()?;
        SystemTokens::new(words, &self.tokenizer, self.details.context_tokens)
    }

    pub(super) fn system_prompt(&self) -> Arc<SystemTokens> {
        let system = self.system.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&system)
    }
}
