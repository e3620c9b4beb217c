//! Parses a model's output incrementally into reasoning, text and tool calls. Output that does not follow the tool-call
//! format is text. Output that may still become a tool call is held back.

use super::ToolCallFormat;
use crate::text::output_end::OutputEnd;
use crate::text::partial_marker_bytes;
use crate::text::reasoning::{ReasoningMarkers, ReasoningParser, SeparatedText};

/// A part of a model's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPart {
    /// The next piece of the reasoning.
    Reasoning(String),
    /// The next piece of the text of the answer.
    Text(String),
    /// The start of a tool call.
    ToolCall {
        /// The name of the function.
        name: String,
    },
    /// The next piece of the arguments of the last tool call.
    Arguments(String),
}

/// Parses the output of one generation.
#[derive(Debug)]
pub struct OutputParser {
    reasoning: Option<ReasoningParser>,
    tool_calls: Option<ToolCallParser>,
    state: State,
    held_back: String,
}

#[derive(Debug)]
struct ToolCallParser {
    format: &'static ToolCallFormat,
    /// The names of the functions that the model may call.
    names: Vec<String>,
}

/// The part of the output in which the held-back output begins.
#[derive(Debug, Clone, Copy)]
enum State {
    Start,
    Text,
    /// The held-back output begins with the marker of the first tool call.
    FirstCall,
    Arguments(JsonNesting),
    AfterArguments,
    AfterCall,
}

/// The nesting at a position in JSON, tracked to find the end of the arguments.
#[derive(Debug, Clone, Copy, Default)]
struct JsonNesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// The result of [`ToolCallParser::step`]: the next state.
enum Step {
    /// The next step may parse more of the held-back output.
    Continue(State),
    /// More output is needed.
    Wait(State),
}

impl OutputParser {
    /// Creates a parser of output without tool calls.
    pub fn plain_text() -> Self {
        Self {
            reasoning: None,
            tool_calls: None,
            state: State::Text,
            held_back: String::new(),
        }
    }

    /// Creates a parser of output that may call the functions with these names.
    pub fn with_tool_calls(format: &'static ToolCallFormat, names: Vec<String>) -> Self {
        Self {
            tool_calls: Some(ToolCallParser { format, names }),
            state: State::Start,
            ..Self::plain_text()
        }
    }

    /// Adds parsing of reasoning at the start of the output. `is_open`: the prompt ends with the begin marker.
    pub fn with_reasoning(mut self, markers: &'static ReasoningMarkers, is_open: bool) -> Self {
        self.reasoning = Some(ReasoningParser::new(markers, is_open));
        self
    }

    /// Treats reasoning and its markers as text.
    pub fn without_reasoning(mut self) -> Self {
        self.reasoning = None;
        self
    }

    /// Whether the next output may be reasoning.
    pub fn is_reasoning(&self) -> bool {
        let reasoning = self.reasoning.as_ref();
        reasoning.is_some_and(ReasoningParser::is_reasoning)
    }

    /// Number of reasoning tokens so far.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning.as_ref().map_or(0, ReasoningParser::tokens)
    }

    /// Adds output that was decoded from `tokens` tokens. Returns the parts that later output cannot change.
    pub fn push(&mut self, text: &str, tokens: usize) -> Vec<OutputPart> {
        let Some(reasoning) = &mut self.reasoning else {
            return self.push_content(text);
        };
        let SeparatedText { reasoning, content } = reasoning.push(text, tokens);
        let mut parts = Vec::from_iter(reasoning_part(reasoning));
        if !content.is_empty() {
            parts.extend(self.push_content(&content));
        }
        parts
    }

    fn push_content(&mut self, text: &str) -> Vec<OutputPart> {
        let mut parts = Vec::new();
        let Some(tool_calls) = &self.tool_calls else {
            parts.extend(text_part(text));
            return parts;
        };
        self.held_back.push_str(text);
        loop {
            match tool_calls.step(self.state, &mut self.held_back, &mut parts) {
                Step::Continue(state) => self.state = state,
                Step::Wait(state) => {
                    self.state = state;
                    return parts;
                }
            }
        }
    }

    /// Ends the output and returns the held-back text. Unless the output is complete, a tool call that ends before its
    /// arguments is dropped: it is unusable, and its markup is not text.
    pub fn finish(mut self, end: OutputEnd) -> Vec<OutputPart> {
        let reasoning = self.reasoning.take();
        let separated = reasoning.map(|reasoning| reasoning.finish(end));
        let SeparatedText { reasoning, content } = separated.unwrap_or_default();
        let mut parts = Vec::from_iter(reasoning_part(reasoning));
        if !content.is_empty() {
            parts.extend(self.push_content(&content));
        }
        parts.extend(match self.state {
            State::Start | State::Text if end != OutputEnd::Truncated => text_part(&self.held_back),
            State::FirstCall if end == OutputEnd::Complete => text_part(&self.held_back),
            State::Start | State::Text | State::FirstCall => None,
            // The held-back output is incomplete markup of a tool call.
            State::Arguments(_) | State::AfterArguments | State::AfterCall => None,
        });
        parts
    }
}

fn reasoning_part(text: String) -> Option<OutputPart> {
    (!text.is_empty()).then_some(OutputPart::Reasoning(text))
}

fn text_part(text: &str) -> Option<OutputPart> {
    (!text.is_empty()).then(|| OutputPart::Text(text.to_owned()))
}

impl ToolCallParser {
    /// Moves the output that can be parsed in this state from `held_back` to `parts`.
    fn step(&self, state: State, held_back: &mut String, parts: &mut Vec<OutputPart>) -> Step {
        let format = self.format;
        match state {
            State::Start if format.allows_leading_text => Step::Continue(State::Text),
            State::Start => match match_prefix(held_back, format.marker) {
                PrefixMatch::Full => Step::Continue(State::FirstCall),
                PrefixMatch::Partial => Step::Wait(state),
                PrefixMatch::None => Step::Continue(State::Text),
            },
            State::Text => {
                let marker = held_back.find(format.marker);
                let marker = marker.filter(|_| format.allows_leading_text);
                let text_bytes = match format.allows_leading_text {
                    true => marker.unwrap_or_else(|| {
                        held_back.len() - partial_marker_bytes(held_back, format.marker)
                    }),
                    false => held_back.len(),
                };
                parts.extend(text_part(&take_prefix(held_back, text_bytes)));
                match marker {
                    Some(_) => Step::Continue(State::FirstCall),
                    None => Step::Wait(state),
                }
            }
            State::FirstCall => match self.parse_call_prefix(format.opening, held_back, parts) {
                PrefixMatch::Full => Step::Continue(State::Arguments(JsonNesting::default())),
                PrefixMatch::Partial => Step::Wait(state),
                PrefixMatch::None => {
                    parts.extend(text_part(&take_prefix(held_back, format.marker.len())));
                    Step::Continue(State::Text)
                }
            },
            State::Arguments(mut nesting) => {
                let end = held_back.bytes().position(|byte| nesting.closes(byte));
                let arguments = take_prefix(held_back, end.map_or(held_back.len(), |end| end + 1));
                if !arguments.is_empty() {
                    parts.push(OutputPart::Arguments(arguments));
                }
                match end {
                    Some(_) => Step::Continue(State::AfterArguments),
                    None => Step::Wait(State::Arguments(nesting)),
                }
            }
            State::AfterArguments => match match_prefix(held_back, format.after_arguments) {
                PrefixMatch::Full => {
                    take_prefix(held_back, format.after_arguments.len());
                    Step::Continue(State::AfterCall)
                }
                PrefixMatch::Partial => Step::Wait(state),
                PrefixMatch::None => Step::Continue(State::Text),
            },
            State::AfterCall if held_back.is_empty() => Step::Wait(state),
            State::AfterCall => {
                let next_call = format
                    .separator
                    .map(|separator| self.parse_call_prefix(separator, held_back, parts));
                match (next_call, match_prefix(held_back, format.closing)) {
                    (Some(PrefixMatch::Full), _) => {
                        Step::Continue(State::Arguments(JsonNesting::default()))
                    }
                    (Some(PrefixMatch::Partial), _) | (_, PrefixMatch::Partial) => {
                        Step::Wait(state)
                    }
                    (_, PrefixMatch::Full) => {
                        take_prefix(held_back, format.closing.len());
                        Step::Continue(State::Text)
                    }
                    (_, PrefixMatch::None) => Step::Continue(State::Text),
                }
            }
        }
    }

    /// Parses `before` and the text of a tool call before its arguments.
    fn parse_call_prefix(
        &self,
        before: &str,
        held_back: &mut String,
        parts: &mut Vec<OutputPart>,
    ) -> PrefixMatch {
        let mut result = PrefixMatch::None;
        for name in &self.names {
            let prefix = [before, &self.format.call_prefix(name)].concat();
            match match_prefix(held_back, &prefix) {
                PrefixMatch::Full => {
                    take_prefix(held_back, prefix.len());
                    parts.push(OutputPart::ToolCall { name: name.clone() });
                    return PrefixMatch::Full;
                }
                PrefixMatch::Partial => result = PrefixMatch::Partial,
                PrefixMatch::None => {}
            }
        }
        result
    }
}

/// Whether a text begins with a prefix.
enum PrefixMatch {
    Full,
    /// The text ends within the prefix.
    Partial,
    None,
}

fn match_prefix(text: &str, prefix: &str) -> PrefixMatch {
    match (text.starts_with(prefix), prefix.starts_with(text)) {
        (true, _) => PrefixMatch::Full,
        (false, true) => PrefixMatch::Partial,
        (false, false) => PrefixMatch::None,
    }
}

fn take_prefix(text: &mut String, length: usize) -> String {
    text.drain(..length).collect()
}

impl JsonNesting {
    /// Processes the next byte. Returns whether it closes the outermost bracket.
    fn closes(&mut self, byte: u8) -> bool {
        match (self.in_string, byte) {
            (true, _) if self.escaped => self.escaped = false,
            (true, b'\\') => self.escaped = true,
            (_, b'"') => self.in_string = !self.in_string,
            (false, b'{' | b'[') => self.depth += 1,
            (false, b'}' | b']') => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}
