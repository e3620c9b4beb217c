//! Functions for models whose chat template knows of none: they, their calls and what came of these are written into
//! messages of the kinds that every template knows.

use super::HERMES;
use crate::text::conversation::{ChatMessage, Conversation};

const INTRODUCTION: &str =
    "You may call functions. Each of these lines is one, as JSON:\n<tools>\n";
const INSTRUCTIONS: &str = "</tools>\nTo call a function, write its name and its arguments, as JSON:\n\
    <tool_call>\n{\"name\": NAME, \"arguments\": ARGUMENTS}\n</tool_call>";

/// The conversation without functions, calls and tool messages, but with their texts.
pub(in crate::text) fn in_words(conversation: &Conversation) -> Conversation {
    let mut messages: Vec<ChatMessage> = Vec::new();
    if !conversation.tools.is_empty() {
        let tools = conversation.tools.iter().map(|tool| format!("{tool}\n"));
        let tools: String = tools.collect();
        messages.push(ChatMessage::new(
            "system",
            [INTRODUCTION, &tools, INSTRUCTIONS].concat(),
        ));
    }
    let mut of_tools = false;
    for message in &conversation.messages {
        let followed_tool = std::mem::replace(&mut of_tools, message.role == "tool");
        match messages.last_mut() {
            // A template has one system message, and user and assistant take turns.
            Some(last) if message.role == "system" && last.role == "system" => {
                last.content = format!("{}\n\n{}", message.content, last.content);
            }
            Some(last) if of_tools && followed_tool => {
                last.content.push('\n');
                last.content.push_str(&response(message));
            }
            _ => messages.push(alone(message)),
        }
    }
    Conversation {
        messages,
        tools: Vec::new(),
        ..conversation.clone()
    }
}

fn alone(message: &ChatMessage) -> ChatMessage {
    let (role, content) = match &*message.role {
        "tool" => ("user", response(message)),
        role => {
            let calls = match message.calls.as_slice() {
                [] => String::new(),
                calls => HERMES.write(calls),
            };
            (role, [&*message.content, &*calls].concat())
        }
    };
    ChatMessage {
        thought: message.thought.clone(),
        ..ChatMessage::new(role, content)
    }
}

fn response(message: &ChatMessage) -> String {
    format!("<tool_response>\n{}\n</tool_response>", message.content)
}
