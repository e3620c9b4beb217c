//! Calls of functions, instead of a text or behind one: what they are spelt with comes from whoever knows the model,
//! their arguments follow JSON Schemas.

use serde_json::{Map, Value, json};

use super::digits::Begin;
use super::schema;
use super::vocabulary::{GrammarVocabulary, Spelling};
use crate::token::TokenId;

/// What an answer must follow that may, or must, call functions. The names of control tokens in its texts are the
/// tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct CallGrammar {
    /// What else than calls the answer may be.
    pub otherwise: Otherwise,
    /// What every first call begins with, and no text.
    pub mark: String,
    /// Whether text may come before the first call.
    pub after_text: bool,
    /// Before the first call.
    pub opening: String,
    /// Between two calls; where it is none, there is one call.
    pub between: Option<String>,
    /// After the last call.
    pub closing: String,
    /// What can be called.
    pub functions: Vec<FunctionCall>,
}

/// What an answer without calls is.
#[derive(Debug, Clone, PartialEq)]
pub enum Otherwise {
    /// None: a call must be.
    Nothing,
    /// Any text.
    Text,
    /// JSON that follows a schema.
    Json {
        /// The JSON Schema.
        schema: Value,
        /// Whether a constraint that cannot be enforced refuses it.
        strict: bool,
    },
}

/// A call of one function.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// What is before its arguments.
    pub begin: String,
    /// The JSON Schema of the arguments.
    pub arguments: Value,
    /// Whether a constraint of the schema that cannot be enforced refuses it.
    pub strict: bool,
    /// What is behind them.
    pub end: String,
}

/// The schemas of a grammar, as llguidance takes them.
pub(super) struct Schemas {
    /// That of an answer without calls.
    pub(super) answer: Option<Value>,
    /// Those of the functions' arguments, in their order.
    pub(super) arguments: Vec<Value>,
}

/// Writes the grammar in llguidance's kind of Lark.
pub(super) fn write(
    grammar: &CallGrammar,
    schemas: Schemas,
    vocabulary: &dyn GrammarVocabulary,
) -> String {
    let literals = Literals::of(vocabulary);
    let mark = quoted(&grammar.mark);
    let mut rules = vec!["TEXT: /(?s:.+)/".to_owned()];
    let (before, taken) = match &grammar.otherwise {
        Otherwise::Nothing => ("", 0),
        Otherwise::Json { .. } => {
            let schema = schemas.answer.unwrap_or(Value::Bool(true));
            rules.push(format!("answer: %json {schema}"));
            ("answer | ", 0)
        }
        // A control token ends a text by itself.
        Otherwise::Text if grammar.after_text && literals.begins_with_control(&grammar.mark) => {
            ("TEXT? | TEXT? ", 0)
        }
        Otherwise::Text if grammar.after_text => {
            rules.push(format!("lead[lazy]: /(?s:.*)/ {mark}"));
            ("TEXT? | lead ", grammar.mark.len())
        }
        Otherwise::Text => {
            rules.push(format!("MARKED: {mark} /(?s:.*)/"));
            rules.push("OTHER: TEXT & ~MARKED".to_owned());
            ("OTHER? | ", 0)
        }
    };
    let call = |before: &str, taken: usize| {
        let calls = (0..).zip(&grammar.functions).map(|(number, function)| {
            let begin = literals.write(&format!("{before}{}", function.begin)[taken..]);
            format!("{begin} a{number} {}", literals.write(&function.end))
        });
        calls.collect::<Vec<_>>().join(" | ")
    };
    rules.push(format!("first: {}", call(&grammar.opening, taken)));
    let more = match &grammar.between {
        Some(between) => {
            rules.push(format!("more: {}", call(between, 0)));
            "more*"
        }
        None => "",
    };
    for (number, mut arguments) in schemas.arguments.into_iter().enumerate() {
        // They are spelled in one way, so that what is certain is taken at once.
        arguments["x-guidance"] = json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
        });
        rules.push(format!("a{number}: %json {arguments}"));
    }
    let closing = literals.write(&grammar.closing);
    rules.push(format!("start: {before}first {more} {closing}"));
    rules.join("\n")
}

impl FunctionCall {
    /// The schema of the arguments. A function that declares an empty list of properties takes none.
    pub(super) fn schema(&self) -> Value {
        let mut schema = of_an_object(self.arguments.clone());
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

impl CallGrammar {
    /// Where JSON begins in a text.
    pub(super) fn begin(&self) -> Begin {
        match self.otherwise {
            Otherwise::Text if self.after_text => Begin::AtMark(self.mark.clone()),
            Otherwise::Text => Begin::WithMark(self.mark.clone()),
            Otherwise::Nothing | Otherwise::Json { .. } => Begin::Here,
        }
    }
}

/// The schema, for an object: arguments are always one, whether or not a schema says so.
fn of_an_object(schema: Value) -> Value {
    let mut fields = match schema {
        Value::Bool(true) => Map::new(),
        Value::Object(fields) => fields,
        other => return other,
    };
    let may_be_object = match fields.get("type") {
        // What is named says its own type; beside a reference, older drafts read nothing.
        None => !fields.contains_key("$ref"),
        Some(Value::Array(types)) => types.iter().any(|kind| kind == "object"),
        Some(_) => false,
    };
    if may_be_object {
        fields.insert("type".to_owned(), "object".into());
    }
    fields.into()
}

/// A text as llguidance reads it: as in JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Texts with the control tokens that they name.
struct Literals<'a> {
    controls: Vec<(&'a str, TokenId)>,
}

impl<'a> Literals<'a> {
    fn of(vocabulary: &'a dyn GrammarVocabulary) -> Self {
        let tokens = (0..vocabulary.size() as u32).map(TokenId);
        let controls = tokens.filter_map(|token| match vocabulary.spelling(token) {
            Spelling::Control(name) if !name.is_empty() => Some((name, token)),
            _ => None,
        });
        Self {
            controls: controls.collect(),
        }
    }

    fn begins_with_control(&self, text: &str) -> bool {
        self.controls.iter().any(|(name, _)| text.starts_with(name))
    }

    /// A sequence of strings and tokens; the empty text is nothing.
    fn write(&self, text: &str) -> String {
        let mut words = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let places = self.controls.iter().filter_map(|(name, token)| {
                let place = rest.find(name)?;
                Some((place, std::cmp::Reverse(name.len()), token))
            });
            let (before, after) = match places.min() {
                Some((place, std::cmp::Reverse(length), token)) => {
                    let after = &rest[place + length..];
                    (&rest[..place], Some((token, after)))
                }
                None => (rest, None),
            };
            if !before.is_empty() {
                words.push(quoted(before));
            }
            rest = match after {
                Some((token, after)) => {
                    words.push(format!("<[{}]>", token.0));
                    after
                }
                None => "",
            };
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests;
