//! `tokenizer.json` as the crate `tokenizers` writes it → a vocabulary. What it says about cutting and filling up texts
//! is passed over: that is the caller's matter.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::infill::NamedInfillTokens;
use super::tokenizer::TokenizerError;
use super::vocabulary::{Algorithm, MOST_TOKENS, Normalization, TokenKind, Vocabulary};
use crate::token::TokenId;

#[derive(Deserialize)]
struct File {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Part>,
    model: Value,
    post_processor: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct WordPiece {
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    vocab: HashMap<String, u32>,
}

/// What stands around a text.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Around {
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    TemplateProcessing {
        single: Vec<Piece>,
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
    /// It is none, or one of another kind than WordPiece as BERT uses it.
    pub fn from_tokenizer_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let file: File = read(serde_json::from_slice(bytes))?;
        let unsupported = |what: &str, found: &str| {
            Err(TokenizerError::Json(format!(
                "the {what} «{found}» is not supported"
            )))
        };
        match kind(&file.model) {
            "WordPiece" => {}
            other => return unsupported("model", other),
        }
        match file
            .pre_tokenizer
            .as_ref()
            .map_or("none", |part| &part.r#type)
        {
            "BertPreTokenizer" => {}
            other => return unsupported("pre_tokenizer", other),
        }
        let normalization: Normalization = match &file.normalizer {
            Some(normalizer) if kind(normalizer) == "BertNormalizer" => {
                read(Normalization::deserialize(normalizer))?
            }
            other => return unsupported("normalizer", other.as_ref().map_or("none", kind)),
        };
        let model: WordPiece = read(serde_json::from_value(file.model))?;
        if model.continuing_subword_prefix != "##" || model.max_input_chars_per_word != 100 {
            return unsupported(
                "model",
                "WordPiece with another prefix or another longest word",
            );
        }
        let (beginning, end) = match file.post_processor {
            None => (None, None),
            Some(around) => around_a_text(read(serde_json::from_value(around))?)?,
        };

        let (tokens, mut kinds) = table(&model.vocab, &file.added_tokens)?;
        let place = |name: &str| {
            let place = tokens.iter().position(|token| token == name);
            place.ok_or_else(|| TokenizerError::Json(format!("the token «{name}» is missing")))
        };
        kinds[place(&model.unk_token)?] = TokenKind::Unknown;
        let token = |name: Option<String>| {
            let place = name.map(|name| place(&name)).transpose()?;
            // There are at most MOST_TOKENS.
            Ok::<_, TokenizerError>(place.map(|place| TokenId(place as u32)))
        };
        let (beginning, end) = (token(beginning)?, token(end)?);
        Ok(Self {
            algorithm: Algorithm::WordPiece(normalization),
            tokens,
            kinds,
            adds_beginning: beginning.is_some(),
            adds_end: end.is_some(),
            beginning,
            end,
            end_of_turn: None,
            infill: NamedInfillTokens::default(),
        })
    }
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
        Around::BertProcessing { cls, sep } => return Ok((Some(cls.0), Some(sep.0))),
        Around::TemplateProcessing { single } => single,
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
    vocab: &HashMap<String, u32>,
    added: &[AddedToken],
) -> Result<(Vec<String>, Vec<TokenKind>), TokenizerError> {
    let of_vocab = vocab
        .iter()
        .map(|(text, id)| (text, *id, TokenKind::Normal));
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
                "the tokens «{}» and «{text}» have both the id {id}",
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
            json!({"type": "Unigram"}),
            "tokenizer.json: the model «Unigram» is not supported",
        );
        check_refused(
            "/normalizer",
            json!({"type": "Lowercase"}),
            "tokenizer.json: the normalizer «Lowercase» is not supported",
        );
        check_refused(
            "/pre_tokenizer",
            Value::Null,
            "tokenizer.json: the pre_tokenizer «none» is not supported",
        );
        check_refused(
            "/post_processor/single",
            json!([]),
            "tokenizer.json: the post_processor puts more than a token before and one behind a text",
        );
        check_refused(
            "/model/unk_token",
            json!("<unk>"),
            "tokenizer.json: the token «<unk>» is missing",
        );
        check_refused(
            "/added_tokens/0/id",
            json!(3),
            "tokenizer.json: the tokens «Bird» and «[CLS]» have both the id 3",
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
