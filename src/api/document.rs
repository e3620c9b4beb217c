//! The merged OpenAPI document as JSON, YAML and a Swagger UI page, and lookups of its paths, methods and tags.
//! `schema` validates bodies against the schemas of the document.

use std::sync::LazyLock;

use poem_openapi::OpenApiService;
use serde_json::Value;

/// The OpenAPI document as JSON text.
pub const JSON: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

/// The OpenAPI document as YAML text.
pub const YAML: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.yaml"));

/// The parsed OpenAPI document.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(JSON).expect("the build script writes valid JSON"));

/// Returns a Swagger UI page that contains the document and loads nothing from other servers.
pub fn page() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(|| {
        let empty = OpenApiService::new((), "", "");
        // The document is embedded in a script element. A `</script>` in the document would end the element.
        let document = JSON.replace('<', "\\u003c");
        let page = empty
            .swagger_ui_html()
            .replacen(&empty.spec(), &document, 1);
        page.replacen("<title>Swagger UI</title>", "<title>ortolan</title>", 1)
    });
    &PAGE
}

/// Returns whether a request path matches a path template of the document.
pub fn has(path: &str) -> bool {
    template(path).is_some()
}

/// Returns the path template that a request path matches, such as `/v1/models/{model}`.
pub fn template(path: &str) -> Option<&'static str> {
    item(path).map(|(template, _)| template.as_str())
}

/// Returns whether an operation of a request path has the tag `tag`.
pub fn has_tag(path: &str, tag: &str) -> bool {
    let operations = item(path).and_then(|(_, item)| item.as_object());
    let mut operations = operations.into_iter().flatten();
    operations.any(|(_, operation)| {
        let mut tags = operation["tags"].as_array().into_iter().flatten();
        tags.any(|value| value == tag)
    })
}

/// Returns whether the document has the request path and no operation of the path needs an API key (`security: []`).
pub fn is_open(path: &str) -> bool {
    let operations = item(path).and_then(|(_, item)| item.as_object());
    let is_open = |operation: &Value| operation["security"].as_array().is_some_and(Vec::is_empty);
    operations.is_some_and(|operations| operations.values().all(is_open))
}

/// Returns the HTTP methods of a request path in upper case; empty if the document has no such path.
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
    fn the_page_contains_the_document_and_loads_nothing_external() {
        let page = page();
        assert!(page.contains(r#""operationId": "chat_completion""#));
        assert!(!page.contains("src=\"http"), "the page must work offline");
    }

    #[test]
    fn finds_the_methods_and_template_of_a_path() {
        assert_eq!(methods("/completion"), ["POST"]);
        assert_eq!(methods("/v1/models/some%2Fmodel"), ["GET"]);
        assert!(methods("/v1/models/some/model").is_empty());
        assert_eq!(template("/v1/models/a"), Some("/v1/models/{model}"));
        assert_eq!(template("/v1/models/a/b"), None);
    }

    #[test]
    fn operations_match_the_snapshot() {
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
