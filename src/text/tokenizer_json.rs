//! Reads a `tokenizer.json` of the `tokenizers` crate into a vocabulary. Ignores truncation and padding, which callers
//! handle. WordPiece becomes [`Algorithm::WordPiece`]; other models keep the components of the file ([`JsonPipeline`]).

mod pipeline;
mod pre_tokenization;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::Model;

use super::tokenizer::byte_token_value;
use super::tokenizer_error::TokenizerError;
use super::vocabulary::{
    Algorithm, BertNormalization, DeclaredInfillTokens, Decoder, JsonPipeline, MAX_VOCABULARY_SIZE,
    StripSides, TokenKind, Vocabulary,
};
use crate::token::TokenId;

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

/// The `post_processor` component: adds tokens before and after a text.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    RobertaProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    TemplateProcessing {
        single: Vec<TemplateItem>,
    },
    /// Changes only the offsets of the tokens.
    ByteLevel {},
    Sequence {
        processors: Vec<PostProcessor>,
    },
}

#[derive(Deserialize)]
enum TemplateItem {
    SpecialToken { id: String },
    Sequence {},
}

impl Vocabulary {
    /// Parses a `tokenizer.json`.
    ///
    /// # Errors
    /// If the JSON is invalid or contains an unsupported component.
    pub fn from_tokenizer_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let file: File = parsed(serde_json::from_slice(bytes))?;
        let model = match component_type(&file.model) {
            "WordPiece" => word_piece(file.normalizer, file.pre_tokenizer.as_ref(), file.model)?,
            _ => {
                let (model, unknown) = pipeline::model(file.model)?;
                let normalizer = file.normalizer.as_ref();
                let pre_tokenizer = file.pre_tokenizer.as_ref();
                ModelComponent {
                    vocab: model.get_vocab().into_iter().collect(),
                    unknown,
                    algorithm: Algorithm::TokenizerJson(Box::new(JsonPipeline::new(
                        normalizer,
                        pre_tokenizer,
                        file.decoder.as_ref(),
                        model,
                    )?)),
                }
            }
        };
        let (bos, eos) = match file.post_processor {
            None => (None, None),
            Some(processor) => bos_and_eos(parsed(serde_json::from_value(processor))?)?,
        };

        let (tokens, mut kinds) = token_rows(&model, &file.added_tokens)?;
        let row = |text: &str| {
            let row = tokens.iter().position(|token| token == text);
            row.ok_or_else(|| missing(text))
        };
        if let Some(unknown) = &model.unknown {
            kinds[row(unknown)?] = TokenKind::Unknown;
        }
        let token = |text: Option<String>| {
            let row = text.map(|text| row(&text)).transpose()?;
            // A row is less than MAX_VOCABULARY_SIZE, so it fits.
            Ok::<_, TokenizerError>(row.map(|row| TokenId(row as u32)))
        };
        let (bos, eos) = (token(bos)?, token(eos)?);
        Ok(Self {
            algorithm: model.algorithm,
            tokens,
            kinds,
            adds_bos: bos.is_some(),
            adds_eos: eos.is_some(),
            bos,
            eos,
            eot: None,
            eog_tokens: Vec::new(),
            strip_sides: strip_sides(&file.added_tokens)?,
            infill: DeclaredInfillTokens::default(),
        })
    }
}

/// The parsed `model` component.
struct ModelComponent {
    vocab: Vec<(String, u32)>,
    /// The text of the unknown token.
    unknown: Option<String>,
    algorithm: Algorithm,
}

fn word_piece(
    normalizer: Option<Value>,
    pre_tokenizer: Option<&Value>,
    model: Value,
) -> Result<ModelComponent, TokenizerError> {
    match pre_tokenizer.map_or("none", component_type) {
        "BertPreTokenizer" => {}
        other => return Err(unsupported("pre_tokenizer", other)),
    }
    let normalization: BertNormalization = match normalizer {
        Some(normalizer) if component_type(&normalizer) == "BertNormalizer" => {
            parsed(BertNormalization::deserialize(normalizer))?
        }
        other => {
            let found = other.as_ref().map_or("none", component_type);
            return Err(unsupported("normalizer", found));
        }
    };
    let model: WordPiece = parsed(serde_json::from_value(model))?;
    if model.continuing_subword_prefix != "##" || model.max_input_chars_per_word != 100 {
        return Err(unsupported(
            "model",
            "WordPiece with another continuing_subword_prefix than ## or another max_input_chars_per_word than 100",
        ));
    }
    Ok(ModelComponent {
        vocab: model.vocab.into_iter().collect(),
        unknown: Some(model.unk_token),
        algorithm: Algorithm::WordPiece(normalization),
    })
}

/// Returns the added tokens that strip the whitespace next to them.
fn strip_sides(added: &[AddedToken]) -> Result<Vec<(TokenId, StripSides)>, TokenizerError> {
    let mut stripping = Vec::new();
    for token in added {
        if token.single_word {
            let problem = format!(
                "single_word of the added token \"{}\" is not supported",
                token.content
            );
            return Err(TokenizerError::Json(problem));
        }
        let sides = StripSides {
            left: token.lstrip,
            right: token.rstrip,
        };
        if sides != StripSides::default() {
            stripping.push((TokenId(token.id), sides));
        }
    }
    Ok(stripping)
}

fn missing(token: &str) -> TokenizerError {
    TokenizerError::Json(format!("token not found: \"{token}\""))
}

fn unsupported(component: &str, found: &str) -> TokenizerError {
    TokenizerError::Json(format!("the {component} \"{found}\" is not supported"))
}

fn parsed<T>(result: Result<T, serde_json::Error>) -> Result<T, TokenizerError> {
    result.map_err(|error| TokenizerError::Json(error.to_string()))
}

fn component<T: DeserializeOwned>(component: &Value) -> Result<T, TokenizerError> {
    parsed(serde_json::from_value(component.clone()))
}

/// Returns the `type` of a component, or "none" if the field is missing.
fn component_type(component: &Value) -> &str {
    let name = component.get("type").and_then(Value::as_str);
    name.unwrap_or("none")
}

/// Returns the texts of the tokens that the post-processor adds before and after a text.
fn bos_and_eos(
    processor: PostProcessor,
) -> Result<(Option<String>, Option<String>), TokenizerError> {
    let items = match processor {
        PostProcessor::BertProcessing { cls, sep }
        | PostProcessor::RobertaProcessing { cls, sep } => {
            return Ok((Some(cls.0), Some(sep.0)));
        }
        PostProcessor::TemplateProcessing { single } => single,
        PostProcessor::ByteLevel {} => return Ok((None, None)),
        PostProcessor::Sequence { processors } => {
            let mut found = (None, None);
            for processor in processors {
                let (bos, eos) = bos_and_eos(processor)?;
                found = (found.0.or(bos), found.1.or(eos));
            }
            return Ok(found);
        }
    };
    match items.as_slice() {
        [TemplateItem::Sequence {}] => Ok((None, None)),
        [TemplateItem::SpecialToken { id }, TemplateItem::Sequence {}] => {
            Ok((Some(id.clone()), None))
        }
        [TemplateItem::Sequence {}, TemplateItem::SpecialToken { id }] => {
            Ok((None, Some(id.clone())))
        }
        [
            TemplateItem::SpecialToken { id: first },
            TemplateItem::Sequence {},
            TemplateItem::SpecialToken { id: last },
        ] => Ok((Some(first.clone()), Some(last.clone()))),
        _ => Err(TokenizerError::Json(
            "the post_processor is not supported: it may add one token before and one after a text"
                .to_owned(),
        )),
    }
}

/// Returns the text and the kind of each token, in the order of the ids. Ids without a token become unused tokens.
fn token_rows(
    model: &ModelComponent,
    added: &[AddedToken],
) -> Result<(Vec<String>, Vec<TokenKind>), TokenizerError> {
    let has_byte_tokens = match &model.algorithm {
        Algorithm::TokenizerJson(json) => json.decoder == Decoder::Metaspace,
        _ => false,
    };
    let of_vocab = model.vocab.iter().map(|(text, id)| {
        let kind = match byte_token_value(text) {
            Some(_) if has_byte_tokens => TokenKind::Byte,
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
        if row >= MAX_VOCABULARY_SIZE {
            return Err(TokenizerError::Size {
                tokens: row.saturating_add(1),
                max_tokens: MAX_VOCABULARY_SIZE,
            });
        }
        if row >= tokens.len() {
            tokens.resize(row + 1, String::new());
            kinds.resize(row + 1, TokenKind::Unused);
        }
        // An added token may also be in the model's vocabulary.
        if !tokens[row].is_empty() && tokens[row] != *text {
            return Err(TokenizerError::Json(format!(
                "the tokens \"{}\" and \"{text}\" have the same id {id}",
                tokens[row]
            )));
        }
        tokens[row].clone_from(text);
        kinds[row] = kind;
    }
    Ok((tokens, kinds))
}

#[cfg(test)]
mod tests;
