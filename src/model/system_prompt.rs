//! The system prompt, which precedes the prompt of every request. It is set at startup; an operator or a request can
//! replace it.

use std::sync::{Arc, PoisonError};

use super::LoadedModel;
use super::request::{GenerateError, SystemPrompt};
use crate::cancel::CancelFlag;
use crate::text::{SpecialTokens, Tokenizer};
use crate::token::TokenId;

/// A system prompt and its tokens.
#[derive(Debug, Default)]
pub(super) struct TokenizedSystemPrompt {
    pub(super) source: SystemPrompt,
    /// Includes the beginning-of-text token if the model adds one. Empty if the text is empty.
    pub(super) tokens: Vec<TokenId>,
}

impl TokenizedSystemPrompt {
    /// Tokenizes a system prompt for a context of `context_tokens` tokens.
    ///
    /// # Errors
    /// If the context has no room for a prompt token and a generated token after the system prompt.
    pub(super) fn new(
        source: SystemPrompt,
        tokenizer: &Tokenizer,
        context_tokens: usize,
    ) -> Result<Self, GenerateError> {
        if source.prompt.is_empty() {
            return Ok(Self {
                source,
                tokens: Vec::new(),
            });
        }
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let text = tokenizer.encode(&source.prompt, SpecialTokens::Parse);
        let tokens: Vec<TokenId> = bos.into_iter().chain(text).collect();
        // Room for one prompt token and one generated token.
        if tokens.len() + 2 > context_tokens {
            return Err(GenerateError::SystemPromptTooLong {
                prompt_tokens: tokens.len(),
                context_tokens,
            });
        }
        Ok(Self { source, tokens })
    }
}

impl LoadedModel {
    /// Replaces the server's system prompt for all later requests.
    pub fn set_system_prompt(
        &self,
        source: SystemPrompt,
        cancel: &CancelFlag,
    ) -> Result<(), GenerateError> {
        let system = self.tokenize_system_prompt(source, cancel)?;
        let mut current = self.system.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(system);
        Ok(())
    }

    /// Returns the server's current system prompt.
    pub fn system_prompt(&self) -> SystemPrompt {
        self.tokenized_system_prompt().source.clone()
    }

    pub(super) fn tokenize_system_prompt(
        &self,
        source: SystemPrompt,
        cancel: &CancelFlag,
    ) -> Result<TokenizedSystemPrompt, GenerateError> {
        cancel.check()?;
        TokenizedSystemPrompt::new(source, &self.tokenizer, self.details.context_tokens)
    }

    pub(super) fn tokenized_system_prompt(&self) -> Arc<TokenizedSystemPrompt> {
        let system = self.system.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&system)
    }
}
