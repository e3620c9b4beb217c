//! The input and output items of responses, and the validation of items that a client sends.

use std::sync::Arc;

use serde::Serialize;

use crate::api::error::Error;
use crate::api::messages::unsupported_part;
use crate::api::types;

/// An input or output item. All stored responses that contain an item share it.
pub(super) struct Item {
    pub value: types::ResponseItem,
    /// Size of the item's JSON in bytes.
    pub bytes: usize,
}

/// An element of a request's `input` after validation.
pub(super) enum InputItem {
    Item(types::ResponseItem),
    /// A reference to a stored item by its id.
    Reference(String),
    /// An item of an unsupported type. If the item is a tool call, contains its `call_id`.
    Unsupported(Option<String>),
}

/// The type of content parts in which the model refuses to answer.
const REFUSAL: &str = "refusal";

/// Supported types of input items.
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
    pub(super) fn new(value: types::ResponseItem) -> Arc<Self> {
        let bytes = bytes(&value);
        Arc::new(Self { value, bytes })
    }

    pub(super) fn id(&self) -> &str {
        match &self.value {
            types::ResponseItem::Message(item) => &item.id,
            types::ResponseItem::FunctionCall(item) => &item.id,
            types::ResponseItem::FunctionCallOutput(item) => &item.id,
            types::ResponseItem::Reasoning(item) => &item.id,
        }
    }
}

/// Returns the size of a value's JSON in bytes.
pub(super) fn bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

/// Returns a new random id that begins with `kind`.
pub(super) fn new_id(kind: &str) -> String {
    format!("{kind}_{:032x}", rand::random::<u128>())
}

/// Creates a user message with a new id.
pub(super) fn user_message(text: String) -> types::ResponseItem {
    types::ResponseMessage {
        id: new_id("msg"),
        type_: types::ResponseMessageType::Message,
        status: types::ResponseItemStatus::Completed,
        role: types::ResponseRole::User,
        content: vec![input_text(text)],
    }
    .into()
}

/// Validates the input item at the dotted path `path`. Fills in a missing id, type or status.
pub(super) fn read_item(path: &str, item: types::ResponseInputItem) -> Result<InputItem, Error> {
    let missing = |field: &str| {
        let path = format!("{path}.{field}");
        Error::invalid(&*path, format!("{path}: it is required"))
    };
    let kind = match (item.type_, item.role, &item.id) {
        (Some(kind), ..) => match Kind::of(&kind) {
            Some(kind) => kind,
            None => return Ok(InputItem::Unsupported(item.call_id)),
        },
        (None, Some(_), _) => Kind::Message,
        (None, None, Some(_)) => Kind::Reference,
        (None, None, None) => return Err(missing("type")),
    };
    let id = |kind: &str| item.id.clone().unwrap_or_else(|| new_id(kind));
    let status = item.status.unwrap_or(types::ResponseItemStatus::Completed);
    Ok(InputItem::Item(match kind {
        Kind::Reference => return Ok(InputItem::Reference(item.id.ok_or_else(|| missing("id"))?)),
        Kind::Message => {
            let role = item.role.ok_or_else(|| missing("role"))?;
            let content = item.content.ok_or_else(|| missing("content"))?;
            types::ResponseMessage {
                id: id("msg"),
                type_: types::ResponseMessageType::Message,
                status,
                role,
                content: message_parts(&format!("{path}.content"), role, content)?,
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
                output: texts(&format!("{path}.output"), output)?.concat(),
            }
            .into()
        }
        Kind::Reasoning => {
            let summary = item.summary.unwrap_or_default();
            let summary = types::ResponseInputContent::Array(summary);
            let summary = texts(&format!("{path}.summary"), summary)?.into_iter();
            let content = match item.content {
                Some(content) => texts(&format!("{path}.content"), content)?,
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

/// Converts the content of a message: to output text in assistant messages, and to input text in other messages.
fn message_parts(
    path: &str,
    role: types::ResponseRole,
    content: types::ResponseInputContent,
) -> Result<Vec<types::ResponsePart>, Error> {
    let text_part = |text: String| match role {
        types::ResponseRole::Assistant => output_text(text, Vec::new()).into(),
        _ => input_text(text),
    };
    let parts = match content {
        types::ResponseInputContent::String(text) => return Ok(vec![text_part(text)]),
        types::ResponseInputContent::Array(parts) => parts,
    };
    let parts = parts.into_iter().enumerate().map(|(index, part)| {
        let kind = part.type_.clone();
        let text = part_text(&format!("{path}.{index}"), part)?;
        match (kind.as_str(), role) {
            ("input_text" | "output_text", _) => Ok(text_part(text)),
            (REFUSAL, types::ResponseRole::Assistant) => Ok(types::ResponseRefusal {
                type_: types::ResponseRefusalType::Refusal,
                refusal: text,
            }
            .into()),
            (kind, _) => {
                let path = format!("{path}.{index}.type");
                let problem = format!("{path}: a '{role}' message cannot contain {kind}");
                Err(Error::invalid(path, problem))
            }
        }
    });
    parts.collect()
}

/// Returns the text of each content part, for all types of parts.
fn texts(path: &str, content: types::ResponseInputContent) -> Result<Vec<String>, Error> {
    match content {
        types::ResponseInputContent::String(text) => Ok(vec![text]),
        types::ResponseInputContent::Array(parts) => parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| part_text(&format!("{path}.{index}"), part))
            .collect(),
    }
}

fn part_text(path: &str, part: types::ResponseInputPart) -> Result<String, Error> {
    let (field, text) = match part.type_.as_str() {
        REFUSAL => (REFUSAL, part.refusal),
        "input_text" | "output_text" | "summary_text" | "reasoning_text" => ("text", part.text),
        kind => return Err(unsupported_part(path, kind)),
    };
    text.ok_or_else(|| {
        let path = format!("{path}.{field}");
        Error::invalid(&*path, format!("{path}: it is required"))
    })
}

fn input_text(text: String) -> types::ResponsePart {
    types::ResponseInputText {
        type_: types::ResponseInputTextType::InputText,
        text,
    }
    .into()
}

/// Creates an output text part with the log probabilities of its tokens.
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

/// Creates a reasoning text part.
pub(super) fn reasoning_text(text: String) -> types::ResponseReasoningText {
    types::ResponseReasoningText {
        type_: types::ResponseReasoningTextType::ReasoningText,
        text,
    }
}
