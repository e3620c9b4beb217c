//! Writes a Lark grammar for responses with tool calls: the model's tool-call format, which the caller supplies, around
//! arguments that follow JSON Schemas.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::digits::JsonStart;
use super::schema;
use super::vocabulary::{GrammarToken, GrammarVocabulary};
use crate::token::TokenId;

/// The grammar of a response that may or must call functions. In the strings below, the name of a control token stands
/// for the token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolCallGrammar {
    /// The allowed content of a response without tool calls.
    pub content: ContentGrammar,
    /// The text with which the first tool call begins: a prefix of `opening` followed by any `before_arguments`. Text
    /// before a tool call does not contain the marker, and a response without tool calls does not begin with it.
    pub marker: String,
    /// Whether text may come before the first tool call.
    pub allows_leading_text: bool,
    /// Literal text before the first tool call.
    pub opening: String,
    /// Literal text between two tool calls; `None` allows only one tool call.
    pub separator: Option<String>,
    /// Literal text after the last tool call.
    pub closing: String,
    /// The functions that the model may call.
    pub functions: Vec<FunctionGrammar>,
}

/// The allowed content of a response without tool calls.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum ContentGrammar {
    /// None: the response must contain a tool call.
    CallRequired,
    /// Any text.
    Text,
    /// JSON that follows a schema.
    Json {
        /// The root schema.
        schema: Value,
        /// Whether the schema is rejected, instead of relaxed, if a constraint cannot be enforced.
        strict: bool,
    },
}

/// A tool call to one function: `before_arguments`, the arguments as JSON, `after_arguments`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionGrammar {
    /// The function's name, for error messages and relaxations.
    pub name: String,
    /// Literal text up to the arguments, including the function's name.
    pub before_arguments: String,
    /// The JSON Schema of the arguments.
    pub arguments_schema: Value,
    /// Whether the schema is rejected, instead of relaxed, if a constraint cannot be enforced.
    pub strict: bool,
    /// Literal text after the arguments.
    pub after_arguments: String,
}

/// The schemas of a [`ToolCallGrammar`], translated for llguidance.
pub(super) struct ToolCallSchemas {
    /// The schema of [`ContentGrammar::Json`]; otherwise `None`.
    pub(super) content: Option<Value>,
    /// The schemas of the functions' arguments, in the order of the functions.
    pub(super) arguments: Vec<Value>,
}

/// Writes the grammar in llguidance's Lark dialect.
pub(super) fn write(
    grammar: &ToolCallGrammar,
    schemas: ToolCallSchemas,
    vocabulary: &dyn GrammarVocabulary,
) -> String {
    let literals = Literals::of(vocabulary);
    let marker = quoted(&grammar.marker);
    let mut rules = vec!["TEXT: /(?s:.+)/".to_owned()];
    // `consumed`: number of bytes at the start of the first tool call that `before` already includes.
    let (before, consumed) = match &grammar.content {
        ContentGrammar::CallRequired => ("", 0),
        ContentGrammar::Json { .. } => {
            let schema = schemas.content.unwrap_or(Value::Bool(true));
            rules.push(format!("answer: %json {schema}"));
            ("answer | ", 0)
        }
        // The terminal TEXT cannot match a control token, so TEXT ends before the marker.
        ContentGrammar::Text
            if grammar.allows_leading_text && literals.begins_with_control(&grammar.marker) =>
        {
            ("TEXT? | TEXT? ", 0)
        }
        ContentGrammar::Text if grammar.allows_leading_text => {
            rules.push(format!("lead[lazy]: /(?s:.*)/ {marker}"));
            ("TEXT? | lead ", grammar.marker.len())
        }
        ContentGrammar::Text => {
            rules.push(format!("MARKED: {marker} /(?s:.*)/"));
            rules.push("OTHER: TEXT & ~MARKED".to_owned());
            ("OTHER? | ", 0)
        }
    };
    let call = |before: &str, consumed: usize| {
        let calls = (0..).zip(&grammar.functions).map(|(number, function)| {
            let begin = format!("{before}{}", function.before_arguments);
            let begin = literals.write(&begin[consumed..]);
            format!(
                "{begin} a{number} {}",
                literals.write(&function.after_arguments)
            )
        });
        calls.collect::<Vec<_>>().join(" | ")
    };
    rules.push(format!("first: {}", call(&grammar.opening, consumed)));
    let more = match &grammar.separator {
        Some(separator) => {
            rules.push(format!("more: {}", call(separator, 0)));
            "more*"
        }
        None => "",
    };
    for (number, mut arguments) in schemas.arguments.into_iter().enumerate() {
        // With fixed whitespace, more tokens are forced.
        arguments["x-guidance"] = json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
        });
        rules.push(format!("a{number}: %json {arguments}"));
    }
    let closing = literals.write(&grammar.closing);
    rules.push(format!("start: {before}first {more} {closing}"));
    rules.join("\n")
}

impl FunctionGrammar {
    /// Returns the arguments schema, restricted to objects. A function that declares empty `properties` takes no
    /// arguments.
    pub(super) fn object_schema(&self) -> Value {
        let mut schema = restricted_to_objects(self.arguments_schema.clone());
        if let Some(fields) = schema.as_object_mut() {
            let properties = fields.get("properties").and_then(Value::as_object);
            let constraints = fields.keys().filter(|keyword| *keyword != "required");
            let mut others = constraints.filter(|keyword| schema::is_structural(keyword));
            if properties.is_some_and(Map::is_empty)
                && others.all(|keyword| keyword == "properties")
            {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
        }
        schema
    }
}

impl ToolCallGrammar {
    pub(super) fn json_start(&self) -> JsonStart {
        match self.content {
            ContentGrammar::Text if self.allows_leading_text => {
                JsonStart::Marker(self.marker.clone())
            }
            ContentGrammar::Text => JsonStart::LeadingMarker(self.marker.clone()),
            ContentGrammar::CallRequired | ContentGrammar::Json { .. } => JsonStart::TextStart,
        }
    }
}

/// Sets `type` to `object` if the schema allows other types as well: arguments are always an object.
fn restricted_to_objects(schema: Value) -> Value {
    let mut fields = match schema {
        Value::Bool(true) => Map::new(),
        Value::Object(fields) => fields,
        other => return other,
    };
    let may_be_object = match fields.get("type") {
        // The target of `$ref` has its own type, and older drafts ignore keywords next to `$ref`.
        None => !fields.contains_key("$ref"),
        Some(Value::Array(types)) => types.iter().any(|kind| kind == "object"),
        Some(_) => false,
    };
    if may_be_object {
        fields.insert("type".to_owned(), "object".into());
    }
    fields.into()
}

/// Returns `text` as a Lark string literal, which has the escapes of JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Writes strings as sequences of Lark string literals and control tokens.
struct Literals<'a> {
    controls: Vec<(&'a str, TokenId)>,
}

impl<'a> Literals<'a> {
    fn of(vocabulary: &'a dyn GrammarVocabulary) -> Self {
        let tokens = (0..vocabulary.size() as u32).map(TokenId);
        let controls = tokens.filter_map(|token| match vocabulary.grammar_token(token) {
            GrammarToken::Control(name) if !name.is_empty() => Some((name, token)),
            _ => None,
        });
        Self {
            controls: controls.collect(),
        }
    }

    fn begins_with_control(&self, text: &str) -> bool {
        self.controls.iter().any(|(name, _)| text.starts_with(name))
    }

    fn write(&self, text: &str) -> String {
        let mut symbols = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let occurrences = self.controls.iter().filter_map(|(name, token)| {
                let position = rest.find(name)?;
                Some((position, std::cmp::Reverse(name.len()), token))
            });
            let (before, after) = match occurrences.min() {
                Some((position, std::cmp::Reverse(length), token)) => {
                    let after = &rest[position + length..];
                    (&rest[..position], Some((token, after)))
                }
                None => (rest, None),
            };
            if !before.is_empty() {
                symbols.push(quoted(before));
            }
            rest = match after {
                Some((token, after)) => {
                    symbols.push(format!("<[{}]>", token.0));
                    after
                }
                None => "",
            };
        }
        symbols.join(" ")
    }
}

#[cfg(test)]
mod tests;
