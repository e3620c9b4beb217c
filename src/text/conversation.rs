//! What is said, by whom, and which functions may be called: what a chat template is shown.

use serde_json::{Map, Value};

/// What templates call it whether the model thinks.
pub(super) const ENABLE_THINKING: &str = "enable_thinking";

/// A conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// Its messages, the first one first.
    pub messages: Vec<ChatMessage>,
    /// The functions that the model is shown, each as OpenAI's API has it: `{"type": "function", "function": {…}}`.
    pub tools: Vec<Value>,
    /// Most tokens of the thought before the answer; 0 is none. Without it the model thinks as it likes.
    pub most_thought_tokens: Option<usize>,
    /// What else its template is told, by name.
    pub settings: Map<String, Value>,
    /// What its prompt ends with.
    pub ending: Ending,
}

/// What the prompt of a conversation ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// An open assistant message: the last message if that is the assistant's (a prefill), else a new one.
    #[default]
    OpenMessage,
    /// A new assistant message, also behind an assistant message.
    NewMessage,
    /// The last message, closed: nothing is open.
    ClosedMessage,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What is thought before.
    pub thought: Option<String>,
    /// What is said.
    pub content: String,
    /// The functions that it calls, behind what it says.
    pub calls: Vec<ToolCall>,
    /// The id of the call that it answers.
    pub answers: Option<String>,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Which call it is.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments, as JSON.
    pub arguments: String,
}

impl ChatMessage {
    /// A message without calls.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            ..Self::default()
        }
    }
}

impl ToolCall {
    /// The arguments as a value; as they are if they are no JSON.
    pub(super) fn arguments_value(&self) -> Value {
        serde_json::from_str(&self.arguments)
            .unwrap_or_else(|_| Value::from(self.arguments.as_str()))
    }
}

impl Conversation {
    /// Whether the model is to think, as far as that is said.
    pub fn thinks(&self) -> Option<bool> {
        match self.most_thought_tokens {
            Some(most) => Some(most > 0),
            None => self.settings.get(ENABLE_THINKING)?.as_bool(),
        }
    }

    /// Whether functions play a part in it.
    pub(super) fn has_tools(&self) -> bool {
        let involved = |message: &ChatMessage| !message.calls.is_empty() || message.role == "tool";
        !self.tools.is_empty() || self.messages.iter().any(involved)
    }

    /// The name of the function whose call has that id.
    pub(super) fn called(&self, id: &str) -> Option<&str> {
        let mut calls = self.messages.iter().flat_map(|message| &message.calls);
        calls
            .find(|call| call.id == id)
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
