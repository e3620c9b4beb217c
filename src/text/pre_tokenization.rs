//! Normalization and pre-tokenization, which precede the model. The `tokenizers` crate runs most normalizers and
//! pre-tokenizers. Those with a regular expression or a charsmap run here to bound their time and memory.

use std::sync::Arc;

use tokenizers::pattern::Invert;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Result, SplitDelimiterBehavior,
};

use super::charsmap::Charsmap;
use super::linear_regex::LinearRegex;

/// Stands for a space in the tokens of SentencePiece vocabularies (U+2581).
pub(super) const METASPACE: &str = "\u{2581}";

/// Normalizers and pre-tokenizers, in the order in which they run.
#[derive(Debug, Clone, Default)]
pub(super) struct PreTokenization {
    pub(super) normalizers: Vec<NormalizerStep>,
    pub(super) pre_tokenizers: Vec<PreTokenizerStep>,
}

/// A normalizer: changes a text before it is split into words.
#[derive(Debug, Clone)]
pub(super) enum NormalizerStep {
    /// Replaces each match of `regex` with `content`.
    Replace {
        regex: LinearRegex,
        content: String,
    },
    /// Replaces grapheme clusters according to the charsmap, as the crate's `Precompiled` does.
    Precompiled(Arc<Charsmap>),
    /// SentencePiece's normalization for Unigram: applies the charsmap, then replaces spaces with [`METASPACE`].
    SentencePiece {
        charsmap: Option<Arc<Charsmap>>,
        /// Whether runs of spaces become one space, and leading and trailing spaces are removed.
        removes_extra_spaces: bool,
        /// Whether a space is added before the text.
        adds_space_prefix: bool,
    },
    Crate(NormalizerWrapper),
}

/// A pre-tokenizer: splits a text into words.
#[derive(Debug, Clone)]
pub(super) enum PreTokenizerStep {
    Split {
        regex: LinearRegex,
        behavior: SplitDelimiterBehavior,
        /// Whether the delimiters are the texts between the matches, not the matches.
        invert: bool,
    },
    Crate(PreTokenizerWrapper),
}

impl PreTokenization {
    /// Normalizes a text and splits it into words.
    pub(super) fn words(&self, text: &str) -> Result<PreTokenizedString> {
        let mut text = text.to_owned();
        for step in &self.normalizers {
            text = step.normalize(&text)?;
        }
        let mut words = PreTokenizedString::from(text);
        for step in &self.pre_tokenizers {
            step.split(&mut words)?;
        }
        Ok(words)
    }
}

impl NormalizerStep {
    /// Applies this normalizer. Discards offsets into the original text: they are not used, and the crate computes them
    /// incorrectly if a pattern matches the empty string.
    fn normalize(&self, text: &str) -> Result<String> {
        let by_crate = |step: &dyn Fn(&mut NormalizedString) -> Result<()>| {
            let mut text = NormalizedString::from(text);
            step(&mut text)?;
            Ok(text.get().to_owned())
        };
        match self {
            NormalizerStep::Replace { regex, content } => {
                by_crate(&|text| text.replace(regex, content))
            }
            NormalizerStep::Precompiled(charsmap) => Ok(charsmap.normalize_graphemes(text)),
            NormalizerStep::SentencePiece {
                charsmap,
                removes_extra_spaces,
                adds_space_prefix,
            } => {
                let normalized = charsmap.as_ref().map(|charsmap| charsmap.normalize(text));
                let normalized = normalized.as_deref().unwrap_or(text);
                Ok(with_metaspaces(
                    normalized,
                    *removes_extra_spaces,
                    *adds_space_prefix,
                ))
            }
            NormalizerStep::Crate(step) => by_crate(&|text| step.normalize(text)),
        }
    }
}

/// Replaces each space with [`METASPACE`]. The flags are those of [`NormalizerStep::SentencePiece`].
fn with_metaspaces(text: &str, removes_extra_spaces: bool, adds_space_prefix: bool) -> String {
    // A text without an added space may continue a word, so its leading space is kept.
    let starts_word = adds_space_prefix || text.starts_with(' ');
    let replaced = match removes_extra_spaces {
        true => {
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            words.join(METASPACE)
        }
        false => text.replace(' ', METASPACE),
    };
    let needs_prefix = match removes_extra_spaces {
        true => starts_word,
        false => adds_space_prefix,
    };
    match needs_prefix && !replaced.is_empty() {
        true => format!("{METASPACE}{replaced}"),
        false => replaced,
    }
}

impl PreTokenizerStep {
    /// Creates a pre-tokenizer that makes each match, and each text between matches, a word.
    pub(super) fn isolate(regex: LinearRegex) -> Self {
        Self::Split {
            regex,
            behavior: SplitDelimiterBehavior::Isolated,
            invert: false,
        }
    }

    fn split(&self, words: &mut PreTokenizedString) -> Result<()> {
        match self {
            PreTokenizerStep::Split {
                regex,
                behavior,
                invert,
            } => words.split(|_, word| match invert {
                true => word.split(Invert(regex), *behavior),
                false => word.split(regex, *behavior),
            }),
            PreTokenizerStep::Crate(step) => step.pre_tokenize(words),
        }
    }
}
