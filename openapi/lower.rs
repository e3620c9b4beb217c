//! The document as OpenAPI 3.0, which is what progenitor reads, and without what only the validator holds.
//!
//! The types need no bounds and no defaults: bodies are validated against the document before they become types.
//! Fields that are known only to be refused or reported (`x-ortolan-later`, `x-ortolan-refused`, `x-ortolan-effect: none`)
//! are no part of them.

use serde_json::{Map, Value, json};

/// Keywords of a schema that bound a value or explain it.
const HELD_BY_THE_VALIDATOR: [&str; 17] = [
    "contentMediaType",
    "contentSchema",
    "default",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "example",
    "examples",
    "uniqueItems",
];

/// Lowers a 3.1 document; a streamed answer becomes an operation of its own, `…_stream` at the path `…#stream`
/// (a fragment never reaches the server).
pub(crate) fn lower(document: &Value) -> Result<Value, String> {
    let mut paths = Map::new();
    for (path, item) in members(document, "/paths")? {
        if is_alias(item) {
            continue;
        }
        let (whole, streamed) = split(item);
        if whole
            .as_object()
            .is_some_and(|operations| !operations.is_empty())
        {
            paths.insert(path.clone(), whole);
        }
        if let Some(streamed) = streamed {
            paths.insert(format!("{path}#stream"), streamed);
        }
    }
    let mut schemas = Map::new();
    for (name, schema) in members(document, "/components/schemas")? {
        schemas.insert(name.clone(), lower_schema(schema));
    }
    let mut paths = Value::Object(paths);
    let mut responses = document
        .pointer("/components/responses")
        .cloned()
        .unwrap_or(json!({}));
    lower_schemas_within(&mut paths);
    lower_schemas_within(&mut responses);
    Ok(json!({
        "openapi": "3.0.3",
        "info": {
            "title": document.pointer("/info/title"),
            "version": document.pointer("/info/version"),
        },
        "paths": paths,
        "components": { "schemas": schemas, "responses": responses },
    }))
}

fn members<'a>(document: &'a Value, place: &str) -> Result<&'a Map<String, Value>, String> {
    document
        .pointer(place)
        .and_then(Value::as_object)
        .ok_or_else(|| format!("the document has no {place}"))
}

/// Whether all operations of a path are another path's: the client needs no second name for them.
fn is_alias(item: &Value) -> bool {
    let mut operations = item.as_object().into_iter().flatten();
    operations.all(|(_, operation)| operation.get("x-ortolan-alias-of").is_some())
}

/// progenitor knows one type of failure per operation. Where failures are answered in the operation's own shape
/// (`/health`),
/// those of the common shape are left to the client's "unexpected response".
fn keep_one_kind_of_failure(operation: &mut Value) {
    let schema = |answer: &Value| answer.pointer("/content/application~1json/schema").cloned();
    let Some(answers) = operation
        .get_mut("responses")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let own = answers.get("200").and_then(schema);
    let own_failures = answers
        .iter()
        .any(|(status, answer)| status != "200" && own.is_some() && schema(answer) == own);
    if own_failures {
        answers.retain(|_, answer| schema(answer) == own);
    }
}

/// A path's operations that have whole answers, with only those, and those that can stream, with only the streamed answer.
fn split(item: &Value) -> (Value, Option<Value>) {
    const EVENTS: &str = "text/event-stream";
    let mut whole = item.clone();
    let mut streamed = Map::new();
    for (method, operation) in whole.as_object_mut().into_iter().flatten() {
        keep_one_kind_of_failure(operation);
        let content = operation.pointer_mut("/responses/200/content");
        let content = content.and_then(Value::as_object_mut);
        let Some(events) = content.and_then(|content| content.shift_remove(EVENTS)) else {
            continue;
        };
        let mut twin = operation.clone();
        let id = operation["operationId"].as_str().unwrap_or_default();
        twin["operationId"] = json!(format!("{id}_stream"));
        twin["responses"]["200"]["content"] = json!({ EVENTS: events });
        streamed.insert(method.clone(), twin);
    }
    if let Some(operations) = whole.as_object_mut() {
        operations.retain(|_, operation| {
            let content = operation.pointer("/responses/200/content");
            content != Some(&json!({}))
        });
    }
    let streamed = (!streamed.is_empty()).then_some(Value::Object(streamed));
    (whole, streamed)
}

/// Lowers every `schema` of parameters, bodies and answers; drops examples and headers, which no type needs.
fn lower_schemas_within(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|key, _| {
                !matches!(key.as_str(), "example" | "examples" | "headers" | "tags")
            });
            for (key, member) in members {
                if key == "schema" {
                    *member = lower_schema(member);
                } else {
                    lower_schemas_within(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(lower_schemas_within),
        _ => {}
    }
}

fn lower_schema(schema: &Value) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    let several = matches!(schema.get("type"), Some(Value::Array(types)) if kind(types).is_none());
    if several || is_wide(schema) {
        return json!({ "description": schema.get("description"), "nullable": is_nullable(schema) });
    }
    let mut lowered = Map::new();
    for (keyword, value) in schema {
        if keyword.starts_with("x-ortolan-") || HELD_BY_THE_VALIDATOR.contains(&keyword.as_str()) {
            continue;
        }
        // An object that may hold anything is a map to the types; what is said of some of its fields, the validator holds.
        if keyword == "properties" && schema.get("additionalProperties") == Some(&json!(true)) {
            continue;
        }
        let value = match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => lower_properties(properties),
            ("oneOf" | "allOf", Value::Array(schemas)) => schemas
                .iter()
                .filter(|schema| !is_null(schema))
                .map(lower_schema)
                .collect(),
            ("items" | "additionalProperties", value) => lower_schema(value),
            ("type", Value::Array(types)) => match kind(types) {
                Some(kind) => kind.clone(),
                None => continue,
            },
            ("enum", Value::Array(values)) => {
                if !values.iter().any(Value::is_string) {
                    continue;
                }
                values
                    .iter()
                    .filter(|value| !value.is_null())
                    .cloned()
                    .collect()
            }
            (_, value) => value.clone(),
        };
        lowered.insert(keyword.clone(), value);
    }
    if is_nullable(schema) {
        lowered.insert("nullable".to_owned(), json!(true));
    }
    Value::Object(lowered)
}

/// The properties that the types have.
fn lower_properties(properties: &Map<String, Value>) -> Value {
    properties
        .iter()
        .filter(|(_, schema)| {
            let marks = ["x-ortolan-later", "x-ortolan-refused"];
            let refused = marks.iter().any(|mark| schema.get(mark).is_some());
            !refused && schema.get("x-ortolan-effect") != Some(&json!("none"))
        })
        .map(|(name, schema)| (name.clone(), lower_schema(schema)))
        .collect::<Map<_, _>>()
        .into()
}

/// The one kind beside null. Several are left to the validator: to the types it is any value.
fn kind(types: &[Value]) -> Option<&Value> {
    let mut kinds = types.iter().filter(|kind| *kind != "null");
    kinds.next().filter(|_| kinds.next().is_none())
}

/// Whether an integer may be both negative and larger than 64 bits with a sign hold: to the types it is any value.
fn is_wide(schema: &Map<String, Value>) -> bool {
    let most = schema.get("maximum").and_then(Value::as_u64);
    most.is_some_and(|most| i64::try_from(most).is_err())
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
}

fn is_nullable(schema: &Map<String, Value>) -> bool {
    let among_types = matches!(schema.get("type"), Some(Value::Array(types)) if types.iter().any(|kind| kind == "null"));
    let among_alternatives =
        matches!(schema.get("oneOf"), Some(Value::Array(schemas)) if schemas.iter().any(is_null));
    among_types || among_alternatives
}
