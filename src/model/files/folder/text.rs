//! Reads the vocabulary, special tokens and chat template of a folder in Hugging Face's format.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{read_json, read_optional, read_required};
use crate::text::Vocabulary;
use crate::token::TokenId;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// `tokenizer_config.json`: settings that `tokenizer.json` lacks or that override it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenizerConfig {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    chat_template: Option<ChatTemplates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Name(String),
    Added { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    Single(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GenerationConfig {
    eos_token_id: Option<EosTokenIds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum EosTokenIds {
    Single(u32),
    Several(Vec<u32>),
}

impl EosTokenIds {
    pub(super) fn tokens(self) -> Vec<TokenId> {
        let ids = match self {
            Self::Single(id) => vec![id],
            Self::Several(ids) => ids,
        };
        ids.into_iter().map(TokenId).collect()
    }
}

/// Reads the vocabulary with its special tokens, and the Jinja source of the chat template.
pub(super) fn read(folder: &Path) -> anyhow::Result<(Vocabulary, Option<String>)> {
    let (name, tokenizer) = read_required(folder, "tokenizer.json")?;
    let mut vocabulary = Vocabulary::from_tokenizer_json(&tokenizer).context(name)?;
    let config = read_json::<TokenizerConfig>(folder, TOKENIZER_CONFIG)?.unwrap_or_default();
    let token_id = |name: Option<TokenName>| {
        let Some(TokenName::Name(name) | TokenName::Added { content: name }) = name else {
            return Ok(None);
        };
        match vocabulary.token(&name) {
            Some(token) => Ok(Some(token)),
            None => bail!(
                "{}: token \"{name}\" is not in the vocabulary",
                folder.join(TOKENIZER_CONFIG).display()
            ),
        }
    };
    let (bos, eos) = (token_id(config.bos_token)?, token_id(config.eos_token)?);
    // A BOS or EOS token that the post-processor of `tokenizer.json` adds takes precedence.
    vocabulary.bos = vocabulary.bos.or(bos);
    vocabulary.eog_tokens.extend(eos);
    vocabulary.eos = vocabulary.eos.or(eos);
    vocabulary.adds_bos = config.add_bos_token.unwrap_or(vocabulary.adds_bos);
    vocabulary.adds_eos = config.add_eos_token.unwrap_or(vocabulary.adds_eos);
    let generation = read_json::<GenerationConfig>(folder, GENERATION_CONFIG)?.unwrap_or_default();
    let eos_token_ids = generation.eos_token_id.into_iter();
    vocabulary
        .eog_tokens
        .extend(eos_token_ids.flat_map(EosTokenIds::tokens));
    Ok((vocabulary, chat_template(folder, config.chat_template)?))
}

/// Returns the chat template: `chat_template.jinja`, else the configured template; of several, the template named
/// `default`.
fn chat_template(
    folder: &Path,
    configured: Option<ChatTemplates>,
) -> anyhow::Result<Option<String>> {
    if let Some(bytes) = read_optional(folder, CHAT_TEMPLATE)? {
        let template = String::from_utf8(bytes);
        let template = template.with_context(|| folder.join(CHAT_TEMPLATE).display().to_string());
        return template.map(Some);
    }
    Ok(match configured {
        None => None,
        Some(ChatTemplates::Single(template)) => Some(template),
        Some(ChatTemplates::Named(templates)) => {
            let mut templates = templates.into_iter();
            let default = templates.find(|template| template.name == "default");
            default.map(|template| template.template)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    /// Creates a folder with a `tokenizer.json` of four tokens and with `files`.
    fn folder(files: &[(&str, Value)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        let tokenizer = json!({
            "added_tokens": [
                {"id": 1, "content": "<s>", "special": true},
                {"id": 2, "content": "</s>", "special": true},
                {"id": 3, "content": "<end>", "special": true},
            ],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        });
        let put = |name: &str, text: String| std::fs::write(folder.path().join(name), text);
        put("tokenizer.json", tokenizer.to_string()).unwrap();
        for (name, file) in files {
            let text = file
                .as_str()
                .map_or_else(|| file.to_string(), str::to_owned);
            put(name, text).unwrap();
        }
        folder
    }

    #[track_caller]
    fn check(files: &[(&str, Value)], expected: impl FnOnce(&Vocabulary, Option<&str>)) {
        let folder = folder(files);
        let (vocabulary, template) = read(folder.path()).unwrap();
        expected(&vocabulary, template.as_deref());
    }

    #[test]
    fn without_a_configuration_there_are_no_special_tokens() {
        check(&[], |vocabulary, template| {
            assert_eq!((vocabulary.bos, vocabulary.eos), (None, None));
            assert!(!vocabulary.adds_bos && vocabulary.eog_tokens.is_empty());
            assert_eq!(template, None);
        });
    }

    #[test]
    fn the_tokenizer_configuration_sets_bos_and_eos_tokens() {
        let config = json!({
            "add_bos_token": true,
            "bos_token": {"content": "<s>", "lstrip": false},
            "eos_token": "</s>",
            "chat_template": "{{ messages }}",
        });
        check(&[(TOKENIZER_CONFIG, config)], |vocabulary, template| {
            assert_eq!(vocabulary.bos, Some(TokenId(1)));
            assert_eq!(vocabulary.eos, Some(TokenId(2)));
            assert!(vocabulary.adds_bos && !vocabulary.adds_eos);
            assert_eq!(template, Some("{{ messages }}"));
        });
    }

    #[test]
    fn the_generation_configuration_adds_eog_tokens() {
        let single = json!({"eos_token_id": 3});
        check(&[(GENERATION_CONFIG, single)], |vocabulary, _| {
            assert_eq!(vocabulary.eog_tokens, [TokenId(3)]);
        });
        let several = json!({"eos_token_id": [2, 3]});
        check(&[(GENERATION_CONFIG, several)], |vocabulary, _| {
            assert_eq!(vocabulary.eog_tokens, [TokenId(2), TokenId(3)]);
        });
    }

    #[test]
    fn the_template_file_overrides_the_configured_templates() {
        let named = json!({"chat_template": [
            {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "all"},
        ]});
        check(&[(TOKENIZER_CONFIG, named.clone())], |_, template| {
            assert_eq!(template, Some("all"));
        });
        let file = (CHAT_TEMPLATE, json!("its own"));
        check(&[(TOKENIZER_CONFIG, named), file], |_, template| {
            assert_eq!(template, Some("its own"));
        });
    }

    #[test]
    fn rejects_a_special_token_that_is_not_in_the_vocabulary() {
        let folder = folder(&[(TOKENIZER_CONFIG, json!({"eos_token": "<none>"}))]);
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("tokenizer_config.json: token \"<none>\" is not in the vocabulary")
        );
    }
}
