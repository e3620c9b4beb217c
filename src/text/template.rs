//! Chat templates, which render a conversation as the prompt of the model. Templates come with the model file and are
//! untrusted: time, memory and recursion depth are bounded, and templates cannot access files, the environment or the
//! network.

mod content;
mod json;
mod python;
mod source;

use std::error::Error as _;
use std::io;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, context};

use content::ContentFormats;

use super::conversation::{ChatMessage, Conversation, ENABLE_THINKING, PromptEnding};
use super::message_fallbacks;
use super::predefined::CHATML;
use super::reasoning::ReasoningMarkers;
use super::tools::{HERMES, ToolCallFormat, generic};
use crate::cancel::CancelFlag;

/// Maximum size of a template; the largest known templates have about 20,000 bytes.
const MAX_SOURCE_BYTES: usize = 512 * 1024;
/// Fuel limit of one rendering: an instruction of the template costs one unit. minijinja also charges one unit per
/// [`FUEL_BYTES`] bytes of the strings that it creates, which bounds the memory to 64 MiB.
const FUEL: u64 = 1_000_000;
/// Number of bytes that cost one unit of fuel.
const FUEL_BYTES: u64 = 64;
/// Stack size of the rendering thread. Only the fuel limits how deeply a template can nest values, and printing or
/// dropping nested values is recursive. Unused stack pages take no memory.
const STACK_BYTES: usize = 512 * 1024 * 1024;
/// Maximum size of a rendered conversation.
const MAX_OUTPUT_BYTES: usize = 64 * 1024 * 1024;
/// Maximum nesting depth of macros and blocks.
const MAX_RECURSION: usize = 100;

const NAME: &str = "chat template";

/// Why a template cannot be compiled or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template cannot be compiled.
    #[error("invalid chat template: {0}")]
    Invalid(String),
    /// The template called `raise_exception` with this message.
    #[error("the model's chat template rejects these messages: {0}")]
    Rejected(String),
    /// Rendering failed for another reason. The text names the line of the template.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
}

/// A compiled chat template, and the formats that are detected in its source.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_text: String,
    eos_text: String,
    /// The tool-call format, if the template supports tools.
    tool_call_format: Option<&'static ToolCallFormat>,
    /// The reasoning markers, if the template supports reasoning.
    reasoning_markers: Option<&'static ReasoningMarkers>,
    /// Whether the template reads a variable that turns reasoning on or off ([`ENABLE_THINKING`], [`THINKING`]).
    has_reasoning_switch: bool,
    content_formats: ContentFormats,
}

/// The template variable that turns reasoning on or off in DeepSeek's and Granite's templates.
const THINKING: &str = "thinking";

impl ChatTemplate {
    /// Compiles a Jinja template; `None` selects ChatML. `bos_text` and `eos_text` are the texts of the BOS and EOS
    /// tokens.
    ///
    /// # Errors
    /// If the template is invalid or too large.
    pub fn new(
        source: Option<&str>,
        bos_text: &str,
        eos_text: &str,
    ) -> Result<ChatTemplate, TemplateError> {
        let source = source.unwrap_or(CHATML);
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::Invalid(format!(
                "it has {} bytes; at most {MAX_SOURCE_BYTES} are supported",
                source.len()
            )));
        }
        let invalid = |error: Error| TemplateError::Invalid(describe(&error));
        let mut environment = Environment::new();
        // The Jinja settings of transformers (`utils/chat_template_utils.py`).
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(invalid)?,
        );
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(python::unknown_method);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", json::to_json);
        environment.add_filter("fromjson", json::from_json);
        environment.add_filter("from_json", json::from_json);
        environment.add_filter("wordcount", minijinja_contrib::filters::wordcount);
        environment.set_formatter(|output, state, value| {
            charge_fuel(state, value)?;
            minijinja::escape_formatter(output, state, value)
        });
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        environment
            .add_template_owned(NAME, source::rewrite(source))
            .map_err(invalid)?;
        let template = environment.get_template(NAME).map_err(invalid)?;
        let variables = template.undeclared_variables(false);
        let uses_tools = variables.contains("tools");
        let uses = |name| variables.contains(name);
        let mut template = ChatTemplate {
            content_formats: ContentFormats::default(),
            reasoning_markers: ReasoningMarkers::detect(source),
            has_reasoning_switch: [ENABLE_THINKING, THINKING].into_iter().any(uses),
            tool_call_format: ToolCallFormat::detect(source).filter(|_| uses_tools),
            environment,
            source: source.to_owned(),
            bos_text: bos_text.to_owned(),
            eos_text: eos_text.to_owned(),
        };
        template.content_formats = ContentFormats::detect(&template);
        Ok(template)
    }

    /// The source of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The model's tool-call format; the format of Hermes if the template does not support tools.
    pub fn tool_call_format(&self) -> &'static ToolCallFormat {
        self.tool_call_format.unwrap_or(&HERMES)
    }

    /// The markers around the model's reasoning; `None` if the model does not reason.
    pub fn reasoning_markers(&self) -> Option<&'static ReasoningMarkers> {
        self.reasoning_markers
    }

    /// Whether the template reads a variable that turns reasoning on or off.
    pub fn has_reasoning_switch(&self) -> bool {
        self.has_reasoning_switch
    }

    /// Renders the prompt of a conversation. `now` is the current time, which templates print in UTC. If the template
    /// rejects or drops messages, a fallback conversation is rendered ([`message_fallbacks`]).
    ///
    /// # Errors
    /// If the template rejects the conversation and its fallbacks, or rendering fails.
    pub fn render(
        &self,
        conversation: &Conversation,
        now: SystemTime,
    ) -> Result<String, TemplateError> {
        self.render_cancellable(conversation, now, &CancelFlag::default())
    }

    /// Like [`ChatTemplate::render`], but fails at the next output after `cancel` is set.
    ///
    /// # Errors
    /// Like [`ChatTemplate::render`], or if `cancel` was set.
    pub fn render_cancellable(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        self.render_with(conversation, now, &self.content_formats, cancel)
    }

    fn render_with(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        formats: &ContentFormats,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("chat template".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || {
                    self.render_with_fallbacks(conversation, now, formats, cancel)
                })
                .map_err(|error| TemplateError::Failed(error.to_string()))?
                .join()
                .unwrap_or_else(|_| Err(TemplateError::Failed("it panicked".to_owned())))
        })
    }

    fn render_with_fallbacks(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        formats: &ContentFormats,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        let tools_as_text = (self.tool_call_format.is_none() && conversation.has_tools())
            .then(|| generic::tools_as_text(conversation));
        let conversation = tools_as_text.as_ref().unwrap_or(conversation);
        let result = self.render_messages(conversation, now, formats, cancel);
        let needs_fallback = match &result {
            Ok(prompt) => !message_fallbacks::contains_later_system_messages(prompt, conversation),
            Err(TemplateError::Rejected(_)) => true,
            Err(_) => false,
        };
        if !needs_fallback {
            return result;
        }
        let fallbacks = message_fallbacks::fallbacks(conversation);
        let mut results = fallbacks
            .iter()
            .map(|fallback| self.render_messages(fallback, now, formats, cancel));
        results.find(Result::is_ok).unwrap_or(result)
    }

    /// Renders the messages without fallbacks.
    fn render_messages(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        formats: &ContentFormats,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        let messages = conversation.messages.iter();
        let messages: Vec<Value> = messages
            .map(|message| message_value(message, conversation, formats))
            .collect();
        let tools = match conversation.tools.as_slice() {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        let mut variables = conversation.template_variables.clone();
        if let Some(enabled) = conversation.reasoning_enabled() {
            variables.insert(ENABLE_THINKING.to_owned(), enabled.into());
            variables.insert(THINKING.to_owned(), enabled.into());
        }
        let defaults = default_variables(&conversation.tools, now);
        for (name, value) in defaults.map_err(|error| render_error(&error))? {
            variables.entry(name).or_insert(value);
        }
        // These variables take precedence over those of the request.
        let context = context! {
            messages,
            tools,
            add_generation_prompt => conversation.ending != PromptEnding::ClosedMessage,
            bos_token => self.bos_text.as_str(),
            eos_token => self.eos_text.as_str(),
            strftime_now => Value::from_function(move |format: &str| strftime(now, format)),
            ..Value::from(Serde(&variables))
        };
        let mut output = BoundedOutput::new(cancel);
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut output))
            .map_err(|error| render_error(&error))?;
        String::from_utf8(output.bytes)
            .map_err(|_| TemplateError::Failed("its output is not valid UTF-8".to_owned()))
    }
}

/// Returns the template variables of llama.cpp's server with their default values. `functions` is the JSON text of
/// `tools`; empty without tools.
fn default_variables(
    tools: &[serde_json::Value],
    now: SystemTime,
) -> Result<[(&'static str, serde_json::Value); 5], Error> {
    let functions = match tools {
        [] => String::new(),
        tools => serde_json::to_string_pretty(tools).map_err(|source| {
            Error::new(ErrorKind::BadSerialization, "functions").with_source(source)
        })?,
    };
    Ok([
        (ENABLE_THINKING, true.into()),
        ("date_string", strftime(now, "%d %b %Y")?.into()),
        ("datetime", strftime(now, "%b %d %Y %H:%M:%S GMT")?.into()),
        ("functions", functions.into()),
        ("documents", serde_json::Value::Null),
    ])
}

/// Converts a message to the object that templates expect (as in transformers). Fields without a value are left out.
fn message_value(
    message: &ChatMessage,
    conversation: &Conversation,
    formats: &ContentFormats,
) -> Value {
    let mut fields = vec![
        ("role", Value::from(message.role.as_str())),
        ("content", formats.content(message)),
    ];
    if let Some(reasoning) = &message.reasoning {
        fields.push(("reasoning_content", Value::from(reasoning.as_str())));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let function = context! {
                name => call.name.as_str(),
                arguments => Value::from(Serde(call.arguments_value())),
            };
            context! { id => call.id.as_str(), type => "function", function }
        });
        fields.push(("tool_calls", calls.collect()));
    }
    if let Some(id) = &message.tool_call_id {
        fields.push(("tool_call_id", Value::from(id.as_str())));
        let name = conversation.function_name(id);
        fields.extend(name.map(|name| ("name", Value::from(name))));
    }
    Value::from_pairs(fields)
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The message of `raise_exception`, wrapped in a minijinja error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Exception(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception")
        .with_source(Exception(message.to_owned())))
}

fn render_error(error: &Error) -> TemplateError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Exception(message)) = inner.downcast_ref() {
            return TemplateError::Rejected(message.clone());
        }
        cause = inner.source();
    }
    TemplateError::Failed(describe(error))
}

/// Formats the error and its causes in one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let to_error = |error: jiff::Error| {
        Error::new(ErrorKind::InvalidOperation, "strftime_now").with_source(error)
    };
    let now = jiff::Timestamp::try_from(now).map_err(to_error)?;
    jiff::fmt::strtime::format(format, &now.to_zoned(jiff::tz::TimeZone::UTC)).map_err(to_error)
}

/// Consumes one unit of fuel for each nested value before a value is printed. minijinja consumes fuel only afterward,
/// and iterates over an entire list even after the output is full.
fn charge_fuel(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let is_map = match value.kind() {
        ValueKind::Map => true,
        ValueKind::Seq | ValueKind::Iterable => false,
        _ => return Ok(()),
    };
    // minijinja does not iterate over values of unknown length.
    if value.len().is_none() {
        return Ok(());
    }
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        match is_map {
            true => charge_fuel(state, &value.get_item(&item)?)?,
            false => charge_fuel(state, &item)?,
        }
    }
    Ok(())
}

/// Collects output. Writing fails beyond [`MAX_OUTPUT_BYTES`] bytes, or if `cancel` is set.
struct BoundedOutput<'a> {
    bytes: Vec<u8>,
    cancel: &'a CancelFlag,
}

impl<'a> BoundedOutput<'a> {
    fn new(cancel: &'a CancelFlag) -> Self {
        Self {
            bytes: Vec::new(),
            cancel,
        }
    }
}

impl io::Write for BoundedOutput<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        if bytes.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            return Err(io::Error::other(format!(
                "more than {MAX_OUTPUT_BYTES} bytes of output"
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
