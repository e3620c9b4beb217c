//! Conversations with OpenAI's messages, as the native surface takes them, too.

use serde_json::Value;

use super::error::Error;
use super::types;
use crate::text::{ChatMessage, Conversation, Ending, ToolCall};

/// A conversation as templates know it, with the functions that are shown: they have no `developer`, whose other name is
/// `system`.
pub(super) fn conversation(
    messages: Vec<types::ChatMessage>,
    tools: Vec<Value>,
) -> Result<Conversation, Error> {
    let messages = (0..).zip(messages);
    let messages: Vec<ChatMessage> = messages
        .map(|(number, message)| chat_message(number, message))
        .collect::<Result<_, Error>>()?;
    if messages.last().is_some_and(|last| !last.calls.is_empty()) {
        let place = format!("messages.{}.tool_calls", messages.len() - 1);
        let message =
            format!("{place}: messages of the role 'tool' must follow, one for each call");
        return Err(Error::invalid(place, message));
    }
    Ok(Conversation {
        messages,
        tools,
        ..Conversation::default()
    })
}

/// The ending that the fields `add_generation_prompt` and `continue_final_message` ask for. Without either, an assistant
/// message at the end is continued.
///
/// # Errors
/// If both are true, or if the last message is not one that can be continued.
pub(super) fn ending(
    messages: &[types::ChatMessage],
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
) -> Result<Ending, Error> {
    let invalid = |problem: &str| {
        let field = "continue_final_message";
        Err(Error::invalid(field, format!("{field}: {problem}")))
    };
    Ok(match (add_generation_prompt, continue_final_message) {
        (Some(true), Some(true)) => {
            return invalid("it cannot be true together with add_generation_prompt");
        }
        (_, Some(true)) => {
            let continues = |last: &types::ChatMessage| {
                let calls = last
                    .tool_calls
                    .as_ref()
                    .is_some_and(|calls| !calls.is_empty());
                last.role == types::ChatMessageRole::Assistant && !calls
            };
            if !messages.last().is_some_and(continues) {
                return invalid("the last message must be the assistant's, without tool_calls");
            }
            Ending::OpenMessage
        }
        (Some(false), _) => Ending::ClosedMessage,
        (_, Some(false)) => Ending::NewMessage,
        (None | Some(true), None) => Ending::OpenMessage,
    })
}

fn chat_message(number: usize, message: types::ChatMessage) -> Result<ChatMessage, Error> {
    use types::ChatMessageRole as Role;
    let role = match message.role {
        Role::System | Role::Developer => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let calls = message.tool_calls.unwrap_or_default();
    if !calls.is_empty() && message.role != Role::Assistant {
        let place = format!("messages.{number}.tool_calls");
        let message = format!("{place}: only the assistant calls functions");
        return Err(Error::invalid(place, message));
    }
    let mut content = match message.content {
        Some(types::MessageContent::String(text)) => text,
        Some(types::MessageContent::Array(parts)) => (0..)
            .zip(parts)
            .map(|(part, content)| {
                part_text(
                    &format!("messages.{number}.content.{part}"),
                    message.role,
                    content,
                )
            })
            .collect::<Result<String, Error>>()?,
        None if message.role == Role::Assistant => String::new(),
        None => {
            let place = format!("messages.{number}.content");
            return Err(Error::invalid(&*place, format!("{place}: it is required")));
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
        thought: message.reasoning_content,
        content,
        calls: calls.collect(),
        answers: message.tool_call_id,
    })
}

/// A part of a message that is no text; `place` is where it is.
pub(super) fn foreign_part(place: &str, kind: &str) -> Error {
    let place = format!("{place}.type");
    let message = format!("{place}: \"{kind}\" is not supported: only texts are read here");
    Error::invalid(place, message)
}

/// The text of a part of a message. The schema requires none: a part of another type is refused for its type.
fn part_text(
    place: &str,
    role: types::ChatMessageRole,
    part: types::ContentPart,
) -> Result<String, Error> {
    let assistant = role == types::ChatMessageRole::Assistant;
    let (field, text) = match part.type_.as_str() {
        "text" => ("text", part.text),
        "refusal" if assistant => ("refusal", part.refusal),
        "refusal" => {
            let place = format!("{place}.type");
            let message = format!("{place}: a message of the role '{role}' has no refusal");
            return Err(Error::invalid(place, message));
        }
        kind => return Err(foreign_part(place, kind)),
    };
    let place = format!("{place}.{field}");
    text.ok_or_else(|| Error::invalid(&*place, format!("{place}: it is required")))
}
