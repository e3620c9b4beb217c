//! Checks the table of nested request fields (`nested_fields.yaml`) against the OpenAPI document and against a server.

use std::collections::{BTreeMap, BTreeSet};

use ortolan::api::document::DOCUMENT;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::field_path::FieldPath;
use crate::fields::{Case, base_of, bodies, table_text};
use crate::server::{Kind, Servers};

/// An object that several routes share.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    /// The routes that every case is sent to.
    routes: Vec<String>,
    /// Routes that accept the same object and only count tokens or render the prompt.
    #[serde(default, rename = "also")]
    counting_routes: Vec<String>,
    /// Paths of the object in the body.
    #[serde(rename = "in")]
    object_paths: Vec<String>,
    /// The server that receives the requests.
    #[serde(default)]
    server: Kind,
    /// Fields that are added to a route's base body; a list replaces the base body.
    #[serde(default)]
    body: Value,
    fields: BTreeMap<String, Vec<Case>>,
}

fn table() -> Vec<Group> {
    yaml_serde::from_str(&table_text("nested_fields.yaml")).unwrap()
}

impl Group {
    /// The paths of all fields, each with its cases.
    fn cases(&self) -> impl Iterator<Item = (FieldPath, &[Case])> {
        self.object_paths.iter().flat_map(|object| {
            let field_path = move |name: &str| match object.is_empty() || name.starts_with('[') {
                true => FieldPath::parse(&format!("{object}{name}")),
                false => FieldPath::parse(&format!("{object}.{name}")),
            };
            let fields = self.fields.iter();
            fields.map(move |(name, cases)| (field_path(name), &**cases))
        })
    }

    fn body(&self, route: &str) -> Value {
        let Value::Object(more) = &self.body else {
            return match &self.body {
                Value::Null => base_of(route),
                list => list.clone(),
            };
        };
        let mut body = base_of(route);
        body.as_object_mut().unwrap().extend(more.clone());
        body
    }
}

/// Sends every case; returns the unmet expectations.
pub(crate) async fn check() -> Vec<String> {
    let servers = Servers::start();
    let mut problems = Vec::new();
    for group in table() {
        let server = servers.get(group.server);
        for (path, cases) in group.cases() {
            for (number, case) in cases.iter().enumerate() {
                let expect = case.expect.for_field(&path.to_string());
                for route in &group.routes {
                    let mut without = group.body(route);
                    case.prepare(&mut without);
                    let mut body = without.clone();
                    path.set(&mut body, case.send.clone());
                    let without = match expect.needs_comparison() {
                        true => Some(server.post(route, &without).await),
                        false => None,
                    };
                    let response = server.post(route, &body).await;
                    let unmet = expect.check(server, &response, without.as_ref()).await;
                    let problem = |problem| format!("{route} {path} [{number}]: {problem}");
                    problems.extend(unmet.map(problem));
                }
                for route in &group.counting_routes {
                    let mut body = group.body(route);
                    case.prepare(&mut body);
                    path.set(&mut body, case.send.clone());
                    let unmet = expect.check_count(&server.post(route, &body).await);
                    let problem = |problem| format!("{route} {path} [{number}]: {problem}");
                    problems.extend(unmet.map(problem));
                }
            }
        }
    }
    problems
}

/// Fields of the document that are missing in the table, and fields of the table that are missing in the document.
pub(crate) fn coverage() -> (Vec<String>, Vec<String>) {
    let table = table();
    let in_table: BTreeSet<String> = table
        .iter()
        .flat_map(|group| {
            let paths = group.cases().map(|(path, _)| path.in_document());
            let paths: Vec<String> = paths.collect();
            let routes = group.routes.iter().chain(&group.counting_routes);
            routes.flat_map(move |route| {
                let fields = paths.iter().map(|path| format!("{route} {path}"));
                fields.collect::<Vec<_>>()
            })
        })
        .collect();
    let in_document: BTreeSet<String> = bodies()
        .flat_map(|(route, schema)| {
            let mut paths = BTreeSet::new();
            collect_paths(schema, "", &mut Vec::new(), &mut paths);
            paths.retain(|path| path.contains('.'));
            paths.into_iter().map(move |path| format!("{route} {path}"))
        })
        .collect();
    (
        in_document.difference(&in_table).cloned().collect(),
        in_table.difference(&in_document).cloned().collect(),
    )
}

/// Collects the paths of all properties of a schema. References to components in `within` (recursive ones) are not
/// followed.
fn collect_paths(
    schema: &'static Value,
    path: &str,
    within: &mut Vec<&'static str>,
    paths: &mut BTreeSet<String>,
) {
    if let Some(reference) = schema["$ref"].as_str()
        && !within.contains(&reference)
    {
        within.push(reference);
        let target = DOCUMENT.pointer(reference.trim_start_matches('#'));
        collect_paths(target.unwrap(), path, within, paths);
        within.pop();
    }
    for composition in ["allOf", "anyOf", "oneOf"] {
        for part in schema[composition].as_array().into_iter().flatten() {
            collect_paths(part, path, within, paths);
        }
    }
    for (name, property) in schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::iter)
    {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        collect_paths(property, &path, within, paths);
        paths.insert(path);
    }
    if schema["items"].is_object() {
        collect_paths(&schema["items"], &format!("{path}[]"), within, paths);
    }
    if schema["additionalProperties"].is_object() {
        let path = format!("{path}.*");
        collect_paths(&schema["additionalProperties"], &path, within, paths);
    }
}
