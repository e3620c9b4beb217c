//! Byte-level BPE: each byte of a word is mapped to a printable character, then adjacent pieces are merged by rank.

use tokenizers::models::bpe::{BPE, Vocab};

use super::pipeline::Pipeline;
use super::pre_tokenizer_rules::PreTokenizerRule;
use crate::text::tokenizer_error::TokenizerError;

/// Builds the pipeline of a vocabulary whose pre-tokenizer is named `pre`.
pub(super) fn pipeline(
    pre: &str,
    ids: Vocab,
    merges: Vec<(String, String)>,
) -> Result<Pipeline, TokenizerError> {
    let rule = PreTokenizerRule::named(pre)
        .ok_or_else(|| TokenizerError::UnsupportedPre(pre.to_owned()))?;
    let bpe = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(rule.ignore_merges)
        .build()
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    let pre_tokenizers = rule.pre_tokenizer_steps()?;
    Ok(Pipeline::new(
        Vec::new(),
        pre_tokenizers,
        bpe.into(),
        rule.boundary,
    ))
}

/// Returns a function that appends the bytes for which a token's characters stand.
pub(super) fn piece_decoder() -> impl Fn(&str, &mut Vec<u8>) {
    let byte_of = byte_level_alphabet();
    move |text, bytes| {
        for character in text.chars() {
            match byte_of.get(character as usize).copied().flatten() {
                Some(byte) => bytes.push(byte),
                // The character is not in the byte-level alphabet, so it stands for itself.
                None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// Returns GPT-2's byte-level alphabet: for each code point below 512, the byte for which it stands. Printable bytes
/// keep their own code points; the others get the code points from 256 on (`encoder.py`, `bytes_to_unicode`).
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
