//! Text and token ids: the tokenizer of a vocabulary, the chat template, and the way from generated
//! ids back to text. Nothing here reads a file or a clock; whoever loads a model hands both in.

mod conversation;
mod expression;
mod infill;
mod predefined;
mod stream;
mod template;
mod thoughts;
mod tokenizer;
mod tokenizer_json;
mod tools;
mod turns;
mod vocabulary;

pub use conversation::{ChatMessage, Conversation, Ending, ToolCall};
pub use infill::{Gap, GapTokens, NamedInfillTokens};
pub use predefined::{predefined, predefined_names};
pub use stream::{Progress, TextStream};
pub use template::{ChatTemplate, TemplateError};
pub use thoughts::ThoughtSyntax;
pub use tokenizer::{SpecialTokens, Tokenizer, TokenizerError, UnknownToken};
pub use tokenizer_json::Steps;
pub use tools::{AnswerPart, AnswerReader, TextEnd, ToolSyntax};
pub use vocabulary::{Absorbs, Algorithm, Normalization, TokenKind, UnigramSpaces, Vocabulary};

/// Bytes at the end of a text that the other begins with, if it is not all of it.
fn common(text: &str, other: &str) -> usize {
    let lengths = (1..other.len().min(text.len() + 1)).rev();
    lengths
        .filter(|length| other.is_char_boundary(*length))
        .find(|length| text.ends_with(&other[..*length]))
        .unwrap_or(0)
}
