//! Conversations, and the functions in them, as both surfaces take them.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::error::Error;
use super::types;
use crate::text::{ChatMessage, Conversation, ToolCall};

/// A conversation as templates know it: they have no `developer`, whose other name is `system`.
pub(super) fn conversation(
    messages: Vec<types::ChatMessage>,
    tools: &[types::Tool],
) -> Result<Conversation, Error> {
    let messages = (0..).zip(messages);
    let messages: Vec<ChatMessage> = messages
        .map(|(number, message)| chat_message(number, message))
        .collect::<Result<_, Error>>()?;
    if messages.last().is_some_and(|last| !last.calls.is_empty()) {
        let place = format!("messages.{}.tool_calls", messages.len() - 1);
        let message =
            format!("{place}: messages of the role «tool» must follow, one for each call");
        return Err(Error::invalid(place, message));
    }
    let functions = tools.iter().map(|tool| &tool.function);
    let names: Vec<&str> = functions
        .clone()
        .map(|function| function.name.as_str())
        .collect();
    check_names(&names, |number| format!("tools.{number}.function.name"))?;
    let tools = functions.map(|function| {
        shown(Tool {
            name: &function.name,
            description: function.description.as_deref(),
            parameters: parameters(function),
        })
    });
    Ok(Conversation {
        messages,
        tools: tools.collect(),
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
    let content = match message.content {
        Some(types::MessageContent::String(text)) => text,
        Some(types::MessageContent::Array(parts)) => {
            parts.into_iter().map(|part| part.text).collect()
        }
        None if !calls.is_empty() => String::new(),
        None => {
            let place = format!("messages.{number}.content");
            return Err(Error::invalid(&*place, format!("{place}: it is required")));
        }
    };
    let calls = calls.into_iter().map(|call| ToolCall {
        id: call.id,
        name: call.function.name,
        arguments: call.function.arguments,
    });
    Ok(ChatMessage {
        role: role.to_owned(),
        content,
        calls: calls.collect(),
        answers: message.tool_call_id,
    })
}

/// A function that a model is shown.
pub(super) struct Tool<'a> {
    /// What it is called.
    pub name: &'a str,
    /// What it does.
    pub description: Option<&'a str>,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

/// A function as models have learnt to read it: the keys in this order.
pub(super) fn shown(tool: Tool<'_>) -> Value {
    let mut function = json!({ "name": tool.name });
    if let Some(description) = tool.description {
        function["description"] = json!(description);
    }
    function["parameters"] = tool.parameters;
    json!({ "type": "function", "function": function })
}

/// Refuses names that two functions have; `place` is where the name of a function stands.
pub(super) fn check_names(names: &[&str], place: impl Fn(usize) -> String) -> Result<(), Error> {
    let mut known = HashSet::new();
    match names.iter().position(|name| !known.insert(*name)) {
        None => Ok(()),
        Some(number) => {
            let place = place(number);
            let message = format!(
                "{place}: another function is called «{}», too",
                names[number]
            );
            Err(Error::invalid(place, message))
        }
    }
}

/// The schema of a function's arguments: none, if it does not say.
pub(super) fn parameters(function: &types::ToolFunction) -> Value {
    match &function.parameters {
        Some(schema) if !schema.is_empty() => schema.clone().into(),
        _ => json!({ "type": "object", "properties": {} }),
    }
}
