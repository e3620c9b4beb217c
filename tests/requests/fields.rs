//! Checks the table of request fields (`fields.yaml`) against the OpenAPI document and against a server.

use std::collections::{BTreeMap, BTreeSet};

use ortolan::api::document::DOCUMENT;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::expectation::Expectation;
use crate::server::{Kind, Servers};

/// The content of `fields.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Groups of fields that several routes have, by group name.
    shared: BTreeMap<String, Fields>,
    /// Routes by path.
    routes: BTreeMap<String, RouteFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFields {
    /// A body that gets status 200.
    base: Value,
    /// The path to send, if the route has path parameters.
    path: Option<String>,
    /// The server that receives the requests.
    #[serde(default)]
    server: Kind,
    /// The route whose bodies this route accepts in order to count their tokens.
    counts: Option<String>,
    /// Groups of `shared`.
    #[serde(default)]
    uses: Vec<String>,
    /// The route's own fields; they override fields of the groups.
    fields: Fields,
}

/// Cases by field name.
type Fields = BTreeMap<String, Vec<Case>>;

/// A value of a field and the expected response.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The value; without it, the field is omitted.
    pub(crate) send: Option<Value>,
    /// Other fields of the body; null removes a field.
    #[serde(default)]
    with: Map<String, Value>,
    pub(crate) expect: Expectation,
}

impl Case {
    /// Sets the other fields of the case (`with`) in a body.
    pub(crate) fn prepare(&self, body: &mut Value) {
        for (name, value) in &self.with {
            body[name] = value.clone();
        }
        if let Some(fields) = body.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
    }
}

/// The text of a table file in `tests/requests/`.
pub(crate) fn table_text(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/requests/");
    std::fs::read_to_string(folder.to_owned() + name).unwrap()
}

fn table() -> Table {
    yaml_serde::from_str(&table_text("fields.yaml")).unwrap()
}

/// The base body of a route, which gets status 200.
pub(crate) fn base_of(route: &str) -> Value {
    let fields = table().routes.remove(route);
    fields.map_or(Value::Null, |fields| fields.base)
}

impl RouteFields {
    /// All fields of the route with their cases: the fields of the counted route, those of the groups, and its own.
    fn all<'a>(&'a self, table: &'a Table) -> BTreeMap<&'a str, &'a [Case]> {
        let counted = self.counts.iter();
        let counted = counted.flat_map(|route| table.routes[route].all(table));
        let groups = self.uses.iter().flat_map(|group| &table.shared[group]);
        let own = groups.chain(&self.fields);
        let own = own.map(|(name, cases)| (&**name, &**cases));
        counted.chain(own).collect()
    }
}

/// Sends every case; returns the unmet expectations.
pub(crate) async fn check() -> Vec<String> {
    let table = table();
    let servers = Servers::start();
    let mut problems = Vec::new();
    for (route, fields) in &table.routes {
        let server = servers.get(fields.server);
        let path = fields.path.as_deref().unwrap_or(route);
        for (name, cases) in fields.all(&table) {
            for (number, case) in cases.iter().enumerate() {
                let mut body = fields.base.clone();
                case.prepare(&mut body);
                let without = match case.expect.needs_comparison() {
                    true => Some(server.post(path, &body).await),
                    false => None,
                };
                match &case.send {
                    Some(value) => body[name] = value.clone(),
                    None => _ = body.as_object_mut().unwrap().remove(name),
                }
                let response = server.post(path, &body).await;
                let counts = fields.counts.is_some() && !fields.fields.contains_key(name);
                let problem = match counts {
                    true => case.expect.check_count(&response),
                    false => case.expect.check(server, &response, without.as_ref()).await,
                };
                problems
                    .extend(problem.map(|problem| format!("{route} {name} [{number}]: {problem}")));
            }
        }
    }
    problems
}

/// Fields of the document that are missing in the table, and fields of the table that are missing in the document.
pub(crate) fn coverage() -> (Vec<String>, Vec<String>) {
    let table = table();
    let in_table: BTreeSet<String> = table
        .routes
        .iter()
        .flat_map(|(route, fields)| {
            let all = fields.all(&table);
            all.into_keys().map(move |name| format!("{route} {name}"))
        })
        .collect();
    let in_document: BTreeSet<String> = bodies()
        .flat_map(|(route, schema)| {
            let names = properties(schema).into_iter();
            names.map(move |name| format!("{route} {name}"))
        })
        .collect();
    (
        in_document.difference(&in_table).cloned().collect(),
        in_table.difference(&in_document).cloned().collect(),
    )
}

/// The routes that accept a body, each with its schema, without aliases.
pub(crate) fn bodies() -> impl Iterator<Item = (&'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().filter_map(|(path, item)| {
        let operation = item.get("post")?;
        let is_alias = operation.get("x-ortolan-alias-of").is_some();
        let schema = operation.pointer("/requestBody/content/application~1json/schema")?;
        (!is_alias).then_some((path.as_str(), schema))
    })
}

/// The property names of an object schema, including those of references and compositions.
fn properties(schema: &'static Value) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    let mut unvisited = vec![schema];
    while let Some(schema) = unvisited.pop() {
        if let Some(reference) = schema["$ref"].as_str() {
            unvisited.extend(DOCUMENT.pointer(reference.trim_start_matches('#')));
        }
        for composition in ["allOf", "oneOf", "anyOf"] {
            unvisited.extend(schema[composition].as_array().into_iter().flatten());
        }
        let properties = schema["properties"].as_object();
        names.extend(
            properties
                .into_iter()
                .flat_map(Map::keys)
                .map(String::as_str),
        );
    }
    names
}
