//! Tokenization, detokenization and chat prompts of two models against llama.cpp with the same files; tokenization of
//! `tokenizer.json` files against their exporters.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;

use std::path::Path;
use std::time::SystemTime;

use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::model::load;
use ortolan::text::{ChatMessage, ChatTemplate, SpecialTokens, Tokenizer, Vocabulary};
use ortolan::token::TokenId;
use serde_json::Value;

fn model() -> Gguf {
    Gguf::open(&common::model(), FileAccess::Map).unwrap()
}

fn tokenizer(file: &Gguf) -> Tokenizer {
    Tokenizer::new(load::vocabulary(file.metadata()).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn texts_have_the_recorded_tokens() {
    check_texts(&tokenizer(&model()), &common::golden());
}

#[test]
fn texts_have_the_recorded_tokens_of_a_sentencepiece_vocabulary() {
    let file = Gguf::open(&common::gemma(), FileAccess::Map).unwrap();
    check_texts(&tokenizer(&file), &common::golden_gemma());
}

#[track_caller]
fn check_texts(tokenizer: &Tokenizer, golden: &Value) {
    let entries = golden["tokenize"].as_array().unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        let text = entry["text"].as_str().unwrap();
        for (special, key) in [
            (SpecialTokens::Parse, "tokens"),
            (SpecialTokens::Literal, "tokens_no_special_parsing"),
        ] {
            let expected = ids(&entry[key]);
            assert_eq!(
                tokenizer.encode(text, special),
                expected,
                "{key} of {text:?}"
            );
        }
        let decoded = tokenizer.decode(&ids(&entry["tokens"])).unwrap();
        assert_eq!(decoded, text);
    }
}

#[test]
fn eog_tokens_are_those_of_llama_cpp() {
    let tokenizer = tokenizer(&model());
    let texts: Vec<String> = tokenizer
        .eog_tokens()
        .iter()
        .map(|&token| tokenizer.decode(&[token]).unwrap())
        .collect();
    assert_eq!(texts, ["<|endoftext|>", "<|im_end|>", "<reponame>"]);
    assert!(tokenizer.is_control(TokenId(2)));
    assert!(!tokenizer.is_control(TokenId(19556)));
}

#[test]
fn eog_tokens_of_a_sentencepiece_vocabulary_are_those_of_llama_cpp() {
    let file = Gguf::open(&common::gemma(), FileAccess::Map).unwrap();
    let tokenizer = tokenizer(&file);
    assert_eq!(tokenizer.bos(), Some(TokenId(2)));
    assert!(tokenizer.adds_bos());
    let texts: Vec<String> = tokenizer
        .eog_tokens()
        .iter()
        .map(|&token| tokenizer.decode(&[token]).unwrap())
        .collect();
    assert_eq!(texts, ["<eos>", "<end_of_turn>", "</s>"]);
}

#[test]
fn conversations_have_the_recorded_prompts() {
    let file = model();
    let source = file.metadata().string("tokenizer.chat_template").unwrap();
    let template = ChatTemplate::new(Some(source), "<|im_start|>", "<|im_end|>").unwrap();
    let golden = common::golden();
    let entries = golden["chat_template"].as_array().unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        let messages: Vec<ChatMessage> = entry["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| {
                let text = |field: &str| message[field].as_str().unwrap();
                ChatMessage::new(text("role"), text("content"))
            })
            .collect();
        let prompt = template
            .render(&messages.into(), SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(prompt, entry["prompt"].as_str().unwrap());
    }
}

/// The `tokenizer.json` files of small models that two other tools exported (`tests/golden/exports.py`).
#[test]
fn prompts_of_imported_models_have_the_recorded_tokens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports");
    let recorded = common::recorded("exports/exports.json");
    let mut checked = 0;
    for model in recorded["models"].as_array().unwrap() {
        for name in model["folders"].as_array().unwrap() {
            let file = folder.join(name.as_str().unwrap()).join("tokenizer.json");
            let vocabulary = Vocabulary::from_tokenizer_json(&std::fs::read(file).unwrap());
            let tokenizer = Tokenizer::new(vocabulary.unwrap()).unwrap();
            for case in model["cases"].as_array().unwrap() {
                let prompt = case["prompt"].as_str().unwrap();
                let tokens = tokenizer.encode(prompt, SpecialTokens::Parse);
                assert_eq!(tokens, ids(&case["tokens"]), "{name}: {prompt}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 12, "only {checked} recorded prompts");
}
