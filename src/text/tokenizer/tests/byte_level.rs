//! Byte-level BPE.

use proptest::prelude::*;
use tokenizers::{OffsetReferential, OffsetType};

use super::super::pipeline::SEGMENT_BYTES;
use super::super::pre_tokenizer_rules::PreTokenizerRule;
use super::*;
use crate::text::pre_tokenization::PreTokenization;

/// One name of each pre-tokenizer rule.
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

/// The words into which llama.cpp's pre-tokenizers split texts, recorded.
#[derive(serde::Deserialize)]
struct GoldenWords {
    texts: Vec<String>,
    rules: Vec<GoldenRule>,
}

#[derive(serde::Deserialize)]
struct GoldenRule {
    names: Vec<String>,
    #[serde(rename = "whole_words_first")]
    ignore_merges: bool,
    /// The words of each text.
    words: Vec<Vec<String>>,
}

fn pre_tokenization(name: &str) -> PreTokenization {
    let rule = PreTokenizerRule::named(name).unwrap();
    PreTokenization {
        normalizers: Vec::new(),
        pre_tokenizers: rule.pre_tokenizer_steps().unwrap(),
    }
}

fn words<'a>(pre_tokenization: &PreTokenization, text: &'a str) -> Vec<&'a str> {
    let words = pre_tokenization.words(text).unwrap();
    let splits = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits
        .into_iter()
        .map(|(_, (start, end), _)| &text[start..end])
        .collect()
}

#[test]
fn pre_tokenizers_split_texts_as_llama_cpp_does() {
    let golden = include_str!("../../../../tests/golden/word_rules.json");
    let golden: GoldenWords = serde_json::from_str(golden).unwrap();
    let mut different = Vec::new();
    for rule in &golden.rules {
        for name in &rule.names {
            let named = PreTokenizerRule::named(name).unwrap();
            assert_eq!(named.ignore_merges, rule.ignore_merges, "{name}");
            let pre_tokenization = pre_tokenization(name);
            for (text, expected) in golden.texts.iter().zip(&rule.words) {
                let words = words(&pre_tokenization, text);
                if words != *expected {
                    different.push(format!("{name}: {words:?} instead of {expected:?}"));
                }
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_digits_of_a_number_of_any_length_are_grouped_from_the_right() {
    let text = "1".to_owned() + &"234".repeat(SEGMENT_BYTES / 4);
    let expected: Vec<&str> = std::iter::once("1")
        .chain(std::iter::repeat_n("234", SEGMENT_BYTES / 4))
        .collect();
    for name in ["tiny_aya", "afmoe", "superbpe"] {
        assert_eq!(words(&pre_tokenization(name), &text), expected, "{name}");
    }
}

#[test]
fn the_merge_with_the_lowest_rank_is_applied_first() {
    let tokenizer = Tokenizer::new(vocabulary("gpt-2", &["b c", "a b", "a bc"])).unwrap();
    let texts: Vec<String> = tokenizer
        .encode("abcab", SpecialTokens::Parse)
        .iter()
        .map(|&token| tokenizer.decode(&[token]).unwrap())
        .collect();
    assert_eq!(texts, ["abc", "ab"]);
}

#[test]
fn a_word_longer_than_a_segment_round_trips() {
    for pre in RULES {
        let tokenizer = Tokenizer::new(vocabulary(pre, &["a a", "aa aa"])).unwrap();
        for character in ["a", " ", "\n", "!", "7", "é"] {
            let text = character.repeat(SEGMENT_BYTES + 1);
            let tokens = tokenizer.encode(&text, SpecialTokens::Parse);
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
    }
}

proptest! {
    #[test]
    fn encoding_and_decoding_round_trips(text in any::<String>(), pre in 0..RULES.len()) {
        let pre = RULES[pre];
        let tokenizer = Tokenizer::new(vocabulary(pre, &["a b"])).unwrap();
        for special in [SpecialTokens::Parse, SpecialTokens::Literal] {
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text, special)).unwrap(), text.as_str());
        }
    }
}
