//! Constraints on the text of an answer, in the spellings that clients of OpenAI's routes use: OpenAI's, llama.cpp's,
//! vLLM's and SGLang's. Each is kept with the field that asked for it. At most one holds for a text.

use serde_json::{Map, Value, json};

use crate::api::error::Error;
use crate::api::types;
use crate::model::GrammarSource;

/// What a text must follow.
#[derive(Debug)]
pub(super) struct Constraint {
    /// The field of the body that asked for it, as a dotted path.
    pub field: String,
    /// What it asks for.
    pub grammar: GrammarSource,
}

impl Constraint {
    /// What a field asks for.
    pub(super) fn new(field: impl Into<String>, grammar: GrammarSource) -> Self {
        Self {
            field: field.into(),
            grammar,
        }
    }

    /// A JSON object, whatever it holds.
    pub(super) fn json_object(field: impl Into<String>) -> Self {
        Self::json_schema(field, json!({ "type": "object" }), false)
    }

    /// JSON that follows a schema; `strict` is whether one that cannot be enforced is refused.
    pub(super) fn json_schema(field: impl Into<String>, schema: Value, strict: bool) -> Self {
        Self::new(field, GrammarSource::JsonSchema { schema, strict })
    }

    /// What a text that is a grammar asks for; an empty one asks for nothing.
    fn text(
        field: &str,
        text: Option<String>,
        grammar: fn(String) -> GrammarSource,
    ) -> Option<Self> {
        let text = text.filter(|text| !text.is_empty());
        text.map(|text| Self::new(field, grammar(text)))
    }

    /// What a schema asks for, which is an object or its JSON as text; an empty text asks for nothing.
    fn schema(field: &str, schema: Option<Value>) -> Result<Option<Self>, Error> {
        let schema = match schema {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => serde_json::from_str::<Map<String, Value>>(&text)
                .map(Value::Object)
                .map_err(|error| {
                    let problem = format!("{field}: a JSON Schema as JSON text: {error}");
                    Error::invalid(field, problem)
                })?,
            Some(schema) => schema,
        };
        Ok(Some(Self::json_schema(field, schema, false)))
    }

    /// One of some texts, exactly.
    fn choice(field: &str, texts: Option<types::TextChoices>) -> Option<Self> {
        let texts = texts?;
        let texts: Vec<String> = texts.0.iter().map(|text| escaped(text)).collect();
        let regex = format!("(?:{})", texts.join("|"));
        Some(Self::new(field, GrammarSource::Regex(regex)))
    }

    fn object(field: &str, wanted: Option<bool>) -> Option<Self> {
        wanted.unwrap_or(false).then(|| Self::json_object(field))
    }
}

/// A text as a regular expression that only it follows.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// A grammar of vLLM's clients: GBNF if it has a rule `name ::= …`, else Lark, whose rules have one colon.
fn grammar_of_any_kind(text: String) -> GrammarSource {
    match text.contains("::=") {
        true => GrammarSource::Gbnf(text),
        false => GrammarSource::Lark(text),
    }
}

/// The constraint that a body asks for, of those that all routes take and of `form`, which is a route's own.
///
/// # Errors
/// If it asks for two: the message names both fields.
pub(super) fn constraint(
    options: &mut types::GenerationOptions,
    form: Option<Constraint>,
) -> Result<Option<Constraint>, Error> {
    use GrammarSource::{Gbnf, Lark, Regex};
    let mut given = vec![
        form,
        match options.response_format.take() {
            Some(format) => response_format(format)?,
            None => None,
        },
        Constraint::text("grammar", options.grammar.take(), Gbnf),
        Constraint::schema("json_schema", options.json_schema.take())?,
        Constraint::text("regex", options.regex.take(), Regex),
        Constraint::text("lark", options.lark.take(), Lark),
        Constraint::text("ebnf", options.ebnf.take(), Gbnf),
        Constraint::schema("guided_json", options.guided_json.take())?,
        Constraint::object("guided_json_object", options.guided_json_object),
        Constraint::text("guided_regex", options.guided_regex.take(), Regex),
        Constraint::choice("guided_choice", options.guided_choice.take()),
        Constraint::text(
            "guided_grammar",
            options.guided_grammar.take(),
            grammar_of_any_kind,
        ),
    ];
    if let Some(outputs) = options.structured_outputs.take() {
        given.extend([
            Constraint::schema("structured_outputs.json", outputs.json)?,
            Constraint::text("structured_outputs.regex", outputs.regex, Regex),
            Constraint::choice("structured_outputs.choice", outputs.choice),
            Constraint::text(
                "structured_outputs.grammar",
                outputs.grammar,
                grammar_of_any_kind,
            ),
            Constraint::object("structured_outputs.json_object", outputs.json_object),
        ]);
    }
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(first), Some(second)) => {
            let (first, second) = (first.field, second.field);
            let message = format!("{second}: a text cannot follow both {first} and {second}");
            Err(Error::invalid(second, message))
        }
        (first, _) => Ok(first),
    }
}

/// What the text must follow to have a form.
fn response_format(format: types::ResponseFormat) -> Result<Option<Constraint>, Error> {
    use types::ResponseFormatType as Type;
    let own = || Constraint::schema("response_format.schema", format.schema.clone());
    match (format.type_, format.json_schema) {
        (Type::Text, _) => Ok(None),
        (Type::JsonObject, _) => {
            Ok(own()?.or_else(|| Some(Constraint::json_object("response_format"))))
        }
        (Type::JsonSchema, Some(named)) => Ok(Some(Constraint::json_schema(
            "response_format.json_schema.schema",
            named.schema.unwrap_or_default().into(),
            named.strict.unwrap_or(false),
        ))),
        (Type::JsonSchema, None) => match own()? {
            Some(constraint) => Ok(Some(constraint)),
            None => {
                let message = "response_format.json_schema: it is missing";
                Err(Error::invalid("response_format.json_schema", message))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of a body, and the field and the grammar that it asks for, or the error's message.
    #[track_caller]
    fn check(body: Value, expected: Result<Option<(&str, GrammarSource)>, &str>) {
        let mut options: types::GenerationOptions = serde_json::from_value(body).unwrap();
        match (constraint(&mut options, None), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(
                found.map(|found| (found.field, found.grammar)),
                expected.map(|(field, grammar)| (field.to_owned(), grammar))
            ),
            (Err(error), Err(message)) => assert_eq!(error.to_string(), message),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn every_spelling_is_read() {
        let object = json!({"type": "object"});
        let schema = |schema: &Value| GrammarSource::JsonSchema {
            schema: schema.clone(),
            strict: false,
        };
        let regex = |text: &str| GrammarSource::Regex(text.to_owned());
        let gbnf = || GrammarSource::Gbnf("root ::= [a]".to_owned());
        let lark = || GrammarSource::Lark("start: /a/".to_owned());
        let text = r#"{"type": "object"}"#;
        let named = json!({"type": "json_schema", "json_schema": {"schema": object}});
        let flat = json!({"type": "json_object", "schema": object});
        for (body, field, grammar) in [
            (
                json!({"response_format": named}),
                "response_format.json_schema.schema",
                schema(&object),
            ),
            (
                json!({"response_format": flat}),
                "response_format.schema",
                schema(&object),
            ),
            (
                json!({"response_format": {"type": "json_object"}}),
                "response_format",
                schema(&object),
            ),
            (
                json!({"json_schema": object}),
                "json_schema",
                schema(&object),
            ),
            (json!({"json_schema": text}), "json_schema", schema(&object)),
            (json!({"guided_json": text}), "guided_json", schema(&object)),
            (
                json!({"guided_json_object": true}),
                "guided_json_object",
                schema(&object),
            ),
            (json!({"ebnf": "root ::= [a]"}), "ebnf", gbnf()),
            (
                json!({"guided_grammar": "root ::= [a]"}),
                "guided_grammar",
                gbnf(),
            ),
            (
                json!({"guided_grammar": "start: /a/"}),
                "guided_grammar",
                lark(),
            ),
            (json!({"guided_regex": "a+"}), "guided_regex", regex("a+")),
            (
                json!({"guided_choice": ["a.b", "c"]}),
                "guided_choice",
                regex(r"(?:a\.b|c)"),
            ),
            (
                json!({"structured_outputs": {"json": object}}),
                "structured_outputs.json",
                schema(&object),
            ),
            (
                json!({"structured_outputs": {"regex": "a"}}),
                "structured_outputs.regex",
                regex("a"),
            ),
            (
                json!({"structured_outputs": {"choice": ["a"]}}),
                "structured_outputs.choice",
                regex("(?:a)"),
            ),
            (
                json!({"structured_outputs": {"grammar": "start: /a/"}}),
                "structured_outputs.grammar",
                lark(),
            ),
            (
                json!({"structured_outputs": {"json_object": true}}),
                "structured_outputs.json_object",
                schema(&object),
            ),
        ] {
            check(body, Ok(Some((field, grammar))));
        }
    }

    #[test]
    fn neutral_values_ask_for_nothing() {
        check(
            json!({
                "response_format": {"type": "text"}, "grammar": "", "json_schema": null, "regex": null, "guided_choice": null,
                "guided_json_object": false, "structured_outputs": {"json": null, "regex": "", "json_object": false},
            }),
            Ok(None),
        );
    }

    #[test]
    fn two_constraints_are_refused_by_both_names() {
        check(
            json!({"guided_choice": ["a"], "response_format": {"type": "json_object"}}),
            Err("guided_choice: a text cannot follow both response_format and guided_choice"),
        );
        check(
            json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}),
            Err(
                "structured_outputs.choice: a text cannot follow both structured_outputs.regex and structured_outputs.choice",
            ),
        );
    }
}
