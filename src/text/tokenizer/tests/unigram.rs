//! Unigram, compared with recorded token ids of SentencePiece and of the `tokenizers` crate
//! (`tests/golden/unigram.py`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::super::UnigramWhitespace;
use super::*;

fn recorded() -> Value {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let recorded = std::fs::read(folder.join("unigram.json")).unwrap();
    serde_json::from_slice(&recorded).unwrap()
}

/// Returns the vocabulary of a recorded model.
fn unigram(case: &Value) -> Vocabulary {
    let pieces: Vec<(String, f32, u8)> = serde_json::from_value(case["pieces"].clone()).unwrap();
    // SentencePiece numbers the types of pieces like this.
    let kind = |number| match number {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        _ => TokenKind::Normal,
    };
    let algorithm = Algorithm::Unigram {
        scores: pieces.iter().map(|(_, score, _)| *score).collect(),
        charsmap: Some(STANDARD.decode(case["charsmap"].as_str().unwrap()).unwrap()),
        whitespace: UnigramWhitespace {
            removes_extra_spaces: case["merges_spaces"].as_bool().unwrap(),
            adds_space_prefix: case["space_before"].as_bool().unwrap(),
        },
    };
    let kinds = pieces.iter().map(|(_, _, number)| kind(*number)).collect();
    let tokens = pieces.into_iter().map(|(piece, _, _)| piece).collect();
    without_roles(algorithm, tokens, kinds)
}

fn check(tokenizer: &Tokenizer, texts: &Value, name: &str) {
    let texts = texts.as_array().unwrap();
    assert!(texts.len() > 10);
    for case in texts {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<TokenId> = serde_json::from_value(case["ids"].clone()).unwrap();
        let ids = tokenizer.encode(text, SpecialTokens::Literal);
        assert_eq!(ids, expected, "{name}: {text:?}");
    }
}

#[test]
fn token_ids_equal_those_of_sentencepiece() {
    let recorded = recorded();
    for case in recorded["sentencepiece"].as_array().unwrap() {
        let tokenizer = Tokenizer::new(unigram(case)).unwrap();
        check(&tokenizer, &case["texts"], case["name"].as_str().unwrap());
    }
}

#[test]
fn a_tokenizer_json_with_a_charsmap_gives_the_token_ids_of_the_tokenizers_crate() {
    let recorded = recorded();
    let case = &recorded["tokenizer_json"];
    let file = case["tokenizer"].to_string();
    let vocabulary = Vocabulary::from_tokenizer_json(file.as_bytes()).unwrap();
    check(&Tokenizer::new(vocabulary).unwrap(), &case["texts"], "json");
}

#[test]
fn no_space_is_added_before_a_continuation() {
    let recorded = recorded();
    let tokenizer = Tokenizer::new(unigram(&recorded["sentencepiece"][0])).unwrap();
    let continued = |text| {
        let ids = tokenizer.encode_continuation(text, SpecialTokens::Literal);
        tokenizer.decode(&ids).unwrap()
    };
    assert_eq!(continued("dog"), "dog");
    assert_eq!(continued("  dog "), " dog");
    // A text of several segments is split between words.
    let text = "the dog ".repeat(20_000);
    let whole = tokenizer.encode(&text, SpecialTokens::Literal);
    let once = tokenizer.encode("the dog", SpecialTokens::Literal);
    assert_eq!(whole, once.repeat(20_000));
}

#[test]
fn rejects_invalid_vocabularies() {
    let recorded = recorded();
    let error = |change: fn(&mut Vocabulary)| {
        let mut vocabulary = unigram(&recorded["sentencepiece"][0]);
        change(&mut vocabulary);
        Tokenizer::new(vocabulary).unwrap_err().to_string()
    };
    let problem = error(|vocabulary| vocabulary.kinds.fill(TokenKind::Normal));
    assert!(problem.contains("no unknown token"), "{problem}");
    let problem = error(|vocabulary| match &mut vocabulary.algorithm {
        Algorithm::Unigram { scores, .. } => scores[7] = f32::NEG_INFINITY,
        _ => unreachable!(),
    });
    assert!(problem.contains("the score of the token 7"), "{problem}");
    let problem = error(|vocabulary| vocabulary.tokens[9] = "a".repeat(4096));
    assert!(problem.contains("has 4096 bytes"), "{problem}");
}
