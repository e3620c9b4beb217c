//! Converts prompts to token ids: the system prompt, then the request's prompt.

use super::request::{GenerateError, PromptPiece};
use super::system_prompt::TokenizedSystemPrompt;
use super::{LoadedModel, SystemPrompt};
use crate::cancel::CancelFlag;
use crate::text::{Conversation, InfillInput, SpecialTokens};
use crate::token::TokenId;

impl LoadedModel {
    /// Returns the tokens of the system prompt and the prompt, and the number of tokens before the prompt: those of the
    /// system prompt, or 1 for an added beginning-of-text token.
    pub(super) fn prompt_tokens(
        &self,
        prompt: &[PromptPiece],
        system: &TokenizedSystemPrompt,
        cancel: &CancelFlag,
    ) -> Result<(Vec<TokenId>, usize), GenerateError> {
        let prompt_tokens = self.encode_prompt_pieces(prompt, cancel)?;
        let begins_with_text = !matches!(prompt.first(), Some(PromptPiece::Token(_)));
        let prefix = match self.tokenizer.bos() {
            _ if !system.tokens.is_empty() => system.tokens.clone(),
            // Many chat templates already begin with the BOS token. An empty prompt needs at least one token.
            Some(bos) if prompt_tokens.first() != Some(&bos) => {
                let adds_bos = self.tokenizer.adds_bos() && begins_with_text;
                match adds_bos || prompt_tokens.is_empty() {
                    true => vec![bos],
                    false => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        let prefix_tokens = prefix.len();
        Ok(([prefix, prompt_tokens].concat(), prefix_tokens))
    }

    /// Returns the tokens of a text to embed: no system prompt, but the BOS and EOS tokens that the model adds.
    pub(super) fn text_tokens(
        &self,
        text: &[PromptPiece],
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let is_text = |piece: Option<&PromptPiece>| !matches!(piece, Some(PromptPiece::Token(_)));
        let tokens = self.encode_prompt_pieces(text, cancel)?;
        let bos = self.tokenizer.bos().filter(|_| {
            let adds_bos = self.tokenizer.adds_bos() && is_text(text.first());
            adds_bos || tokens.is_empty()
        });
        let eos = self.tokenizer.added_eos();
        let eos = eos.filter(|_| is_text(text.last()));
        Ok(bos.into_iter().chain(tokens).chain(eos).collect())
    }

    /// Returns the number of prompt tokens of a conversation, including the system prompt. `is_constrained` is that of
    /// the request's [`super::GenerateOptions`].
    pub fn count_tokens(
        &self,
        conversation: &Conversation,
        is_constrained: bool,
        cancel: &CancelFlag,
    ) -> Result<usize, GenerateError> {
        let (text, _) = self.render_prompt(conversation, is_constrained, cancel)?;
        let system = self.tokenized_system_prompt();
        let (tokens, _) = self.prompt_tokens(&[PromptPiece::Text(text)], &system, cancel)?;
        Ok(tokens.len())
    }

    /// Returns the infill prompt for a gap and the number of dropped files. Other files are dropped, from the first,
    /// until the context has room for `max_tokens` (default: a quarter of the context) and the system prompt. The
    /// returned tokens do not include the system prompt. `system_prompt` replaces the server's system prompt.
    pub fn infill_prompt(
        &self,
        gap: &InfillInput<'_>,
        system_prompt: Option<&SystemPrompt>,
        max_tokens: Option<usize>,
        cancel: &CancelFlag,
    ) -> Result<(Vec<TokenId>, usize), GenerateError> {
        cancel.check()?;
        let tokens = self.tokenizer.infill(gap);
        let tokens = tokens.ok_or(GenerateError::InfillUnsupported)?;
        let system_tokens = match system_prompt {
            Some(system) if system.prompt.is_empty() => 0,
            Some(system) => self
                .tokenize_system_prompt(system.clone(), cancel)?
                .tokens
                .len(),
            None => self.tokenized_system_prompt().tokens.len(),
        };
        let bos = self.tokenizer.bos();
        let bos = bos.filter(|_| system_tokens == 0 && self.tokenizer.adds_bos());
        let context = self.details.context_tokens;
        let max_tokens = max_tokens.unwrap_or(context / 4).max(1);
        // Generation needs room for at least one token after the prompt.
        let max_prompt_tokens =
            context.saturating_sub(max_tokens + system_tokens + bos.iter().count());
        let (tokens, dropped_files) = tokens.into_tokens(max_prompt_tokens);
        Ok((bos.into_iter().chain(tokens).collect(), dropped_files))
    }

    /// Whether infill prompts contain the names of the other files.
    pub fn infill_shows_file_names(&self) -> bool {
        self.tokenizer.shows_file_names()
    }

    pub(super) fn encode_prompt_pieces(
        &self,
        pieces: &[PromptPiece],
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, GenerateError> {
        self.encode_pieces(pieces, SpecialTokens::Parse, cancel)
    }

    /// Tokenizes texts and checks that token ids are in the vocabulary.
    pub(super) fn encode_pieces(
        &self,
        pieces: &[PromptPiece],
        special: SpecialTokens,
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let mut tokens = Vec::new();
        for piece in pieces {
            cancel.check()?;
            match piece {
                PromptPiece::Text(text) => {
                    tokens.extend(self.tokenizer.encode_cancellable(text, special, cancel)?);
                }
                PromptPiece::Token(token) if token.row() < self.details.vocabulary_size => {
                    tokens.push(*token);
                }
                PromptPiece::Token(token) => return Err(self.unknown_token(*token)),
            }
        }
        Ok(tokens)
    }

    pub(super) fn unknown_token(&self, token: TokenId) -> GenerateError {
        GenerateError::UnknownToken {
            token,
            vocabulary_size: self.details.vocabulary_size,
        }
    }
}
