//! poem-openapi's description of the routes matches the OpenAPI document: paths, methods, parameters, bodies,
//! responses. The build step that merges the document fails instead of losing a part of it.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use std::collections::BTreeSet;

use serde_json::Value;

#[path = "../openapi/document/merge.rs"]
mod merge;

/// The comparable properties of all operations, one line for each.
fn operation_properties(description: &Value) -> BTreeSet<String> {
    let mut properties = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let mut add =
                |line: String| properties.insert(format!("{method} {path} ({id}): {line}"));
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let required = parameter["required"] == true;
                add(format!(
                    "parameter {} in {}, required: {required}",
                    parameter["name"], parameter["in"]
                ));
            }
            let body = &operation["requestBody"];
            for media in content(description, body) {
                add(format!("body {media}, required: {}", body["required"]));
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                for media in content(description, response) {
                    add(format!("response {status} {media}"));
                }
            }
        }
    }
    properties
}

/// Media types of a body or response, each with the name of its schema.
fn content(description: &Value, component: &Value) -> Vec<String> {
    let component = match component["$ref"].as_str() {
        Some(reference) => description
            .pointer(reference.strip_prefix('#').unwrap())
            .unwrap(),
        None => component,
    };
    let content = component["content"].as_object().into_iter().flatten();
    content
        .map(|(media, content)| format!("{media} {}", content["schema"]["$ref"]))
        .collect()
}

#[test]
fn the_routes_match_the_document() {
    let document =
        operation_properties(&serde_json::from_str(ortolan::api::document::JSON).unwrap());
    let routes = operation_properties(
        &serde_json::from_str(&ortolan::api::routes_description().unwrap()).unwrap(),
    );
    assert!(
        document.len() > 40,
        "the document has too few properties: {document:#?}"
    );
    let missing: Vec<_> = document.difference(&routes).collect();
    let undocumented: Vec<_> = routes.difference(&document).collect();
    assert!(
        missing.is_empty() && undocumented.is_empty(),
        "missing: {missing:#?}\nundocumented: {undocumented:#?}"
    );
}

#[test]
fn the_served_yaml_equals_the_served_json() {
    let json: Value = serde_json::from_str(ortolan::api::document::JSON).unwrap();
    let yaml: Value = yaml_serde::from_str(ortolan::api::document::YAML).unwrap();
    assert_eq!(json, yaml);
}

/// Collects all schemas within `value`: the objects with `enum`, `oneOf` or `type`.
fn collect_schemas<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(members) => {
            let keywords = ["enum", "oneOf", "type"];
            if keywords
                .iter()
                .any(|keyword| members.contains_key(*keyword))
            {
                found.push(value);
            }
            members
                .values()
                .for_each(|member| collect_schemas(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_schemas(item, found)),
        _ => {}
    }
}

/// Client generators drop a whole operation for `enum: [false, null]` (write a `oneOf` instead) and for an array
/// without `items`. They turn the default of a `oneOf` into a string if it is a list.
#[test]
fn client_generators_can_read_the_schemas() {
    let document: Value = serde_json::from_str(ortolan::api::document::JSON).unwrap();
    let mut found = Vec::new();
    collect_schemas(&document["components"]["schemas"], &mut found);
    assert!(found.len() > 400, "{}", found.len());
    let unreadable = |schema: &&&Value| {
        let values = schema["enum"].as_array().map_or(&[][..], Vec::as_slice);
        let is_mixed = values.iter().any(Value::is_null) && values.iter().any(Value::is_boolean);
        let kinds = &schema["type"];
        let mut alternatives = kinds.as_array().into_iter().flatten();
        let is_array = kinds == "array" || alternatives.any(|kind| kind == "array");
        let has_list_default = schema["default"].is_array() && schema.get("oneOf").is_some();
        is_mixed || has_list_default || (is_array && schema.get("items").is_none())
    };
    let unreadable: Vec<_> = found.iter().filter(unreadable).collect();
    assert!(unreadable.is_empty(), "{unreadable:#?}");
}

/// Merges files with these component schemas; expects the names of the merged schemas, or the end of the error message.
#[track_caller]
fn check_merge(components: &[&str], expected: Result<&[&str], &str>) {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = Vec::new();
    for (index, schemas) in components.iter().enumerate() {
        let path = folder.path().join(format!("{index}.yaml"));
        let text = format!(
            "openapi: 3.1.0\ninfo: {{title: a, version: '1'}}\npaths: {{}}\ncomponents: {{schemas: {schemas}}}"
        );
        std::fs::write(&path, text).unwrap();
        sources.push(path);
    }
    match (merge::merge(&sources), expected) {
        (Ok(document), Ok(names)) => {
            let schemas = document.components.unwrap().schemas;
            assert!(schemas.keys().eq(names), "{:?}", schemas.keys());
        }
        (Err(error), Err(expected)) => assert!(error.ends_with(expected), "{error}"),
        (Ok(_), Err(expected)) => panic!("expected the error: {expected}"),
        (Err(error), Ok(_)) => panic!("{error}"),
    }
}

#[test]
fn merging_fails_if_a_part_of_the_document_would_be_lost() {
    check_merge(
        &["{A: {type: string}}", "{B: {type: integer}}"],
        Ok(&["A", "B"]),
    );
    check_merge(
        &["{A: {type: string}}", "{A: {type: integer}}"],
        Err("1.yaml: /components/schemas: \"A\" is defined in another file, too"),
    );
    check_merge(
        &["{A: {type: string}, A: {type: integer}}"],
        Err("duplicate entry with key \"A\" at line 4 column 23"),
    );
    check_merge(
        &["{A: {type: string, const: a}}"],
        Err("utoipa's model does not keep /components/schemas/A/const: it is lost"),
    );
}
