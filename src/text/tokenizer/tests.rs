//! Tokenizers with small vocabularies, one file per model.

mod byte_level;
mod character_models;
mod special_tokens;
mod unigram;
mod word_piece;

use super::super::{BertNormalization, DeclaredInfillTokens, StripSides};
use super::pipeline::{SEGMENT_BYTES, SegmentBoundary, segment_end};
use super::*;

/// Returns a vocabulary with one token per byte, the results of the merges, and two special tokens.
fn vocabulary(pre: &str, merges: &[&str]) -> Vocabulary {
    let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| byte_level_text(&[byte])).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    tokens.extend(["<|im_end|>".to_owned(), "<user>".to_owned()]);
    kinds.extend([TokenKind::Control, TokenKind::UserDefined]);
    without_roles(byte_level(pre, merges), tokens, kinds)
}

/// Returns a vocabulary without BOS, EOS and other tokens with a role.
fn without_roles(algorithm: Algorithm, tokens: Vec<String>, kinds: Vec<TokenKind>) -> Vocabulary {
    Vocabulary {
        algorithm,
        tokens,
        kinds,
        bos: None,
        eos: None,
        eot: None,
        eog_tokens: Vec::new(),
        strip_sides: Vec::new(),
        adds_bos: false,
        adds_eos: false,
        infill: DeclaredInfillTokens::default(),
    }
}

fn byte_level(pre: &str, merges: &[&str]) -> Algorithm {
    Algorithm::ByteLevelBpe {
        pre: pre.to_owned(),
        merges: merges.iter().map(|&merge| merge.to_owned()).collect(),
    }
}

/// Maps the bytes to the byte-level alphabet.
fn byte_level_text(bytes: &[u8]) -> String {
    let byte_of = super::byte_level::byte_level_alphabet();
    bytes
        .iter()
        .map(|&byte| {
            let code_point = byte_of
                .iter()
                .position(|&found| found == Some(byte))
                .unwrap();
            char::from_u32(code_point as u32).unwrap()
        })
        .collect()
}

/// Builds a tokenizer whose vocabulary contains these tokens. Returns the tokenizer and the ids of these tokens.
pub(in crate::text) fn tokenizer_of(tokens: &[&[u8]]) -> (Tokenizer, Vec<TokenId>) {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    let ids = tokens
        .iter()
        .map(|bytes| {
            let text = byte_level_text(bytes);
            let existing = vocabulary.tokens.iter().position(|token| *token == text);
            let row = existing.unwrap_or_else(|| {
                vocabulary.tokens.push(text);
                vocabulary.kinds.push(TokenKind::Normal);
                vocabulary.tokens.len() - 1
            });
            TokenId(row as u32)
        })
        .collect();
    (Tokenizer::new(vocabulary).unwrap(), ids)
}

/// Decodes each token separately.
fn texts(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<String> {
    let text = |&token| tokenizer.decode(&[token]).unwrap();
    ids.iter().map(text).collect()
}

#[test]
fn rejects_ids_outside_the_vocabulary() {
    let tokenizer = Tokenizer::new(vocabulary("gpt-2", &[])).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 258);
    assert_eq!(tokenizer.token_bytes(TokenId(258)), None);
    assert_eq!(
        tokenizer.decode(&[TokenId(1), TokenId(258)]),
        Err(UnknownToken(TokenId(258)))
    );
}

#[test]
fn rejects_invalid_vocabularies() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vocabulary), expected: &str) {
        let mut vocabulary = vocabulary("gpt-2", &["a b"]);
        change(&mut vocabulary);
        let error = Tokenizer::new(vocabulary).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-12", &[]),
        "the pre-tokenizer \"gpt-12\" is not supported",
    );
    check(
        |vocabulary| vocabulary.tokens.clear(),
        "the vocabulary has 0 tokens; it must have 1 to 2097152",
    );
    check(
        |vocabulary| vocabulary.kinds.truncate(3),
        "the vocabulary has 259 tokens, but 3 token kinds",
    );
    check(
        |vocabulary| vocabulary.eos = Some(TokenId(259)),
        "the EOS token is 259, but the vocabulary has 259 tokens",
    );
    check(
        |vocabulary| vocabulary.eog_tokens = vec![TokenId(1), TokenId(300)],
        "the end-of-generation token is 300, but the vocabulary has 259 tokens",
    );
    check(
        |vocabulary| vocabulary.tokens[98] = "a".to_owned(),
        "the tokens 97 and 98 have the same text \"a\"",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["ab"]),
        "invalid merge \"ab\": it must be two tokens separated by a space",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["a c"]),
        "invalid merge \"a c\": a part or the result is not a token",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["a b", "a b"]),
        "invalid merge \"a b\": it is a duplicate",
    );
}

#[test]
fn a_long_text_is_split_between_words() {
    let words = "many words, and some more.\n".repeat(SEGMENT_BYTES / 20);
    let end = segment_end(&words, SegmentBoundary::Space);
    assert!(end > SEGMENT_BYTES - 30 && end <= SEGMENT_BYTES);
    assert!(words[end..].starts_with(' ') && !words[..end].ends_with(char::is_whitespace));
    // A space after whitespace is not a boundary: the space belongs to the same word.
    let spaces = " ".repeat(SEGMENT_BYTES + 9);
    assert_eq!(segment_end(&spaces, SegmentBoundary::Space), SEGMENT_BYTES);
    let euros = "€".repeat(SEGMENT_BYTES);
    let whole_characters = SEGMENT_BYTES - SEGMENT_BYTES % 3;
    assert_eq!(
        segment_end(&euros, SegmentBoundary::Space),
        whole_characters
    );

    let lines = "one line.\n\nand another\n".repeat(SEGMENT_BYTES / 20);
    let end = segment_end(&lines, SegmentBoundary::LineEnd);
    assert!(lines[..end].ends_with("another") && end > SEGMENT_BYTES - 30);
    let numbers = "some 1234 and ".repeat(SEGMENT_BYTES / 10);
    let end = segment_end(&numbers, SegmentBoundary::Number);
    assert!(numbers[end..].starts_with("1234") && end > SEGMENT_BYTES - 30);
}
