//! Messages of a conversation, which both surfaces take.

use super::types;
use crate::text::ChatMessage;

/// A message as templates know it: they have no `developer`, whose other name is `system`.
pub(super) fn chat_message(message: types::ChatMessage) -> ChatMessage {
    use types::ChatMessageRole as Role;
    let role = match message.role {
        Role::System | Role::Developer => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let content = match message.content {
        types::MessageContent::String(text) => text,
        types::MessageContent::Array(parts) => parts.into_iter().map(|part| part.text).collect(),
    };
    ChatMessage {
        role: role.to_owned(),
        content,
    }
}
