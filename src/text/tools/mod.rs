//! How models write the calls of functions. Each was trained on one way, which its chat template gives away; models
//! whose template knows of no functions are told about them in words ([`generic`]).

pub(super) mod generic;
mod reader;

pub use reader::{AnswerPart, AnswerReader, TextEnd};

use super::conversation::ToolCall;

/// A way to write calls: `opening`, calls with `between` in between, `closing`; each call is the name and the
/// arguments, as JSON, among three texts.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolSyntax {
    /// What the first call begins with, and no text.
    pub mark: &'static str,
    /// Whether text may come before the first call.
    pub after_text: bool,
    /// Before the first call.
    pub opening: &'static str,
    /// Before the name.
    pub before_name: &'static str,
    /// Between name and arguments.
    pub after_name: &'static str,
    /// Behind the arguments.
    pub after_arguments: &'static str,
    /// Between two calls; where it is none, a message has one call.
    pub between: Option<&'static str>,
    /// Behind the last call.
    pub closing: &'static str,
}

/// Nous Research's Hermes 2 Pro, Qwen 2.5 and 3.
pub(super) static HERMES: ToolSyntax = ToolSyntax {
    mark: "<tool_call>",
    after_text: true,
    opening: "",
    before_name: "<tool_call>\n{\"name\": \"",
    after_name: "\", \"arguments\": ",
    after_arguments: "}\n</tool_call>",
    between: Some("\n"),
    closing: "",
};

/// Meta's Llama 3.1 and later, functions of the user's own.
pub(super) static LLAMA3: ToolSyntax = ToolSyntax {
    mark: "{\"name\": \"",
    after_text: false,
    opening: "",
    before_name: "{\"name\": \"",
    after_name: "\", \"parameters\": ",
    after_arguments: "}",
    between: None,
    closing: "",
};

/// Mistral's models from 7B v0.3 and Nemo on.
pub(super) static MISTRAL: ToolSyntax = ToolSyntax {
    mark: "[TOOL_CALLS]",
    after_text: true,
    opening: "[TOOL_CALLS][",
    before_name: "{\"name\": \"",
    after_name: "\", \"arguments\": ",
    after_arguments: "}",
    between: Some(", "),
    closing: "]",
};

/// Mistral's models whose tokenizers have a token before the arguments (Magistral, Devstral, Small 3.2).
pub(super) static MISTRAL_ARGUMENTS: ToolSyntax = ToolSyntax {
    mark: "[TOOL_CALLS]",
    after_text: true,
    opening: "",
    before_name: "[TOOL_CALLS]",
    after_name: "[ARGS]",
    after_arguments: "",
    between: Some(""),
    closing: "",
};

/// MeetKai's Functionary 3.1, and Llama 3.1 with functions in its system prompt.
pub(super) static FUNCTIONARY: ToolSyntax = ToolSyntax {
    mark: "<function=",
    after_text: true,
    opening: "",
    before_name: "<function=",
    after_name: ">",
    after_arguments: "</function>",
    between: Some(""),
    closing: "",
};

impl ToolSyntax {
    /// The way of the model that has such a template; `None` if it is not known.
    pub(super) fn of_template(source: &str) -> Option<&'static Self> {
        let has = |text| source.contains(text);
        match () {
            () if has("<tool_call>") && !has("<parameter=") => Some(&HERMES),
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Some(&MISTRAL_ARGUMENTS),
            () if has("[TOOL_CALLS]") => Some(&MISTRAL),
            () if has("<function=") && !has("<parameter=") => Some(&FUNCTIONARY),
            () if has("<|start_header_id|>") && has("\"parameters\"") => Some(&LLAMA3),
            () => None,
        }
    }

    /// What is before a call's arguments.
    pub fn begin(&self, name: &str) -> String {
        [self.before_name, name, self.after_name].concat()
    }

    /// All texts around names and arguments, one after the other: among them are the names of its control tokens.
    pub fn texts(&self) -> String {
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

    /// Calls as the model writes them.
    fn write(&self, calls: &[ToolCall]) -> String {
        let call = |call: &ToolCall| {
            let begin = self.begin(&call.name);
            format!("{begin}{}{}", call.arguments, self.after_arguments)
        };
        let calls: Vec<String> = calls.iter().map(call).collect();
        let calls = calls.join(self.between.unwrap_or("\n"));
        [self.opening, &calls, self.closing].concat()
    }
}

#[cfg(test)]
mod tests;
