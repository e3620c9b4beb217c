//! Text and token ids: the tokenizer of a vocabulary, the chat template, and the way from generated
//! ids back to text. Nothing here reads a file or a clock; whoever loads a model hands both in.

mod conversation;
mod infill;
mod predefined;
mod stream;
mod template;
mod tokenizer;
mod tokenizer_json;
mod tools;
mod vocabulary;

pub use conversation::{ChatMessage, Conversation, ToolCall};
pub use infill::NamedInfillTokens;
pub use predefined::{predefined, predefined_names};
pub use stream::{Progress, TextStream};
pub use template::{ChatTemplate, TemplateError};
pub use tokenizer::{SpecialTokens, Tokenizer, TokenizerError, UnknownToken};
pub use tools::{AnswerPart, AnswerReader, ToolSyntax};
pub use vocabulary::{Algorithm, Evening, TokenKind, Vocabulary};
