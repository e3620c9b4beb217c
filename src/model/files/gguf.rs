//! What a GGUF file's header says of text: its vocabulary, its chat template, how embeddings are made.

use std::path::Path;

use anyhow::{Context, bail};

use super::ModelFiles;
use crate::engine::Pooling;
use crate::file_bytes::FileAccess;
use crate::gguf::{Gguf, Metadata, MetadataError, Optional};
use crate::graph::ModelFile;
use crate::text::{
    Absorbs, Algorithm, NamedInfillTokens, Normalization, TokenKind, TokenizerError, UnigramSpaces,
    Vocabulary,
};
use crate::token::TokenId;

/// Stands before a piece that begins a word.
const WORD_BEGINS: char = '\u{2581}';

/// The pre-tokenizers of vocabularies that begin a text, where the file does not say whether they do.
const BEGINNING: [&str; 11] = [
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

/// The pre-tokenizers of vocabularies whose merges are of characters, not of bytes.
const CHARACTERS: [&str; 3] = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"];

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
        "gpt2" | "gemma4" => merged_pairs(&header, tokens, kinds),
        "llama" => scored_pairs(&header, tokens, kinds),
        "t5" => unigram(&header, tokens, kinds),
        "bert" => word_piece(&header, tokens, kinds),
        other => bail!(TokenizerError::UnsupportedModel(other.to_owned())),
    }
}

fn merged_pairs(
    header: &Header<'_>,
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let Header(metadata) = header;
    let pre = metadata.string("tokenizer.ggml.pre").optional()?;
    let pre = pre.unwrap_or("default");
    let merges = metadata.strings("tokenizer.ggml.merges").optional()?;
    let merges = merges.unwrap_or_default().to_vec();
    // Whatever it says itself.
    let is_gemma4 = metadata.string("tokenizer.ggml.model")? == "gemma4";
    let begins = is_gemma4 || matches!(pre, "gemma4" | "granite-embed-multi-311m");
    let spells_characters = is_gemma4 || CHARACTERS.contains(&pre);
    Ok(Vocabulary {
        algorithm: match spells_characters {
            true => Algorithm::CharacterPairs { merges },
            false => Algorithm::ByteLevel {
                pre: pre.to_owned(),
                merges,
            },
        },
        tokens,
        kinds,
        beginning: header.token("bos")?,
        end: header.token("eos")?,
        end_of_turn: header.token("eot")?,
        ends: header.token("eom")?.into_iter().collect(),
        absorbing: Vec::new(),
        // Gemma 4's files say that it does not, and are mistaken; llama.cpp overrides it too.
        adds_beginning: begins || header.flag("add_bos_token", BEGINNING.contains(&pre))?,
        adds_end: header.flag("add_eos_token", false)?,
        infill: header.infill()?,
    })
}

/// Where a file does not say what its named tokens are, they are where Llama's first vocabulary has them.
fn scored_pairs(
    header: &Header<'_>,
    tokens: Vec<String>,
    mut kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let or_row = |token: Option<TokenId>, row| token.or(existing(&tokens, row));
    let unknown = header.token("unknown")?.or(named(&tokens, "<unk>"));
    if let Some(kind) = unknown.and_then(|token| kinds.get_mut(token.row())) {
        *kind = TokenKind::Unknown;
    }
    let absorbing = match header.is_phi3()? {
        true => absorbing_behind(&tokens, &kinds),
        false => Vec::new(),
    };
    Ok(Vocabulary {
        algorithm: Algorithm::ScoredPairs {
            scores: header.scores(tokens.len())?,
            space_before: header.flag("add_space_prefix", true)?,
        },
        beginning: or_row(header.token("bos")?, 1),
        end: or_row(header.token("eos")?, 2),
        end_of_turn: header.token("eot")?,
        ends: header.token("eom")?.into_iter().collect(),
        absorbing,
        adds_beginning: header.flag("add_bos_token", true)?,
        adds_end: header.flag("add_eos_token", false)?,
        infill: header.infill()?,
        tokens,
        kinds,
    })
}

/// Where a file does not say what its named tokens are, they are where T5 has them.
fn unigram(
    header: &Header<'_>,
    tokens: Vec<String>,
    mut kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let or_row = |token: Option<TokenId>, row| token.or(existing(&tokens, row));
    let unknown = or_row(header.token("unknown")?, 2);
    if let Some(kind) = unknown.and_then(|token| kinds.get_mut(token.row())) {
        *kind = TokenKind::Unknown;
    }
    Ok(Vocabulary {
        algorithm: Algorithm::Unigram {
            scores: header.scores(tokens.len())?,
            charsmap: header.charsmap()?,
            spaces: UnigramSpaces {
                merges: header.flag("remove_extra_whitespaces", false)?,
                before: header.flag("add_space_prefix", false)?,
            },
        },
        beginning: header.either(["bos", "cls"])?,
        end: or_row(header.either(["eos", "seperator"])?, 1),
        end_of_turn: header.token("eot")?,
        ends: header.token("eom")?.into_iter().collect(),
        absorbing: Vec::new(),
        adds_beginning: header.flag("add_bos_token", false)?,
        adds_end: header.flag("add_eos_token", true)?,
        infill: NamedInfillTokens::default(),
        tokens,
        kinds,
    })
}

/// Phi-3's named tokens take the white space behind them along, but for a few. Its files do not say so.
fn absorbing_behind(tokens: &[String], kinds: &[TokenKind]) -> Vec<(TokenId, Absorbs)> {
    let is_named = |kind| matches!(kind, TokenKind::Control | TokenKind::UserDefined);
    let behind = Absorbs {
        before: false,
        behind: true,
    };
    let rows = tokens.iter().zip(kinds).zip(0_u32..);
    rows.filter(|((name, kind), _)| {
        let absorbs = is_named(**kind) || *name == "</s>";
        absorbs && !matches!(name.as_str(), "<unk>" | "<s>" | "<|endoftext|>")
    })
    .map(|(_, id)| (TokenId(id), behind))
    .collect()
}

/// Files of different years name different ones of the tokens around a text; all have them by their names.
fn word_piece(
    header: &Header<'_>,
    mut tokens: Vec<String>,
    mut kinds: Vec<TokenKind>,
) -> anyhow::Result<Vocabulary> {
    let beginning = header.either(["cls", "bos"])?.or(named(&tokens, "[CLS]"));
    // So spelt.
    let end = header
        .either(["seperator", "eos"])?
        .or(named(&tokens, "[SEP]"));
    let unknown = header.token("unknown")?.or(named(&tokens, "[UNK]"));
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
        ends: header.token("eom")?.into_iter().collect(),
        absorbing: Vec::new(),
        adds_beginning: header.flag("add_bos_token", true)?,
        adds_end: header.flag("add_eos_token", true)?,
        infill: NamedInfillTokens::default(),
    })
}

/// The token of that number.
fn existing(tokens: &[String], row: u32) -> Option<TokenId> {
    Some(TokenId(row)).filter(|token| token.row() < tokens.len())
}

/// The token of that name.
fn named(tokens: &[String], name: &str) -> Option<TokenId> {
    let place = tokens.iter().position(|token| token == name)?;
    u32::try_from(place).ok().map(TokenId)
}

/// A header's keys about tokens.
struct Header<'a>(&'a Metadata);

impl Header<'_> {
    /// The token of a role. A number beyond the vocabulary (converters write 2³² − 1 or −1 for "none") names no token, as
    /// llama.cpp reads it.
    fn token(&self, role: &str) -> Result<Option<TokenId>, MetadataError> {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let number = self.0.integer(&key).optional()?;
        let tokens = self.0.strings("tokenizer.ggml.tokens")?.len();
        let token = number.and_then(|number| u32::try_from(number).ok());
        Ok(token.map(TokenId).filter(|token| token.row() < tokens))
    }

    /// The token of the first role that is named.
    fn either(&self, [first, second]: [&str; 2]) -> Result<Option<TokenId>, MetadataError> {
        Ok(self.token(first)?.or(self.token(second)?))
    }

    fn is_phi3(&self) -> Result<bool, MetadataError> {
        let name = self.0.string("general.name").optional()?;
        let name = name.unwrap_or_default().to_lowercase();
        Ok(["phi-3", "phi3"].iter().any(|known| name.contains(known)))
    }

    fn infill(&self) -> Result<NamedInfillTokens, MetadataError> {
        Ok(NamedInfillTokens {
            prefix: self.either(["fim_pre", "prefix"])?,
            suffix: self.either(["fim_suf", "suffix"])?,
            middle: self.either(["fim_mid", "middle"])?,
            repository: self.token("fim_rep")?,
            file: self.token("fim_sep")?,
        })
    }

    /// The tokens' scores; where the file has none, all are the same.
    fn scores(&self, tokens: usize) -> Result<Vec<f32>, MetadataError> {
        let scores = self.0.numbers("tokenizer.ggml.scores").optional()?;
        Ok(scores.unwrap_or_else(|| vec![0.0; tokens]))
    }

    /// The table of what stands for what: one number for each byte.
    fn charsmap(&self) -> anyhow::Result<Option<Vec<u8>>> {
        const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
        let Some(numbers) = self.0.integers(KEY).optional()? else {
            return Ok(None);
        };
        let bytes = numbers.into_iter().map(u8::try_from);
        let bytes = bytes.collect::<Result<_, _>>();
        Ok(Some(bytes.with_context(|| {
            format!("{KEY} has a number that is no byte")
        })?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value;

    fn header(model: &str, more: &[(&str, Value)]) -> Metadata {
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
    fn what_a_sentencepiece_vocabulary_does_not_say_is_as_in_llamas() {
        let vocabulary = vocabulary(&header("llama", &[])).unwrap();
        let Algorithm::ScoredPairs {
            scores,
            space_before,
        } = vocabulary.algorithm
        else {
            panic!("it has scores");
        };
        assert_eq!((scores, space_before), (vec![0.0; 4], true));
        assert_eq!(vocabulary.kinds[0], TokenKind::Unknown);
        assert_eq!(vocabulary.beginning, Some(TokenId(1)));
        assert_eq!(vocabulary.end, Some(TokenId(2)));
        assert!(vocabulary.adds_beginning && !vocabulary.adds_end);
    }

    #[test]
    fn what_a_sentencepiece_vocabulary_says_holds() {
        let scores = [-1.5, 0.0, 0.0, -3.0].map(Value::Float).to_vec();
        let said = [
            ("scores", Value::Array(scores)),
            ("add_space_prefix", Value::Bool(false)),
            ("add_bos_token", Value::Bool(false)),
            ("bos_token_id", Value::Unsigned(3)),
        ];
        let vocabulary = vocabulary(&header("llama", &said)).unwrap();
        let Algorithm::ScoredPairs {
            scores,
            space_before,
        } = vocabulary.algorithm
        else {
            panic!("it has scores");
        };
        assert_eq!((scores, space_before), (vec![-1.5, 0.0, 0.0, -3.0], false));
        assert_eq!(vocabulary.beginning, Some(TokenId(3)));
        assert!(!vocabulary.adds_beginning);
    }

    #[test]
    fn what_a_unigram_vocabulary_does_not_say_is_as_in_t5s() {
        let read = vocabulary(&header("t5", &[])).unwrap();
        let Algorithm::Unigram {
            charsmap, spaces, ..
        } = read.algorithm
        else {
            panic!("it is of pieces with probabilities");
        };
        assert_eq!(charsmap, None);
        assert!(!spaces.merges && !spaces.before);
        assert_eq!(read.kinds[2], TokenKind::Unknown);
        assert_eq!((read.beginning, read.end), (None, Some(TokenId(1))));
        assert!(!read.adds_beginning && read.adds_end);

        let bytes = [0, 0, 0, 256].map(Value::Unsigned).to_vec();
        let said = [("precompiled_charsmap", Value::Array(bytes))];
        let error = vocabulary(&header("t5", &said)).unwrap_err();
        assert!(format!("{error:#}").contains("no byte"), "{error:#}");
    }

    #[test]
    fn phi_3s_named_tokens_take_white_space_along() {
        let mut named = header("llama", &[]);
        let name = Value::String("Phi-3 mini".to_owned());
        assert!(named.insert("general.name".to_owned(), name));
        let absorbing = vocabulary(&named).unwrap().absorbing;
        let behind = Absorbs {
            before: false,
            behind: true,
        };
        assert_eq!(absorbing, [(TokenId(2), behind)]);
        let other = vocabulary(&header("llama", &[])).unwrap();
        assert!(other.absorbing.is_empty());
    }

    #[test]
    fn some_byte_level_vocabularies_begin_a_text_unless_they_say_otherwise() {
        let check = |pre: &str, more: &[(&str, Value)], begins: bool| {
            let pre = ("pre", Value::String(pre.to_owned()));
            let said = [&[pre], more].concat();
            let vocabulary = vocabulary(&header("gpt2", &said)).unwrap();
            assert_eq!(vocabulary.adds_beginning, begins);
        };
        check("tekken", &[], true);
        check("qwen2", &[], false);
        check("tekken", &[("add_bos_token", Value::Bool(false))], false);
    }

    #[test]
    fn gemma_4s_merges_are_of_characters_and_it_begins_a_text_whatever_it_says() {
        let said = [("add_bos_token", Value::Bool(false))];
        let vocabulary = vocabulary(&header("gemma4", &said)).unwrap();
        assert!(matches!(
            vocabulary.algorithm,
            Algorithm::CharacterPairs { .. }
        ));
        assert!(vocabulary.adds_beginning);
    }
}
