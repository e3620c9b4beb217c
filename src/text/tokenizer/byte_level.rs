//! Byte-level BPE: a word's bytes are spelt in an alphabet of their own, and pairs of pieces become one.

use tokenizers::models::bpe::{BPE, Vocab};

use super::TokenizerError;
use super::pipeline::Pipeline;
use super::word_rules::WordRule;

/// The way from text to ids with these spellings and merges, words cut by the rule `pre`.
pub(super) fn pipeline(
    pre: &str,
    ids: Vocab,
    merges: Vec<(String, String)>,
) -> Result<Pipeline, TokenizerError> {
    let rule =
        WordRule::named(pre).ok_or_else(|| TokenizerError::UnsupportedPre(pre.to_owned()))?;
    let bpe = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(rule.whole_words_first)
        .build()
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    let words = rule.word_steps()?;
    Ok(Pipeline::new(Vec::new(), words, bpe.into(), rule.parting))
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
