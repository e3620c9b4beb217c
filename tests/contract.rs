//! The routes as poem-openapi describes them are those of the document: paths, methods, parameters, bodies, answers.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use serde_json::Value;

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
    let routes = facts(&serde_json::from_str(&ortolan::api::routes_description()).unwrap());
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
    // YAML's own reader belongs to the build; here it is enough that both hold every path.
    let json: Value = serde_json::from_str(ortolan::api::document::JSON).unwrap();
    for path in json["paths"].as_object().unwrap().keys() {
        assert!(
            ortolan::api::document::YAML.contains(&format!("  {path}:")),
            "{path}"
        );
    }
}
