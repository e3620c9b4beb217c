//! `tokenizer.json` files, and tokenization with them.

use ortolan::text::{SpecialTokens, Tokenizer, Vocabulary};
use serde_json::{Value, json};

use super::fuzzer::fuzz;
use super::mutations::{mutated_json, texts};
use super::recorded;

/// Memory limit; the largest vocabulary has two million texts.
const MAX_BYTES: usize = 512 << 20;

/// Normalizers, pre-tokenizers, patterns and model types that replace values of a file.
fn components() -> Vec<Value> {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let split = |pattern: Value, behavior: &str, invert: bool| {
        json!({
            "type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert,
        })
    };
    let behaviors = [
        "Removed",
        "Isolated",
        "MergedWithPrevious",
        "MergedWithNext",
        "Contiguous",
    ];
    let splits =
        behaviors.map(|behavior| split(json!({"Regex": r"\s*a|(?=b)|\p{N}{1,3}"}), behavior, true));
    let others = [
        split(json!({"Regex": "(?:a+)+b"}), "Isolated", false),
        split(json!({"Regex": ""}), "Isolated", false),
        split(json!({"String": ""}), "Removed", false),
        replace(json!({"Regex": "a*"}), "aa"),
        replace(json!({"String": ""}), "x"),
        replace(json!({"String": "a"}), "\u{FDFA}"),
        json!({"Regex": r"(?<=a)b|^|\b"}),
        json!({"type": "Precompiled", "precompiled_charsmap": recorded("unigram.json")["sentencepiece"][0]["charsmap"]}),
        json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////9h"}),
        json!({"type": "NFKD"}),
        json!({"type": "StripAccents"}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "Prepend", "prepend": "\u{2581}"}),
        json!({"type": "ByteLevel"}),
        json!({"type": "Digits", "individual_digits": false}),
        json!({"type": "FixedLength", "length": 1}),
        json!({"type": "UnicodeScripts"}),
        json!({"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": true}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true}),
    ];
    let models = ["BPE", "Unigram", "WordPiece"].map(Value::from);
    splits.into_iter().chain(others).chain(models).collect()
}

#[test]
fn modified_files_cause_no_panic() {
    let recorded = recorded("tokenizer_json.json");
    let cases = recorded["cases"].as_array().unwrap().iter();
    let mut valid: Vec<Value> = cases.map(|case| case["tokenizer"].clone()).collect();
    valid.push(json!({
        "added_tokens": [{"id": 1, "content": "[CLS]", "special": true}, {"id": 2, "content": "[SEP]", "lstrip": true}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": false},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 1], "sep": ["[SEP]", 2]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 5}},
    }));
    let inputs = (mutated_json(valid, components()), texts());
    fuzz("tokenizer.json", 500, MAX_BYTES, inputs, |(file, text)| {
        let vocabulary = Vocabulary::from_tokenizer_json(file.to_string().as_bytes());
        if let Ok(tokenizer) = vocabulary.and_then(Tokenizer::new) {
            for special in [SpecialTokens::Parse, SpecialTokens::Literal] {
                let ids = tokenizer.encode(&text, special);
                tokenizer.decode(&ids).unwrap();
                let ids = tokenizer.encode_continuation(&text, special);
                tokenizer.decode(&ids).unwrap();
            }
        }
    });
}
