//! The crate `tokenizers`' steps from text to ids: it is made even, cut into words, and the words into tokens.

use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use crate::token::TokenId;

/// Most bytes that are cut into words at once. The regular expressions' stack and steps grow with the
/// longest word, so a text is parted before, at a place where every rule parts words anyway; only a
/// longer run without such a place is parted where it happens to be.
pub(super) const PASSAGE_BYTES: usize = 64 * 1024;

/// The steps of one vocabulary.
pub(super) struct Pipeline {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) words: PreTokenizerWrapper,
    pub(super) model: ModelWrapper,
}

impl Pipeline {
    /// Puts the ids that spell the text, in which nothing is a named token, behind `ids`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<TokenId>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (passage, after) = rest.split_at(passage_end(rest));
            let encoding = self
                .encoding(passage)
                .expect("what can fail was checked when the pipeline was built");
            ids.extend(encoding.get_ids().iter().map(|&id| TokenId(id)));
            rest = after;
        }
    }

    fn encoding(&self, passage: &str) -> tokenizers::Result<tokenizers::Encoding> {
        let mut text = NormalizedString::from(passage);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut text)?;
        }
        let mut words = PreTokenizedString::from(text);
        self.words.pre_tokenize(&mut words)?;
        words.tokenize(|word| self.model.tokenize(word.get()))?;
        words.into_encoding(None, 0, OffsetType::None)
    }
}

/// Where the next passage ends: the text's end, or before a space that follows a word (no rule lets a
/// word contain that place), or, for want of one, anywhere between two characters.
pub(super) fn passage_end(text: &str) -> usize {
    if text.len() <= PASSAGE_BYTES {
        return text.len();
    }
    let most = text.floor_char_boundary(PASSAGE_BYTES);
    text[..most]
        .rmatch_indices(' ')
        .map(|(space, _)| space)
        .find(|&space| text[..space].ends_with(|before: char| !before.is_whitespace()))
        .unwrap_or(most)
}
