//! The prompts of a body: one or several, each of texts and ids.

use super::error::Error;
use super::types;
use crate::model::PromptPiece;
use crate::token::TokenId;

/// What is to be continued: one prompt, or several beside each other.
pub(super) enum Prompts {
    /// One.
    One(types::Prompt),
    /// At least two.
    Several(Vec<types::Prompt>),
}

impl Prompts {
    /// Reads the field `param`.
    pub(super) fn read(param: &str, prompts: types::Prompts) -> Result<Self, Error> {
        use types::{Prompt, PromptItem, PromptPiece};
        let items = match prompts {
            types::Prompts::String(text) => return Ok(Self::One(Prompt::String(text))),
            types::Prompts::PromptObject(object) => {
                return Ok(Self::One(Prompt::String(object.prompt_string)));
            }
            types::Prompts::Array(items) => items,
        };
        let alone = items.len() == 1;
        let mixed = items
            .iter()
            .any(|item| matches!(item, PromptItem::Uint32(_)));
        if alone || mixed {
            let pieces = items.into_iter().map(|item| match item {
                PromptItem::String(text)
                | PromptItem::PromptObject(types::PromptObject {
                    prompt_string: text,
                }) => Ok(vec![PromptPiece::String(text)]),
                PromptItem::Uint32(token) => Ok(vec![PromptPiece::Uint32(token)]),
                PromptItem::Array(pieces) if alone => Ok(pieces),
                PromptItem::Array(_) => {
                    let problem = "an array with token ids is one prompt, and has no prompts in it";
                    Err(Error::invalid(param, format!("{param}: {problem}")))
                }
            });
            let pieces: Vec<Vec<PromptPiece>> = pieces.collect::<Result<_, _>>()?;
            return Ok(Self::One(Prompt::Array(pieces.concat())));
        }
        let prompts = items.into_iter().map(|item| match item {
            PromptItem::String(text)
            | PromptItem::PromptObject(types::PromptObject {
                prompt_string: text,
            }) => Prompt::String(text),
            PromptItem::Uint32(token) => Prompt::Array(vec![PromptPiece::Uint32(token)]),
            PromptItem::Array(pieces) => Prompt::Array(pieces),
        });
        Ok(Self::Several(prompts.collect()))
    }

    /// All of them.
    pub(super) fn all(self) -> Vec<types::Prompt> {
        match self {
            Self::One(prompt) => vec![prompt],
            Self::Several(prompts) => prompts,
        }
    }

    /// Refuses more prompts than there are places: they could never run beside each other.
    pub(super) fn check_count(param: &str, count: usize, places: usize) -> Result<(), Error> {
        match count > places {
            false => Ok(()),
            true => Err(Error::invalid(
                param,
                format!(
                    "{param}: {count} prompts are more than the {places} requests that may run or wait"
                ),
            )),
        }
    }
}

/// A prompt's texts and ids.
pub(super) fn pieces(prompt: types::Prompt) -> Vec<PromptPiece> {
    match prompt {
        types::Prompt::String(text) => vec![PromptPiece::Text(text)],
        types::Prompt::Array(pieces) => pieces
            .into_iter()
            .map(|piece| match piece {
                types::PromptPiece::String(text) => PromptPiece::Text(text),
                types::PromptPiece::Uint32(token) => PromptPiece::Token(TokenId(token)),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The prompts of a body, each as its pieces would be sent alone.
    #[track_caller]
    fn check(prompt: Value, expected: Result<&[Value], &str>) {
        let prompts = serde_json::from_value::<types::Prompts>(prompt).unwrap();
        let found = match Prompts::read("prompt", prompts) {
            Ok(Prompts::One(prompt)) => Ok(vec![prompt]),
            Ok(Prompts::Several(prompts)) => Ok(prompts),
            Err(error) => Err(error.to_string()),
        };
        let written = |prompts: Vec<types::Prompt>| {
            let written = prompts
                .iter()
                .map(|prompt| serde_json::to_value(prompt).unwrap());
            written.collect::<Vec<_>>()
        };
        match (found.map(written), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn one_or_several() {
        check(json!("a"), Ok(&[json!("a")]));
        check(json!(["a"]), Ok(&[json!(["a"])]));
        check(json!([[1, "b"]]), Ok(&[json!([1, "b"])]));
        check(json!(["a", 7]), Ok(&[json!(["a", 7])]));
        check(json!([7, 8]), Ok(&[json!([7, 8])]));
        check(json!(["a", "b"]), Ok(&[json!("a"), json!("b")]));
        check(
            json!(["a", [7, "b"], [8]]),
            Ok(&[json!("a"), json!([7, "b"]), json!([8])]),
        );
        check(json!(["a", 7, [8]]), Err("has no prompts in it"));
        check(json!({"prompt_string": "a"}), Ok(&[json!("a")]));
        check(json!([{"prompt_string": "a"}]), Ok(&[json!(["a"])]));
        check(json!([{"prompt_string": "a"}, 7]), Ok(&[json!(["a", 7])]));
        check(
            json!([{"prompt_string": "a"}, "b", [7]]),
            Ok(&[json!("a"), json!("b"), json!([7])]),
        );
    }
}
