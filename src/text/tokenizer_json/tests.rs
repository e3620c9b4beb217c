use serde_json::json;

use super::super::{SpecialTokens, Tokenizer};
use super::*;

fn file() -> Value {
    json!({
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0,
            "pad_token": "[PAD]", "pad_to_multiple_of": null},
        "added_tokens": [
            {"id": 1, "content": "[CLS]", "special": true},
            {"id": 2, "content": "[SEP]", "special": true},
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": false},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "pair": [], "special_tokens": {}, "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "Bird": 3, "##s": 5}},
    })
}

#[test]
fn reads_the_tokenizer_json_of_a_word_piece_model() {
    let vocabulary = Vocabulary::from_tokenizer_json(file().to_string().as_bytes()).unwrap();
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode("Birds bird [SEP] Bird", SpecialTokens::Parse);
    assert_eq!(ids, [3, 5, 0, 2, 3].map(TokenId));
    assert_eq!(
        (tokenizer.bos(), tokenizer.added_eos()),
        (Some(TokenId(1)), Some(TokenId(2)))
    );
    assert_eq!(tokenizer.vocabulary_size(), 6);
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<GoldenFile>,
}

#[derive(Deserialize)]
struct GoldenFile {
    name: String,
    tokenizer: Value,
    texts: Vec<GoldenText>,
}

#[derive(Deserialize)]
struct GoldenText {
    text: String,
    ids: Vec<u32>,
}

fn golden() -> Vec<GoldenFile> {
    let golden = include_str!("../../../tests/golden/tokenizer_json.json");
    serde_json::from_str::<Golden>(golden).unwrap().cases
}

fn tokenizer(file: &Value) -> Tokenizer {
    let vocabulary = Vocabulary::from_tokenizer_json(file.to_string().as_bytes());
    Tokenizer::new(vocabulary.unwrap()).unwrap()
}

#[test]
fn token_ids_equal_those_of_the_tokenizers_crate() {
    for file in golden() {
        let tokenizer = tokenizer(&file.tokenizer);
        for GoldenText { text, ids } in &file.texts {
            let expected: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
            let found = tokenizer.encode(text, SpecialTokens::Parse);
            assert_eq!(found, expected, "{}: {text:?}", file.name);
        }
    }
}

#[test]
fn decoding_equals_the_decoder_of_the_file() {
    let check = |name: &str, text: &str, decoded: &str| {
        let file = golden().into_iter().find(|file| file.name == name);
        let tokenizer = tokenizer(&file.unwrap().tokenizer);
        let ids = tokenizer.encode(text, SpecialTokens::Parse);
        assert_eq!(tokenizer.decode(&ids).unwrap(), decoded, "{name}");
        let ids = tokenizer.encode_continuation(text, SpecialTokens::Literal);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name}, continued");
    };
    check("qwen", "a café🙂 12\n", "a café🙂 12\n");
    check("smollm", "a café🙂 12\n", "a café🙂 12\n");
    check("gpt-2 with a space", "a café🙂\n", " a café🙂\n");
    check("llama 2", "a café🙂\n", " a café🙂\n");
    check("gemma", "a café🙂\n", "a café🙂\n");
    check("metaspace first", "a café🙂\n", " a café🙂\n");
    check("unigram", "the fox", " the fox");
}

#[test]
fn a_replace_normalizer_replaces_empty_matches() {
    let file = golden().into_iter();
    let file = file
        .into_iter()
        .find(|file| file.name == "gpt-2 with a space");
    let mut file = file.unwrap().tokenizer;
    file["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "a*"}, "content": "aa"});
    let vocabulary = Vocabulary::from_tokenizer_json(file.to_string().as_bytes()).unwrap();
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode("\u{E9}", SpecialTokens::Literal);
    let text = tokenizer.decode(&ids).unwrap();
    assert_eq!(text, " aa\u{E9}aa");
}

#[track_caller]
fn check_rejected_in(name: &str, pointer: &str, value: Value, message: &str) {
    let file = golden().into_iter().find(|file| file.name == name);
    let mut file = file.unwrap().tokenizer;
    *file.pointer_mut(pointer).unwrap() = value;
    let result = Vocabulary::from_tokenizer_json(file.to_string().as_bytes());
    assert_eq!(result.unwrap_err().to_string(), message);
}

#[test]
fn rejects_unsupported_components_by_name() {
    check_rejected_in(
        "llama 2",
        "/decoder/decoders/0",
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
        "tokenizer.json: the decoder \"CTC\" is not supported",
    );
    check_rejected_in(
        "llama 2",
        "/decoder",
        Value::Null,
        "tokenizer.json: the decoder \"none\" is not supported",
    );
    check_rejected_in(
        "llama 2",
        "/normalizer",
        json!({"type": "Precompiled", "precompiled_charsmap": ""}),
        "invalid precompiled charsmap: the size field is missing",
    );
    for merge in [json!(["<0x00>", "<0x01>"]), json!("<0x00> <0x01>")] {
        check_rejected_in(
            "llama 2",
            "/model/merges",
            json!([merge]),
            &format!("tokenizer.json: invalid merge {merge}: the result is not a token"),
        );
    }
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(17)});
    check_rejected_in(
        "llama 2",
        "/normalizer/normalizers",
        json!([replace, replace]),
        "tokenizer.json: the normalizer may lengthen a text by a factor of 289; at most 256 is supported",
    );
    check_rejected_in(
        "qwen",
        "/pre_tokenizer/pretokenizers/0",
        json!({"type": "FixedLength", "length": 0}),
        "tokenizer.json: the pre_tokenizer \"FixedLength of 0\" is not supported",
    );
    check_rejected_in(
        "qwen",
        "/pre_tokenizer/pretokenizers",
        json!(vec![json!({"type": "WhitespaceSplit"}); 33]),
        "tokenizer.json: there are more than 32 pretokenizers",
    );
    check_rejected_in(
        "qwen",
        "/pre_tokenizer/pretokenizers/0/pattern/Regex",
        json!(r"(a+)\1"),
        r#"the regular expression "(a+)\1" is not supported: it contains a backreference"#,
    );
    check_rejected_in(
        "llama 2",
        "/model/continuing_subword_prefix",
        json!("##"),
        "tokenizer.json: the model \"BPE with continuing_subword_prefix\" is not supported",
    );
    check_rejected_in(
        "llama 2",
        "/model/dropout",
        json!(0.1),
        "tokenizer.json: the model \"BPE with dropout\" is not supported",
    );
    check_rejected_in(
        "llama 2",
        "/model/unk_token",
        json!("<|end|>"),
        "tokenizer.json: token not found: \"<|end|>\"",
    );
    check_rejected_in(
        "unigram",
        "/model/unk_id",
        Value::Null,
        "tokenizer.json: the model \"Unigram without an unknown token\" is not supported",
    );
    check_rejected_in(
        "qwen",
        "/added_tokens/0/single_word",
        json!(true),
        "tokenizer.json: single_word of the added token \"<|start|>\" is not supported",
    );
}

/// These expressions take exponential time in a backtracking engine.
#[test]
fn catastrophic_expressions_take_linear_time() {
    for catastrophic in ["(?:a+)+b", "(?:a|a)+b", "(?:a|aa)+$b", "(?:.+a)+b"] {
        let file = golden().into_iter().find(|file| file.name == "qwen");
        let mut file = file.unwrap().tokenizer;
        *file
            .pointer_mut("/pre_tokenizer/pretokenizers/0/pattern/Regex")
            .unwrap() = json!(catastrophic);
        let text = "a".repeat(100_000);
        let tokenizer = tokenizer(&file);
        let ids = tokenizer.encode(&text, SpecialTokens::Parse);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn bos_and_eos_are_those_of_the_post_processor() {
    let check = |name: &str, bos: Option<u32>, eos: Option<u32>| {
        let file = golden().into_iter().find(|file| file.name == name);
        let tokenizer = tokenizer(&file.unwrap().tokenizer);
        assert_eq!(tokenizer.bos(), bos.map(TokenId));
        assert_eq!(tokenizer.adds_bos(), bos.is_some());
        assert_eq!(tokenizer.added_eos(), eos.map(TokenId));
    };
    check("qwen", None, None);
    check("llama 2", Some(1), None);
    check("unigram", Some(0), Some(2));
}

#[track_caller]
fn check_rejected(pointer: &str, value: Value, message: &str) {
    let mut file = file();
    *file.pointer_mut(pointer).unwrap() = value;
    let result = Vocabulary::from_tokenizer_json(file.to_string().as_bytes());
    assert_eq!(result.unwrap_err().to_string(), message);
}

#[test]
fn rejects_files_that_would_give_other_tokens() {
    check_rejected(
        "/model",
        json!({"type": "WordLevel"}),
        "tokenizer.json: the model \"WordLevel\" is not supported",
    );
    check_rejected(
        "/normalizer",
        json!({"type": "Lowercase"}),
        "tokenizer.json: the normalizer \"Lowercase\" is not supported",
    );
    check_rejected(
        "/pre_tokenizer",
        Value::Null,
        "tokenizer.json: the pre_tokenizer \"none\" is not supported",
    );
    check_rejected(
        "/post_processor/single",
        json!([]),
        "tokenizer.json: the post_processor is not supported: it may add one token before and one after a text",
    );
    check_rejected(
        "/model/unk_token",
        json!("<unk>"),
        "tokenizer.json: token not found: \"<unk>\"",
    );
    check_rejected(
        "/added_tokens/0/id",
        json!(3),
        "tokenizer.json: the tokens \"Bird\" and \"[CLS]\" have the same id 3",
    );
    check_rejected(
        "/added_tokens/0/id",
        json!(u32::MAX),
        "the vocabulary has 4294967296 tokens; it must have 1 to 2097152",
    );
    check_rejected(
        "/model/vocab",
        json!([]),
        "tokenizer.json: invalid type: sequence, expected a map",
    );
}
