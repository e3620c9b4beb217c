//! Byte-level BPE.

use proptest::prelude::*;
use tokenizers::{OffsetReferential, OffsetType};

use super::super::front::Front;
use super::super::pipeline::PASSAGE_BYTES;
use super::super::word_rules::WordRule;
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
    let golden = include_str!("../../../../tests/golden/word_rules.json");
    let golden: GoldenWords = serde_json::from_str(golden).unwrap();
    let mut different = Vec::new();
    for rule in &golden.rules {
        for name in &rule.names {
            let named = WordRule::named(name).unwrap();
            assert_eq!(named.whole_words_first, rule.whole_words_first, "{name}");
            let front = Front {
                even: Vec::new(),
                words: named.word_steps().unwrap(),
            };
            for (text, expected) in golden.texts.iter().zip(&rule.words) {
                let words = front.words(text).unwrap();
                let words: Vec<&str> = words
                    .get_splits(OffsetReferential::Original, OffsetType::Byte)
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
    fn decoding_gives_back_the_text(text in any::<String>(), pre in 0..RULES.len()) {
        let pre = RULES[pre];
        let tokenizer = Tokenizer::new(vocabulary(pre, &["a b"])).unwrap();
        for special in [SpecialTokens::Parse, SpecialTokens::Literal] {
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text, special)).unwrap(), text.as_str());
        }
    }
}
