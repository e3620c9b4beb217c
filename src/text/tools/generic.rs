//! Tools for models whose chat template does not support them: tools, tool calls and results become text of system,
//! user and assistant messages.

use super::HERMES;
use crate::text::conversation::{ChatMessage, Conversation};

const INTRODUCTION: &str =
    "You may call functions. Each of these lines is one, as JSON:\n<tools>\n";
const INSTRUCTIONS: &str = "</tools>\nTo call a function, write its name and its arguments, as JSON:\n\
    <tool_call>\n{\"name\": NAME, \"arguments\": ARGUMENTS}\n</tool_call>";

/// Replaces tools, tool calls and `tool` messages with text.
pub(in crate::text) fn tools_as_text(conversation: &Conversation) -> Conversation {
    let mut messages: Vec<ChatMessage> = Vec::new();
    if !conversation.tools.is_empty() {
        let tools = conversation.tools.iter().map(|tool| format!("{tool}\n"));
        let tools: String = tools.collect();
        messages.push(ChatMessage::new(
            "system",
            [INTRODUCTION, &tools, INSTRUCTIONS].concat(),
        ));
    }
    let mut is_tool_result = false;
    for message in &conversation.messages {
        let follows_tool_result = std::mem::replace(&mut is_tool_result, message.role == "tool");
        match messages.last_mut() {
            // Templates expect one system message, then alternating user and assistant messages.
            Some(last) if message.role == "system" && last.role == "system" => {
                last.content = format!("{}\n\n{}", message.content, last.content);
            }
            Some(last) if is_tool_result && follows_tool_result => {
                last.content.push('\n');
                last.content.push_str(&tool_response(message));
            }
            _ => messages.push(message_as_text(message)),
        }
    }
    Conversation {
        messages,
        tools: Vec::new(),
        ..conversation.clone()
    }
}

fn message_as_text(message: &ChatMessage) -> ChatMessage {
    let (role, content) = match &*message.role {
        "tool" => ("user", tool_response(message)),
        role => {
            let calls = match message.tool_calls.as_slice() {
                [] => String::new(),
                calls => HERMES.write(calls),
            };
            (role, [&*message.content, &*calls].concat())
        }
    };
    ChatMessage {
        reasoning: message.reasoning.clone(),
        ..ChatMessage::new(role, content)
    }
}

fn tool_response(message: &ChatMessage) -> String {
    format!("<tool_response>\n{}\n</tool_response>", message.content)
}
