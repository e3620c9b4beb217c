//! Tool-call formats. Each model was trained on one format, which is detected in its chat template. For a template
//! without support for tools, messages describe the tools ([`generic`]).

pub(super) mod generic;
mod output_parser;

pub use output_parser::{OutputParser, OutputPart};

use super::conversation::ToolCall;

/// A tool-call format: `opening`, tool calls separated by `separator`, `closing`. A tool call is `before_name`, the
/// function name, `after_name`, the arguments as JSON, `after_arguments`.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolCallFormat {
    /// The start of the first tool call, by which the output parser recognizes it.
    pub marker: &'static str,
    /// Whether text may precede the first tool call.
    pub allows_leading_text: bool,
    /// Precedes the first tool call.
    pub opening: &'static str,
    /// Precedes the function name.
    pub before_name: &'static str,
    /// Separates the function name from the arguments.
    pub after_name: &'static str,
    /// Follows the arguments.
    pub after_arguments: &'static str,
    /// Separates two tool calls; `None` if a message has at most one tool call.
    pub separator: Option<&'static str>,
    /// Follows the last tool call.
    pub closing: &'static str,
}

/// The format of Nous Research's Hermes 2 Pro and of Qwen 2.5 and 3.
pub(super) static HERMES: ToolCallFormat = ToolCallFormat {
    marker: "<tool_call>",
    allows_leading_text: true,
    opening: "",
    before_name: "<tool_call>\n{\"name\": \"",
    after_name: "\", \"arguments\": ",
    after_arguments: "}\n</tool_call>",
    separator: Some("\n"),
    closing: "",
};

/// The format of Meta's Llama 3.1 and later, for custom functions.
pub(super) static LLAMA3: ToolCallFormat = ToolCallFormat {
    marker: "{\"name\": \"",
    allows_leading_text: false,
    opening: "",
    before_name: "{\"name\": \"",
    after_name: "\", \"parameters\": ",
    after_arguments: "}",
    separator: None,
    closing: "",
};

/// The format of Mistral's models since 7B v0.3 and Nemo.
pub(super) static MISTRAL: ToolCallFormat = ToolCallFormat {
    marker: "[TOOL_CALLS]",
    allows_leading_text: true,
    opening: "[TOOL_CALLS][",
    before_name: "{\"name\": \"",
    after_name: "\", \"arguments\": ",
    after_arguments: "}",
    separator: Some(", "),
    closing: "]",
};

/// The format of Mistral's models with the token `[ARGS]` before the arguments (Magistral, Devstral, Small 3.2).
pub(super) static MISTRAL_ARGUMENTS: ToolCallFormat = ToolCallFormat {
    marker: "[TOOL_CALLS]",
    allows_leading_text: true,
    opening: "",
    before_name: "[TOOL_CALLS]",
    after_name: "[ARGS]",
    after_arguments: "",
    separator: Some(""),
    closing: "",
};

/// The format of MeetKai's Functionary 3.1, and of Llama 3.1 with functions in the system prompt.
pub(super) static FUNCTIONARY: ToolCallFormat = ToolCallFormat {
    marker: "<function=",
    allows_leading_text: true,
    opening: "",
    before_name: "<function=",
    after_name: ">",
    after_arguments: "</function>",
    separator: Some(""),
    closing: "",
};

impl ToolCallFormat {
    /// Returns the format of the model with this chat template; `None` if the format is unknown.
    pub(super) fn detect(template: &str) -> Option<&'static Self> {
        let has = |text| template.contains(text);
        match () {
            () if has("<tool_call>") && !has("<parameter=") => Some(&HERMES),
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Some(&MISTRAL_ARGUMENTS),
            () if has("[TOOL_CALLS]") => Some(&MISTRAL),
            () if has("<function=") && !has("<parameter=") => Some(&FUNCTIONARY),
            () if has("<|start_header_id|>") && has("\"parameters\"") => Some(&LLAMA3),
            () => None,
        }
    }

    /// Returns the text of a tool call before its arguments.
    pub fn call_prefix(&self, name: &str) -> String {
        [self.before_name, name, self.after_name].concat()
    }

    /// Returns all texts around function names and arguments, joined. Callers encode this text to find the control
    /// tokens in it.
    pub fn marker_text(&self) -> String {
        let Self {
            opening,
            before_name,
            after_name,
            after_arguments,
            closing,
            ..
        } = self;
        [opening, before_name, after_name, after_arguments, closing]
            .map(|text| &**text)
            .join("\n")
    }

    /// Writes the tool calls in this format.
    fn write(&self, calls: &[ToolCall]) -> String {
        let call = |call: &ToolCall| {
            let prefix = self.call_prefix(&call.name);
            format!("{prefix}{}{}", call.arguments, self.after_arguments)
        };
        let calls: Vec<String> = calls.iter().map(call).collect();
        let calls = calls.join(self.separator.unwrap_or("\n"));
        [self.opening, &calls, self.closing].concat()
    }
}

#[cfg(test)]
mod tests;
