//! The crate `tokenizers`' steps from text to ids: it is made even, cut into words, and the words into tokens.

use std::sync::Arc;

use tokenizers::{Model, ModelWrapper, OffsetType};

use super::front::{Evening, Front, WordStep};
use crate::cancel::{CancelFlag, Cancelled};
use crate::token::TokenId;

/// Most bytes that are cut into words at once. What is remembered of an expression grows with its text, so a text is
/// parted before, at a place where its rule parts words anyway; only a longer run without such a place is parted where it
/// happens to be.
pub(super) const PASSAGE_BYTES: usize = 64 * 1024;

/// A place that no word contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// Before a space that follows a word.
    Spaces,
    /// Before the end of a line that a letter or digit ends.
    Lines,
    /// Before a number.
    Numbers,
}

impl Parting {
    fn is_between(self, before: char, after: char) -> bool {
        match self {
            Parting::Spaces => after == ' ' && !before.is_whitespace(),
            Parting::Lines => after == '\n' && before.is_alphanumeric(),
            Parting::Numbers => after.is_numeric() && !before.is_numeric(),
        }
    }
}

/// The steps of one vocabulary.
pub(super) struct Pipeline {
    /// What is done first to a text with nothing before it.
    pub(super) beginning: Front,
    /// The same for one that goes on with another one, where it is not the same.
    pub(super) going_on: Option<Front>,
    /// Whether a text behind a named token goes on with it.
    pub(super) goes_on_behind_tokens: bool,
    pub(super) model: Arc<ModelWrapper>,
    pub(super) parting: Parting,
}

/// What stands before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    NamedToken,
    /// It goes on with another one.
    Text,
}

impl Pipeline {
    /// The steps of a vocabulary that adds nothing to a text.
    pub(super) fn new(
        even: Vec<Evening>,
        words: Vec<WordStep>,
        model: ModelWrapper,
        parting: Parting,
    ) -> Pipeline {
        Pipeline {
            beginning: Front { even, words },
            going_on: None,
            goes_on_behind_tokens: false,
            model: Arc::new(model),
            parting,
        }
    }

    /// Puts the ids that spell the text, in which nothing is a named token, behind `ids`.
    pub(super) fn encode(
        &self,
        text: &str,
        before: Before,
        cancel: &CancelFlag,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Cancelled> {
        let going_on = self.going_on.as_ref().unwrap_or(&self.beginning);
        let mut front = match before {
            Before::NamedToken if self.goes_on_behind_tokens => going_on,
            Before::Nothing | Before::NamedToken => &self.beginning,
            Before::Text => going_on,
        };
        let mut rest = text;
        while !rest.is_empty() {
            cancel.check()?;
            let (passage, after) = rest.split_at(passage_end(rest, self.parting));
            let encoding = self
                .encoding(passage, front)
                .expect("what can fail was checked when the pipeline was built");
            ids.extend(encoding.get_ids().iter().map(|&id| TokenId(id)));
            rest = after;
            front = going_on;
        }
        Ok(())
    }

    fn encoding(&self, passage: &str, front: &Front) -> tokenizers::Result<tokenizers::Encoding> {
        let mut words = front.words(passage)?;
        words.tokenize(|word| self.model.tokenize(word.get()))?;
        words.into_encoding(None, 0, OffsetType::None)
    }
}

/// Where the next passage ends: the text's end, or a place that no word contains, or, for want of one, anywhere between
/// two characters.
pub(super) fn passage_end(text: &str, parting: Parting) -> usize {
    if text.len() <= PASSAGE_BYTES {
        return text.len();
    }
    let most = text.floor_char_boundary(PASSAGE_BYTES);
    let places = text[..most].char_indices().rev();
    let mut neighbours = places.clone().skip(1).zip(places);
    neighbours
        .find(|((_, before), (_, after))| parting.is_between(*before, *after))
        .map_or(most, |(_, (place, _))| place)
}
