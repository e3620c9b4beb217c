//! References: what a `$ref` names becomes a numbered definition.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::super::disjoint::Definitions;
use super::keywords::{SchemaObject, escaped};
use super::{MAX_POINTER_BYTES, Reader, text};

/// How deep anchors are looked for.
const MOST_ANCHOR_DEPTH: usize = 64;

/// A schema that is read once for each use: whether other schemas say something of the same value, too.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Definition {
    pub(super) place: String,
    pub(super) joined: bool,
}

impl Reader<'_> {
    /// Follows a `$ref`.
    pub(super) fn reference(
        &mut self,
        object: &SchemaObject<'_>,
        reference: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let at = object.at("$ref");
        if self.left_out.contains(&at) {
            self.note(&at);
            return Ok(());
        }
        let reference = text(&at, reference)?;
        let Some(target) = self.target(reference) else {
            let problem = "only references within the schema are followed: # and a JSON pointer, or an anchor";
            return self.relax(&at, problem.to_owned());
        };
        match self.root.pointer(&target) {
            Some(Value::Object(_) | Value::Bool(_)) => {
                let joined = match self.ignores_siblings {
                    true => object.joined,
                    false => object.joins("$ref"),
                };
                let number = self.definition_number(&target, joined);
                written.insert("$ref".to_owned(), Definitions::reference(number).into());
                Ok(())
            }
            _ => self.relax(&at, format!("there is no schema at {reference}")),
        }
    }

    /// The place that a reference names, if it is one of this document.
    pub(super) fn target(&self, reference: &str) -> Option<String> {
        let own = |name: &str| {
            self.root
                .get(name)?
                .as_str()
                .map(|id| id.trim_end_matches('#'))
        };
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        if !document.is_empty() && own("$id") != Some(document) && own("id") != Some(document) {
            return None;
        }
        let fragment = decoded(fragment)?;
        match fragment.is_empty() || fragment.starts_with('/') {
            true => Some(fragment),
            false => {
                let anchors = self.anchors.get_or_init(|| {
                    let mut anchors = HashMap::new();
                    find_anchors(self.root, "", MOST_ANCHOR_DEPTH, &mut anchors);
                    anchors
                });
                anchors.get(&*fragment).cloned()
            }
        }
    }

    pub(super) fn definition_number(&mut self, place: &str, joined: bool) -> usize {
        let next = self.definitions.len();
        let definition = Definition {
            place: place.to_owned(),
            joined,
        };
        let number = *self.numbers.entry(definition.clone()).or_insert(next);
        if number == next {
            self.definitions.push(definition);
        }
        number
    }
}

/// Whether the schema's draft ignores what stands beside a `$ref`.
pub(super) fn ignores_siblings_of_references(schema: &Value) -> bool {
    let uri = schema.get("$schema").and_then(Value::as_str);
    let name = uri.unwrap_or_default().trim_end_matches('#');
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    ["draft-03", "draft-04", "draft-05", "draft-06", "draft-07"]
        .iter()
        .any(|draft| name == format!("json-schema.org/{draft}/schema"))
}

/// Enters the place of each schema with an anchor, the first one of each name.
fn find_anchors<'a>(
    value: &'a Value,
    place: &str,
    depth: usize,
    anchors: &mut HashMap<&'a str, String>,
) {
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    if place.len() > MAX_POINTER_BYTES {
        return;
    }
    match value {
        Value::Object(fields) => {
            let named = |keyword: &str| fields.get(keyword).and_then(Value::as_str);
            let fragment = |keyword| named(keyword).and_then(|id| id.strip_prefix('#'));
            let names = [
                named("$anchor"),
                named("$dynamicAnchor"),
                fragment("$id"),
                fragment("id"),
            ];
            for name in names.into_iter().flatten() {
                anchors.entry(name).or_insert_with(|| place.to_owned());
            }
            for (field, value) in fields {
                let place = format!("{place}/{}", escaped(field));
                find_anchors(value, &place, depth, anchors);
            }
        }
        Value::Array(values) => {
            for (number, value) in values.iter().enumerate() {
                find_anchors(value, &format!("{place}/{number}"), depth, anchors);
            }
        }
        _ => {}
    }
}

/// A percent-encoded fragment.
fn decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
