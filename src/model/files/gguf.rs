//! Reads the vocabulary, the chat template and the pooling from the metadata of a GGUF file.

use std::path::Path;

use anyhow::{Context, bail};

use super::OpenedModel;
use crate::engine::Pooling;
use crate::file_bytes::FileAccess;
use crate::gguf::{Gguf, Metadata, MetadataError, Optional};
use crate::graph::ModelFile;
use crate::text::{
    Algorithm, BertNormalization, DeclaredInfillTokens, StripSides, TokenKind, TokenizerError,
    UnigramWhitespace, Vocabulary,
};
use crate::token::TokenId;

/// Prefix of tokens at the start of a word, in converted WordPiece vocabularies.
const WORD_PREFIX: char = '\u{2581}';

/// Pre-tokenizers whose models add a BOS token unless the file sets `add_bos_token`.
const ADD_BOS_BY_DEFAULT: [&str; 11] = [
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "tekken",
    "chameleon",
];

/// Pre-tokenizers whose BPE merges characters instead of bytes.
const CHARACTER_BPE: [&str; 3] = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"];

/// Opens the file at `path`. If the file is the first shard of a model, opens the other shards, too.
pub(super) fn open(path: &Path, access: FileAccess) -> anyhow::Result<OpenedModel> {
    let gguf = Gguf::open(path, access)?;
    let metadata = gguf.metadata();
    let display_path = || path.display().to_string();
    let vocabulary = vocabulary(metadata).with_context(display_path)?;
    let chat_template = metadata.string("tokenizer.chat_template").optional()?;
    let chat_template = chat_template.map(str::to_owned);
    let pooling = pooling(metadata).with_context(display_path)?;
    let file = ModelFile::new(path.to_owned(), gguf).with_context(display_path)?;
    Ok(OpenedModel {
        file,
        vocabulary,
        chat_template,
        pooling,
    })
}

/// Returns the pooling that the metadata specifies.
fn pooling(metadata: &Metadata) -> anyhow::Result<Option<Pooling>> {
    let architecture = metadata.string("general.architecture")?;
    let key = format!("{architecture}.pooling_type");
    // Values of llama.cpp's `llama_pooling_type`; 0 means no pooling.
    match metadata.count(&key).optional()? {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(2) => Ok(Some(Pooling::First)),
        Some(3) => Ok(Some(Pooling::Last)),
        Some(other) => bail!("{key} = {other} is not supported"),
    }
}

/// Reads the vocabulary from the metadata.
///
/// # Errors
/// If a key is missing or has the wrong type, or the tokenizer model is not supported.
pub fn vocabulary(metadata: &Metadata) -> anyhow::Result<Vocabulary> {
    let tokenizer = TokenizerMetadata(metadata);
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.to_vec();
    let kinds = match metadata.integers("tokenizer.ggml.token_type").optional()? {
        Some(numbers) => numbers.into_iter().map(token_kind).collect(),
        None => vec![TokenKind::Normal; tokens.len()],
    };
    match metadata.string("tokenizer.ggml.model")? {
        "gpt2" | "gemma4" => bpe(&tokenizer, tokens, kinds),
        "llama" => sentencepiece_bpe(&tokenizer, tokens, kinds),
        "t5" => unigram(&tokenizer, tokens, kinds),
        "bert" => wordpiece(&tokenizer, tokens, kinds),
        other => bail!(TokenizerError::UnsupportedModel(other.to_owned())),
    }
}

fn bpe(
    tokenizer: &TokenizerMetadata<'_>,
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let TokenizerMetadata(metadata) = tokenizer;
    let pre = metadata.string("tokenizer.ggml.pre").optional()?;
    let pre = pre.unwrap_or("default");
    let merges = metadata.strings("tokenizer.ggml.merges").optional()?;
    let merges = merges.unwrap_or_default().to_vec();
    // Gemma 4 always adds a BOS token and merges characters, regardless of its metadata.
    let is_gemma4 = metadata.string("tokenizer.ggml.model")? == "gemma4";
    let always_adds_bos = is_gemma4 || matches!(pre, "gemma4" | "granite-embed-multi-311m");
    let merges_characters = is_gemma4 || CHARACTER_BPE.contains(&pre);
    Ok(Vocabulary {
        algorithm: match merges_characters {
            true => Algorithm::CharacterBpe { merges },
            false => Algorithm::ByteLevelBpe {
                pre: pre.to_owned(),
                merges,
            },
        },
        tokens,
        kinds,
        bos: tokenizer.token("bos")?,
        eos: tokenizer.token("eos")?,
        eot: tokenizer.token("eot")?,
        eog_tokens: tokenizer.token("eom")?.into_iter().collect(),
        strip_sides: Vec::new(),
        // Gemma 4's files wrongly set `add_bos_token` to false, which llama.cpp overrides, too.
        adds_bos: always_adds_bos
            || tokenizer.flag("add_bos_token", ADD_BOS_BY_DEFAULT.contains(&pre))?,
        adds_eos: tokenizer.flag("add_eos_token", false)?,
        infill: tokenizer.infill()?,
    })
}

/// Reads a SentencePiece BPE vocabulary. Special tokens without metadata have the ids of the first Llama vocabulary.
fn sentencepiece_bpe(
    tokenizer: &TokenizerMetadata<'_>,
    tokens: Vec<String>,
    mut kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let or_default = |token: Option<TokenId>, id| token.or(token_if_exists(&tokens, id));
    let unknown = tokenizer.token("unknown")?.or(find_token(&tokens, "<unk>"));
    if let Some(kind) = unknown.and_then(|token| kinds.get_mut(token.row())) {
        *kind = TokenKind::Unknown;
    }
    let strip_sides = match tokenizer.is_phi3()? {
        true => phi3_strip_sides(&tokens, &kinds),
        false => Vec::new(),
    };
    Ok(Vocabulary {
        algorithm: Algorithm::SentencePieceBpe {
            scores: tokenizer.scores(tokens.len())?,
            adds_space_prefix: tokenizer.flag("add_space_prefix", true)?,
        },
        bos: or_default(tokenizer.token("bos")?, 1),
        eos: or_default(tokenizer.token("eos")?, 2),
        eot: tokenizer.token("eot")?,
        eog_tokens: tokenizer.token("eom")?.into_iter().collect(),
        strip_sides,
        adds_bos: tokenizer.flag("add_bos_token", true)?,
        adds_eos: tokenizer.flag("add_eos_token", false)?,
        infill: tokenizer.infill()?,
        tokens,
        kinds,
    })
}

/// Reads a Unigram vocabulary. Special tokens without metadata have the ids of T5's vocabulary.
fn unigram(
    tokenizer: &TokenizerMetadata<'_>,
    tokens: Vec<String>,
    mut kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let or_default = |token: Option<TokenId>, id| token.or(token_if_exists(&tokens, id));
    let unknown = or_default(tokenizer.token("unknown")?, 2);
    if let Some(kind) = unknown.and_then(|token| kinds.get_mut(token.row())) {
        *kind = TokenKind::Unknown;
    }
    Ok(Vocabulary {
        algorithm: Algorithm::Unigram {
            scores: tokenizer.scores(tokens.len())?,
            charsmap: tokenizer.charsmap()?,
            whitespace: UnigramWhitespace {
                removes_extra_spaces: tokenizer.flag("remove_extra_whitespaces", false)?,
                adds_space_prefix: tokenizer.flag("add_space_prefix", false)?,
            },
        },
        bos: tokenizer.first_token(["bos", "cls"])?,
        eos: or_default(tokenizer.first_token(["eos", "seperator"])?, 1),
        eot: tokenizer.token("eot")?,
        eog_tokens: tokenizer.token("eom")?.into_iter().collect(),
        strip_sides: Vec::new(),
        adds_bos: tokenizer.flag("add_bos_token", false)?,
        adds_eos: tokenizer.flag("add_eos_token", true)?,
        infill: DeclaredInfillTokens::default(),
        tokens,
        kinds,
    })
}

/// Returns Phi-3's special tokens that strip the whitespace to their right. The metadata does not specify them.
fn phi3_strip_sides(tokens: &[String], kinds: &[TokenKind]) -> Vec<(TokenId, StripSides)> {
    let is_special = |kind| matches!(kind, TokenKind::Control | TokenKind::UserDefined);
    let right_side = StripSides {
        left: false,
        right: true,
    };
    let rows = tokens.iter().zip(kinds).zip(0_u32..);
    rows.filter(|((name, kind), _)| {
        let strips = is_special(**kind) || *name == "</s>";
        strips && !matches!(name.as_str(), "<unk>" | "<s>" | "<|endoftext|>")
    })
    .map(|(_, id)| (TokenId(id), right_side))
    .collect()
}

/// Reads a WordPiece vocabulary. `[CLS]` and `[SEP]` have different keys in older and newer files; without a key, they
/// are found by name.
fn wordpiece(
    tokenizer: &TokenizerMetadata<'_>,
    mut tokens: Vec<String>,
    mut kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let bos = tokenizer
        .first_token(["cls", "bos"])?
        .or(find_token(&tokens, "[CLS]"));
    // The key is misspelled "seperator" in the format.
    let eos = tokenizer
        .first_token(["seperator", "eos"])?
        .or(find_token(&tokens, "[SEP]"));
    let unknown = tokenizer.token("unknown")?.or(find_token(&tokens, "[UNK]"));
    if let Some(kind) = unknown.and_then(|token| kinds.get_mut(token.row())) {
        *kind = TokenKind::Unknown;
    }
    for (token, kind) in tokens.iter_mut().zip(&kinds) {
        if *kind == TokenKind::Normal {
            *token = match token.strip_prefix(WORD_PREFIX) {
                Some(word) => word.to_owned(),
                None => format!("##{token}"),
            };
        }
    }
    Ok(Vocabulary {
        algorithm: Algorithm::WordPiece(BertNormalization::default()),
        tokens,
        kinds,
        bos,
        eos,
        eot: None,
        eog_tokens: tokenizer.token("eom")?.into_iter().collect(),
        strip_sides: Vec::new(),
        adds_bos: tokenizer.flag("add_bos_token", true)?,
        adds_eos: tokenizer.flag("add_eos_token", true)?,
        infill: DeclaredInfillTokens::default(),
    })
}

/// Returns the token with an id, if the vocabulary is large enough.
fn token_if_exists(tokens: &[String], id: u32) -> Option<TokenId> {
    Some(TokenId(id)).filter(|token| token.row() < tokens.len())
}

/// Returns the first token with this text.
fn find_token(tokens: &[String], name: &str) -> Option<TokenId> {
    let id = tokens.iter().position(|token| token == name)?;
    u32::try_from(id).ok().map(TokenId)
}

/// The metadata whose keys begin with `tokenizer.ggml.`.
struct TokenizerMetadata<'a>(&'a Metadata);

impl TokenizerMetadata<'_> {
    /// Returns the special token for a role. As in llama.cpp, `None` if its id is outside the vocabulary: converters write
    /// 2³² − 1 or −1 for a role without a token.
    fn token(&self, role: &str) -> Result<Option<TokenId>, MetadataError> {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let id = self.0.integer(&key).optional()?;
        let tokens = self.0.strings("tokenizer.ggml.tokens")?.len();
        let token = id.and_then(|id| u32::try_from(id).ok());
        Ok(token.map(TokenId).filter(|token| token.row() < tokens))
    }

    /// Returns the special token of the first of two roles, else of the second.
    fn first_token(&self, [first, second]: [&str; 2]) -> Result<Option<TokenId>, MetadataError> {
        Ok(self.token(first)?.or(self.token(second)?))
    }

    fn is_phi3(&self) -> Result<bool, MetadataError> {
        let name = self.0.string("general.name").optional()?;
        let name = name.unwrap_or_default().to_lowercase();
        Ok(["phi-3", "phi3"].iter().any(|known| name.contains(known)))
    }

    fn infill(&self) -> Result<DeclaredInfillTokens, MetadataError> {
        Ok(DeclaredInfillTokens {
            prefix: self.first_token(["fim_pre", "prefix"])?,
            suffix: self.first_token(["fim_suf", "suffix"])?,
            middle: self.first_token(["fim_mid", "middle"])?,
            repository: self.token("fim_rep")?,
            file: self.token("fim_sep")?,
        })
    }

    /// Returns the scores of the tokens; all 0 without metadata.
    fn scores(&self, tokens: usize) -> Result<Vec<f32>, MetadataError> {
        let scores = self.0.numbers("tokenizer.ggml.scores").optional()?;
        Ok(scores.unwrap_or_else(|| vec![0.0; tokens]))
    }

    /// Returns the precompiled charsmap (normalization table), which the metadata stores as one number per byte.
    fn charsmap(&self) -> anyhow::Result<Option<Vec<u8>>> {
        const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
        let Some(numbers) = self.0.integers(KEY).optional()? else {
            return Ok(None);
        };
        let bytes = numbers.into_iter().map(u8::try_from);
        let bytes = bytes.collect::<Result<_, _>>();
        Ok(Some(bytes.with_context(|| {
            format!("{KEY} has a value outside of 0 to 255")
        })?))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, MetadataError> {
        let flag = self.0.flag(&format!("tokenizer.ggml.{key}")).optional()?;
        Ok(flag.unwrap_or(default))
    }
}

/// Converts a value of llama.cpp's `llama_token_type`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value;

    fn metadata_with(model: &str, more: &[(&str, Value)]) -> Metadata {
        let tokens = ["<unk>", "<s>", "</s>", "a"].map(str::to_owned).to_vec();
        let mut metadata = Metadata::default();
        let mut put = |key: &str, value: Value| {
            assert!(metadata.insert(format!("tokenizer.ggml.{key}"), value));
        };
        put("model", Value::String(model.to_owned()));
        put("tokens", Value::Strings(tokens));
        for (key, value) in more {
            put(key, value.clone());
        }
        metadata
    }

    #[test]
    fn a_sentencepiece_vocabulary_defaults_to_the_values_of_llama() {
        let vocabulary = vocabulary(&metadata_with("llama", &[])).unwrap();
        let Algorithm::SentencePieceBpe {
            scores,
            adds_space_prefix,
        } = vocabulary.algorithm
        else {
            panic!("expected SentencePiece BPE");
        };
        assert_eq!((scores, adds_space_prefix), (vec![0.0; 4], true));
        assert_eq!(vocabulary.kinds[0], TokenKind::Unknown);
        assert_eq!(vocabulary.bos, Some(TokenId(1)));
        assert_eq!(vocabulary.eos, Some(TokenId(2)));
        assert!(vocabulary.adds_bos && !vocabulary.adds_eos);
    }

    #[test]
    fn a_sentencepiece_vocabulary_uses_its_metadata() {
        let scores = [-1.5, 0.0, 0.0, -3.0].map(Value::Float).to_vec();
        let keys = [
            ("scores", Value::Array(scores)),
            ("add_space_prefix", Value::Bool(false)),
            ("add_bos_token", Value::Bool(false)),
            ("bos_token_id", Value::Unsigned(3)),
        ];
        let vocabulary = vocabulary(&metadata_with("llama", &keys)).unwrap();
        let Algorithm::SentencePieceBpe {
            scores,
            adds_space_prefix,
        } = vocabulary.algorithm
        else {
            panic!("expected SentencePiece BPE");
        };
        assert_eq!(
            (scores, adds_space_prefix),
            (vec![-1.5, 0.0, 0.0, -3.0], false)
        );
        assert_eq!(vocabulary.bos, Some(TokenId(3)));
        assert!(!vocabulary.adds_bos);
    }

    #[test]
    fn a_unigram_vocabulary_defaults_to_the_values_of_t5() {
        let read = vocabulary(&metadata_with("t5", &[])).unwrap();
        let Algorithm::Unigram {
            charsmap,
            whitespace,
            ..
        } = read.algorithm
        else {
            panic!("expected Unigram");
        };
        assert_eq!(charsmap, None);
        assert!(!whitespace.removes_extra_spaces && !whitespace.adds_space_prefix);
        assert_eq!(read.kinds[2], TokenKind::Unknown);
        assert_eq!((read.bos, read.eos), (None, Some(TokenId(1))));
        assert!(!read.adds_bos && read.adds_eos);

        let bytes = [0, 0, 0, 256].map(Value::Unsigned).to_vec();
        let keys = [("precompiled_charsmap", Value::Array(bytes))];
        let error = vocabulary(&metadata_with("t5", &keys)).unwrap_err();
        assert!(
            format!("{error:#}").contains("outside of 0 to 255"),
            "{error:#}"
        );
    }

    #[test]
    fn special_tokens_of_phi_3_strip_whitespace() {
        let mut phi3 = metadata_with("llama", &[]);
        let name = Value::String("Phi-3 mini".to_owned());
        assert!(phi3.insert("general.name".to_owned(), name));
        let strip_sides = vocabulary(&phi3).unwrap().strip_sides;
        let right_side = StripSides {
            left: false,
            right: true,
        };
        assert_eq!(strip_sides, [(TokenId(2), right_side)]);
        let other = vocabulary(&metadata_with("llama", &[])).unwrap();
        assert!(other.strip_sides.is_empty());
    }

    #[test]
    fn some_byte_level_vocabularies_add_bos_by_default() {
        let check = |pre: &str, more: &[(&str, Value)], adds_bos: bool| {
            let pre = ("pre", Value::String(pre.to_owned()));
            let keys = [&[pre], more].concat();
            let vocabulary = vocabulary(&metadata_with("gpt2", &keys)).unwrap();
            assert_eq!(vocabulary.adds_bos, adds_bos);
        };
        check("tekken", &[], true);
        check("qwen2", &[], false);
        check("tekken", &[("add_bos_token", Value::Bool(false))], false);
    }

    #[test]
    fn gemma_4_merges_characters_and_always_adds_bos() {
        let keys = [("add_bos_token", Value::Bool(false))];
        let vocabulary = vocabulary(&metadata_with("gemma4", &keys)).unwrap();
        assert!(matches!(
            vocabulary.algorithm,
            Algorithm::CharacterBpe { .. }
        ));
        assert!(vocabulary.adds_bos);
    }
}
