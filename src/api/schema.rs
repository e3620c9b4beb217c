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
const MAX_QUOTED_BYTES: usize = 120;

/// Maximum number of ignored fields that are listed; the header has no room for more.
const MAX_IGNORED_FIELDS: usize = 64;

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
    let is_long = error.instance().to_string().len() > MAX_QUOTED_BYTES;
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
    if ignored.len() >= MAX_IGNORED_FIELDS {
        return;
    }
    match value {
        Value::Object(fields) => {
            if is_open(schemas) || is_undescribed(schemas, fields) {
                return;
            }
            for (name, value) in fields {
                if ignored.len() >= MAX_IGNORED_FIELDS {
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
mod tests;
