//! A prompt as token ids: the system prompt of all, then what was asked.

use super::request::{GenerateError, Prompt, PromptPiece};
use super::system_prompt::SystemTokens;
use super::{LoadedModel, SystemPrompt};
use crate::cancel::CancelFlag;
use crate::text::{Conversation, Gap, SpecialTokens};
use crate::token::TokenId;

impl LoadedModel {
    /// The prompt's tokens after those of `system`, and how many come before its own: those, or a beginning-of-text
    /// token.
    pub(super) fn prompt_tokens(
        &self,
        prompt: &Prompt,
        system: &SystemTokens,
        cancel: &CancelFlag,
    ) -> Result<(Vec<TokenId>, usize), GenerateError> {
        let (own, begins_with_text) = match prompt {
            Prompt::Pieces(pieces) => (
                self.piece_tokens(pieces, cancel)?,
                matches!(pieces.first(), Some(PromptPiece::Text(_)) | None),
            ),
            Prompt::Chat(conversation) => {
                let text = self.render(conversation, cancel)?;
                let tokens = self
                    .tokenizer
                    .encode_unless(&text, SpecialTokens::Parse, cancel)?;
                (tokens, true)
            }
        };
        let before = match self.tokenizer.beginning() {
            _ if !system.tokens.is_empty() => system.tokens.clone(),
            // A template writes it itself; a prompt of nothing needs a token to begin with.
            Some(beginning) if own.first() != Some(&beginning) => {
                let asked_for = self.tokenizer.adds_beginning() && begins_with_text;
                match asked_for || own.is_empty() {
                    true => vec![beginning],
                    false => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        let count = before.len();
        Ok(([before, own].concat(), count))
    }

    /// The tokens of a text that becomes an embedding: of itself alone, between those that the model wants around it.
    pub(super) fn text_tokens(
        &self,
        text: &[PromptPiece],
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let is_text = |piece: Option<&PromptPiece>| !matches!(piece, Some(PromptPiece::Token(_)));
        let own = self.piece_tokens(text, cancel)?;
        let beginning = self.tokenizer.beginning().filter(|_| {
            let asked_for = self.tokenizer.adds_beginning() && is_text(text.first());
            asked_for || own.is_empty()
        });
        let end = self.tokenizer.added_end();
        let end = end.filter(|_| is_text(text.last()));
        Ok(beginning.into_iter().chain(own).chain(end).collect())
    }

    /// How many tokens a conversation has as a prompt.
    pub fn count_tokens(
        &self,
        conversation: &Conversation,
        cancel: &CancelFlag,
    ) -> Result<usize, GenerateError> {
        let prompt = Prompt::Chat(conversation.clone());
        let (tokens, _) = self.prompt_tokens(&prompt, &self.system_prompt(), cancel)?;
        Ok(tokens.len())
    }

    /// The prompt whose continuation fills a gap, behind a system prompt of its own or that of all, and how many of the other
    /// files were left out, from the first on. They are left out until the context has room for `max_tokens` more (a quarter
    /// of it without that).
    pub fn infill_prompt(
        &self,
        gap: &Gap<'_>,
        system_prompt: Option<&SystemPrompt>,
        max_tokens: Option<usize>,
        cancel: &CancelFlag,
    ) -> Result<(Vec<TokenId>, usize), GenerateError> {
        cancel.check()?;
        let tokens = self.tokenizer.infill(gap);
        let tokens = tokens.ok_or(GenerateError::NoInfill)?;
        let before = match system_prompt {
            Some(words) if words.prompt.is_empty() => 0,
            Some(words) => self.system_tokens(words.clone(), cancel)?.tokens.len(),
            None => self.system_prompt().tokens.len(),
        };
        let beginning = self.tokenizer.beginning();
        let beginning = beginning.filter(|_| before == 0 && self.tokenizer.adds_beginning());
        let context = self.details.context_tokens;
        let wanted = max_tokens.unwrap_or(context / 4).max(1);
        // The prompt has to be shorter than the context.
        let most = context.saturating_sub(wanted + before + beginning.iter().count());
        let (tokens, left_out) = tokens.prompt(most);
        Ok((beginning.into_iter().chain(tokens).collect(), left_out))
    }

    /// Whether the other files of an infill prompt are shown with their names.
    pub fn infill_shows_file_names(&self) -> bool {
        self.tokenizer.shows_file_names()
    }

    pub(super) fn piece_tokens(
        &self,
        pieces: &[PromptPiece],
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, GenerateError> {
        self.encoded(pieces, SpecialTokens::Parse, cancel)
    }

    /// The tokens of texts and ids.
    pub(super) fn encoded(
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
                    tokens.extend(self.tokenizer.encode_unless(text, special, cancel)?);
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
