//! Chat templates: a conversation becomes the text that the model was trained to continue. Templates
//! come with the model's file and are not trusted: time, memory and depth are bounded, and nothing of
//! the machine can be reached.

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

use content::ContentForms;

use super::conversation::{ChatMessage, Conversation, ENABLE_THINKING, Ending};
use super::predefined::CHATML;
use super::thoughts::ThoughtSyntax;
use super::tools::{HERMES, ToolSyntax, generic};
use super::turns;
use crate::cancel::CancelFlag;

/// Most bytes a template may have; the largest known ones have some 20,000.
const SOURCE_BYTES: usize = 512 * 1024;
/// Most steps of one rendering. The library charges one for every [`FUEL_BYTES`] it makes, too, so that this
/// bounds the memory at 64 MiB.
const FUEL: u64 = 1_000_000;
/// Bytes that cost as much as a step.
const FUEL_BYTES: u64 = 64;
/// The stack of a rendering. A template can nest values as deep as its fuel lasts, and printing or
/// dropping them recurses; pages that are not touched cost nothing.
const STACK_BYTES: usize = 512 * 1024 * 1024;
/// Most bytes of a rendered conversation.
const OUTPUT_BYTES: usize = 64 * 1024 * 1024;
/// Deepest nesting of macros and blocks.
const RECURSION: usize = 100;

const NAME: &str = "chat template";

/// Why there is no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be used at all.
    #[error("the chat template is not valid: {0}")]
    Invalid(String),
    /// It says itself why these messages do not fit (`raise_exception`).
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// It has a fault: it cannot be rendered with these messages. The line is in parentheses.
    #[error("the model's chat template has a fault: {0}")]
    Failed(String),
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    beginning_text: String,
    end_text: String,
    /// How calls are written, if it knows of functions.
    tools: Option<&'static ToolSyntax>,
    /// How thoughts are written, if it knows of any.
    thoughts: Option<&'static ThoughtSyntax>,
    /// Whether it can be told whether to think.
    switches_thoughts: bool,
    /// Whether it reads contents as strings or as lists of parts.
    content_forms: ContentForms,
}

/// What DeepSeek's and Granite's templates call it whether the model thinks.
const THINKING: &str = "thinking";

impl ChatTemplate {
    /// Compiles a Jinja template; `None` is ChatML. The texts are those of the beginning-of-text and
    /// end-of-text tokens.
    pub fn new(
        source: Option<&str>,
        beginning_text: &str,
        end_text: &str,
    ) -> Result<ChatTemplate, TemplateError> {
        let source = source.unwrap_or(CHATML);
        if source.len() > SOURCE_BYTES {
            return Err(TemplateError::Invalid(format!(
                "it has {} bytes; at most {SOURCE_BYTES} are read",
                source.len()
            )));
        }
        let invalid = |error: Error| TemplateError::Invalid(describe(&error));
        let mut environment = Environment::new();
        // As transformers sets up Jinja (`utils/chat_template_utils.py`).
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
            charge(state, value)?;
            minijinja::escape_formatter(output, state, value)
        });
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment
            .add_template_owned(NAME, source::rewritten(source))
            .map_err(invalid)?;
        let template = environment.get_template(NAME).map_err(invalid)?;
        let variables = template.undeclared_variables(false);
        let knows_tools = variables.contains("tools");
        let switches = |name| variables.contains(name);
        let mut template = ChatTemplate {
            content_forms: ContentForms::default(),
            thoughts: ThoughtSyntax::of_template(source),
            switches_thoughts: [ENABLE_THINKING, THINKING].into_iter().any(switches),
            tools: ToolSyntax::of_template(source).filter(|_| knows_tools),
            environment,
            source: source.to_owned(),
            beginning_text: beginning_text.to_owned(),
            end_text: end_text.to_owned(),
        };
        template.content_forms = ContentForms::of_template(&template);
        Ok(template)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How the model writes the calls of functions.
    pub fn tool_syntax(&self) -> &'static ToolSyntax {
        self.tools.unwrap_or(&HERMES)
    }

    /// How the model writes thoughts, if it does.
    pub fn thought_syntax(&self) -> Option<&'static ThoughtSyntax> {
        self.thoughts
    }

    /// Whether the model thinks or not as its template is told.
    pub fn switches_thoughts(&self) -> bool {
        self.switches_thoughts
    }

    /// The prompt, open for the assistant's answer. `now` is what a template that asks for the date is
    /// told (in UTC). Turns that the template refuses or leaves out are folded into others ([`turns`]).
    pub fn render(
        &self,
        conversation: &Conversation,
        now: SystemTime,
    ) -> Result<String, TemplateError> {
        self.render_unless(conversation, now, &CancelFlag::default())
    }

    /// The same until it is cancelled: a rendering ends with the next text that it writes.
    pub fn render_unless(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        self.render_with(conversation, now, &self.content_forms, cancel)
    }

    fn render_with(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        forms: &ContentForms,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("chat template".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || self.render_here(conversation, now, forms, cancel))
                .map_err(|error| TemplateError::Failed(error.to_string()))?
                .join()
                .unwrap_or_else(|_| Err(TemplateError::Failed("it panicked".to_owned())))
        })
    }

    fn render_here(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        forms: &ContentForms,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        let in_words = (self.tools.is_none() && conversation.has_tools())
            .then(|| generic::in_words(conversation));
        let conversation = in_words.as_ref().unwrap_or(conversation);
        let written = self.render_turns(conversation, now, forms, cancel);
        let is_folded = match &written {
            Ok(prompt) => !turns::shows_later_systems(prompt, conversation),
            Err(TemplateError::Refused(_)) => true,
            Err(_) => false,
        };
        if !is_folded {
            return written;
        }
        let foldings = turns::foldings(conversation);
        let mut folded = foldings
            .iter()
            .map(|folded| self.render_turns(folded, now, forms, cancel));
        folded.find(Result::is_ok).unwrap_or(written)
    }

    /// The conversation with the turns that it has.
    fn render_turns(
        &self,
        conversation: &Conversation,
        now: SystemTime,
        forms: &ContentForms,
        cancel: &CancelFlag,
    ) -> Result<String, TemplateError> {
        let messages = conversation.messages.iter();
        let messages: Vec<Value> = messages
            .map(|message| message_value(message, conversation, forms))
            .collect();
        let tools = match conversation.tools.as_slice() {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        let mut settings = conversation.settings.clone();
        if let Some(thinks) = conversation.thinks() {
            settings.insert(ENABLE_THINKING.to_owned(), thinks.into());
            settings.insert(THINKING.to_owned(), thinks.into());
        }
        for (name, value) in defaults(&conversation.tools, now).map_err(|error| failure(&error))? {
            settings.entry(name).or_insert(value);
        }
        // What is named here cannot be set otherwise.
        let context = context! {
            messages,
            tools,
            add_generation_prompt => conversation.ending != Ending::ClosedMessage,
            bos_token => self.beginning_text.as_str(),
            eos_token => self.end_text.as_str(),
            strftime_now => Value::from_function(move |format: &str| strftime(now, format)),
            ..Value::from(Serde(&settings))
        };
        let mut output = Bounded::new(cancel);
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut output))
            .map_err(|error| failure(&error))?;
        String::from_utf8(output.bytes)
            .map_err(|_| TemplateError::Failed("it wrote something that is no text".to_owned()))
    }
}

/// Variables that llama.cpp's server defines for templates, with the values they have unless a request sets them.
/// `functions` is the JSON text of the tools, empty without any.
fn defaults(
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

/// A message as transformers shows it: what it does not have is not there.
fn message_value(
    message: &ChatMessage,
    conversation: &Conversation,
    forms: &ContentForms,
) -> Value {
    let mut fields = vec![
        ("role", Value::from(message.role.as_str())),
        ("content", forms.content(message)),
    ];
    if let Some(thought) = &message.thought {
        fields.push(("reasoning_content", Value::from(thought.as_str())));
    }
    if !message.calls.is_empty() {
        let calls = message.calls.iter().map(|call| {
            let function = context! {
                name => call.name.as_str(),
                arguments => Value::from(Serde(call.arguments_value())),
            };
            context! { id => call.id.as_str(), type => "function", function }
        });
        fields.push(("tool_calls", calls.collect()));
    }
    if let Some(id) = &message.answers {
        fields.push(("tool_call_id", Value::from(id.as_str())));
        let name = conversation.called(id);
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

/// What a template said with `raise_exception`, carried through the library's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Exception(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception")
        .with_source(Exception(message.to_owned())))
}

fn failure(error: &Error) -> TemplateError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Exception(message)) = inner.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        cause = inner.source();
    }
    TemplateError::Failed(describe(error))
}

/// The error and what caused it, in one line.
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
    let refuse = |error: jiff::Error| {
        Error::new(ErrorKind::InvalidOperation, "strftime_now").with_source(error)
    };
    let now = jiff::Timestamp::try_from(now).map_err(refuse)?;
    jiff::fmt::strtime::format(format, &now.to_zoned(jiff::tz::TimeZone::UTC)).map_err(refuse)
}

/// A step for everything within a value, before it is printed: the library asks for it behind, and goes through a list
/// to its end even where nobody takes any more of it.
fn charge(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let is_map = match value.kind() {
        ValueKind::Map => true,
        ValueKind::Seq | ValueKind::Iterable => false,
        _ => return Ok(()),
    };
    // Of no known length is what is not gone through.
    if value.len().is_none() {
        return Ok(());
    }
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        match is_map {
            true => charge(state, &value.get_item(&item)?)?,
            false => charge(state, &item)?,
        }
    }
    Ok(())
}

/// Collects at most [`OUTPUT_BYTES`], until it is cancelled.
struct Bounded<'a> {
    bytes: Vec<u8>,
    cancel: &'a CancelFlag,
}

impl<'a> Bounded<'a> {
    fn new(cancel: &'a CancelFlag) -> Self {
        Self {
            bytes: Vec::new(),
            cancel,
        }
    }
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        if bytes.len() > OUTPUT_BYTES - self.bytes.len() {
            return Err(io::Error::other(format!(
                "more than {OUTPUT_BYTES} bytes of output"
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
