//! Encodes text with the `tokenizers` crate: normalizers, pre-tokenizers, then the model. Long texts are encoded in
//! segments.

use std::sync::Arc;

use tokenizers::{Model, ModelWrapper, OffsetType};

use crate::cancel::{CancelFlag, Cancelled};
use crate::text::pre_tokenization::{NormalizerStep, PreTokenization, PreTokenizerStep};
use crate::token::TokenId;

/// Maximum length of a segment. The memory of regular-expression matching grows with the text, so a longer text is
/// split at a [`SegmentBoundary`]. A longer run without a boundary is split between any two characters.
pub(super) const SEGMENT_BYTES: usize = 64 * 1024;

/// A kind of position that no word spans, so that splitting a text there does not change its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentBoundary {
    /// Before a space that follows a character other than whitespace.
    Space,
    /// Before a line feed that follows a letter or a digit.
    LineEnd,
    /// Before the first digit of a number.
    Number,
}

impl SegmentBoundary {
    fn is_between(self, before: char, after: char) -> bool {
        match self {
            SegmentBoundary::Space => after == ' ' && !before.is_whitespace(),
            SegmentBoundary::LineEnd => after == '\n' && before.is_alphanumeric(),
            SegmentBoundary::Number => after.is_numeric() && !before.is_numeric(),
        }
    }
}

/// The normalizers, pre-tokenizers and model of a vocabulary.
pub(super) struct Pipeline {
    /// Used at the start of a text.
    pub(super) text_start: PreTokenization,
    /// Used for a text that continues another text; `None` if it is the same as `text_start`.
    pub(super) continuation: Option<PreTokenization>,
    /// Whether `continuation` is used for the text after a special token.
    pub(super) continues_after_special_token: bool,
    pub(super) model: Arc<ModelWrapper>,
    pub(super) boundary: SegmentBoundary,
}

/// The kind of input before a text that is encoded. Determines whether a space is added before the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preceding {
    Nothing,
    SpecialToken,
    /// Other text, which the encoded text continues.
    Text,
}

impl Pipeline {
    /// Creates a pipeline that adds no space before a text.
    pub(super) fn new(
        normalizers: Vec<NormalizerStep>,
        pre_tokenizers: Vec<PreTokenizerStep>,
        model: ModelWrapper,
        boundary: SegmentBoundary,
    ) -> Pipeline {
        Pipeline {
            text_start: PreTokenization {
                normalizers,
                pre_tokenizers,
            },
            continuation: None,
            continues_after_special_token: false,
            model: Arc::new(model),
            boundary,
        }
    }

    /// Appends the token ids of the text, which contains no special tokens, to `ids`.
    pub(super) fn encode(
        &self,
        text: &str,
        preceding: Preceding,
        cancel: &CancelFlag,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Cancelled> {
        let continuation = self.continuation.as_ref().unwrap_or(&self.text_start);
        let mut pre_tokenization = match preceding {
            Preceding::SpecialToken if self.continues_after_special_token => continuation,
            Preceding::Nothing | Preceding::SpecialToken => &self.text_start,
            Preceding::Text => continuation,
        };
        let mut rest = text;
        while !rest.is_empty() {
            cancel.check()?;
            let (segment, after) = rest.split_at(segment_end(rest, self.boundary));
            let encoding = self
                .encode_segment(segment, pre_tokenization)
                .expect("what can fail was checked when the pipeline was built");
            ids.extend(encoding.get_ids().iter().map(|&id| TokenId(id)));
            rest = after;
            pre_tokenization = continuation;
        }
        Ok(())
    }

    fn encode_segment(
        &self,
        segment: &str,
        pre_tokenization: &PreTokenization,
    ) -> tokenizers::Result<tokenizers::Encoding> {
        let mut words = pre_tokenization.words(segment)?;
        words.tokenize(|word| self.model.tokenize(word.get()))?;
        words.into_encoding(None, 0, OffsetType::None)
    }
}

/// Returns the end of the first segment: the end of a short text, else the last boundary within [`SEGMENT_BYTES`], else
/// the last end of a character within [`SEGMENT_BYTES`].
pub(super) fn segment_end(text: &str, boundary: SegmentBoundary) -> usize {
    if text.len() <= SEGMENT_BYTES {
        return text.len();
    }
    let max_end = text.floor_char_boundary(SEGMENT_BYTES);
    let characters = text[..max_end].char_indices().rev();
    let mut neighbors = characters.clone().skip(1).zip(characters);
    neighbors
        .find(|((_, before), (_, after))| boundary.is_between(*before, *after))
        .map_or(max_end, |(_, (position, _))| position)
}
