//! References: the target of each `$ref` becomes a numbered definition.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::super::GrammarError;
use super::super::disjoint::Definitions;
use super::keywords::{SchemaObject, escaped};
use super::{MAX_POINTER_BYTES, SchemaTranslator, text};

/// Maximum depth at which anchors are searched for.
const MAX_ANCHOR_DEPTH: usize = 64;

/// The target of a `$ref`. A target with both combined and other uses is translated once for each.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Definition {
    pub(super) pointer: String,
    /// Whether other schemas constrain the same value.
    pub(super) is_combined: bool,
}

impl SchemaTranslator<'_> {
    pub(super) fn reference(
        &mut self,
        object: &SchemaObject<'_>,
        reference: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let pointer = object.pointer_to("$ref");
        if self.dropped.contains(&pointer) {
            self.record_relaxed(&pointer);
            return Ok(());
        }
        let reference = text(&pointer, reference)?;
        let Some(target) = self.target(reference) else {
            let problem = "only references within the schema are supported: # and a JSON pointer, or an anchor";
            return self.relax(&pointer, problem.to_owned());
        };
        match self.root.pointer(&target) {
            Some(Value::Object(_) | Value::Bool(_)) => {
                let is_combined = match self.ignores_siblings {
                    true => object.is_combined,
                    false => object.is_combined_beyond("$ref"),
                };
                let number = self.definition_number(&target, is_combined);
                output.insert("$ref".to_owned(), Definitions::reference(number).into());
                Ok(())
            }
            _ => self.relax(&pointer, format!("schema not found: {reference}")),
        }
    }

    /// Returns the JSON pointer to the target of a reference; `None` if the target is not in this document.
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
        let fragment = percent_decode_str(fragment).decode_utf8().ok()?;
        match fragment.is_empty() || fragment.starts_with('/') {
            true => Some(fragment.into_owned()),
            false => {
                let anchors = self.anchors.get_or_init(|| {
                    let mut anchors = HashMap::new();
                    find_anchors(self.root, "", MAX_ANCHOR_DEPTH, &mut anchors);
                    anchors
                });
                anchors.get(&*fragment).cloned()
            }
        }
    }

    /// Returns the number of a definition. Adds the definition if it is new.
    pub(super) fn definition_number(&mut self, pointer: &str, is_combined: bool) -> usize {
        let next = self.definitions.len();
        let definition = Definition {
            pointer: pointer.to_owned(),
            is_combined,
        };
        let number = *self
            .definition_numbers
            .entry(definition.clone())
            .or_insert(next);
        if number == next {
            self.definitions.push(definition);
        }
        number
    }
}

/// Whether the schema's draft ignores keywords next to a `$ref`.
pub(super) fn ignores_siblings_of_references(schema: &Value) -> bool {
    let uri = schema.get("$schema").and_then(Value::as_str);
    let name = uri.unwrap_or_default().trim_end_matches('#');
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    ["draft-03", "draft-04", "draft-05", "draft-06", "draft-07"]
        .iter()
        .any(|draft| name == format!("json-schema.org/{draft}/schema"))
}

/// Collects the pointers to schemas with an anchor; the first of several anchors with the same name wins.
fn find_anchors<'a>(
    value: &'a Value,
    pointer: &str,
    depth: usize,
    anchors: &mut HashMap<&'a str, String>,
) {
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    if pointer.len() > MAX_POINTER_BYTES {
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
                anchors.entry(name).or_insert_with(|| pointer.to_owned());
            }
            for (field, value) in fields {
                let pointer = format!("{pointer}/{}", escaped(field));
                find_anchors(value, &pointer, depth, anchors);
            }
        }
        Value::Array(values) => {
            for (number, value) in values.iter().enumerate() {
                find_anchors(value, &format!("{pointer}/{number}"), depth, anchors);
            }
        }
        _ => {}
    }
}
