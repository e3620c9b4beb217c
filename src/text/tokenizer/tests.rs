use proptest::prelude::*;
use tokenizers::{OffsetType, PreTokenizedString, PreTokenizer};

use super::super::{Absorbs, NamedInfillTokens, Normalization};
use super::byte_level::byte_level_alphabet;
use super::pipeline::{PASSAGE_BYTES, Parting, passage_end};
use super::word_rules::WordRule;
use super::*;

/// A name of each rule by which words are cut.
const RULES: [&str; 31] = [
    "default",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "qwen2",
    "laguna",
    "qwen35",
    "jais-2",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "spark2_5",
    "youtu",
    "falcon",
    "bloom",
    "viking",
    "tekken",
    "gpt-4o",
    "granite-embed-multi-97m",
    "tiny_aya",
    "afmoe",
    "superbpe",
    "kimi-k2",
    "k2-horizon",
    "bailingmoe",
    "seed-coder",
    "ufakzeka",
    "minicpm5",
    "exaone-moe",
    "chameleon",
    "starcoder",
];

/// A vocabulary with one token per byte, then the given merges' results, then two named tokens.
fn vocabulary(pre: &str, merges: &[&str]) -> Vocabulary {
    let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| spelt(&[byte])).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    tokens.extend(["<|im_end|>".to_owned(), "<user>".to_owned()]);
    kinds.extend([TokenKind::Control, TokenKind::UserDefined]);
    Vocabulary {
        algorithm: byte_level(pre, merges),
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
    let byte_of = byte_level_alphabet();
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

/// What llama.cpp's rules make of texts.
#[derive(serde::Deserialize)]
struct GoldenWords {
    texts: Vec<String>,
    rules: Vec<GoldenRule>,
}

#[derive(serde::Deserialize)]
struct GoldenRule {
    names: Vec<String>,
    whole_words_first: bool,
    /// Of each text.
    words: Vec<Vec<String>>,
}

#[test]
fn words_are_cut_as_llama_cpp_cuts_them() {
    let golden = include_str!("../../../tests/golden/word_rules.json");
    let golden: GoldenWords = serde_json::from_str(golden).unwrap();
    let mut different = Vec::new();
    for rule in &golden.rules {
        for name in &rule.names {
            let named = WordRule::named(name).unwrap();
            assert_eq!(named.whole_words_first, rule.whole_words_first, "{name}");
            let cut = named.pre_tokenizer().unwrap();
            for (text, expected) in golden.texts.iter().zip(&rule.words) {
                let mut words = PreTokenizedString::from(text.as_str());
                cut.pre_tokenize(&mut words).unwrap();
                let words: Vec<&str> = words
                    .get_splits(tokenizers::OffsetReferential::Original, OffsetType::Byte)
                    .into_iter()
                    .map(|(_, (start, end), _)| &text[start..end])
                    .collect();
                if words != *expected {
                    different.push(format!("{name}: {words:?} instead of {expected:?}"));
                }
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_most_urgent_merge_comes_first() {
    let tokenizer = Tokenizer::new(vocabulary("gpt-2", &["b c", "a b", "a bc"])).unwrap();
    let texts: Vec<String> = tokenizer
        .encode("abcab", SpecialTokens::Parse)
        .iter()
        .map(|&token| tokenizer.decode(&[token]).unwrap())
        .collect();
    assert_eq!(texts, ["abc", "ab"]);
}

#[test]
fn names_are_tokens_only_if_they_are_parsed() {
    let tokenizer = Tokenizer::new(vocabulary("gpt-2", &[])).unwrap();
    let (end, user) = (TokenId(256), TokenId(257));
    let text = "a<|im_end|><user>";
    assert_eq!(
        tokenizer.encode(text, SpecialTokens::Parse),
        [TokenId(97), end, user]
    );
    let literal = tokenizer.encode(text, SpecialTokens::Literal);
    assert_eq!(literal.last(), Some(&user));
    assert!(!literal.contains(&end));
    assert_eq!(tokenizer.decode(&literal).unwrap(), text);
    assert_eq!(tokenizer.end_of_generation(), [end]);
    assert!(tokenizer.is_control(end) && !tokenizer.is_control(user));
}

/// The names of the tokens that end a generation, in a vocabulary with these as text.
fn ends(names: &[&str]) -> Vec<String> {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    for name in names {
        vocabulary.tokens.push((*name).to_owned());
        vocabulary.kinds.push(TokenKind::UserDefined);
    }
    vocabulary.ends = vec![TokenId(97)];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    texts(&tokenizer, tokenizer.end_of_generation())
}

#[test]
fn generation_ends_where_the_file_says_and_by_names() {
    assert_eq!(ends(&[]), ["a", "<|im_end|>"]);
    let several = ["<|end|>", "</s>", "[EOS]"];
    assert_eq!(
        ends(&several),
        ["a", "<|im_end|>", "<|end|>", "</s>", "[EOS]"]
    );
    let harmony = ["<|end|>", "<|return|>", "<|call|>"];
    assert_eq!(
        ends(&harmony),
        ["a", "<|im_end|>", "<|return|>", "<|call|>"]
    );
    let gemma = ["</s>", "<|tool_response>", "<turn|>"];
    assert_eq!(
        ends(&gemma),
        ["a", "<|im_end|>", "<|tool_response>", "<turn|>"]
    );
}

#[test]
fn names_may_take_white_space_along() {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    let both = Absorbs {
        before: true,
        behind: true,
    };
    vocabulary.absorbing = vec![(TokenId(257), both)];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode("a \n<user> <user>\tb <|im_end|> c", SpecialTokens::Parse);
    let expected = ["a", "<user>", "<user>", "b", " ", "<|im_end|>", " ", "c"];
    assert_eq!(texts(&tokenizer, &ids), expected);
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
        "the pre-tokenizer «gpt-12» is not supported",
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
        "the tokens 97 and 98 are both spelt «a»",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["ab"]),
        "the merge «ab» cannot be used: it is no pair",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["a c"]),
        "the merge «a c» cannot be used: it names a piece that is no token",
    );
    check(
        |vocabulary| vocabulary.algorithm = byte_level("gpt-2", &["a b", "a b"]),
        "the merge «a b» cannot be used: it occurs twice",
    );
}

/// A tokenizer of these pieces with the rule of uncased BERTs.
fn word_pieces(pieces: &[&str]) -> Result<Tokenizer, TokenizerError> {
    let named = ["[UNK]", "[CLS]", "[SEP]"];
    let tokens: Vec<String> = named
        .iter()
        .chain(pieces)
        .map(ToString::to_string)
        .collect();
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    kinds[..3].copy_from_slice(&[TokenKind::Unknown, TokenKind::Control, TokenKind::Control]);
    Tokenizer::new(Vocabulary {
        algorithm: Algorithm::WordPiece(Normalization::default()),
        tokens,
        kinds,
        beginning: Some(TokenId(1)),
        end: Some(TokenId(2)),
        end_of_turn: None,
        ends: Vec::new(),
        absorbing: Vec::new(),
        adds_beginning: true,
        adds_end: true,
        infill: NamedInfillTokens::default(),
    })
}

#[test]
fn words_are_cut_into_the_longest_pieces() {
    let pieces = [
        "un", "##aff", "##able", "unaff", "!", "caf", "##e", "中", "##",
    ];
    let tokenizer = word_pieces(&pieces).unwrap();
    #[track_caller]
    fn check(tokenizer: &Tokenizer, text: &str, expected: &[u32], back: &str) {
        let ids = tokenizer.encode(text, SpecialTokens::Parse);
        let expected: Vec<TokenId> = expected.iter().copied().map(TokenId).collect();
        assert_eq!(ids, expected);
        assert_eq!(tokenizer.decode(&ids).unwrap(), back);
    }
    check(&tokenizer, "  UNaffable!", &[6, 5, 7], " unaffable !");
    check(&tokenizer, "un\naff Café", &[3, 0, 8, 9], " un[UNK] cafe");
    check(&tokenizer, "un中un[SEP]", &[3, 10, 3, 2], " un 中 un[SEP]");
    check(&tokenizer, "", &[], "");
    check(&tokenizer, &"un".repeat(51), &[0], "[UNK]");
}

/// A vocabulary of these pieces with their scores, behind those of the bytes and three named ones.
fn scored(pieces: &[(&str, f32)], space_before: bool) -> Vocabulary {
    let named = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let mut tokens: Vec<String> = named.into_iter().chain(bytes).collect();
    let mut kinds = vec![TokenKind::Byte; tokens.len()];
    kinds[..3].copy_from_slice(&[TokenKind::Unknown, TokenKind::Control, TokenKind::Control]);
    let mut scores = vec![0.0; tokens.len()];
    for &(piece, score) in pieces {
        tokens.push(piece.to_owned());
        kinds.push(TokenKind::Normal);
        scores.push(score);
    }
    Vocabulary {
        algorithm: Algorithm::ScoredPairs {
            scores,
            space_before,
        },
        tokens,
        kinds,
        beginning: Some(TokenId(1)),
        end: Some(TokenId(2)),
        end_of_turn: None,
        ends: Vec::new(),
        absorbing: Vec::new(),
        adds_beginning: true,
        adds_end: false,
        infill: NamedInfillTokens::default(),
    }
}

#[test]
fn pairs_of_characters_become_one_within_a_line() {
    let pieces = ["\u{2581}", "a", "\u{2581}a", "b", "ab", "\n", "\n\n"];
    let pieces = pieces.map(|piece| (piece, 0.0));
    let merges = ["\u{2581} a", "a b", "\n \n"].map(str::to_owned).to_vec();
    let tokenizer = Tokenizer::new(Vocabulary {
        algorithm: Algorithm::CharacterPairs { merges },
        ..scored(&pieces, false)
    });
    let tokenizer = tokenizer.unwrap();
    let ids = tokenizer.encode("ab a\n\nabé", SpecialTokens::Parse);
    let expected = ["ab", " a", "\n\n", "ab", "\u{FFFD}", "\u{FFFD}"];
    assert_eq!(texts(&tokenizer, &ids), expected);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "ab a\n\nabé");
}

/// What each of the ids stands for in text.
fn texts(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<String> {
    let text = |&token| tokenizer.decode(&[token]).unwrap();
    ids.iter().map(text).collect()
}

#[track_caller]
fn check_scored(vocabulary: Vocabulary, text: &str, special: SpecialTokens, expected: &[&str]) {
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode(text, special);
    assert_eq!(texts(&tokenizer, &ids), expected);
}

#[test]
fn neighbours_of_the_best_score_become_one_first_and_the_leftmost_of_equals() {
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
    // What is no piece itself may become one with its neighbour.
    check(&[("xy", -1.0)], "xyx", &["xy", "x"]);
}

#[test]
fn a_text_has_a_space_before_it_and_behind_every_named_token() {
    let pieces = [
        ("\u{2581}", -3.0),
        ("a", -4.0),
        ("\u{2581}a", -1.0),
        ("a\u{2581}", -2.0),
    ];
    let check = |space_before: bool, text: &str, expected: &[&str]| {
        let vocabulary = scored(&pieces, space_before);
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
    let on = tokenizer.encode_going_on("a a<s>", SpecialTokens::Literal);
    assert_eq!(texts(&tokenizer, &on), ["a", " a", "<", "s", ">"]);
}

#[test]
fn what_is_no_piece_is_spelt_in_bytes_or_unknown() {
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
fn text_is_spelt_with_text() {
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
fn scores_that_cannot_be_used_are_refused() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<f32>, &mut Vec<String>), expected: &str) {
        let mut vocabulary = scored(&[("a", 0.0)], false);
        let Algorithm::ScoredPairs { scores, .. } = &mut vocabulary.algorithm else {
            panic!("it has scores");
        };
        change(scores, &mut vocabulary.tokens);
        let error = Tokenizer::new(vocabulary).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    check(
        |scores, _| scores.truncate(2),
        "the vocabulary has 260 tokens, but scores for 2",
    );
    check(
        |scores, _| scores[7] = f32::NAN,
        "the score of the token 7 is not a number",
    );
    check(
        |_, tokens| tokens[259] = "a".repeat(1025),
        "the token 259 has 1025 bytes; it may have 1024",
    );
}

/// What scored pairs are, without a thought of time.
fn merged(pieces: &[(String, f32)], text: &str) -> Vec<String> {
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(usize, f32)> = None;
        for place in 1..symbols.len() {
            let union = symbols[place - 1..=place].concat();
            let piece = pieces.iter().find(|(piece, _)| *piece == union);
            if let Some(&(_, score)) = piece
                && best.is_none_or(|(_, best)| score > best)
            {
                best = Some((place, score));
            }
        }
        let Some((place, _)) = best else {
            return symbols;
        };
        let right = symbols.remove(place);
        symbols[place - 1].push_str(&right);
    }
}

#[test]
fn without_a_token_for_what_it_cannot_spell_there_is_no_tokenizer_of_word_pieces() {
    let built = Tokenizer::new(Vocabulary {
        algorithm: Algorithm::WordPiece(Normalization::default()),
        ..vocabulary("gpt-2", &[])
    });
    assert_eq!(
        built.unwrap_err().to_string(),
        "the tokenizer cannot be built: the token «[UNK]» for what it cannot spell is missing"
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

#[test]
fn one_endless_word_is_encoded_whatever_it_is_made_of() {
    for pre in RULES {
        let tokenizer = Tokenizer::new(vocabulary(pre, &["a a", "aa aa"])).unwrap();
        for character in ["a", " ", "\n", "!", "7", "é"] {
            let text = character.repeat(PASSAGE_BYTES + 1);
            let tokens = tokenizer.encode(&text, SpecialTokens::Parse);
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
    }
}

proptest! {
    #[test]
    fn scored_pairs_are_merged_as_they_are_defined(
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
                Some(place) => expected.push(TokenId(259 + place as u32)),
                None => expected.extend(symbol.bytes().map(|byte| TokenId(3 + u32::from(byte)))),
            }
        }
        prop_assert_eq!(tokenizer.encode(&text, SpecialTokens::Parse), expected);
    }

    #[test]
    fn decoding_gives_back_the_text(text in any::<String>(), pre in 0..RULES.len()) {
        let pre = RULES[pre];
        let tokenizer = Tokenizer::new(vocabulary(pre, &["a b"])).unwrap();
        for special in [SpecialTokens::Parse, SpecialTokens::Literal] {
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text, special)).unwrap(), text.as_str());
        }
    }

    #[test]
    fn any_vocabulary_is_refused_or_works(
        tokens in prop::collection::vec("[ab<>é ]{0,3}", 0..12),
        kinds in prop::collection::vec(0_usize..6, 0..12),
        merges in prop::collection::vec("[ab]{0,2}[ ]{0,2}[ab]{0,2}", 0..6),
        end in any::<Option<u8>>(),
        text in "[ab<>é ]{0,20}",
        algorithm in 0_usize..4,
        scores in prop::collection::vec(any::<f32>(), 12),
    ) {
        let all = [
            TokenKind::Normal, TokenKind::Unknown, TokenKind::Control,
            TokenKind::UserDefined, TokenKind::Unused, TokenKind::Byte,
        ];
        let kinds = (0..tokens.len()).map(|row| all[kinds.get(row).copied().unwrap_or(0)]).collect();
        let built = Tokenizer::new(Vocabulary {
            algorithm: match algorithm {
                0 => Algorithm::WordPiece(Normalization::default()),
                1 => Algorithm::ScoredPairs {
                    scores: scores[..tokens.len()].to_vec(),
                    space_before: true,
                },
                2 => Algorithm::CharacterPairs { merges },
                _ => Algorithm::ByteLevel {
                    pre: "llama-bpe".to_owned(),
                    merges,
                },
            },
            tokens,
            kinds,
            beginning: None,
            end: end.map(|id| TokenId(id.into())),
            end_of_turn: None,
            ends: Vec::new(),
            absorbing: Vec::new(),
            adds_beginning: false,
            adds_end: false,
            infill: NamedInfillTokens::default(),
        });
        if let Ok(tokenizer) = built {
            let ids = tokenizer.encode(&text, SpecialTokens::Parse);
            prop_assert!(tokenizer.decode(&ids).is_ok());
        }
    }
}
