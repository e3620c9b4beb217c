//! The end of a model's output, for the parsers of reasoning and of tool calls.

/// Why the output ended. Determines whether held-back output is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputEnd {
    /// The model ended the output: all held-back output is text.
    Complete,
    /// A stop string ended the output: an incomplete tool call is not text.
    StopString,
    /// A limit ended the output: an incomplete tool call and the start of any marker are not text.
    Truncated,
}
