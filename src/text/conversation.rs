//! The conversation that a chat template renders: its messages, tools and template variables.

use serde_json::{Map, Value};

/// The template variable that turns reasoning on or off.
pub(super) const ENABLE_THINKING: &str = "enable_thinking";

/// A conversation: the input of a chat template.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<ChatMessage>,
    /// The tools that the model may call, each in OpenAI's form: `{"type": "function", "function": {...}}`.
    pub tools: Vec<Value>,
    /// Maximum number of reasoning tokens before the answer. 0 turns reasoning off; `None` sets no limit.
    pub max_reasoning_tokens: Option<usize>,
    /// Additional variables of the template, by name (the request's `chat_template_kwargs`).
    pub template_variables: Map<String, Value>,
    /// How the rendered prompt ends.
    pub ending: PromptEnding,
}

/// How the prompt of a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptEnding {
    /// In an open assistant message: the last message if its role is `assistant` (a prefill), else a new message.
    #[default]
    OpenMessage,
    /// In a new assistant message, even if the role of the last message is `assistant`.
    NewMessage,
    /// After the end of the last message.
    ClosedMessage,
}

/// A message of a conversation, independent of the API of the client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatMessage {
    /// The author: `system`, `user`, `assistant`, `tool`, or another role that the template supports.
    pub role: String,
    /// The reasoning that precedes the content.
    pub reasoning: Option<String>,
    /// The text of the message.
    pub content: String,
    /// The tool calls that follow the content.
    pub tool_calls: Vec<ToolCall>,
    /// In a `tool` message: the id of the tool call that produced `content`.
    pub tool_call_id: Option<String>,
}

/// A tool call: the model's request to call a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The id by which the message with the result refers to this call.
    pub id: String,
    /// The name of the function.
    pub name: String,
    /// The arguments as JSON text, not necessarily valid.
    pub arguments: String,
}

impl ChatMessage {
    /// Creates a message without reasoning or tool calls.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            ..Self::default()
        }
    }
}

impl ToolCall {
    /// The arguments as a JSON value, or as a string if they are not valid JSON.
    pub(super) fn arguments_value(&self) -> Value {
        serde_json::from_str(&self.arguments)
            .unwrap_or_else(|_| Value::from(self.arguments.as_str()))
    }
}

impl Conversation {
    /// Whether the model should reason before its answer; `None` if the conversation does not specify this.
    pub fn reasoning_enabled(&self) -> Option<bool> {
        match self.max_reasoning_tokens {
            Some(max_tokens) => Some(max_tokens > 0),
            None => self.template_variables.get(ENABLE_THINKING)?.as_bool(),
        }
    }

    /// Whether the conversation has tools, tool calls or tool results.
    pub(super) fn has_tools(&self) -> bool {
        let uses_tools =
            |message: &ChatMessage| !message.tool_calls.is_empty() || message.role == "tool";
        !self.tools.is_empty() || self.messages.iter().any(uses_tools)
    }

    /// Returns the function name of the tool call with this id.
    pub(super) fn function_name(&self, tool_call_id: &str) -> Option<&str> {
        let mut calls = self.messages.iter().flat_map(|message| &message.tool_calls);
        calls
            .find(|call| call.id == tool_call_id)
            .map(|call| call.name.as_str())
    }
}

impl<M: Into<Vec<ChatMessage>>> From<M> for Conversation {
    fn from(messages: M) -> Self {
        Self {
            messages: messages.into(),
            ..Self::default()
        }
    }
}
