//! The items that a response is written from and made of: what a client sends of them, checked.

use std::sync::Arc;

use serde::Serialize;

use crate::api::error::Error;
use crate::api::messages::foreign_part;
use crate::api::types;

/// An item, shared by all responses that it is a part of.
pub(super) struct Item {
    /// The item.
    pub value: types::ResponseItem,
    /// Its bytes as JSON.
    pub bytes: usize,
}

/// What a client sends as an item.
pub(super) enum Sent {
    /// An item.
    Item(types::ResponseItem),
    /// The id of one that is kept.
    Reference(String),
    /// One of a kind that is not supported, with the call that it is about.
    Foreign(Option<String>),
}

/// The type of the parts that hold a refusal.
const REFUSAL: &str = "refusal";

/// The kinds of items that are supported.
enum Kind {
    Message,
    FunctionCall,
    FunctionCallOutput,
    Reasoning,
    Reference,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "message" => Self::Message,
            "function_call" => Self::FunctionCall,
            "function_call_output" => Self::FunctionCallOutput,
            "reasoning" => Self::Reasoning,
            "item_reference" => Self::Reference,
            _ => return None,
        })
    }
}

impl Item {
    /// An item that is whole.
    pub(super) fn new(value: types::ResponseItem) -> Arc<Self> {
        let bytes = bytes(&value);
        Arc::new(Self { value, bytes })
    }

    /// Which one it is.
    pub(super) fn id(&self) -> &str {
        match &self.value {
            types::ResponseItem::Message(item) => &item.id,
            types::ResponseItem::FunctionCall(item) => &item.id,
            types::ResponseItem::FunctionCallOutput(item) => &item.id,
            types::ResponseItem::Reasoning(item) => &item.id,
        }
    }
}

/// Bytes of a value as JSON.
pub(super) fn bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

/// A new id of that kind.
pub(super) fn new_id(kind: &str) -> String {
    format!("{kind}_{:032x}", rand::random::<u128>())
}

/// A message of the user's.
pub(super) fn question(text: String) -> types::ResponseItem {
    types::ResponseMessage {
        id: new_id("msg"),
        type_: types::ResponseMessageType::Message,
        status: types::ResponseItemStatus::Completed,
        role: types::ResponseRole::User,
        content: vec![input_text(text)],
    }
    .into()
}

/// What stands at `place` in a body.
pub(super) fn sent(place: &str, item: types::ResponseInputItem) -> Result<Sent, Error> {
    let missing = |field: &str| {
        let place = format!("{place}.{field}");
        Error::invalid(&*place, format!("{place}: it is required"))
    };
    let kind = match (item.type_, item.role, &item.id) {
        (Some(kind), ..) => match Kind::of(&kind) {
            Some(kind) => kind,
            None => return Ok(Sent::Foreign(item.call_id)),
        },
        (None, Some(_), _) => Kind::Message,
        (None, None, Some(_)) => Kind::Reference,
        (None, None, None) => return Err(missing("type")),
    };
    let id = |kind: &str| item.id.clone().unwrap_or_else(|| new_id(kind));
    let status = item.status.unwrap_or(types::ResponseItemStatus::Completed);
    Ok(Sent::Item(match kind {
        Kind::Reference => return Ok(Sent::Reference(item.id.ok_or_else(|| missing("id"))?)),
        Kind::Message => {
            let role = item.role.ok_or_else(|| missing("role"))?;
            let content = item.content.ok_or_else(|| missing("content"))?;
            types::ResponseMessage {
                id: id("msg"),
                type_: types::ResponseMessageType::Message,
                status,
                role,
                content: message_parts(&format!("{place}.content"), role, content)?,
            }
            .into()
        }
        Kind::FunctionCall => types::ResponseFunctionCall {
            id: id("fc"),
            type_: types::ResponseFunctionCallType::FunctionCall,
            status,
            call_id: item.call_id.ok_or_else(|| missing("call_id"))?,
            name: item.name.ok_or_else(|| missing("name"))?,
            namespace: item.namespace,
            arguments: item.arguments.ok_or_else(|| missing("arguments"))?,
        }
        .into(),
        Kind::FunctionCallOutput => {
            let output = item.output.ok_or_else(|| missing("output"))?;
            types::ResponseFunctionCallOutput {
                id: id("fco"),
                type_: types::ResponseFunctionCallOutputType::FunctionCallOutput,
                status,
                call_id: item.call_id.ok_or_else(|| missing("call_id"))?,
                output: texts(&format!("{place}.output"), output)?.concat(),
            }
            .into()
        }
        Kind::Reasoning => {
            let summary = item.summary.unwrap_or_default();
            let summary = types::ResponseInputContent::Array(summary);
            let summary = texts(&format!("{place}.summary"), summary)?.into_iter();
            let content = match item.content {
                Some(content) => texts(&format!("{place}.content"), content)?,
                None => Vec::new(),
            };
            types::ResponseReasoning {
                id: id("rs"),
                type_: types::ResponseReasoningType::Reasoning,
                status,
                summary: summary.map(summary_text).collect(),
                content: content.into_iter().map(reasoning_text).collect(),
            }
            .into()
        }
    }))
}

/// The parts of a message, named as whoever says them: what the assistant says is output.
fn message_parts(
    place: &str,
    role: types::ResponseRole,
    content: types::ResponseInputContent,
) -> Result<Vec<types::ResponsePart>, Error> {
    let part = |text: String| match role {
        types::ResponseRole::Assistant => output_text(text, Vec::new()).into(),
        _ => input_text(text),
    };
    let parts = match content {
        types::ResponseInputContent::String(text) => return Ok(vec![part(text)]),
        types::ResponseInputContent::Array(parts) => parts,
    };
    let parts = parts.into_iter().enumerate().map(|(number, sent)| {
        let kind = sent.type_.clone();
        let text = part_text(&format!("{place}.{number}"), sent)?;
        match (kind.as_str(), role) {
            ("input_text" | "output_text", _) => Ok(part(text)),
            (REFUSAL, types::ResponseRole::Assistant) => Ok(types::ResponseRefusal {
                type_: types::ResponseRefusalType::Refusal,
                refusal: text,
            }
            .into()),
            (kind, _) => {
                let place = format!("{place}.{number}.type");
                let problem = format!("{place}: a message of the role '{role}' has no {kind}");
                Err(Error::invalid(place, problem))
            }
        }
    });
    parts.collect()
}

/// The texts of parts of any kind.
fn texts(place: &str, content: types::ResponseInputContent) -> Result<Vec<String>, Error> {
    match content {
        types::ResponseInputContent::String(text) => Ok(vec![text]),
        types::ResponseInputContent::Array(parts) => parts
            .into_iter()
            .enumerate()
            .map(|(number, part)| part_text(&format!("{place}.{number}"), part))
            .collect(),
    }
}

fn part_text(place: &str, part: types::ResponseInputPart) -> Result<String, Error> {
    let (field, text) = match part.type_.as_str() {
        REFUSAL => (REFUSAL, part.refusal),
        "input_text" | "output_text" | "summary_text" | "reasoning_text" => ("text", part.text),
        kind => return Err(foreign_part(place, kind)),
    };
    text.ok_or_else(|| {
        let place = format!("{place}.{field}");
        Error::invalid(&*place, format!("{place}: it is required"))
    })
}

fn input_text(text: String) -> types::ResponsePart {
    types::ResponseInputText {
        type_: types::ResponseInputTextType::InputText,
        text,
    }
    .into()
}

/// Something that the assistant says, with its tokens' log-probabilities.
pub(super) fn output_text(
    text: String,
    logprobs: Vec<types::TokenLogprob>,
) -> types::ResponseOutputText {
    types::ResponseOutputText {
        type_: types::ResponseOutputTextType::OutputText,
        text,
        annotations: Vec::new(),
        logprobs,
    }
}

fn summary_text(text: String) -> types::ResponseSummaryText {
    types::ResponseSummaryText {
        type_: types::ResponseSummaryTextType::SummaryText,
        text,
    }
}

/// Something that is thought.
pub(super) fn reasoning_text(text: String) -> types::ResponseReasoningText {
    types::ResponseReasoningText {
        type_: types::ResponseReasoningTextType::ReasoningText,
        text,
    }
}
