//! The routes as poem-openapi describes them are those of the document: paths, methods, parameters, bodies, answers.
//! And the document is what was written: a build stops where merging would lose something.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use serde_json::Value;

#[path = "../openapi/merge.rs"]
mod merge;

/// What both descriptions can tell of an operation, a line for each fact.
fn facts(description: &Value) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let mut fact = |what: String| facts.insert(format!("{method} {path} ({id}): {what}"));
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let required = parameter["required"] == true;
                fact(format!(
                    "parameter {} in {}, required: {required}",
                    parameter["name"], parameter["in"]
                ));
            }
            let body = &operation["requestBody"];
            for media in content(description, body) {
                fact(format!("body {media}, required: {}", body["required"]));
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                for media in content(description, response) {
                    fact(format!("answer {status} {media}"));
                }
            }
        }
    }
    facts
}

/// Media types with the names of their schemas.
fn content(description: &Value, described: &Value) -> Vec<String> {
    let described = match described["$ref"].as_str() {
        Some(reference) => description
            .pointer(reference.strip_prefix('#').unwrap())
            .unwrap(),
        None => described,
    };
    let content = described["content"].as_object().into_iter().flatten();
    content
        .map(|(media, content)| format!("{media} {}", content["schema"]["$ref"]))
        .collect()
}

#[test]
fn the_routes_are_those_of_the_document() {
    let document = facts(&serde_json::from_str(ortolan::api::document::JSON).unwrap());
    let routes =
        facts(&serde_json::from_str(&ortolan::api::routes_description().unwrap()).unwrap());
    assert!(
        document.len() > 40,
        "the document tells too little: {document:#?}"
    );
    let missing: Vec<_> = document.difference(&routes).collect();
    let invented: Vec<_> = routes.difference(&document).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing: {missing:#?}\ninvented: {invented:#?}"
    );
}

#[test]
fn the_served_yaml_is_the_served_json() {
    let json: Value = serde_json::from_str(ortolan::api::document::JSON).unwrap();
    let yaml: Value = yaml_serde::from_str(ortolan::api::document::YAML).unwrap();
    assert_eq!(json, yaml);
}

/// Every schema, or what looks like one, in a part of the document: an object with `enum`, `oneOf` or `type`.
fn schemas<'a>(part: &'a Value, found: &mut Vec<&'a Value>) {
    match part {
        Value::Object(members) => {
            let keywords = ["enum", "oneOf", "type"];
            if keywords
                .iter()
                .any(|keyword| members.contains_key(*keyword))
            {
                found.push(part);
            }
            members.values().for_each(|member| schemas(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| schemas(item, found)),
        _ => {}
    }
}

/// Generators of clients drop a whole operation for `enum: [false, null]` (write a `oneOf` of both) and for an array
/// without `items`; the default of a `oneOf` becomes a text if it is a list.
#[test]
fn generators_can_read_the_schemas() {
    let document: Value = serde_json::from_str(ortolan::api::document::JSON).unwrap();
    let mut found = Vec::new();
    schemas(&document["components"]["schemas"], &mut found);
    assert!(found.len() > 400, "{}", found.len());
    let unreadable = |schema: &&&Value| {
        let values = schema["enum"].as_array().map_or(&[][..], Vec::as_slice);
        let is_mixed = values.iter().any(Value::is_null) && values.iter().any(Value::is_boolean);
        let kinds = &schema["type"];
        let mut of_several = kinds.as_array().into_iter().flatten();
        let is_array = kinds == "array" || of_several.any(|kind| kind == "array");
        let is_listed = schema["default"].is_array() && schema.get("oneOf").is_some();
        is_mixed || is_listed || (is_array && schema.get("items").is_none())
    };
    let unreadable: Vec<_> = found.iter().filter(unreadable).collect();
    assert!(unreadable.is_empty(), "{unreadable:#?}");
}

/// Merges files with these components and compares the outcome: the names, or the part of the error after the file.
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
        sources.push(path.to_str().unwrap().to_owned());
    }
    let sources: Vec<_> = sources.iter().map(String::as_str).collect();
    match (merge::merge(&sources), expected) {
        (Ok(document), Ok(names)) => {
            let schemas = document.components.unwrap().schemas;
            assert!(schemas.keys().eq(names), "{:?}", schemas.keys());
        }
        (Err(error), Err(expected)) => assert!(error.ends_with(expected), "{error}"),
        (Ok(_), Err(expected)) => panic!("it was merged, without: {expected}"),
        (Err(error), Ok(_)) => panic!("{error}"),
    }
}

#[test]
fn a_build_stops_where_merging_would_lose_something() {
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
