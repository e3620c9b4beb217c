//! The prompts of a request: one or several, each a list of texts and token ids.

use super::error::Error;
use super::types;
use crate::model::PromptPiece;
use crate::token::TokenId;

/// The prompts of a request.
pub(super) enum Prompts {
    One(types::Prompt),
    /// At least two prompts.
    Several(Vec<types::Prompt>),
}

impl Prompts {
    /// Divides the value of the field `param` into prompts.
    pub(super) fn read(param: &str, prompts: types::Prompts) -> Result<Self, Error> {
        use types::{Prompt, PromptItem, PromptPiece};
        let items = match prompts {
            types::Prompts::String(text) => return Ok(Self::One(Prompt::String(text))),
            types::Prompts::PromptObject(object) => {
                return Ok(Self::One(Prompt::String(object.prompt_string)));
            }
            types::Prompts::Array(items) => items,
        };
        let is_single = items.len() == 1;
        let has_token_ids = items
            .iter()
            .any(|item| matches!(item, PromptItem::Uint32(_)));
        if is_single || has_token_ids {
            let pieces = items.into_iter().map(|item| match item {
                PromptItem::String(text)
                | PromptItem::PromptObject(types::PromptObject {
                    prompt_string: text,
                }) => Ok(vec![PromptPiece::String(text)]),
                PromptItem::Uint32(token) => Ok(vec![PromptPiece::Uint32(token)]),
                PromptItem::Array(pieces) if is_single => Ok(pieces),
                PromptItem::Array(_) => {
                    let problem =
                        "an array with token ids is a single prompt and cannot contain prompts";
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

    pub(super) fn into_vec(self) -> Vec<types::Prompt> {
        match self {
            Self::One(prompt) => vec![prompt],
            Self::Several(prompts) => prompts,
        }
    }

    /// Rejects more prompts than requests can run or wait at once.
    pub(super) fn check_count(param: &str, count: usize, max_requests: usize) -> Result<(), Error> {
        match count > max_requests {
            false => Ok(()),
            true => Err(Error::invalid(
                param,
                format!(
                    "{param}: {count} prompts are more than the {max_requests} requests that can run or wait"
                ),
            )),
        }
    }
}

/// Converts a prompt to its texts and token ids.
pub(super) fn prompt_pieces(prompt: types::Prompt) -> Vec<PromptPiece> {
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

    /// Checks how a prompt field, given as JSON, is divided into prompts.
    #[track_caller]
    fn check(prompt: Value, expected: Result<&[Value], &str>) {
        let prompts = serde_json::from_value::<types::Prompts>(prompt).unwrap();
        let found = match Prompts::read("prompt", prompts) {
            Ok(Prompts::One(prompt)) => Ok(vec![prompt]),
            Ok(Prompts::Several(prompts)) => Ok(prompts),
            Err(error) => Err(error.to_string()),
        };
        let to_json = |prompts: Vec<types::Prompt>| {
            let values = prompts
                .iter()
                .map(|prompt| serde_json::to_value(prompt).unwrap());
            values.collect::<Vec<_>>()
        };
        match (found.map(to_json), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn divides_the_prompt_field_into_prompts() {
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
        check(json!(["a", 7, [8]]), Err("cannot contain prompts"));
        check(json!({"prompt_string": "a"}), Ok(&[json!("a")]));
        check(json!([{"prompt_string": "a"}]), Ok(&[json!(["a"])]));
        check(json!([{"prompt_string": "a"}, 7]), Ok(&[json!(["a", 7])]));
        check(
            json!([{"prompt_string": "a"}, "b", [7]]),
            Ok(&[json!("a"), json!("b"), json!([7])]),
        );
    }
}
