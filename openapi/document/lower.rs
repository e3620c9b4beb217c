//! Lowers the document to OpenAPI 3.0 for progenitor, without keywords that only the validator needs.
//!
//! The types need no bounds and defaults, because bodies are validated against the document before they are
//! deserialized. Fields that are always rejected or ignored (`x-ortolan-later`, `x-ortolan-refused`,
//! `x-ortolan-effect: none`) are left out of the types.

use serde_json::{Map, Value, json};

/// Schema keywords that only the validator needs: bounds, defaults and examples.
const VALIDATOR_KEYWORDS: [&str; 17] = [
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

/// Lowers a 3.1 document. A streamed response becomes a separate operation `…_stream` at the path `…#stream`; clients
/// do not send the fragment to the server.
pub(crate) fn lower(document: &Value) -> Result<Value, String> {
    let mut paths = Map::new();
    for (path, item) in members(document, "/paths")? {
        if is_alias(item) {
            continue;
        }
        let (json, streamed) = split(item);
        if json
            .as_object()
            .is_some_and(|operations| !operations.is_empty())
        {
            paths.insert(path.clone(), json);
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

fn members<'a>(document: &'a Value, pointer: &str) -> Result<&'a Map<String, Value>, String> {
    document
        .pointer(pointer)
        .and_then(Value::as_object)
        .ok_or_else(|| format!("the document has no {pointer}"))
}

/// Whether all operations of a path are aliases; the client leaves them out.
fn is_alias(item: &Value) -> bool {
    let mut operations = item.as_object().into_iter().flatten();
    operations.all(|(_, operation)| operation.get("x-ortolan-alias-of").is_some())
}

/// Keeps one error type per operation, because progenitor supports only one. If errors have the schema of the success
/// response (`/health`), other error responses are removed; the client reports them as unexpected responses.
fn keep_one_error_type(operation: &mut Value) {
    let schema = |response: &Value| {
        response
            .pointer("/content/application~1json/schema")
            .cloned()
    };
    let Some(responses) = operation
        .get_mut("responses")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let success = responses.get("200").and_then(schema);
    let shares_schema = responses.iter().any(|(status, response)| {
        status != "200" && success.is_some() && schema(response) == success
    });
    if shares_schema {
        responses.retain(|_, response| schema(response) == success);
    }
}

/// Splits the operations of a path into those with JSON responses and those with streamed responses.
fn split(item: &Value) -> (Value, Option<Value>) {
    const EVENTS: &str = "text/event-stream";
    let mut json = item.clone();
    let mut streamed = Map::new();
    for (method, operation) in json.as_object_mut().into_iter().flatten() {
        keep_one_error_type(operation);
        let content = operation.pointer_mut("/responses/200/content");
        let content = content.and_then(Value::as_object_mut);
        let Some(events) = content.and_then(|content| content.shift_remove(EVENTS)) else {
            continue;
        };
        let mut stream_operation = operation.clone();
        let id = operation["operationId"].as_str().unwrap_or_default();
        stream_operation["operationId"] = json!(format!("{id}_stream"));
        stream_operation["responses"]["200"]["content"] = json!({ EVENTS: events });
        streamed.insert(method.clone(), stream_operation);
    }
    if let Some(operations) = json.as_object_mut() {
        operations.retain(|_, operation| {
            let content = operation.pointer("/responses/200/content");
            content != Some(&json!({}))
        });
    }
    let streamed = (!streamed.is_empty()).then_some(Value::Object(streamed));
    (json, streamed)
}

/// Lowers each `schema` of parameters, bodies and responses; removes examples and headers, which types do not need.
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
    let has_several_types =
        matches!(schema.get("type"), Some(Value::Array(types)) if single_type(types).is_none());
    if has_several_types || is_wide(schema) {
        return json!({ "description": schema.get("description"), "nullable": is_nullable(schema) });
    }
    let mut lowered = Map::new();
    for (keyword, value) in schema {
        if keyword.starts_with("x-ortolan-") || VALIDATOR_KEYWORDS.contains(&keyword.as_str()) {
            continue;
        }
        // An object with arbitrary properties becomes a map; the validator checks the properties that have schemas.
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
            ("type", Value::Array(types)) => match single_type(types) {
                Some(single) => single.clone(),
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

/// Lowers properties, without those that are always rejected or ignored.
fn lower_properties(properties: &Map<String, Value>) -> Value {
    properties
        .iter()
        .filter(|(_, schema)| {
            let extensions = ["x-ortolan-later", "x-ortolan-refused"];
            let is_rejected = extensions.iter().any(|name| schema.get(name).is_some());
            !is_rejected && schema.get("x-ortolan-effect") != Some(&json!("none"))
        })
        .map(|(name, schema)| (name.clone(), lower_schema(schema)))
        .collect::<Map<_, _>>()
        .into()
}

/// The only type besides null. A schema with several types becomes an arbitrary value; the validator checks it.
fn single_type(types: &[Value]) -> Option<&Value> {
    let mut non_null = types.iter().filter(|name| *name != "null");
    non_null.next().filter(|_| non_null.next().is_none())
}

/// Whether an integer can exceed the range of `i64`; it then becomes an arbitrary value.
fn is_wide(schema: &Map<String, Value>) -> bool {
    let maximum = schema.get("maximum").and_then(Value::as_u64);
    maximum.is_some_and(|maximum| i64::try_from(maximum).is_err())
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
}

fn is_nullable(schema: &Map<String, Value>) -> bool {
    let among_types = matches!(schema.get("type"), Some(Value::Array(types)) if types.iter().any(|name| name == "null"));
    let among_alternatives =
        matches!(schema.get("oneOf"), Some(Value::Array(schemas)) if schemas.iter().any(is_null));
    among_types || among_alternatives
}
