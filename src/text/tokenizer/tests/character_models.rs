//! Tokenizer models over characters: BPE with merge ranks, and SentencePiece's BPE.

use proptest::prelude::*;

use super::*;

/// Returns a vocabulary of three special tokens, the byte tokens, and these pieces with their scores.
fn scored(pieces: &[(&str, f32)], adds_space_prefix: bool) -> Vocabulary {
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let mut tokens: Vec<String> = special.into_iter().chain(bytes).collect();
    let mut kinds = vec![TokenKind::Byte; tokens.len()];
    kinds[..3].copy_from_slice(&[TokenKind::Unknown, TokenKind::Control, TokenKind::Control]);
    let mut scores = vec![0.0; tokens.len()];
    for &(piece, score) in pieces {
        tokens.push(piece.to_owned());
        kinds.push(TokenKind::Normal);
        scores.push(score);
    }
    let algorithm = Algorithm::SentencePieceBpe {
        scores,
        adds_space_prefix,
    };
    Vocabulary {
        bos: Some(TokenId(1)),
        eos: Some(TokenId(2)),
        adds_bos: true,
        ..without_roles(algorithm, tokens, kinds)
    }
}

#[test]
fn character_bpe_merges_within_a_line() {
    let pieces = ["\u{2581}", "a", "\u{2581}a", "b", "ab", "\n", "\n\n"];
    let pieces = pieces.map(|piece| (piece, 0.0));
    let merges = ["\u{2581} a", "a b", "\n \n"].map(str::to_owned).to_vec();
    let tokenizer = Tokenizer::new(Vocabulary {
        algorithm: Algorithm::CharacterBpe { merges },
        ..scored(&pieces, false)
    });
    let tokenizer = tokenizer.unwrap();
    let ids = tokenizer.encode("ab a\n\nabé", SpecialTokens::Parse);
    let expected = ["ab", " a", "\n\n", "ab", "\u{FFFD}", "\u{FFFD}"];
    assert_eq!(texts(&tokenizer, &ids), expected);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "ab a\n\nabé");
}

#[track_caller]
fn check_scored(vocabulary: Vocabulary, text: &str, special: SpecialTokens, expected: &[&str]) {
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode(text, special);
    assert_eq!(texts(&tokenizer, &ids), expected);
}

#[test]
fn the_pair_with_the_best_score_is_merged_first_and_the_leftmost_of_equals() {
    let check = |pieces: &[(&str, f32)], text: &str, expected: &[&str]| {
        check_scored(scored(pieces, false), text, SpecialTokens::Parse, expected);
    };
    let letters = [("a", -9.0), ("b", -9.0), ("c", -9.0)];
    let with = |more: &[(&'static str, f32)]| [&letters, more].concat();
    check(&with(&[("ab", -2.0), ("bc", -1.0)]), "abc", &["a", "bc"]);
    check(&with(&[("ab", -1.0), ("bc", -1.0)]), "abc", &["ab", "c"]);
    check(&with(&[("ab", 0.0), ("bc", -0.0)]), "abc", &["ab", "c"]);
    check(
        &with(&[("ab", -2.0), ("bc", -1.0), ("abc", -3.0)]),
        "abcab",
        &["abc", "ab"],
    );
    check(
        &with(&[("aa", -1.0), ("aaa", -2.0)]),
        "aaaaaaa",
        &["aa", "aa", "aaa"],
    );
    // Characters without a token may merge into a token.
    check(&[("xy", -1.0)], "xyx", &["xy", "x"]);
}

#[test]
fn a_space_is_added_before_a_text_and_after_each_special_token() {
    let pieces = [
        ("\u{2581}", -3.0),
        ("a", -4.0),
        ("\u{2581}a", -1.0),
        ("a\u{2581}", -2.0),
    ];
    let check = |adds_space_prefix: bool, text: &str, expected: &[&str]| {
        let vocabulary = scored(&pieces, adds_space_prefix);
        check_scored(vocabulary, text, SpecialTokens::Parse, expected);
    };
    check(true, "a a", &[" a", " a"]);
    check(true, " a", &[" ", " a"]);
    check(
        true,
        "<s>a<s><s> a",
        &["<s>", " a", "<s>", "<s>", " ", " a"],
    );
    check(true, "", &[]);
    check(false, "a a", &["a", " a"]);
    check(false, "<s>a", &["<s>", "a"]);
    check(false, "a ", &["a "]);

    let tokenizer = Tokenizer::new(scored(&pieces, true)).unwrap();
    let ids = tokenizer.encode_continuation("a a<s>", SpecialTokens::Literal);
    assert_eq!(texts(&tokenizer, &ids), ["a", " a", "<", "s", ">"]);
}

#[test]
fn text_without_a_token_becomes_byte_tokens_or_the_unknown_token() {
    let pieces = [("a", -1.0)];
    let tokenizer = Tokenizer::new(scored(&pieces, false)).unwrap();
    let ids = tokenizer.encode("aé\n", SpecialTokens::Parse);
    let byte = |byte: u8| TokenId(3 + u32::from(byte));
    assert_eq!(ids, [TokenId(259), byte(0xC3), byte(0xA9), byte(b'\n')]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "aé\n");

    let mut vocabulary = scored(&pieces, false);
    vocabulary.tokens[3 + 0xA9] = "none".to_owned();
    vocabulary.kinds[3 + 0xA9] = TokenKind::Unused;
    check_scored(
        vocabulary,
        "aé\n",
        SpecialTokens::Parse,
        &["a", "<unk>", "\n"],
    );
}

#[test]
fn control_and_unused_tokens_do_not_match_text() {
    let pieces = [
        ("<", -1.0),
        ("s", -1.0),
        (">", -1.0),
        ("<s", -1.0),
        ("s>", 1.0),
        ("</", -1.0),
        ("ab", 0.0),
        ("a", -1.0),
        ("b", -1.0),
        ("bb", -1.0),
    ];
    let mut vocabulary = scored(&pieces, false);
    vocabulary.kinds[265] = TokenKind::Unused;
    vocabulary.kinds[268] = TokenKind::UserDefined;
    check_scored(
        vocabulary.clone(),
        "<s></s>abb",
        SpecialTokens::Parse,
        &["<s>", "</s>", "a", "bb"],
    );
    check_scored(
        vocabulary,
        "<s></s>abb",
        SpecialTokens::Literal,
        &["<", "s>", "</", "s>", "a", "bb"],
    );
}

#[test]
fn rejects_invalid_scores() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<f32>, &mut Vec<String>), expected: &str) {
        let mut vocabulary = scored(&[("a", 0.0)], false);
        let Algorithm::SentencePieceBpe { scores, .. } = &mut vocabulary.algorithm else {
            panic!("not SentencePiece BPE");
        };
        change(scores, &mut vocabulary.tokens);
        let error = Tokenizer::new(vocabulary).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    check(
        |scores, _| scores.truncate(2),
        "the vocabulary has 260 tokens, but 2 scores",
    );
    check(
        |scores, _| scores[7] = f32::NAN,
        "the score of the token 7 is not a finite number",
    );
    check(
        |_, tokens| tokens[259] = "a".repeat(1025),
        "the token 259 has 1025 bytes; at most 1024 are supported",
    );
}

/// Reference implementation of SentencePiece's BPE in quadratic time.
fn merged(pieces: &[(String, f32)], text: &str) -> Vec<String> {
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(usize, f32)> = None;
        for index in 1..symbols.len() {
            let pair = symbols[index - 1..=index].concat();
            let piece = pieces.iter().find(|(piece, _)| *piece == pair);
            if let Some(&(_, score)) = piece
                && best.is_none_or(|(_, best)| score > best)
            {
                best = Some((index, score));
            }
        }
        let Some((index, _)) = best else {
            return symbols;
        };
        let right = symbols.remove(index);
        symbols[index - 1].push_str(&right);
    }
}

proptest! {
    #[test]
    fn token_ids_equal_those_of_the_reference_implementation(
        pieces in prop::collection::btree_map("[ab\u{2581}é]{1,6}", -3_i8..3, 0..40),
        text in "[ab é]{0,40}",
    ) {
        let pieces: Vec<(String, f32)> = pieces
            .into_iter()
            .map(|(piece, score)| (piece, score.into()))
            .collect();
        let borrowed: Vec<(&str, f32)> = pieces
            .iter()
            .map(|(piece, score)| (piece.as_str(), *score))
            .collect();
        let tokenizer = Tokenizer::new(scored(&borrowed, false)).unwrap();
        let mut expected = Vec::new();
        for symbol in merged(&pieces, &text.replace(' ', "\u{2581}")) {
            let piece = pieces.iter().position(|(piece, _)| *piece == symbol);
            match piece {
                Some(index) => expected.push(TokenId(259 + index as u32)),
                None => expected.extend(symbol.bytes().map(|byte| TokenId(3 + u32::from(byte)))),
            }
        }
        prop_assert_eq!(tokenizer.encode(&text, SpecialTokens::Parse), expected);
    }
}

#[test]
fn encoding_ends_when_it_is_cancelled() {
    for vocabulary in [scored(&[("a", 0.0)], true), vocabulary("gpt-2", &[])] {
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        let cancel = CancelFlag::default();
        let encode = || tokenizer.encode_cancellable("a a", SpecialTokens::Parse, &cancel);
        assert_eq!(encode(), Ok(tokenizer.encode("a a", SpecialTokens::Parse)));
        cancel.cancel();
        assert_eq!(encode(), Err(Cancelled));
    }
}
