//! The table of fields within fields (`nested_fields.yaml`) against the document and against a server.

use std::collections::{BTreeMap, BTreeSet};

use ortolan::api::document::DOCUMENT;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fields::{Case, base_of, bodies, table_text};
use crate::place::Place;
use crate::server::{Kind, Servers};

/// An object that is the same on several routes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    /// The routes that every case is sent to.
    routes: Vec<String>,
    /// Routes that take the same object and generate nothing.
    #[serde(default)]
    also: Vec<String>,
    /// Where the object stands.
    #[serde(rename = "in")]
    places: Vec<String>,
    /// The server that is asked.
    #[serde(default)]
    server: Kind,
    /// Added to a route's base body; the whole body of a route that takes a list.
    #[serde(default)]
    body: Value,
    fields: BTreeMap<String, Vec<Case>>,
}

fn table() -> Vec<Group> {
    yaml_serde::from_str(&table_text("nested_fields.yaml")).unwrap()
}

impl Group {
    /// The places of its fields, each with its cases.
    fn cases(&self) -> impl Iterator<Item = (Place, &[Case])> {
        self.places.iter().flat_map(|place| {
            let of = move |name: &str| match place.is_empty() || name.starts_with('[') {
                true => Place::parse(&format!("{place}{name}")),
                false => Place::parse(&format!("{place}.{name}")),
            };
            let fields = self.fields.iter();
            fields.map(move |(name, cases)| (of(name), &**cases))
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

/// Sends every case, and says which do not come out as expected.
pub(crate) async fn check() -> Vec<String> {
    let servers = Servers::start();
    let mut problems = Vec::new();
    for group in table() {
        let server = servers.of(group.server);
        for (place, cases) in group.cases() {
            for (number, case) in cases.iter().enumerate() {
                let expect = case.expect.about(&place.to_string());
                for route in &group.routes {
                    let mut without = group.body(route);
                    case.prepare(&mut without);
                    let mut body = without.clone();
                    place.set(&mut body, case.send.clone());
                    let without = match expect.compares() {
                        true => Some(server.post(route, &without).await),
                        false => None,
                    };
                    let answer = server.post(route, &body).await;
                    let found = expect.check(server, &answer, without.as_ref()).await;
                    let problem = |problem| format!("{route} {place} [{number}]: {problem}");
                    problems.extend(found.map(problem));
                }
                for route in &group.also {
                    let mut body = group.body(route);
                    case.prepare(&mut body);
                    place.set(&mut body, case.send.clone());
                    let found = expect.check_count(&server.post(route, &body).await);
                    let problem = |problem| format!("{route} {place} [{number}]: {problem}");
                    problems.extend(found.map(problem));
                }
            }
        }
    }
    problems
}

/// Fields of the document that the table lacks, and fields of the table that the document lacks.
pub(crate) fn coverage() -> (Vec<String>, Vec<String>) {
    let table = table();
    let in_table: BTreeSet<String> = table
        .iter()
        .flat_map(|group| {
            let places = group.cases().map(|(place, _)| place.in_document());
            let places: Vec<String> = places.collect();
            let routes = group.routes.iter().chain(&group.also);
            routes.flat_map(move |route| {
                let fields = places.iter().map(|place| format!("{route} {place}"));
                fields.collect::<Vec<_>>()
            })
        })
        .collect();
    let in_document: BTreeSet<String> = bodies()
        .flat_map(|(route, schema)| {
            let mut places = BTreeSet::new();
            list(schema, "", &mut Vec::new(), &mut places);
            places.retain(|place| place.contains('.'));
            places
                .into_iter()
                .map(move |place| format!("{route} {place}"))
        })
        .collect();
    (
        in_document.difference(&in_table).cloned().collect(),
        in_table.difference(&in_document).cloned().collect(),
    )
}

/// Lists the places of all properties that a schema defines; a component within itself is not entered again.
fn list(
    schema: &'static Value,
    place: &str,
    within: &mut Vec<&'static str>,
    places: &mut BTreeSet<String>,
) {
    if let Some(reference) = schema["$ref"].as_str()
        && !within.contains(&reference)
    {
        within.push(reference);
        let target = DOCUMENT.pointer(reference.trim_start_matches('#'));
        list(target.unwrap(), place, within, places);
        within.pop();
    }
    for composition in ["allOf", "anyOf", "oneOf"] {
        for part in schema[composition].as_array().into_iter().flatten() {
            list(part, place, within, places);
        }
    }
    for (name, property) in schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::iter)
    {
        let place = match place {
            "" => name.clone(),
            place => format!("{place}.{name}"),
        };
        list(property, &place, within, places);
        places.insert(place);
    }
    if schema["items"].is_object() {
        list(&schema["items"], &format!("{place}[]"), within, places);
    }
    if schema["additionalProperties"].is_object() {
        let place = format!("{place}.*");
        list(&schema["additionalProperties"], &place, within, places);
    }
}
