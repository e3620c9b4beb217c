//! The table of fields (`fields.yaml`) against the document and against a server.

use std::collections::{BTreeMap, BTreeSet};

use ortolan::api::document::DOCUMENT;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::expectation::Expectation;
use crate::server::Server;

/// Fields of several routes, and each route with its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Fields that several routes have, by the name of the group.
    shared: BTreeMap<String, Fields>,
    /// By path.
    routes: BTreeMap<String, RouteFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFields {
    /// A body that is answered with 200.
    base: Value,
    /// The path as it is sent, if it has parameters.
    path: Option<String>,
    /// Whether it needs a model that fills gaps.
    #[serde(default)]
    fills_gaps: bool,
    /// The route whose bodies it takes, to count their tokens.
    counts: Option<String>,
    /// Groups of `shared`.
    #[serde(default)]
    uses: Vec<String>,
    /// Its own fields; one that a group has, too, counts in the group's place.
    fields: Fields,
}

/// Cases by field.
type Fields = BTreeMap<String, Vec<Case>>;

/// A value of a field and what comes of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The value; the field is left out where there is none.
    send: Option<Value>,
    /// Other fields of the body; null leaves one out.
    #[serde(default)]
    with: Map<String, Value>,
    expect: Expectation,
}

fn table() -> Table {
    yaml_serde::from_str(include_str!("fields.yaml")).unwrap()
}

impl RouteFields {
    fn all<'a>(&'a self, table: &'a Table) -> BTreeMap<&'a str, &'a [Case]> {
        let counted = self.counts.iter();
        let counted = counted.flat_map(|route| table.routes[route].all(table));
        let groups = self.uses.iter().flat_map(|group| &table.shared[group]);
        let own = groups.chain(&self.fields);
        let own = own.map(|(name, cases)| (&**name, &**cases));
        counted.chain(own).collect()
    }
}

/// Sends every case, and says which do not come out as expected.
pub(crate) async fn check() -> Vec<String> {
    let table = table();
    let (usual, filling) = (Server::start(), Server::that_fills_gaps());
    let mut problems = Vec::new();
    for (route, fields) in &table.routes {
        let server = match fields.fills_gaps {
            true => &filling,
            false => &usual,
        };
        let path = fields.path.as_deref().unwrap_or(route);
        for (name, cases) in fields.all(&table) {
            for (number, case) in cases.iter().enumerate() {
                let mut body = fields.base.clone();
                for (other, value) in &case.with {
                    body[other] = value.clone();
                }
                let given = |_: &String, value: &mut Value| !value.is_null();
                body.as_object_mut().unwrap().retain(given);
                let without = server.post(path, &body).await;
                match &case.send {
                    Some(value) => body[name] = value.clone(),
                    None => _ = body.as_object_mut().unwrap().remove(name),
                }
                let answer = server.post(path, &body).await;
                let counts = fields.counts.is_some() && !fields.fields.contains_key(name);
                let found = match counts {
                    true => case.expect.check_count(&answer),
                    false => case.expect.check(server, &answer, Some(&without)).await,
                };
                problems
                    .extend(found.map(|problem| format!("{route} {name} [{number}]: {problem}")));
            }
        }
    }
    problems
}

/// Fields of the document that the table lacks, and fields of the table that the document lacks.
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

/// The routes that take a body, each with its schema; aliases are not repeated.
fn bodies() -> impl Iterator<Item = (&'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().filter_map(|(path, item)| {
        let operation = item.get("post")?;
        let is_alias = operation.get("x-ortolan-alias-of").is_some();
        let schema = operation.pointer("/requestBody/content/application~1json/schema")?;
        (!is_alias).then_some((path.as_str(), schema))
    })
}

/// The names of an object's properties, references and compositions followed.
fn properties(schema: &'static Value) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    let mut open = vec![schema];
    while let Some(schema) = open.pop() {
        if let Some(reference) = schema["$ref"].as_str() {
            open.extend(DOCUMENT.pointer(reference.trim_start_matches('#')));
        }
        for composition in ["allOf", "oneOf", "anyOf"] {
            open.extend(schema[composition].as_array().into_iter().flatten());
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
