//! Converts messages in OpenAI's format, which native routes also accept, to a conversation for the chat template.

use serde_json::Value;

use super::error::Error;
use super::types;
use crate::text::{ChatMessage, Conversation, PromptEnding, ToolCall};

/// Converts messages to a conversation. The role `developer` becomes `system`, because chat templates do not know
/// `developer`.
///
/// # Errors
/// If a message is invalid, or if the last message has tool calls, whose results are then missing.
pub(super) fn conversation(
    messages: Vec<types::ChatMessage>,
    tools: Vec<Value>,
) -> Result<Conversation, Error> {
    let messages = (0..).zip(messages);
    let messages: Vec<ChatMessage> = messages
        .map(|(index, message)| chat_message(index, message))
        .collect::<Result<_, Error>>()?;
    if messages
        .last()
        .is_some_and(|last| !last.tool_calls.is_empty())
    {
        let path = format!("messages.{}.tool_calls", messages.len() - 1);
        let message = format!("{path}: each call must be followed by a message of role 'tool'");
        return Err(Error::invalid(path, message));
    }
    Ok(Conversation {
        messages,
        tools,
        ..Conversation::default()
    })
}

/// Returns how the prompt ends, from the fields `add_generation_prompt` and `continue_final_message`. By default, the
/// model continues a final assistant message.
///
/// # Errors
/// If both fields are true, or if `continue_final_message` is true and the last message cannot be continued.
pub(super) fn ending(
    messages: &[types::ChatMessage],
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
) -> Result<PromptEnding, Error> {
    let invalid = |problem: &str| {
        let field = "continue_final_message";
        Err(Error::invalid(field, format!("{field}: {problem}")))
    };
    Ok(match (add_generation_prompt, continue_final_message) {
        (Some(true), Some(true)) => {
            return invalid("it cannot be combined with add_generation_prompt");
        }
        (_, Some(true)) => {
            let can_continue = |last: &types::ChatMessage| {
                let calls = last
                    .tool_calls
                    .as_ref()
                    .is_some_and(|calls| !calls.is_empty());
                last.role == types::ChatMessageRole::Assistant && !calls
            };
            if !messages.last().is_some_and(can_continue) {
                return invalid("the last message must have role 'assistant' and no tool_calls");
            }
            PromptEnding::OpenMessage
        }
        (Some(false), _) => PromptEnding::ClosedMessage,
        (_, Some(false)) => PromptEnding::NewMessage,
        (None | Some(true), None) => PromptEnding::OpenMessage,
    })
}

fn chat_message(index: usize, message: types::ChatMessage) -> Result<ChatMessage, Error> {
    use types::ChatMessageRole as Role;
    let role = match message.role {
        Role::System | Role::Developer => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let calls = message.tool_calls.unwrap_or_default();
    if !calls.is_empty() && message.role != Role::Assistant {
        let path = format!("messages.{index}.tool_calls");
        let message = format!("{path}: only 'assistant' messages can have tool calls");
        return Err(Error::invalid(path, message));
    }
    let mut content = match message.content {
        Some(types::MessageContent::String(text)) => text,
        Some(types::MessageContent::Array(parts)) => (0..)
            .zip(parts)
            .map(|(part, content)| {
                part_text(
                    &format!("messages.{index}.content.{part}"),
                    message.role,
                    content,
                )
            })
            .collect::<Result<String, Error>>()?,
        None if message.role == Role::Assistant => String::new(),
        None => {
            let path = format!("messages.{index}.content");
            return Err(Error::invalid(&*path, format!("{path}: it is required")));
        }
    };
    if let Some(refusal) = message.refusal {
        content.push_str(&refusal);
    }
    let calls = calls.into_iter().map(|call| ToolCall {
        id: call.id,
        name: call.function.name,
        arguments: call.function.arguments,
    });
    Ok(ChatMessage {
        role: role.to_owned(),
        reasoning: message.reasoning_content,
        content,
        tool_calls: calls.collect(),
        tool_call_id: message.tool_call_id,
    })
}

/// Returns the error for a content part that is not text; `path` is the dotted path of the part.
pub(super) fn unsupported_part(path: &str, kind: &str) -> Error {
    let path = format!("{path}.type");
    let message = format!("{path}: \"{kind}\" is not supported: only text parts are");
    Error::invalid(path, message)
}

/// Returns the text of a content part. The schema requires only `type`, so that the error for an unsupported type can
/// name the type.
fn part_text(
    path: &str,
    role: types::ChatMessageRole,
    part: types::ContentPart,
) -> Result<String, Error> {
    let assistant = role == types::ChatMessageRole::Assistant;
    let (field, text) = match part.type_.as_str() {
        "text" => ("text", part.text),
        "refusal" if assistant => ("refusal", part.refusal),
        "refusal" => {
            let path = format!("{path}.type");
            let message = format!("{path}: a '{role}' message cannot contain refusal");
            return Err(Error::invalid(path, message));
        }
        kind => return Err(unsupported_part(path, kind)),
    };
    let path = format!("{path}.{field}");
    text.ok_or_else(|| Error::invalid(&*path, format!("{path}: it is required")))
}
