//! Text and token ids: the tokenizer, the chat template, and the decoder from generated token ids back to text. Nothing
//! here reads a file or a clock: callers pass in the contents of model files and the current time.

mod charsmap;
mod conversation;
mod infill;
mod linear_regex;
mod message_fallbacks;
mod output_end;
mod pre_tokenization;
mod predefined;
mod reasoning;
mod stream;
mod template;
mod tokenizer;
mod tokenizer_error;
mod tokenizer_json;
mod tools;
mod vocabulary;

pub use conversation::{ChatMessage, Conversation, PromptEnding, ToolCall};
pub use infill::{InfillInput, InfillPrompt};
pub use output_end::OutputEnd;
pub use predefined::{predefined, predefined_names};
pub use reasoning::ReasoningMarkers;
pub use stream::{DecodedText, TextStream};
pub use template::{ChatTemplate, TemplateError};
pub use tokenizer::{SpecialTokens, Tokenizer, UnknownToken};
pub use tokenizer_error::TokenizerError;
pub use tools::{OutputParser, OutputPart, ToolCallFormat};
pub use vocabulary::{
    Algorithm, BertNormalization, DeclaredInfillTokens, JsonPipeline, StripSides, TokenKind,
    UnigramWhitespace, Vocabulary,
};

/// Returns the length in bytes of the longest proper prefix of `marker` that is a suffix of `text`.
fn partial_marker_bytes(text: &str, marker: &str) -> usize {
    let lengths = (1..marker.len().min(text.len() + 1)).rev();
    lengths
        .filter(|length| marker.is_char_boundary(*length))
        .find(|length| text.ends_with(&marker[..*length]))
        .unwrap_or(0)
}
