//! Between text and token ids: the tokenizer, the chat template, and the way back from ids to whole
//! characters. A leaf: it knows no file format, no engine and no HTTP.

mod stream;
mod template;
mod tokenizer;
mod vocabulary;

pub use stream::{Progress, TextStream};
pub use template::{ChatMessage, ChatTemplate, TemplateError};
pub use tokenizer::{SpecialTokens, Tokenizer, TokenizerError, UnknownToken};
pub use vocabulary::{TokenKind, Vocabulary};
