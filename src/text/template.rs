//! The chat template: a conversation becomes the text that the model was trained to continue. Templates
//! come with model files and are not trusted: fuel, sizes and recursion are bounded, and there is nothing
//! in their reach but the messages.
//!
//! Source: the conventions of `transformers` (`apply_chat_template`).

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Longest source of a template, in bytes: ten times the longest in use.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Longest rendered text, in bytes: more than any context holds.
const MAX_RENDERED_BYTES: usize = 64 << 20;
/// Instructions of a rendering: thousands of messages through the longest template in use.
const FUEL: u64 = 10_000_000;
/// Most columns that `tojson` indents by.
const MAX_INDENT: usize = 16;

/// The format of models whose file names none (OpenAI's ChatML).
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A message as templates see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// Why there is no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        // The cause is in the last of the chained errors, the place in the first.
        let mut causes = vec![error.to_string()];
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self(causes.join(": "))
    }
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    beginning_text: String,
    end_text: String,
}

impl ChatTemplate {
    /// Compiles `source`, ChatML if there is none. The texts are those of the model's tokens.
    pub fn new(
        source: Option<&str>,
        beginning_text: &str,
        end_text: &str,
    ) -> Result<Self, TemplateError> {
        let source = source.unwrap_or(CHATML).to_owned();
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError(format!(
                "it has {} bytes, more than {MAX_SOURCE_BYTES}",
                source.len()
            )));
        }
        let mut environment = environment()?;
        environment.add_template_owned(NAME, source.clone())?;
        Ok(Self {
            environment,
            source,
            beginning_text: beginning_text.to_owned(),
            end_text: end_text.to_owned(),
        })
    }

    /// The source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text, open for the assistant's answer.
    ///
    /// # Errors
    /// What the template objects to, or which limit it passed.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, TemplateError> {
        let mut rendered = Bounded(Vec::new());
        let template = self.environment.get_template(NAME)?;
        template.render_captured_to(
            context! {
                messages => Value::from(Serde(messages)),
                add_generation_prompt => true,
                bos_token => self.beginning_text.as_str(),
                eos_token => self.end_text.as_str(),
            },
            &mut rendered,
        )?;
        String::from_utf8(rendered.0).map_err(|error| TemplateError(error.to_string()))
    }
}

/// The template's name in its environment, as errors show it.
const NAME: &str = "chat template";

/// What `transformers` gives to templates.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    Ok(environment)
}

/// `tojson` as Python writes it: a space after `:` and `,`, nothing escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Others than `indent` change nothing that a model would notice (`ensure_ascii`, `sort_keys`, …).
    let mut json = Vec::new();
    let written = match indent {
        Some(columns) => {
            let columns = " ".repeat(columns.min(MAX_INDENT));
            let pretty = PrettyFormatter::with_indent(columns.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut json, pretty,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut json, Python,
        )),
    };
    let refused = |error: String| Error::new(ErrorKind::BadSerialization, error);
    written.map_err(|error| refused(error.to_string()))?;
    String::from_utf8(json)
        .map(Value::from_safe_string)
        .map_err(|error| refused(error.to_string()))
}

/// JSON with Python's separators.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// A text that does not grow beyond [`MAX_RENDERED_BYTES`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED_BYTES {
            return Err(io::Error::other(format!(
                "the text is longer than {MAX_RENDERED_BYTES} bytes"
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<ChatMessage> {
        [
            ("user", "Hi <b>"),
            ("assistant", "Hello"),
            ("user", "Bye\n"),
        ]
        .map(|(role, content)| ChatMessage {
            role: role.to_owned(),
            content: content.to_owned(),
        })
        .to_vec()
    }

    #[track_caller]
    fn check(source: Option<&str>, wanted: Result<&str, &str>) {
        let rendered = ChatTemplate::new(source, "<s>", "</s>")
            .and_then(|template| template.render(&messages()));
        match (rendered, wanted) {
            (Ok(text), Ok(wanted)) => assert_eq!(text, wanted),
            (Err(error), Err(wanted)) => assert!(error.0.contains(wanted), "{error}"),
            (other, _) => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_template_it_is_chatml() {
        check(
            None,
            Ok(
                "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye\n<|im_end|>\n<|im_start|>assistant\n",
            ),
        );
    }

    #[test]
    fn templates_find_what_transformers_gives_them() {
        check(
            Some("{{ bos_token }}{{ messages | length }}{{ eos_token }}"),
            Ok("<s>3</s>"),
        );
        check(
            Some(
                "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m['content'].strip() }};\n  {% endif %}\n{% endfor %}",
            ),
            Ok("Hi <b>;\nBye;\n"),
        );
        check(
            Some("{{ messages[0] | tojson }}"),
            Ok(r#"{"role": "user", "content": "Hi <b>"}"#),
        );
        check(
            Some("{{ [1, {'a': true}] | tojson(indent=2) }}"),
            Ok("[\n  1,\n  {\n    \"a\": true\n  }\n]"),
        );
        check(
            Some(
                "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
            ),
            Ok("user"),
        );
        check(
            Some("{{ tools is defined }}{{ strftime_now is defined }}"),
            Ok("FalseFalse"),
        );
    }

    #[test]
    fn a_template_may_object() {
        check(
            Some("{{ raise_exception('roles must alternate') }}"),
            Err("roles must alternate"),
        );
        check(Some("{% for %}"), Err("syntax error"));
        check(Some("{{ nothing.at.all }}"), Err("undefined"));
    }

    #[test]
    fn a_hostile_template_comes_to_an_end() {
        check(
            Some("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"),
            Err("fuel"),
        );
        check(
            Some("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"),
            Err("recursion"),
        );
        check(
            Some("{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}"),
            Err("longer than"),
        );
        check(
            Some("{% include '/etc/passwd' %}"),
            Err("template not found"),
        );
        check(Some(&"x".repeat(MAX_SOURCE_BYTES + 1)), Err("more than"));
    }
}
