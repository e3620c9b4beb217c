//! The structured-output constraint of a request on OpenAI's routes, which accept the fields of OpenAI, llama.cpp, vLLM
//! and SGLang. A request may have at most one constraint.

use serde_json::{Map, Value, json};

use crate::api::error::Error;
use crate::api::types;
use crate::model::GrammarSource;

/// A grammar that the generated text must match.
#[derive(Debug)]
pub(super) struct Constraint {
    /// Dotted path of the request field that sets the constraint.
    pub field: String,
    pub grammar: GrammarSource,
}

impl Constraint {
    pub(super) fn new(field: impl Into<String>, grammar: GrammarSource) -> Self {
        Self {
            field: field.into(),
            grammar,
        }
    }

    /// Accepts any JSON object.
    pub(super) fn json_object(field: impl Into<String>) -> Self {
        Self::json_schema(field, json!({ "type": "object" }), false)
    }

    /// Accepts JSON that matches a schema. With `strict`, a schema that cannot be enforced completely is rejected.
    pub(super) fn json_schema(field: impl Into<String>, schema: Value, strict: bool) -> Self {
        Self::new(field, GrammarSource::JsonSchema { schema, strict })
    }

    /// Reads a grammar field; `None` if it is missing or empty.
    fn text(
        field: &str,
        text: Option<String>,
        grammar: fn(String) -> GrammarSource,
    ) -> Option<Self> {
        let text = text.filter(|text| !text.is_empty());
        text.map(|text| Self::new(field, grammar(text)))
    }

    /// Reads a schema field, an object or JSON text; `None` if it is missing, null or empty.
    fn schema(field: &str, schema: Option<Value>) -> Result<Option<Self>, Error> {
        let schema = match schema {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => serde_json::from_str::<Map<String, Value>>(&text)
                .map(Value::Object)
                .map_err(|error| {
                    let problem = format!("{field}: invalid JSON Schema: {error}");
                    Error::invalid(field, problem)
                })?,
            Some(schema) => schema,
        };
        Ok(Some(Self::json_schema(field, schema, false)))
    }

    /// Accepts exactly one of `texts`.
    fn choice(field: &str, texts: Option<types::TextChoices>) -> Option<Self> {
        let texts = texts?;
        let texts: Vec<String> = texts.0.iter().map(|text| escaped(text)).collect();
        let regex = format!("(?:{})", texts.join("|"));
        Some(Self::new(field, GrammarSource::Regex(regex)))
    }

    fn object(field: &str, is_set: Option<bool>) -> Option<Self> {
        is_set.unwrap_or(false).then(|| Self::json_object(field))
    }
}

/// Escapes a text for use as a regular expression that matches exactly the text.
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

/// Reads a grammar in vLLM's format: GBNF if it contains `::=`, otherwise Lark.
fn gbnf_or_lark(text: String) -> GrammarSource {
    match text.contains("::=") {
        true => GrammarSource::Gbnf(text),
        false => GrammarSource::Lark(text),
    }
}

/// Returns the constraint of a request: from the fields that all OpenAI routes share, or `format`, which only
/// `/v1/responses` has.
///
/// # Errors
/// If the request has two constraints; the message names both fields.
pub(super) fn constraint(
    options: &mut types::GenerationOptions,
    format: Option<Constraint>,
) -> Result<Option<Constraint>, Error> {
    use GrammarSource::{Gbnf, Lark, Regex};
    let mut constraints = vec![
        format,
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
            gbnf_or_lark,
        ),
    ];
    if let Some(outputs) = options.structured_outputs.take() {
        constraints.extend([
            Constraint::schema("structured_outputs.json", outputs.json)?,
            Constraint::text("structured_outputs.regex", outputs.regex, Regex),
            Constraint::choice("structured_outputs.choice", outputs.choice),
            Constraint::text("structured_outputs.grammar", outputs.grammar, gbnf_or_lark),
            Constraint::object("structured_outputs.json_object", outputs.json_object),
        ]);
    }
    let mut constraints = constraints.into_iter().flatten();
    match (constraints.next(), constraints.next()) {
        (Some(first), Some(second)) => {
            let (first, second) = (first.field, second.field);
            let message = format!("{second}: {first} and {second} cannot both be set");
            Err(Error::invalid(second, message))
        }
        (first, _) => Ok(first),
    }
}

/// Reads `response_format`; `None` for the type `text`.
fn response_format(format: types::ResponseFormat) -> Result<Option<Constraint>, Error> {
    use types::ResponseFormatType as Type;
    let llama_cpp_schema = || Constraint::schema("response_format.schema", format.schema.clone());
    match (format.type_, format.json_schema) {
        (Type::Text, _) => Ok(None),
        (Type::JsonObject, _) => {
            Ok(llama_cpp_schema()?.or_else(|| Some(Constraint::json_object("response_format"))))
        }
        (Type::JsonSchema, Some(named)) => Ok(Some(Constraint::json_schema(
            "response_format.json_schema.schema",
            named.schema.unwrap_or_default().into(),
            named.strict.unwrap_or(false),
        ))),
        (Type::JsonSchema, None) => match llama_cpp_schema()? {
            Some(constraint) => Ok(Some(constraint)),
            None => {
                let message = "response_format.json_schema: it is required";
                Err(Error::invalid("response_format.json_schema", message))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the constraint of a body: its field and grammar, or the error message.
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
    fn reads_the_constraint_fields_of_all_servers() {
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
    fn neutral_values_set_no_constraint() {
        check(
            json!({
                "response_format": {"type": "text"}, "grammar": "", "json_schema": null, "regex": null, "guided_choice": null,
                "guided_json_object": false, "structured_outputs": {"json": null, "regex": "", "json_object": false},
            }),
            Ok(None),
        );
    }

    #[test]
    fn two_constraints_are_refused() {
        check(
            json!({"guided_choice": ["a"], "response_format": {"type": "json_object"}}),
            Err("guided_choice: response_format and guided_choice cannot both be set"),
        );
        check(
            json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}),
            Err(
                "structured_outputs.choice: structured_outputs.regex and structured_outputs.choice cannot both be set",
            ),
        );
    }
}
