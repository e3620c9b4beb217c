//! Byte-level BPE: what text is cut into beforehand is what llama.cpp does (`llama-vocab.cpp`).

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;
use super::pipeline::Pipeline;

/// The way from text to ids with these spellings and merges, words cut by the rule `pre`.
pub(super) fn pipeline(
    pre: &str,
    ids: HashMap<String, u32>,
    merges: Vec<(String, String)>,
) -> Result<Pipeline, TokenizerError> {
    let rule =
        WordRule::named(pre).ok_or_else(|| TokenizerError::UnsupportedPre(pre.to_owned()))?;
    let bpe = BPE::builder()
        .vocab_and_merges(ids.into_iter().collect::<Vocab>(), merges)
        .ignore_merges(rule.whole_words_first)
        .build()
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    Ok(Pipeline {
        normalizer: None,
        words: rule.pre_tokenizer()?.into(),
        model: bpe.into(),
    })
}

/// What a token's characters are in bytes.
pub(super) fn speller() -> impl Fn(&str, &mut Vec<u8>) {
    let byte_of = byte_level_alphabet();
    move |text, bytes| {
        for character in text.chars() {
            match byte_of.get(character as usize).copied().flatten() {
                Some(byte) => bytes.push(byte),
                // Not in the alphabet: the character can only mean itself.
                None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// How text is cut into words before the merges apply, which never cross a word's edge.
pub(super) struct WordRule {
    /// Applied one after the other: each cuts the words that the one before has left.
    expressions: &'static [&'static str],
    /// Whether a word that is a token is taken as it is, without going through the merges.
    whole_words_first: bool,
}

const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

impl WordRule {
    /// The rule of that name (`llama-vocab.cpp`, `llm_tokenizer_bpe`).
    pub(super) fn named(pre: &str) -> Option<WordRule> {
        let expressions: &[&str] = match pre {
            "gpt-2" => &[GPT2_WORDS],
            "smollm" => &[r"\p{N}", GPT2_WORDS],
            "llama3" | "llama-v3" | "llama-bpe" => &[
                r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
            "qwen2" => &[
                r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
            "default" => &[
                r"[\p{P}\$\+<=>\^~\|]+",
                GPT2_WORDS,
                r"\p{N}+",
                "[0-9][0-9][0-9]",
            ],
            _ => return None,
        };
        Some(WordRule {
            expressions,
            whole_words_first: matches!(pre, "llama3" | "llama-v3" | "llama-bpe"),
        })
    }

    pub(super) fn pre_tokenizer(&self) -> Result<Sequence, TokenizerError> {
        let mut steps = self
            .expressions
            .iter()
            .map(|&expression| {
                Split::new(
                    SplitPattern::Regex(expression.to_owned()),
                    SplitDelimiterBehavior::Isolated,
                    false,
                )
                .map(PreTokenizerWrapper::from)
                .map_err(|error| TokenizerError::Build(error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(steps))
    }
}

/// GPT-2's printable alphabet, from the character's number to the byte: bytes that print stand for
/// themselves, the others follow from 256 on (`encoder.py`, `bytes_to_unicode`).
pub(super) fn byte_level_alphabet() -> [Option<u8>; 512] {
    let mut byte_of = [None; 512];
    let mut next = 256;
    for byte in 0..=u8::MAX {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            byte_of[byte as usize] = Some(byte);
        } else {
            byte_of[next] = Some(byte);
            next += 1;
        }
    }
    byte_of
}
