//! `tokenizer.json` as the crate `tokenizers` writes it → a vocabulary. What it says about cutting and filling up texts
//! is passed over: that is the caller's matter. WordPiece is ours in every step; of the other models the steps are taken
//! as they are.

mod front;
mod steps;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Model;

use super::infill::NamedInfillTokens;
use super::tokenizer::{TokenizerError, byte_named};
use super::vocabulary::{Absorbs, Algorithm, MOST_TOKENS, Normalization, TokenKind, Vocabulary};
use crate::token::TokenId;

pub(super) use steps::Spelling;
pub use steps::Steps;

#[derive(Deserialize)]
struct File {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    model: Value,
    decoder: Option<Value>,
    post_processor: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct WordPiece {
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    vocab: std::collections::HashMap<String, u32>,
}

/// What stands around a text.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Around {
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    RobertaProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    TemplateProcessing {
        single: Vec<Piece>,
    },
    /// Says where the text's tokens were in it.
    ByteLevel {},
    Sequence {
        processors: Vec<Around>,
    },
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence {},
}

impl Vocabulary {
    /// The vocabulary that a `tokenizer.json` describes.
    ///
    /// # Errors
    /// It is none, or has a step that is not ours.
    pub fn from_tokenizer_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let file: File = read(serde_json::from_slice(bytes))?;
        let pieces = match kind(&file.model) {
            "WordPiece" => word_pieces(file.normalizer, file.pre_tokenizer.as_ref(), file.model)?,
            _ => {
                let (model, unknown) = steps::model(file.model)?;
                let (normalizer, words) = (file.normalizer.as_ref(), file.pre_tokenizer.as_ref());
                Pieces {
                    vocab: model.get_vocab().into_iter().collect(),
                    unknown,
                    algorithm: Algorithm::Steps(Box::new(Steps::read(
                        normalizer,
                        words,
                        file.decoder.as_ref(),
                        model,
                    )?)),
                }
            }
        };
        let (beginning, end) = match file.post_processor {
            None => (None, None),
            Some(around) => around_a_text(read(serde_json::from_value(around))?)?,
        };

        let (tokens, mut kinds) = table(&pieces, &file.added_tokens)?;
        let place = |name: &str| {
            let place = tokens.iter().position(|token| token == name);
            place.ok_or_else(|| missing(name))
        };
        if let Some(unknown) = &pieces.unknown {
            kinds[place(unknown)?] = TokenKind::Unknown;
        }
        let token = |name: Option<String>| {
            let place = name.map(|name| place(&name)).transpose()?;
            // There are at most MOST_TOKENS.
            Ok::<_, TokenizerError>(place.map(|place| TokenId(place as u32)))
        };
        let (beginning, end) = (token(beginning)?, token(end)?);
        Ok(Self {
            algorithm: pieces.algorithm,
            tokens,
            kinds,
            adds_beginning: beginning.is_some(),
            adds_end: end.is_some(),
            beginning,
            end,
            end_of_turn: None,
            ends: Vec::new(),
            absorbing: absorbing(&file.added_tokens)?,
            infill: NamedInfillTokens::default(),
        })
    }
}

/// What a model says of its pieces.
struct Pieces {
    vocab: Vec<(String, u32)>,
    /// Stands for what the others cannot spell.
    unknown: Option<String>,
    algorithm: Algorithm,
}

fn word_pieces(
    normalizer: Option<Value>,
    words: Option<&Value>,
    model: Value,
) -> Result<Pieces, TokenizerError> {
    match words.map_or("none", kind) {
        "BertPreTokenizer" => {}
        other => return Err(unsupported("pre_tokenizer", other)),
    }
    let normalization: Normalization = match normalizer {
        Some(normalizer) if kind(&normalizer) == "BertNormalizer" => {
            read(Normalization::deserialize(normalizer))?
        }
        other => {
            let found = other.as_ref().map_or("none", kind);
            return Err(unsupported("normalizer", found));
        }
    };
    let model: WordPiece = read(serde_json::from_value(model))?;
    if model.continuing_subword_prefix != "##" || model.max_input_chars_per_word != 100 {
        return Err(unsupported(
            "model",
            "WordPiece with another prefix or another longest word",
        ));
    }
    Ok(Pieces {
        vocab: model.vocab.into_iter().collect(),
        unknown: Some(model.unk_token),
        algorithm: Algorithm::WordPiece(normalization),
    })
}

/// The tokens whose names take white space beside them along.
fn absorbing(added: &[AddedToken]) -> Result<Vec<(TokenId, Absorbs)>, TokenizerError> {
    let mut absorbing = Vec::new();
    for token in added {
        if token.single_word {
            let problem = format!(
                "\"{}\" as a word of its own is not supported",
                token.content
            );
            return Err(TokenizerError::Json(problem));
        }
        let absorbs = Absorbs {
            before: token.lstrip,
            behind: token.rstrip,
        };
        if absorbs != Absorbs::default() {
            absorbing.push((TokenId(token.id), absorbs));
        }
    }
    Ok(absorbing)
}

fn missing(name: &str) -> TokenizerError {
    TokenizerError::Json(format!("the token \"{name}\" is missing"))
}

fn unsupported(what: &str, found: &str) -> TokenizerError {
    TokenizerError::Json(format!("the {what} \"{found}\" is not supported"))
}

fn read<T>(read: Result<T, serde_json::Error>) -> Result<T, TokenizerError> {
    read.map_err(|error| TokenizerError::Json(error.to_string()))
}

/// What kind of part it says it is.
fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or("none")
}

/// The tokens before and after a text.
fn around_a_text(around: Around) -> Result<(Option<String>, Option<String>), TokenizerError> {
    let pieces = match around {
        Around::BertProcessing { cls, sep } | Around::RobertaProcessing { cls, sep } => {
            return Ok((Some(cls.0), Some(sep.0)));
        }
        Around::TemplateProcessing { single } => single,
        Around::ByteLevel {} => return Ok((None, None)),
        Around::Sequence { processors } => {
            let mut found = (None, None);
            for processor in processors {
                let (beginning, end) = around_a_text(processor)?;
                found = (found.0.or(beginning), found.1.or(end));
            }
            return Ok(found);
        }
    };
    match pieces.as_slice() {
        [Piece::Sequence {}] => Ok((None, None)),
        [Piece::SpecialToken { id }, Piece::Sequence {}] => Ok((Some(id.clone()), None)),
        [Piece::Sequence {}, Piece::SpecialToken { id }] => Ok((None, Some(id.clone()))),
        [
            Piece::SpecialToken { id: first },
            Piece::Sequence {},
            Piece::SpecialToken { id: last },
        ] => Ok((Some(first.clone()), Some(last.clone()))),
        _ => Err(TokenizerError::Json(
            "the post_processor puts more than a token before and one behind a text".to_owned(),
        )),
    }
}

/// Every token's spelling by its id, and what it is; ids that nobody has fill the table.
fn table(
    pieces: &Pieces,
    added: &[AddedToken],
) -> Result<(Vec<String>, Vec<TokenKind>), TokenizerError> {
    let spells_bytes = match &pieces.algorithm {
        Algorithm::Steps(steps) => steps.spelling == Spelling::Spaces,
        _ => false,
    };
    let of_vocab = pieces.vocab.iter().map(|(text, id)| {
        let kind = match byte_named(text) {
            Some(_) if spells_bytes => TokenKind::Byte,
            _ => TokenKind::Normal,
        };
        (text, *id, kind)
    });
    let of_added = added.iter().map(|token| {
        let kind = match token.special {
            true => TokenKind::Control,
            false => TokenKind::UserDefined,
        };
        (&token.content, token.id, kind)
    });
    let (mut tokens, mut kinds) = (Vec::new(), Vec::new());
    for (text, id, kind) in of_vocab.chain(of_added) {
        let row = id as usize;
        if row >= MOST_TOKENS {
            return Err(TokenizerError::Size {
                tokens: row.saturating_add(1),
                most: MOST_TOKENS,
            });
        }
        if row >= tokens.len() {
            tokens.resize(row + 1, String::new());
            kinds.resize(row + 1, TokenKind::Unused);
        }
        // What was added may say again what the vocabulary says.
        if !tokens[row].is_empty() && tokens[row] != *text {
            return Err(TokenizerError::Json(format!(
                "the tokens \"{}\" and \"{text}\" have both the id {id}",
                tokens[row]
            )));
        }
        tokens[row].clone_from(text);
        kinds[row] = kind;
    }
    Ok((tokens, kinds))
}

#[cfg(test)]
mod tests {
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
    fn a_file_becomes_a_tokenizer() {
        let vocabulary = Vocabulary::from_tokenizer_json(file().to_string().as_bytes()).unwrap();
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        let ids = tokenizer.encode("Birds bird [SEP] Bird", SpecialTokens::Parse);
        assert_eq!(ids, [3, 5, 0, 2, 3].map(TokenId));
        assert_eq!(
            (tokenizer.beginning(), tokenizer.added_end()),
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
        let golden = include_str!("../../tests/golden/tokenizer_json.json");
        serde_json::from_str::<Golden>(golden).unwrap().cases
    }

    fn tokenizer(file: &Value) -> Tokenizer {
        let vocabulary = Vocabulary::from_tokenizer_json(file.to_string().as_bytes());
        Tokenizer::new(vocabulary.unwrap()).unwrap()
    }

    #[test]
    fn texts_become_the_tokens_that_the_crate_makes_of_them() {
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
    fn tokens_stand_for_the_text_that_the_decoder_makes_of_them() {
        let check = |name: &str, text: &str, back: &str| {
            let file = golden().into_iter().find(|file| file.name == name);
            let tokenizer = tokenizer(&file.unwrap().tokenizer);
            let ids = tokenizer.encode(text, SpecialTokens::Parse);
            assert_eq!(tokenizer.decode(&ids).unwrap(), back, "{name}");
            let on = tokenizer.encode_going_on(text, SpecialTokens::Literal);
            assert_eq!(tokenizer.decode(&on).unwrap(), text, "{name}, going on");
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
    fn a_pattern_that_matches_nothing_is_replaced_everywhere() {
        let file = golden().into_iter();
        let file = file
            .into_iter()
            .find(|file| file.name == "gpt-2 with a space");
        let mut file = file.unwrap().tokenizer;
        file["normalizer"] =
            json!({"type": "Replace", "pattern": {"Regex": "a*"}, "content": "aa"});
        let vocabulary = Vocabulary::from_tokenizer_json(file.to_string().as_bytes()).unwrap();
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        let ids = tokenizer.encode("\u{E9}", SpecialTokens::Literal);
        let text = tokenizer.decode(&ids).unwrap();
        assert_eq!(text, " aa\u{E9}aa");
    }

    #[track_caller]
    fn check_refused_of(name: &str, place: &str, value: Value, message: &str) {
        let file = golden().into_iter().find(|file| file.name == name);
        let mut file = file.unwrap().tokenizer;
        *file.pointer_mut(place).unwrap() = value;
        let refused = Vocabulary::from_tokenizer_json(file.to_string().as_bytes());
        assert_eq!(refused.unwrap_err().to_string(), message);
    }

    #[test]
    fn steps_that_are_not_understood_are_refused_by_name() {
        check_refused_of(
            "llama 2",
            "/decoder/decoders/0",
            json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
            "tokenizer.json: the decoder \"CTC\" is not supported",
        );
        check_refused_of(
            "llama 2",
            "/decoder",
            Value::Null,
            "tokenizer.json: the decoder \"none\" is not supported",
        );
        check_refused_of(
            "llama 2",
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
            "the precompiled charsmap cannot be used: it has no size",
        );
        for merge in [json!(["<0x00>", "<0x01>"]), json!("<0x00> <0x01>")] {
            check_refused_of(
                "llama 2",
                "/model/merges",
                json!([merge]),
                &format!("tokenizer.json: the merge {merge} makes no token"),
            );
        }
        let replace =
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(17)});
        check_refused_of(
            "llama 2",
            "/normalizer/normalizers",
            json!([replace, replace]),
            "tokenizer.json: the normalizer may make a text 289 times as long; 256 is the most",
        );
        check_refused_of(
            "qwen",
            "/pre_tokenizer/pretokenizers/0",
            json!({"type": "FixedLength", "length": 0}),
            "tokenizer.json: the pre_tokenizer \"FixedLength of 0\" is not supported",
        );
        check_refused_of(
            "qwen",
            "/pre_tokenizer/pretokenizers",
            json!(vec![json!({"type": "WhitespaceSplit"}); 33]),
            "tokenizer.json: there are more than 32 pretokenizers",
        );
        check_refused_of(
            "qwen",
            "/pre_tokenizer/pretokenizers/0/pattern/Regex",
            json!(r"(a+)\1"),
            r#"the expression "(a+)\1" cannot be used: a reference back is not supported"#,
        );
        check_refused_of(
            "llama 2",
            "/model/continuing_subword_prefix",
            json!("##"),
            "tokenizer.json: the model \"BPE with continuing_subword_prefix\" is not supported",
        );
        check_refused_of(
            "llama 2",
            "/model/dropout",
            json!(0.1),
            "tokenizer.json: the model \"BPE with dropout\" is not supported",
        );
        check_refused_of(
            "llama 2",
            "/model/unk_token",
            json!("<|end|>"),
            "tokenizer.json: the token \"<|end|>\" is missing",
        );
        check_refused_of(
            "unigram",
            "/model/unk_id",
            Value::Null,
            "tokenizer.json: the model \"Unigram without a token for what it cannot spell\" is not supported",
        );
        check_refused_of(
            "qwen",
            "/added_tokens/0/single_word",
            json!(true),
            "tokenizer.json: \"<|start|>\" as a word of its own is not supported",
        );
    }

    /// Of which another engine tries more ways than there are atoms.
    #[test]
    fn an_expression_cannot_take_long() {
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
    fn the_tokens_around_a_text_are_those_of_the_post_processor() {
        let check = |name: &str, beginning: Option<u32>, end: Option<u32>| {
            let file = golden().into_iter().find(|file| file.name == name);
            let tokenizer = tokenizer(&file.unwrap().tokenizer);
            assert_eq!(tokenizer.beginning(), beginning.map(TokenId));
            assert_eq!(tokenizer.adds_beginning(), beginning.is_some());
            assert_eq!(tokenizer.added_end(), end.map(TokenId));
        };
        check("qwen", None, None);
        check("llama 2", Some(1), None);
        check("unigram", Some(0), Some(2));
    }

    #[track_caller]
    fn check_refused(place: &str, value: Value, message: &str) {
        let mut file = file();
        *file.pointer_mut(place).unwrap() = value;
        let refused = Vocabulary::from_tokenizer_json(file.to_string().as_bytes());
        assert_eq!(refused.unwrap_err().to_string(), message);
    }

    #[test]
    fn what_would_make_other_tokens_is_refused() {
        check_refused(
            "/model",
            json!({"type": "WordLevel"}),
            "tokenizer.json: the model \"WordLevel\" is not supported",
        );
        check_refused(
            "/normalizer",
            json!({"type": "Lowercase"}),
            "tokenizer.json: the normalizer \"Lowercase\" is not supported",
        );
        check_refused(
            "/pre_tokenizer",
            Value::Null,
            "tokenizer.json: the pre_tokenizer \"none\" is not supported",
        );
        check_refused(
            "/post_processor/single",
            json!([]),
            "tokenizer.json: the post_processor puts more than a token before and one behind a text",
        );
        check_refused(
            "/model/unk_token",
            json!("<unk>"),
            "tokenizer.json: the token \"<unk>\" is missing",
        );
        check_refused(
            "/added_tokens/0/id",
            json!(3),
            "tokenizer.json: the tokens \"Bird\" and \"[CLS]\" have both the id 3",
        );
        check_refused(
            "/added_tokens/0/id",
            json!(u32::MAX),
            "the vocabulary has 4294967296 tokens; there have to be 1 to 2097152",
        );
        check_refused(
            "/model/vocab",
            json!([]),
            "tokenizer.json: invalid type: sequence, expected a map",
        );
    }
}
