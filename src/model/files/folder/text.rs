//! What a folder says of text: its vocabulary, what stands around texts and ends them, its chat template.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{needed, optional, parsed};
use crate::text::Vocabulary;
use crate::token::TokenId;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Of `tokenizer_config.json` what `tokenizer.json` does not say, or says otherwise.
#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenizerConfig {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedToken {
    Name(String),
    Added { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
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
    eos_token_id: Option<Ends>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Ends {
    One(u32),
    Several(Vec<u32>),
}

impl Ends {
    pub(super) fn tokens(self) -> Vec<TokenId> {
        let numbers = match self {
            Self::One(number) => vec![number],
            Self::Several(numbers) => numbers,
        };
        numbers.into_iter().map(TokenId).collect()
    }
}

/// The vocabulary of the folder, and how conversations are written, in Jinja.
pub(super) fn read(folder: &Path) -> anyhow::Result<(Vocabulary, Option<String>)> {
    let (name, tokenizer) = needed(folder, "tokenizer.json")?;
    let mut vocabulary = Vocabulary::from_tokenizer_json(&tokenizer).context(name)?;
    let config = parsed::<TokenizerConfig>(folder, TOKENIZER_CONFIG)?.unwrap_or_default();
    let token = |named: Option<NamedToken>| {
        let Some(NamedToken::Name(name) | NamedToken::Added { content: name }) = named else {
            return Ok(None);
        };
        match vocabulary.token(&name) {
            Some(token) => Ok(Some(token)),
            None => bail!(
                "{}: there is no token \"{name}\"",
                folder.join(TOKENIZER_CONFIG).display()
            ),
        }
    };
    let (beginning, end) = (token(config.bos_token)?, token(config.eos_token)?);
    // What is put around texts by itself stays.
    vocabulary.beginning = vocabulary.beginning.or(beginning);
    vocabulary.ends.extend(end);
    vocabulary.end = vocabulary.end.or(end);
    vocabulary.adds_beginning = config.add_bos_token.unwrap_or(vocabulary.adds_beginning);
    vocabulary.adds_end = config.add_eos_token.unwrap_or(vocabulary.adds_end);
    let generation = parsed::<GenerationConfig>(folder, GENERATION_CONFIG)?.unwrap_or_default();
    let ends = generation.eos_token_id.into_iter();
    vocabulary.ends.extend(ends.flat_map(Ends::tokens));
    Ok((vocabulary, chat_template(folder, config.chat_template)?))
}

/// The template in a file of its own, or the one of the configuration; of several the one for all purposes.
fn chat_template(folder: &Path, said: Option<Templates>) -> anyhow::Result<Option<String>> {
    if let Some(bytes) = optional(folder, CHAT_TEMPLATE)? {
        let template = String::from_utf8(bytes);
        let template = template.with_context(|| folder.join(CHAT_TEMPLATE).display().to_string());
        return template.map(Some);
    }
    Ok(match said {
        None => None,
        Some(Templates::One(template)) => Some(template),
        Some(Templates::Named(templates)) => {
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

    /// A folder with a vocabulary of four tokens and these files.
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
    fn a_vocabulary_without_a_configuration_is_its_own() {
        check(&[], |vocabulary, template| {
            assert_eq!((vocabulary.beginning, vocabulary.end), (None, None));
            assert!(!vocabulary.adds_beginning && vocabulary.ends.is_empty());
            assert_eq!(template, None);
        });
    }

    #[test]
    fn the_configuration_names_tokens_and_says_what_stands_around_texts() {
        let config = json!({
            "add_bos_token": true,
            "bos_token": {"content": "<s>", "lstrip": false},
            "eos_token": "</s>",
            "chat_template": "{{ messages }}",
        });
        check(&[(TOKENIZER_CONFIG, config)], |vocabulary, template| {
            assert_eq!(vocabulary.beginning, Some(TokenId(1)));
            assert_eq!(vocabulary.end, Some(TokenId(2)));
            assert!(vocabulary.adds_beginning && !vocabulary.adds_end);
            assert_eq!(template, Some("{{ messages }}"));
        });
    }

    #[test]
    fn generation_ends_at_the_tokens_that_are_said_to_end_it() {
        let one = json!({"eos_token_id": 3});
        check(&[(GENERATION_CONFIG, one)], |vocabulary, _| {
            assert_eq!(vocabulary.ends, [TokenId(3)]);
        });
        let several = json!({"eos_token_id": [2, 3]});
        check(&[(GENERATION_CONFIG, several)], |vocabulary, _| {
            assert_eq!(vocabulary.ends, [TokenId(2), TokenId(3)]);
        });
    }

    #[test]
    fn the_template_is_the_file_then_the_configurations_then_its_default() {
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
    fn a_name_that_no_token_has_is_refused() {
        let folder = folder(&[(TOKENIZER_CONFIG, json!({"eos_token": "<none>"}))]);
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("tokenizer_config.json: there is no token \"<none>\""));
    }
}
