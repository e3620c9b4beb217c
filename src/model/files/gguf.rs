//! What a GGUF file's header says of text: its vocabulary, its chat template, how embeddings are made.

use std::path::Path;

use anyhow::{Context, bail};

use super::ModelFiles;
use crate::engine::Pooling;
use crate::file_bytes::FileAccess;
use crate::gguf::{Gguf, Metadata, MetadataError, Optional};
use crate::graph::ModelFile;
use crate::text::{
    Algorithm, NamedInfillTokens, Normalization, TokenKind, TokenizerError, Vocabulary,
};
use crate::token::TokenId;

/// Stands before a piece that begins a word.
const WORD_BEGINS: char = '\u{2581}';

/// Opens the file at `path`, and if it is the first of a set, the others beside it.
pub(super) fn open(path: &Path, access: FileAccess) -> anyhow::Result<ModelFiles> {
    let gguf = Gguf::open(path, access)?;
    let metadata = gguf.metadata();
    let named = || path.display().to_string();
    let vocabulary = vocabulary(metadata).with_context(named)?;
    let chat_template = metadata.string("tokenizer.chat_template").optional()?;
    let chat_template = chat_template.map(str::to_owned);
    let pooling = pooling(metadata).with_context(named)?;
    let file = ModelFile::new(path.to_owned(), gguf).with_context(named)?;
    Ok(ModelFiles {
        file,
        vocabulary,
        chat_template,
        pooling,
    })
}

/// How the file says that embeddings are made, if it does.
fn pooling(metadata: &Metadata) -> anyhow::Result<Option<Pooling>> {
    let architecture = metadata.string("general.architecture")?;
    let key = format!("{architecture}.pooling_type");
    // ggml's numbers (`llama_pooling_type`); 0 is that nothing is pooled.
    match metadata.count(&key).optional()? {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(2) => Ok(Some(Pooling::First)),
        Some(3) => Ok(Some(Pooling::Last)),
        Some(other) => bail!("{key} = {other} is not supported"),
    }
}

/// The vocabulary that a header describes.
///
/// # Errors
/// A key that is missing or of the wrong type; an algorithm that is not ours.
pub fn vocabulary(metadata: &Metadata) -> anyhow::Result<Vocabulary> {
    let header = Header(metadata);
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.to_vec();
    let kinds = match metadata.integers("tokenizer.ggml.token_type").optional()? {
        Some(numbers) => numbers.into_iter().map(token_kind).collect(),
        None => vec![TokenKind::Normal; tokens.len()],
    };
    match metadata.string("tokenizer.ggml.model")? {
        "gpt2" => byte_level(&header, tokens, kinds),
        "bert" => word_piece(&header, tokens, kinds),
        other => bail!(TokenizerError::UnsupportedModel(other.to_owned())),
    }
}

fn byte_level(
    header: &Header<'_>,
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let Header(metadata) = header;
    let pre = metadata.string("tokenizer.ggml.pre").optional()?;
    let merges = metadata.strings("tokenizer.ggml.merges").optional()?;
    Ok(Vocabulary {
        algorithm: Algorithm::ByteLevel {
            pre: pre.unwrap_or("default").to_owned(),
            merges: merges.unwrap_or_default().to_vec(),
        },
        tokens,
        kinds,
        beginning: header.token("bos")?,
        end: header.token("eos")?,
        end_of_turn: header.token("eot")?,
        adds_beginning: header.flag("add_bos_token", false)?,
        adds_end: header.flag("add_eos_token", false)?,
        infill: NamedInfillTokens {
            prefix: header.either(["fim_pre", "prefix"])?,
            suffix: header.either(["fim_suf", "suffix"])?,
            middle: header.either(["fim_mid", "middle"])?,
        },
    })
}

/// Files of different years name different ones of the tokens around a text; all have them by their names.
fn word_piece(
    header: &Header<'_>,
    mut tokens: Vec<String>,
    mut kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let named = |name: &str| {
        let place = tokens.iter().position(|token| token == name)?;
        u32::try_from(place).ok().map(TokenId)
    };
    let beginning = header.either(["cls", "bos"])?.or(named("[CLS]"));
    // So spelt.
    let end = header.either(["seperator", "eos"])?.or(named("[SEP]"));
    let unknown = header.token("unknown")?.or(named("[UNK]"));
    if let Some(kind) = unknown.and_then(|token| kinds.get_mut(token.row())) {
        *kind = TokenKind::Unknown;
    }
    for (token, kind) in tokens.iter_mut().zip(&kinds) {
        if *kind == TokenKind::Normal {
            *token = match token.strip_prefix(WORD_BEGINS) {
                Some(word) => word.to_owned(),
                None => format!("##{token}"),
            };
        }
    }
    Ok(Vocabulary {
        algorithm: Algorithm::WordPiece(Normalization::default()),
        tokens,
        kinds,
        beginning,
        end,
        end_of_turn: None,
        adds_beginning: header.flag("add_bos_token", true)?,
        adds_end: header.flag("add_eos_token", true)?,
        infill: NamedInfillTokens::default(),
    })
}

/// A header's keys about tokens.
struct Header<'a>(&'a Metadata);

impl Header<'_> {
    fn token(&self, role: &str) -> Result<Option<TokenId>, MetadataError> {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let number = self.0.count(&key).optional()?;
        Ok(number
            .and_then(|number| u32::try_from(number).ok())
            .map(TokenId))
    }

    /// The token of the first role that is named.
    fn either(&self, [first, second]: [&str; 2]) -> Result<Option<TokenId>, MetadataError> {
        Ok(self.token(first)?.or(self.token(second)?))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, MetadataError> {
        let flag = self.0.flag(&format!("tokenizer.ggml.{key}")).optional()?;
        Ok(flag.unwrap_or(default))
    }
}

/// The kind with ggml's number (`llama_token_type`).
fn token_kind(number: i64) -> TokenKind {
    match number {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Normal,
    }
}
