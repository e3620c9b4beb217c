//! Bodies against the document's schemas: what is wrong is told by place, what has no effect is listed.
//! Nothing here knows a field by name but `type`; five marks in the document do: `x-ortolan-later` (only the values that
//! ask for nothing are valid yet), `x-ortolan-refused` (the same, with the reason), `x-ortolan-effect` (accepted, and
//! reported: `none`, or `echoed` where the answer tells it again), `x-ortolan-kinds` (the values of `type` that the
//! schema describes: objects of other kinds are valid whatever they hold, and the handler decides about them) and
//! `x-ortolan-for` (the values of `type` beside which a field has an effect; beside others it is reported).

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, OnceLock};

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Draft, Registry, RegistryBuilder, ValidationError, Validator};
use serde_json::{Map, Value, json};

use super::document::DOCUMENT;
use super::error::Error;

/// Bytes of a value that are quoted in a message; longer ones are called "the value".
const QUOTED_BYTES_MAX: usize = 120;

/// Fields that are listed as ignored; the header has no room for more.
const IGNORED_FIELDS_MAX: usize = 64;

/// Where validators find the document's schemas: all share one copy of them.
const SCHEMAS_URI: &str = "urn:ortolan:document";

static SCHEMAS: LazyLock<Registry<'static>> = LazyLock::new(|| {
    let schemas = with_unions_by_kind(&DOCUMENT["components"]["schemas"]);
    Registry::new()
        .draft(Draft::Draft202012)
        .add(SCHEMAS_URI, json!({ "components": { "schemas": schemas } }))
        .and_then(RegistryBuilder::prepare)
        .expect("the document's schemas are valid: a test holds it")
});

/// A place for each component's validator.
static VALIDATORS: LazyLock<HashMap<&'static str, OnceLock<Validator>>> = LazyLock::new(|| {
    let schemas = &DOCUMENT["components"]["schemas"];
    let names = schemas.as_object().into_iter().flat_map(Map::keys);
    names.map(|name| (name.as_str(), OnceLock::new())).collect()
});

/// The component's validator, compiled when it is first needed.
fn validator(component: &str) -> Option<&'static Validator> {
    let place = VALIDATORS.get(component)?;
    Some(place.get_or_init(|| {
        let reference = format!("{SCHEMAS_URI}#/components/schemas/{component}");
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_registry(&SCHEMAS)
            .build(&json!({ "$ref": reference }))
            .expect("the document's schemas are valid: a test holds it")
    }))
}

/// The mark that lists the values of `type` that a schema describes.
const KINDS: &str = "x-ortolan-kinds";

/// The same schemas, but objects of a kind that a schema does not describe are valid, and a `oneOf` whose alternatives are told apart by `type` decides by it: `if` the value is of
/// that kind, `then` the alternative holds. A validator keeps every error of every alternative of a `oneOf`, which a
/// long array of wrong values makes gigabytes; of a condition it tells the first one, and that at its place.
fn with_unions_by_kind(schema: &Value) -> Value {
    let fields = match schema {
        Value::Object(fields) => fields,
        Value::Array(schemas) => return schemas.iter().map(with_unions_by_kind).collect(),
        _ => return schema.clone(),
    };
    let by_kind = |(name, schema): (&String, &Value)| (name.clone(), with_unions_by_kind(schema));
    let mut rewritten: Map<_, _> = fields.iter().map(by_kind).collect();
    let allowed = kinds(schema);
    let is_told_apart = HashSet::<&str>::from_iter(allowed.iter().copied()).len() == allowed.len();
    if let Some(Value::Array(alternatives)) = fields.get("oneOf")
        && is_told_apart
        && alternatives.iter().all(|schema| !kinds(schema).is_empty())
    {
        let conditions = alternatives.iter().map(|alternative| {
            json!({
                "if": { "type": kinds(alternative) },
                "then": with_unions_by_kind(alternative),
            })
        });
        rewritten.insert("allOf".to_owned(), conditions.collect());
        rewritten.insert("type".to_owned(), json!(allowed));
        rewritten.shift_remove("oneOf");
    }
    match rewritten.get(KINDS).cloned() {
        Some(kinds) => json!({
            "if": {
                "type": "object",
                "required": ["type"],
                "properties": { "type": { "type": "string", "not": { "enum": kinds } } },
            },
            "else": rewritten,
        }),
        None => rewritten.into(),
    }
}

/// The kinds of value a schema allows, one that several alternatives allow several times; empty if it does not say.
fn kinds(schema: &Value) -> Vec<&str> {
    if let Some(kind) = schema.get("type") {
        let several = kind.as_array().into_iter().flatten();
        return kind
            .as_str()
            .into_iter()
            .chain(several.filter_map(Value::as_str))
            .collect();
    }
    if let Some(Value::String(reference)) = schema.get("$ref") {
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| DOCUMENT.pointer(pointer));
        return target.map(kinds).unwrap_or_default();
    }
    let alternatives = schema.get("oneOf").and_then(Value::as_array);
    alternatives.into_iter().flatten().flat_map(kinds).collect()
}

/// Checks a value against a component of the document. Gives the dotted paths of the fields that are unknown or have
/// no effect.
pub fn check(component: &str, value: &Value) -> Result<Vec<String>, Error> {
    let validator = validator(component).ok_or_else(|| Error::Invalid {
        param: None,
        message: format!("the document has no schema '{component}'"),
    })?;
    let schema = &DOCUMENT["components"]["schemas"][component];
    if let Err(error) = validator.validate(value) {
        return Err(explain(schema, &error));
    }
    let mut ignored = Vec::new();
    list_ignored(&[schema], value, "", &mut ignored);
    Ok(ignored)
}

/// Cuts every object of a kind that its schema does not describe down to the texts that the schema's types can hold:
/// its `type`, and names and ids. The value is valid.
pub(super) fn cut_foreign_kinds(component: &str, value: &mut Value) {
    cut(&[&DOCUMENT["components"]["schemas"][component]], value);
}

fn cut(schemas: &[&'static Value], value: &mut Value) {
    match value {
        Value::Object(fields) if is_foreign(schemas, fields) => fields.retain(|name, value| {
            let takes_texts = |schema: &&Value| {
                let alternatives = alternatives(&[*schema]);
                let is_open = |schema: &&Map<String, Value>| !schema.contains_key("enum");
                kinds(schema).contains(&"string") && alternatives.iter().all(is_open)
            };
            value.is_string() && properties(schemas, name).iter().any(takes_texts)
        }),
        Value::Object(fields) if !is_open(schemas) => {
            for (name, value) in fields {
                cut(&properties(schemas, name), value);
            }
        }
        Value::Array(values) => {
            let items = items(schemas);
            for value in values.iter_mut().filter(|value| value.is_object()) {
                cut(&items, value);
            }
        }
        _ => {}
    }
}

/// Whether an object is of a kind that its schema does not describe.
fn is_foreign(schemas: &[&Value], fields: &Map<String, Value>) -> bool {
    let Some(kind @ Value::String(_)) = fields.get("type") else {
        return false;
    };
    let described = alternatives(schemas)
        .into_iter()
        .filter_map(|schema| schema.get(KINDS)?.as_array());
    let mut described = described.peekable();
    described.peek().is_some() && !described.any(|kinds| kinds.contains(kind))
}

/// A validation error in the words of the client: the field's path, and what would be right.
fn explain(schema: &Value, error: &ValidationError<'_>) -> Error {
    let mut place = dotted(error.instance_path());
    if let Some((field, refused)) = refused(schema, error.instance_path()) {
        if let Some(reason) = refused["x-ortolan-refused"].as_str() {
            return Error::invalid(&field, format!("{field}: {reason}"));
        }
        let neutral = refused.get("default").filter(|default| !default.is_null());
        let or = neutral
            .map(|value| format!(" or send {value}"))
            .unwrap_or_default();
        return Error::invalid(
            &field,
            format!("{field}: this value asks for what is not built yet; leave it out{or}"),
        );
    }
    let quotes_much = error.instance().to_string().len() > QUOTED_BYTES_MAX;
    let wrong_kind = match error.kind() {
        ValidationErrorKind::Required { .. } => {
            wrong_kind(schema, error.instance_path(), error.instance())
        }
        _ => None,
    };
    let message = match (wrong_kind, error.kind()) {
        (Some(problem), _) => {
            place = child(&place, "type");
            problem
        }
        (
            None,
            ValidationErrorKind::Required {
                property: Value::String(property),
            },
        ) => {
            place = child(&place, property);
            "it is required".to_owned()
        }
        _ if quotes_much => error.masked_with("the value").to_string(),
        _ => error.to_string(),
    };
    if place.is_empty() {
        return Error::Invalid {
            param: None,
            message,
        };
    }
    Error::invalid(&place, format!("{place}: {message}"))
}

/// What is wrong with the `type` of an object at a place: that decides which other fields it needs.
fn wrong_kind(schema: &Value, place: &Location, object: &Value) -> Option<String> {
    let mut schemas = vec![schema];
    for segment in place.segments() {
        schemas = match &segment {
            LocationSegment::Property(name) => properties(&schemas, name),
            LocationSegment::Index(_) => items(&schemas),
        };
    }
    let kind = object.get("type")?;
    let known = properties(&schemas, "type");
    let mut known = known
        .iter()
        .filter_map(|schema| schema.get("enum")?.as_array());
    let allowed = known.next().filter(|allowed| !allowed.contains(kind))?;
    let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
    Some(format!("{kind} is not one of {}", allowed.join(", ")))
}

/// The field on the way to a place that is only known to be refused, with its schema.
fn refused<'s>(schema: &'s Value, place: &Location) -> Option<(String, &'s Value)> {
    let mut schemas = vec![schema];
    let mut path = String::new();
    for segment in place.segments() {
        path = child(&path, &segment.to_string());
        schemas = match &segment {
            LocationSegment::Property(name) => properties(&schemas, name),
            LocationSegment::Index(_) => items(&schemas),
        };
        let marks = ["x-ortolan-later", "x-ortolan-refused"];
        let marked = |schema: &&&Value| marks.iter().any(|mark| schema.get(mark).is_some());
        if let Some(refused) = schemas.iter().find(marked) {
            return Some((path, refused));
        }
    }
    None
}

/// Walks a valid value along its schemas and lists the fields that none of them knows or that have no effect.
fn list_ignored(schemas: &[&'static Value], value: &Value, path: &str, ignored: &mut Vec<String>) {
    if ignored.len() >= IGNORED_FIELDS_MAX {
        return;
    }
    match value {
        Value::Object(fields) => {
            if is_open(schemas) || is_foreign(schemas, fields) {
                return;
            }
            for (name, value) in fields {
                if ignored.len() >= IGNORED_FIELDS_MAX {
                    return;
                }
                let path = child(path, name);
                let known = properties(schemas, name);
                let without_effect = known.iter().any(|schema| {
                    let is_marked = schema.get("x-ortolan-effect").is_some();
                    !value.is_null()
                        && (is_of_other_kind(schema, fields)
                            || (is_marked && schema.get("default") != Some(value)))
                });
                if known.is_empty() || without_effect {
                    ignored.push(path);
                } else {
                    list_ignored(&known, value, &path, ignored);
                }
            }
        }
        Value::Array(values) => {
            let items = items(schemas);
            for (index, value) in values
                .iter()
                .enumerate()
                .filter(|(_, value)| value.is_object() || value.is_array())
            {
                list_ignored(&items, value, &child(path, &index.to_string()), ignored);
            }
        }
        _ => {}
    }
}

/// Whether a field belongs to objects of other kinds than this one.
fn is_of_other_kind(field: &Value, object: &Map<String, Value>) -> bool {
    let kinds = field.get("x-ortolan-for").and_then(Value::as_array);
    let kind = object.get("type").filter(|kind| kind.is_string());
    kinds
        .zip(kind)
        .is_some_and(|(kinds, kind)| !kinds.contains(kind))
}

/// Whether objects may hold anything: an alternative says so, or none names properties.
fn is_open(schemas: &[&Value]) -> bool {
    let alternatives = alternatives(schemas);
    let says_so = |schema: &&Map<String, Value>| {
        schema.contains_key("properties")
            && schema.get("additionalProperties") == Some(&json!(true))
    };
    let names_properties = |schema: &&Map<String, Value>| schema.contains_key("properties");
    alternatives.iter().any(says_so) || !alternatives.iter().any(names_properties)
}

/// What the schemas say of a property.
fn properties<'s>(schemas: &[&'s Value], name: &str) -> Vec<&'s Value> {
    let named = alternatives(schemas)
        .into_iter()
        .filter_map(|schema| schema.get("properties")?.get(name));
    named.collect()
}

/// What the schemas say of an array's items.
fn items<'s>(schemas: &[&'s Value]) -> Vec<&'s Value> {
    alternatives(schemas)
        .into_iter()
        .filter_map(|schema| schema.get("items"))
        .collect()
}

/// The schemas with references followed and unions taken apart.
fn alternatives<'s>(schemas: &[&'s Value]) -> Vec<&'s Map<String, Value>> {
    let mut open: Vec<&Value> = schemas.to_vec();
    let mut closed = Vec::new();
    while let Some(schema) = open.pop() {
        let Value::Object(schema) = schema else {
            continue;
        };
        if let Some(Value::String(reference)) = schema.get("$ref") {
            open.extend(
                reference
                    .strip_prefix('#')
                    .and_then(|pointer| DOCUMENT.pointer(pointer)),
            );
        }
        for union in ["oneOf", "allOf"] {
            open.extend(
                schema
                    .get(union)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten(),
            );
        }
        closed.push(schema);
    }
    closed
}

/// The dotted path of a place in a value.
fn dotted(place: &Location) -> String {
    place.segments().fold(String::new(), |path, segment| {
        child(&path, &segment.to_string())
    })
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Component, body, and either what is ignored or `param` and message of the refusal.
    #[track_caller]
    fn check(component: &str, body: &Value, expected: Result<&[&str], (&str, &str)>) {
        match (super::check(component, body), expected) {
            (Ok(ignored), Ok(expected)) => assert_eq!(ignored, expected),
            (Err(Error::Invalid { param, message }), Err((expected_param, expected_message))) => {
                assert_eq!(param.as_deref().unwrap_or(""), expected_param);
                assert_eq!(message, expected_message);
            }
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn every_component_compiles() {
        assert!(VALIDATORS.len() > 20);
        assert!(VALIDATORS.keys().all(|name| validator(name).is_some()));
    }

    #[test]
    fn the_examples_of_the_document_are_valid_and_have_an_effect() {
        for item in DOCUMENT["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let Some(content) = operation.pointer("/requestBody/content/application~1json")
                else {
                    continue;
                };
                let component = content["schema"]["$ref"]
                    .as_str()
                    .unwrap()
                    .rsplit('/')
                    .next()
                    .unwrap();
                let named = content["examples"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(_, example)| &example["value"]);
                for example in named.chain(content.get("example")) {
                    check(component, example, Ok(&[]));
                }
            }
        }
    }

    #[test]
    fn a_bound_is_told_with_its_place() {
        check(
            "ChatCompletionRequest",
            &json!({"messages": [{"role": "user", "content": "a"}], "temperature": 3}),
            Err((
                "temperature",
                "temperature: 3 is greater than the maximum of 2",
            )),
        );
        check(
            "RerankRequest",
            &json!({}),
            Err(("query", "query: it is required")),
        );
        check(
            "CompletionRequest",
            &json!([]),
            Err(("", "[] is not of type \"object\"")),
        );
        check(
            "ChatCompletionRequest",
            &json!({"messages": [{"role": "user", "content": ""}, {"content": "a"}]}),
            Err(("messages.1.role", "messages.1.role: it is required")),
        );
    }

    #[test]
    fn unions_of_kinds_are_decided_by_kind() {
        let left: Vec<_> = DOCUMENT["components"]["schemas"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, schema)| {
                with_unions_by_kind(schema)
                    .to_string()
                    .contains("\"oneOf\":")
            })
            .map(|(name, _)| name.as_str())
            .collect();
        // Their alternatives are all objects; only the server writes them.
        assert_eq!(
            left,
            [
                "ChatCompletionEvent",
                "CompletionAnswer",
                "CompletionEvent",
                "CompletionResult",
                "MessagesEvent",
                "ResponseItem",
                "ResponseOutputPart",
                "ResponsePart",
                "ResponsesEvent",
                "SlotAction",
                "TextCompletionEvent"
            ]
        );
    }

    #[test]
    fn a_long_array_of_wrong_values_is_refused_at_its_first() {
        check(
            "CompletionRequest",
            &json!({"prompt": vec![1.5; 1 << 20]}),
            Err((
                "prompt.0",
                r#"prompt.0: 1.5 is not of types "integer", "string", "array", "object""#,
            )),
        );
    }

    #[test]
    fn in_a_union_the_alternative_of_the_same_kind_explains() {
        check(
            "ChatCompletionRequest",
            &json!({"messages": [{"role": "user", "content": [{"text": "a"}]}]}),
            Err((
                "messages.0.content.0.type",
                "messages.0.content.0.type: it is required",
            )),
        );
        check(
            "CompletionRequest",
            &json!({"prompt": []}),
            Err(("prompt", "prompt: [] has less than 1 item")),
        );
        check(
            "CompletionRequest",
            &json!({"prompt": ["a", -1]}),
            Err(("prompt.1", "prompt.1: -1 is less than the minimum of 0")),
        );
    }

    #[test]
    fn what_is_not_built_is_refused_by_name_and_neutral_values_pass() {
        check(
            "CompletionRequest",
            &json!({"prompt": "a", "image_data": [{}]}),
            Err((
                "image_data",
                "image_data: this value asks for what is not built yet; leave it out or send []",
            )),
        );
        check(
            "ChatCompletionRequest",
            &json!({"messages": [{"role": "user", "content": "a"}], "functions": [{}]}),
            Err((
                "functions",
                "functions: this older form is not supported; send the functions in tools",
            )),
        );
        check(
            "TextCompletionRequest",
            &json!({"prompt": "a", "n_predict": 5}),
            Err((
                "n_predict",
                "n_predict: this is OpenAI's route, with max_tokens; the native one is /completion",
            )),
        );
        let neutral = json!({
            "prompt": "a", "image_data": [], "json_schema": null, "system_prompt": null,
        });
        check("CompletionRequest", &neutral, Ok(&[]));
    }

    #[test]
    fn what_is_unknown_or_without_effect_is_listed() {
        check(
            "ChatCompletionRequest",
            &json!({
                "messages": [{"role": "user", "name": "Ada", "content": [{"type": "text", "text": "a", "new": 1}]}],
                "store": false, "user": "ada", "stream_options": {"speed": 2}, "metadata": {"a": "b"}, "nonsense": null,
            }),
            Ok(&[
                "messages.0.name",
                "messages.0.content.0.new",
                "store",
                "user",
                "stream_options.speed",
                "metadata",
                "nonsense",
            ]),
        );
    }

    #[test]
    fn a_field_of_another_kind_of_object_is_listed() {
        check(
            "ChatCompletionRequest",
            &json!({
                "messages": [{"role": "assistant", "content": [
                    {"type": "text", "text": "a", "refusal": "b"}, {"type": "refusal", "text": null, "refusal": "b"},
                ]}],
                "response_format": {"type": "text", "json_schema": {"schema": {}}},
            }),
            Ok(&[
                "messages.0.content.0.refusal",
                "response_format.json_schema",
            ]),
        );
        check(
            "ResponsesRequest",
            &json!({"input": [{"type": "message", "role": "user", "content": "a", "output": "b"}, {"role": "user", "content": "a"}]}),
            Ok(&["input.0.output"]),
        );
    }

    #[test]
    fn a_field_is_marked_for_kinds_that_there_are() {
        let mut marked = 0;
        for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
            let listed = schema
                .get(KINDS)
                .or(schema.pointer("/properties/type/enum"));
            let fields = schema["properties"].as_object().into_iter().flatten();
            for kind in fields.flat_map(|(_, field)| field["x-ortolan-for"].as_array()) {
                marked += kind.len();
                let known =
                    |kind: &Value| listed.is_none_or(|all| all.as_array().unwrap().contains(kind));
                assert!(kind.iter().all(known), "{name}: {kind:?}");
            }
        }
        assert!(marked > 30, "{marked}");
    }

    #[test]
    fn objects_of_other_kinds_are_left_to_the_handler_and_cut_to_their_texts() {
        let body = json!({
            "input": [
                {"type": "custom_tool_call", "call_id": "a", "name": 5, "status": "strange", "new": {"a": 1}},
                {"type": "message", "role": "user", "content": "a", "new": 1},
            ],
            "tools": [
                {"type": "web_search", "name": "not a name", "parameters": 5},
                {"type": "namespace", "name": "n", "tools": [{"type": "custom", "format": {}}]},
            ],
        });
        check("ResponsesRequest", &body, Ok(&["input.1.new"]));
        let mut cut = body;
        cut_foreign_kinds("ResponsesRequest", &mut cut);
        assert_eq!(
            cut["input"][0],
            json!({"type": "custom_tool_call", "call_id": "a"})
        );
        assert_eq!(cut["input"][1]["new"], 1);
        assert_eq!(
            cut["tools"],
            json!([
                {"type": "web_search", "name": "not a name"},
                {"type": "namespace", "name": "n", "tools": [{"type": "custom"}]},
            ])
        );
        check(
            "ResponsesRequest",
            &json!({"tools": [{"type": "function", "name": "a b"}]}),
            Err((
                "tools.0.name",
                r#"tools.0.name: "a b" does not match "^[a-zA-Z0-9_.:/@-]{1,128}$""#,
            )),
        );
    }

    #[test]
    fn a_foreign_kind_is_told_before_a_missing_field() {
        check(
            "ChatCompletionRequest",
            &json!({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "id": "a", "custom": {}}]}]}),
            Err((
                "messages.0.tool_calls.0.type",
                r#"messages.0.tool_calls.0.type: "custom" is not one of "function""#,
            )),
        );
    }

    #[test]
    fn only_so_many_ignored_fields_are_listed() {
        let fields = (0..1000).map(|index| (format!("field{index}"), json!(1)));
        let mut body = Map::from_iter(fields);
        body.insert("content".to_owned(), json!("a"));
        let ignored = super::check("TokenizeRequest", &body.into()).unwrap();
        assert_eq!(ignored.len(), IGNORED_FIELDS_MAX);
    }

    #[test]
    fn long_values_are_not_quoted() {
        check(
            "InfillRequest",
            &json!({"input_prefix": vec![0; 1000], "input_suffix": ""}),
            Err((
                "input_prefix",
                "input_prefix: the value is not of type \"string\"",
            )),
        );
    }
}
