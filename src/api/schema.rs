//! Validates bodies against the schemas of the OpenAPI document, explains errors by dotted path, and lists fields
//! without effect. The only field name in this code is `type`. Extensions in the document mark all other fields:
//!
//! - `x-ortolan-later`: the field is not supported yet; only neutral values are valid.
//! - `x-ortolan-refused`: like `x-ortolan-later`; the value is the reason for the error message.
//! - `x-ortolan-effect`: the field is accepted, but ignored and reported. The response repeats an `echoed` field.
//! - `x-ortolan-kinds`: the values of `type` that the schema describes. Handlers decide on objects of other types.
//! - `x-ortolan-for`: the values of `type` with which the field has an effect. Otherwise it is reported as ignored.

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, OnceLock};

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Draft, Registry, RegistryBuilder, ValidationError, Validator};
use serde_json::{Map, Value, json};

use super::document::DOCUMENT;
use super::error::Error;

/// Longest value in bytes that an error message quotes. Longer values are replaced by "the value".
const QUOTED_BYTES_MAX: usize = 120;

/// Maximum number of ignored fields that are listed; the header has no room for more.
const IGNORED_FIELDS_MAX: usize = 64;

/// The URI under which all validators share one copy of the document's schemas.
const SCHEMAS_URI: &str = "urn:ortolan:document";

static SCHEMAS: LazyLock<Registry<'static>> = LazyLock::new(|| {
    let schemas = rewrite_unions(&DOCUMENT["components"]["schemas"]);
    Registry::new()
        .draft(Draft::Draft202012)
        .add(SCHEMAS_URI, json!({ "components": { "schemas": schemas } }))
        .and_then(RegistryBuilder::prepare)
        .expect("a test checks that the document's schemas are valid")
});

/// The validator of each component, compiled on first use.
static VALIDATORS: LazyLock<HashMap<&'static str, OnceLock<Validator>>> = LazyLock::new(|| {
    let schemas = &DOCUMENT["components"]["schemas"];
    let names = schemas.as_object().into_iter().flat_map(Map::keys);
    names.map(|name| (name.as_str(), OnceLock::new())).collect()
});

/// Returns the validator of a component; `None` if the document has no such component.
fn validator(component: &str) -> Option<&'static Validator> {
    let cell = VALIDATORS.get(component)?;
    Some(cell.get_or_init(|| {
        let reference = format!("{SCHEMAS_URI}#/components/schemas/{component}");
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_registry(&SCHEMAS)
            .build(&json!({ "$ref": reference }))
            .expect("a test checks that the document's schemas are valid")
    }))
}

/// The extension that lists the values of `type` that a schema describes.
const DESCRIBED_TYPES: &str = "x-ortolan-kinds";

/// Rewrites a schema in two ways. Objects of a `type` that the schema does not describe become valid. A `oneOf` whose
/// alternatives have different JSON types becomes conditions: `if` the value has the type, `then` the alternative
/// applies. The validator keeps every error of every alternative of a `oneOf`: gigabytes for a long array of invalid
/// values. For a condition, it reports only the first error, with its path.
fn rewrite_unions(schema: &Value) -> Value {
    let fields = match schema {
        Value::Object(fields) => fields,
        Value::Array(schemas) => return schemas.iter().map(rewrite_unions).collect(),
        _ => return schema.clone(),
    };
    let rewrite = |(name, schema): (&String, &Value)| (name.clone(), rewrite_unions(schema));
    let mut rewritten: Map<_, _> = fields.iter().map(rewrite).collect();
    let allowed = json_types(schema);
    let have_distinct_types =
        HashSet::<&str>::from_iter(allowed.iter().copied()).len() == allowed.len();
    if let Some(Value::Array(alternatives)) = fields.get("oneOf")
        && have_distinct_types
        && alternatives
            .iter()
            .all(|schema| !json_types(schema).is_empty())
    {
        let conditions = alternatives.iter().map(|alternative| {
            json!({
                "if": { "type": json_types(alternative) },
                "then": rewrite_unions(alternative),
            })
        });
        rewritten.insert("allOf".to_owned(), conditions.collect());
        rewritten.insert("type".to_owned(), json!(allowed));
        rewritten.shift_remove("oneOf");
    }
    match rewritten.get(DESCRIBED_TYPES).cloned() {
        Some(described) => json!({
            "if": {
                "type": "object",
                "required": ["type"],
                "properties": { "type": { "type": "string", "not": { "enum": described } } },
            },
            "else": rewritten,
        }),
        None => rewritten.into(),
    }
}

/// Returns the JSON types that a schema allows, with duplicates if several alternatives allow the same type; empty if
/// the schema names no type.
fn json_types(schema: &Value) -> Vec<&str> {
    if let Some(value) = schema.get("type") {
        let list = value.as_array().into_iter().flatten();
        return value
            .as_str()
            .into_iter()
            .chain(list.filter_map(Value::as_str))
            .collect();
    }
    if let Some(Value::String(reference)) = schema.get("$ref") {
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| DOCUMENT.pointer(pointer));
        return target.map(json_types).unwrap_or_default();
    }
    let alternatives = schema.get("oneOf").and_then(Value::as_array);
    alternatives
        .into_iter()
        .flatten()
        .flat_map(json_types)
        .collect()
}

/// Validates a value against a component of the document. Returns the dotted paths of fields that are unknown or have
/// no effect.
pub fn check(component: &str, value: &Value) -> Result<Vec<String>, Error> {
    let validator = validator(component).ok_or_else(|| Error::Invalid {
        param: None,
        message: format!("the document has no schema '{component}'"),
    })?;
    let schema = &DOCUMENT["components"]["schemas"][component];
    if let Err(error) = validator.validate(value) {
        return Err(client_error(schema, &error));
    }
    let mut ignored = Vec::new();
    list_ignored(&[schema], value, "", &mut ignored);
    Ok(ignored)
}

/// Reduces each object whose `type` is not described by its schema to the string fields that the generated Rust type
/// can hold: `type`, names and ids. `value` must be valid.
pub(super) fn strip_undescribed_objects(component: &str, value: &mut Value) {
    strip(&[&DOCUMENT["components"]["schemas"][component]], value);
}

fn strip(schemas: &[&'static Value], value: &mut Value) {
    match value {
        Value::Object(fields) if is_undescribed(schemas, fields) => fields.retain(|name, value| {
            let allows_strings = |schema: &&Value| {
                let alternatives = alternatives(&[*schema]);
                let has_no_enum = |schema: &&Map<String, Value>| !schema.contains_key("enum");
                json_types(schema).contains(&"string") && alternatives.iter().all(has_no_enum)
            };
            value.is_string() && properties(schemas, name).iter().any(allows_strings)
        }),
        Value::Object(fields) if !is_open(schemas) => {
            for (name, value) in fields {
                strip(&properties(schemas, name), value);
            }
        }
        Value::Array(values) => {
            let items = items(schemas);
            for value in values.iter_mut().filter(|value| value.is_object()) {
                strip(&items, value);
            }
        }
        _ => {}
    }
}

/// Returns whether an object has a `type` that its schema does not describe.
fn is_undescribed(schemas: &[&Value], fields: &Map<String, Value>) -> bool {
    let Some(object_type @ Value::String(_)) = fields.get("type") else {
        return false;
    };
    let described = alternatives(schemas)
        .into_iter()
        .filter_map(|schema| schema.get(DESCRIBED_TYPES)?.as_array());
    let mut described = described.peekable();
    described.peek().is_some() && !described.any(|types| types.contains(object_type))
}

/// Converts a validation error to an error for the client: the path of the field and what is expected.
fn client_error(schema: &Value, error: &ValidationError<'_>) -> Error {
    let mut path = dotted_path(error.instance_path());
    if let Some((field, refused)) = refused_field(schema, error.instance_path()) {
        if let Some(reason) = refused["x-ortolan-refused"].as_str() {
            return Error::invalid(&field, format!("{field}: {reason}"));
        }
        let neutral = refused.get("default").filter(|default| !default.is_null());
        let or = neutral
            .map(|value| format!(" or send {value}"))
            .unwrap_or_default();
        return Error::invalid(
            &field,
            format!("{field}: this value is not supported yet; remove the field{or}"),
        );
    }
    let is_long = error.instance().to_string().len() > QUOTED_BYTES_MAX;
    let type_problem = match error.kind() {
        ValidationErrorKind::Required { .. } => {
            type_problem(schema, error.instance_path(), error.instance())
        }
        _ => None,
    };
    let message = match (type_problem, error.kind()) {
        (Some(problem), _) => {
            path = join(&path, "type");
            problem
        }
        (
            None,
            ValidationErrorKind::Required {
                property: Value::String(property),
            },
        ) => {
            path = join(&path, property);
            "it is required".to_owned()
        }
        _ if is_long => error.masked_with("the value").to_string(),
        _ => error.to_string(),
    };
    if path.is_empty() {
        return Error::Invalid {
            param: None,
            message,
        };
    }
    Error::invalid(&path, format!("{path}: {message}"))
}

/// Returns the problem with the `type` of an object, if there is one. The problem is reported before a missing field,
/// because the type decides which fields are required.
fn type_problem(schema: &Value, location: &Location, object: &Value) -> Option<String> {
    let mut schemas = vec![schema];
    for segment in location.segments() {
        schemas = match &segment {
            LocationSegment::Property(name) => properties(&schemas, name),
            LocationSegment::Index(_) => items(&schemas),
        };
    }
    let object_type = object.get("type")?;
    let known = properties(&schemas, "type");
    let mut known = known
        .iter()
        .filter_map(|schema| schema.get("enum")?.as_array());
    let allowed = known
        .next()
        .filter(|allowed| !allowed.contains(object_type))?;
    let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
    Some(format!(
        "{object_type} is not one of {}",
        allowed.join(", ")
    ))
}

/// Returns the path and the schema of the first field on the way to `location` that is marked as not supported or
/// refused.
fn refused_field<'s>(schema: &'s Value, location: &Location) -> Option<(String, &'s Value)> {
    let mut schemas = vec![schema];
    let mut path = String::new();
    for segment in location.segments() {
        path = join(&path, &segment.to_string());
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

/// Lists the fields of a valid value that are unknown to its schemas or have no effect.
fn list_ignored(schemas: &[&'static Value], value: &Value, path: &str, ignored: &mut Vec<String>) {
    if ignored.len() >= IGNORED_FIELDS_MAX {
        return;
    }
    match value {
        Value::Object(fields) => {
            if is_open(schemas) || is_undescribed(schemas, fields) {
                return;
            }
            for (name, value) in fields {
                if ignored.len() >= IGNORED_FIELDS_MAX {
                    return;
                }
                let path = join(path, name);
                let known = properties(schemas, name);
                let without_effect = known.iter().any(|schema| {
                    let is_marked = schema.get("x-ortolan-effect").is_some();
                    !value.is_null()
                        && (is_for_other_type(schema, fields)
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
                list_ignored(&items, value, &join(path, &index.to_string()), ignored);
            }
        }
        _ => {}
    }
}

/// Returns whether a field has an effect only in objects of another `type` than `object`.
fn is_for_other_type(field: &Value, object: &Map<String, Value>) -> bool {
    let types = field.get("x-ortolan-for").and_then(Value::as_array);
    let object_type = object.get("type").filter(|value| value.is_string());
    types
        .zip(object_type)
        .is_some_and(|(types, object_type)| !types.contains(object_type))
}

/// Returns whether objects may have any fields: an alternative allows this explicitly, or no alternative lists
/// properties.
fn is_open(schemas: &[&Value]) -> bool {
    let alternatives = alternatives(schemas);
    let allows_any = |schema: &&Map<String, Value>| {
        schema.contains_key("properties")
            && schema.get("additionalProperties") == Some(&json!(true))
    };
    let names_properties = |schema: &&Map<String, Value>| schema.contains_key("properties");
    alternatives.iter().any(allows_any) || !alternatives.iter().any(names_properties)
}

/// Returns the schemas of the property `name`.
fn properties<'s>(schemas: &[&'s Value], name: &str) -> Vec<&'s Value> {
    let named = alternatives(schemas)
        .into_iter()
        .filter_map(|schema| schema.get("properties")?.get(name));
    named.collect()
}

/// Returns the schemas of an array's items.
fn items<'s>(schemas: &[&'s Value]) -> Vec<&'s Value> {
    alternatives(schemas)
        .into_iter()
        .filter_map(|schema| schema.get("items"))
        .collect()
}

/// Returns the schemas with references resolved and unions expanded.
fn alternatives<'s>(schemas: &[&'s Value]) -> Vec<&'s Map<String, Value>> {
    let mut pending: Vec<&Value> = schemas.to_vec();
    let mut resolved = Vec::new();
    while let Some(schema) = pending.pop() {
        let Value::Object(schema) = schema else {
            continue;
        };
        if let Some(Value::String(reference)) = schema.get("$ref") {
            pending.extend(
                reference
                    .strip_prefix('#')
                    .and_then(|pointer| DOCUMENT.pointer(pointer)),
            );
        }
        for union in ["oneOf", "allOf"] {
            pending.extend(
                schema
                    .get(union)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten(),
            );
        }
        resolved.push(schema);
    }
    resolved
}

/// Returns the dotted path of a location in a value.
fn dotted_path(location: &Location) -> String {
    location.segments().fold(String::new(), |path, segment| {
        join(&path, &segment.to_string())
    })
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a body against a component. `expected` is the ignored fields, or `param` and message of the error.
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
    fn reports_a_violated_bound_with_its_path() {
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
    fn unions_of_json_types_become_conditions() {
        let unions_left: Vec<_> = DOCUMENT["components"]["schemas"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, schema)| rewrite_unions(schema).to_string().contains("\"oneOf\":"))
            .map(|(name, _)| name.as_str())
            .collect();
        // The alternatives of these unions are all objects, and only responses contain these unions.
        assert_eq!(
            unions_left,
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
    fn reports_the_first_invalid_item_of_a_long_array() {
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
    fn explains_an_invalid_union_by_the_alternative_of_the_same_type() {
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
    fn refuses_unsupported_fields_and_accepts_neutral_values() {
        check(
            "CompletionRequest",
            &json!({"prompt": "a", "image_data": [{}]}),
            Err((
                "image_data",
                "image_data: this value is not supported yet; remove the field or send []",
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
    fn lists_unknown_fields_and_fields_without_effect() {
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
    fn lists_a_field_of_another_object_type() {
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
    fn x_ortolan_for_names_existing_types() {
        let mut marked = 0;
        for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
            let listed = schema
                .get(DESCRIBED_TYPES)
                .or(schema.pointer("/properties/type/enum"));
            let fields = schema["properties"].as_object().into_iter().flatten();
            for types in fields.flat_map(|(_, field)| field["x-ortolan-for"].as_array()) {
                marked += types.len();
                let known = |value: &Value| {
                    listed.is_none_or(|all| all.as_array().unwrap().contains(value))
                };
                assert!(types.iter().all(known), "{name}: {types:?}");
            }
        }
        assert!(marked > 30, "{marked}");
    }

    #[test]
    fn undescribed_objects_are_stripped_to_their_strings() {
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
        let mut stripped = body;
        strip_undescribed_objects("ResponsesRequest", &mut stripped);
        assert_eq!(
            stripped["input"][0],
            json!({"type": "custom_tool_call", "call_id": "a"})
        );
        assert_eq!(stripped["input"][1]["new"], 1);
        assert_eq!(
            stripped["tools"],
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
    fn reports_an_unsupported_type_before_a_missing_field() {
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
    fn the_list_of_ignored_fields_is_limited() {
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
