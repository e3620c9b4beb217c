//! The tokenizers of small vocabularies; a file for each kind.

mod byte_level;
mod characters;
mod names;
mod unigram;
mod word_piece;

use super::super::{Absorbs, NamedInfillTokens, Normalization};
use super::pipeline::{PASSAGE_BYTES, Parting, passage_end};
use super::*;

/// A vocabulary with one token per byte, then the given merges' results, then two named tokens.
fn vocabulary(pre: &str, merges: &[&str]) -> Vocabulary {
    let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| spelt(&[byte])).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    tokens.extend(["<|im_end|>".to_owned(), "<user>".to_owned()]);
    kinds.extend([TokenKind::Control, TokenKind::UserDefined]);
    plain(byte_level(pre, merges), tokens, kinds)
}

/// A vocabulary that puts nothing around a text.
fn plain(algorithm: Algorithm, tokens: Vec<String>, kinds: Vec<TokenKind>) -> Vocabulary {
    Vocabulary {
        algorithm,
        tokens,
        kinds,
        beginning: None,
        end: None,
        end_of_turn: None,
        ends: Vec::new(),
        absorbing: Vec::new(),
        adds_beginning: false,
        adds_end: false,
        infill: NamedInfillTokens::default(),
    }
}

fn byte_level(pre: &str, merges: &[&str]) -> Algorithm {
    Algorithm::ByteLevel {
        pre: pre.to_owned(),
        merges: merges.iter().map(|&merge| merge.to_owned()).collect(),
    }
}

/// Bytes in the byte-level alphabet.
fn spelt(bytes: &[u8]) -> String {
    let byte_of = super::byte_level::byte_level_alphabet();
    bytes
        .iter()
        .map(|&byte| {
            let number = byte_of
                .iter()
                .position(|&found| found == Some(byte))
                .unwrap();
            char::from_u32(number as u32).unwrap()
        })
        .collect()
}

/// A tokenizer that has these tokens, and their ids.
pub(in crate::text) fn tokenizer_of(tokens: &[&[u8]]) -> (Tokenizer, Vec<TokenId>) {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    let ids = tokens
        .iter()
        .map(|bytes| {
            let spelling = spelt(bytes);
            let known = vocabulary
                .tokens
                .iter()
                .position(|token| *token == spelling);
            let row = known.unwrap_or_else(|| {
                vocabulary.tokens.push(spelling);
                vocabulary.kinds.push(TokenKind::Normal);
                vocabulary.tokens.len() - 1
            });
            TokenId(row as u32)
        })
        .collect();
    (Tokenizer::new(vocabulary).unwrap(), ids)
}

/// What each of the ids stands for in text.
fn texts(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<String> {
    let text = |&token| tokenizer.decode(&[token]).unwrap();
    ids.iter().map(text).collect()
}

#[test]
fn unknown_ids_are_refused() {
    let tokenizer = Tokenizer::new(vocabulary("gpt-2", &[])).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 258);
    assert_eq!(tokenizer.token_bytes(TokenId(258)), None);
    assert_eq!(
        tokenizer.decode(&[TokenId(1), TokenId(258)]),
        Err(UnknownToken(TokenId(258)))
    );
}

#[test]
fn a_vocabulary_that_cannot_be_used_says_why() {
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
        "the vocabulary has 0 tokens; there have to be 1 to 2097152",
    );
    check(
        |vocabulary| vocabulary.kinds.truncate(3),
        "the vocabulary has 259 tokens, but kinds for 3",
    );
    check(
        |vocabulary| vocabulary.end = Some(TokenId(259)),
        "the end token is 259, the vocabulary has 259 tokens",
    );
    check(
        |vocabulary| vocabulary.ends = vec![TokenId(1), TokenId(300)],
        "the end token is 300, the vocabulary has 259 tokens",
    );
    check(
        |vocabulary| vocabulary.tokens[98] = "a".to_owned(),
        "the tokens 97 and 98 are both spelt \"a\"",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["ab"]),
        "the merge \"ab\" cannot be used: it is no pair",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["a c"]),
        "the merge \"a c\" cannot be used: it names a piece that is no token",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["a b", "a b"]),
        "the merge \"a b\" cannot be used: it occurs twice",
    );
}

#[test]
fn a_long_text_is_parted_where_words_part() {
    let words = "many words, and some more.\n".repeat(PASSAGE_BYTES / 20);
    let end = passage_end(&words, Parting::Spaces);
    assert!(end > PASSAGE_BYTES - 30 && end <= PASSAGE_BYTES);
    assert!(words[end..].starts_with(' ') && !words[..end].ends_with(char::is_whitespace));
    // A space at which a word may go on is not such a place.
    let spaces = " ".repeat(PASSAGE_BYTES + 9);
    assert_eq!(passage_end(&spaces, Parting::Spaces), PASSAGE_BYTES);
    let euros = "€".repeat(PASSAGE_BYTES);
    let all = PASSAGE_BYTES - PASSAGE_BYTES % 3;
    assert_eq!(passage_end(&euros, Parting::Spaces), all);

    let lines = "one line.\n\nand another\n".repeat(PASSAGE_BYTES / 20);
    let end = passage_end(&lines, Parting::Lines);
    assert!(lines[..end].ends_with("another") && end > PASSAGE_BYTES - 30);
    let numbers = "some 1234 and ".repeat(PASSAGE_BYTES / 10);
    let end = passage_end(&numbers, Parting::Numbers);
    assert!(numbers[end..].starts_with("1234") && end > PASSAGE_BYTES - 30);
}
