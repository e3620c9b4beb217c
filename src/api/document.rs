//! The merged document: served as JSON, as YAML and as a page, and asked which methods a path has.
//! Checking bodies against it is `schema`'s.

use std::sync::LazyLock;

use poem_openapi::OpenApiService;
use serde_json::Value;

/// The document as JSON.
pub const JSON: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

/// The document as YAML.
pub const YAML: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.yaml"));

/// The document.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(JSON).expect("the build script wrote it as JSON"));

/// Swagger UI with the document in it; it needs nothing from outside.
pub fn page() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(|| {
        let empty = OpenApiService::new((), "", "");
        // The document becomes a part of a script: a `<` in it must not end the script.
        let document = JSON.replace('<', "\\u003c");
        let page = empty
            .swagger_ui_html()
            .replacen(&empty.spec(), &document, 1);
        page.replacen("<title>Swagger UI</title>", "<title>ortolan</title>", 1)
    });
    &PAGE
}

/// Whether the document has a request's path.
pub fn has(path: &str) -> bool {
    template(path).is_some()
}

/// The path as the document writes it, as `/v1/models/{model}`.
pub fn template(path: &str) -> Option<&'static str> {
    item(path).map(|(template, _)| template.as_str())
}

/// Whether an operation of a request's path has that tag.
pub fn has_tag(path: &str, tag: &str) -> bool {
    let operations = item(path).and_then(|(_, item)| item.as_object());
    let mut operations = operations.into_iter().flatten();
    operations.any(|(_, operation)| {
        let mut tags = operation["tags"].as_array().into_iter().flatten();
        tags.any(|own| own == tag)
    })
}

/// Whether the document has a request's path, and none of its operations needs a key: their `security` is empty.
pub fn is_open(path: &str) -> bool {
    let operations = item(path).and_then(|(_, item)| item.as_object());
    let is_open = |operation: &Value| operation["security"].as_array().is_some_and(Vec::is_empty);
    operations.is_some_and(|operations| operations.values().all(is_open))
}

/// The methods of a request's path in capital letters; empty if the document has no such path.
pub fn methods(path: &str) -> Vec<String> {
    let item = item(path).and_then(|(_, item)| item.as_object());
    item.into_iter()
        .flatten()
        .map(|(method, _)| method.to_uppercase())
        .collect()
}

fn item(path: &str) -> Option<(&'static String, &'static Value)> {
    let mut paths = DOCUMENT["paths"].as_object().into_iter().flatten();
    paths.find(|(template, _)| matches(template, path))
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template
            .zip(path)
            .all(|(expected, segment)| expected == segment || expected.starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_the_document_and_nothing_from_outside() {
        let page = page();
        assert!(page.contains(r#""operationId": "chat_completion""#));
        assert!(!page.contains("src=\"http"), "the page must work offline");
    }

    #[test]
    fn paths_know_their_methods() {
        assert_eq!(methods("/completion"), ["POST"]);
        assert_eq!(methods("/v1/models/some%2Fmodel"), ["GET"]);
        assert!(methods("/v1/models/some/model").is_empty());
        assert_eq!(template("/v1/models/a"), Some("/v1/models/{model}"));
        assert_eq!(template("/v1/models/a/b"), None);
    }

    #[test]
    fn what_people_read_of_the_operations() {
        let mut lines = String::new();
        for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let responses = operation["responses"].as_object().unwrap();
                let statuses = responses
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(" ");
                let summary = operation["summary"].as_str().unwrap();
                lines.push_str(&format!(
                    "{:4} {path} → {statuses}: {summary}\n",
                    method.to_uppercase()
                ));
            }
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| insta::assert_snapshot!("operations", lines));
    }
}
