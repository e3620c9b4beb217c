//! Translates a JSON Schema for llguidance. The translated schema follows draft 2020-12, has only keywords that
//! llguidance enforces, and each `$ref` refers to a numbered definition. Without the translation, llguidance ignores
//! unknown keywords, and does not report the position of a keyword that it rejects.
//!
//! A constraint that cannot be enforced token by token is dropped, and its JSON pointer is reported. So the translated
//! schema accepts a superset of the values. A strict schema is rejected instead, with the pointer in the error.

mod alternatives;
mod arrays;
mod bounds;
mod constraints;
mod keywords;
mod multiples;
mod numbers;
mod objects;
mod references;
mod relaxation;
mod strings;
mod values;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value, json};

use super::GrammarError;
use super::disjoint::Definitions;
use super::fuel::Fuel;
use alternatives::Alternatives;
pub(super) use keywords::is_structural;
use references::{Definition, ignores_siblings_of_references};
pub(super) use relaxation::{Compiled, compile, translate_only};
#[cfg(test)]
pub(super) use strings::FORMATS;

/// Maximum length of a serialized schema, in bytes.
pub(super) const MAX_SCHEMA_BYTES: usize = 1 << 19;
/// Maximum length of the JSON pointer to a subschema, in bytes.
const MAX_POINTER_BYTES: usize = 4096;
/// Maximum number of subschemas of a schema, including the schema itself.
const MAX_SCHEMAS: usize = 10_000;
/// Steps of fuel for the translation of one schema, without its subschemas.
const STEPS_PER_SCHEMA: u64 = 20;

/// The whitespace allowed between JSON tokens, limited so that a model cannot generate whitespace endlessly.
const WHITESPACE_PATTERN: &str = r"\x20|\n[\x20\t]{0,32}";

/// A schema translated for llguidance.
struct Translation {
    translated: Value,
    /// Pointers to the dropped constraints, in the order in which they were found.
    relaxed: Vec<String>,
}

/// Why a schema cannot be translated.
enum TranslationError {
    /// The schema is invalid or too large, or the schema is strict and cannot be enforced.
    Rejected(GrammarError),
    /// The keyword or schema at this pointer has to be dropped first.
    MustDrop(String),
}

impl From<GrammarError> for TranslationError {
    fn from(error: GrammarError) -> Self {
        Self::Rejected(error)
    }
}

fn check_size(schema: &Value) -> Result<(), GrammarError> {
    let bytes = schema.to_string().len();
    match bytes > MAX_SCHEMA_BYTES {
        true => Err(GrammarError::TooLarge(format!(
            "the schema has {bytes} bytes; the limit is {MAX_SCHEMA_BYTES}"
        ))),
        false => Ok(()),
    }
}

/// Translates a schema of at most [`MAX_SCHEMA_BYTES`], without the keywords and schemas at the pointers in `dropped`.
fn translate(
    schema: &Value,
    strict: bool,
    dropped: &HashSet<String>,
    fuel: &Fuel<'_>,
) -> Result<Translation, TranslationError> {
    let mut translator = SchemaTranslator::new(schema, strict, dropped, fuel);
    let translated = translator.document("")?;
    translator.check_alternatives()?;
    translator.check_patterns()?;
    translator.check_multiples()?;
    Ok(Translation {
        translated,
        relaxed: translator.relaxed,
    })
}

fn schema_error(pointer: impl Into<String>, problem: impl Into<String>) -> GrammarError {
    GrammarError::Schema {
        pointer: pointer.into(),
        problem: problem.into(),
    }
}

/// The error message for a keyword that cannot be enforced in a strict schema.
fn unenforceable(keyword: &str) -> String {
    format!("{keyword} cannot be enforced token by token; leave it out, or do not set strict")
}

struct SchemaTranslator<'a> {
    root: &'a Value,
    strict: bool,
    dropped: &'a HashSet<String>,
    fuel: &'a Fuel<'a>,
    relaxed: Vec<String>,
    /// The elements of `relaxed`, for lookups.
    relaxed_set: HashSet<String>,
    /// The number of optional parts (see [`regex_limits`](super::regex_limits)) in all patterns so far.
    optional_parts: usize,
    /// JSON pointers by anchor name, collected at the first reference to an anchor.
    anchors: OnceCell<HashMap<&'a str, String>>,
    /// Whether keywords next to `$ref` are ignored, as in drafts up to 7.
    ignores_siblings: bool,
    /// The targets of `$ref`, by number.
    definitions: Vec<Definition>,
    definition_numbers: HashMap<Definition, usize>,
    translated: Definitions,
    alternatives: Vec<Alternatives>,
    /// Pointers to the schemas with `allOf`, `anyOf` or `$ref`, and their translations.
    combined_schemas: Vec<(String, Value)>,
    /// Pointers to the `multipleOf` keywords, and their values.
    multiples: Vec<(String, f64)>,
    /// Pointers to all translated schemas. Subschemas come before the schema that contains them.
    visited: Vec<String>,
    /// For each definition, the index in `visited` of the definition's first schema.
    definition_starts: Vec<usize>,
}

impl<'a> SchemaTranslator<'a> {
    fn new(
        root: &'a Value,
        strict: bool,
        dropped: &'a HashSet<String>,
        fuel: &'a Fuel<'a>,
    ) -> Self {
        Self {
            root,
            strict,
            dropped,
            fuel,
            relaxed: Vec::new(),
            relaxed_set: HashSet::new(),
            optional_parts: 0,
            anchors: OnceCell::new(),
            ignores_siblings: ignores_siblings_of_references(root),
            definitions: Vec::new(),
            definition_numbers: HashMap::new(),
            translated: Definitions::default(),
            alternatives: Vec::new(),
            combined_schemas: Vec::new(),
            multiples: Vec::new(),
            visited: Vec::new(),
            definition_starts: Vec::new(),
        }
    }

    /// Translates the schema at a pointer and all schemas that it references into one self-contained document.
    fn document(&mut self, pointer: &str) -> Result<Value, GrammarError> {
        let first = self.definition_number(pointer, false);
        while let Some(Definition {
            pointer,
            is_combined,
        }) = self.definitions.get(self.translated.len()).cloned()
        {
            let schema = self.root.pointer(&pointer).unwrap_or(&Value::Null);
            self.definition_starts.push(self.visited.len());
            let translated = self.schema(&pointer, schema, is_combined)?;
            self.translated.push(translated);
        }
        Ok(json!({
            "x-guidance": { "whitespace_pattern": WHITESPACE_PATTERN },
            "$defs": self.translated.numbered(),
            "$ref": Definitions::reference(first),
        }))
    }

    /// Returns the pointers to all translated schemas. Referenced schemas come before the schemas that reference them,
    /// subschemas before the schemas that contain them.
    fn innermost_first(&self) -> impl Iterator<Item = &String> {
        let ends = self
            .definition_starts
            .iter()
            .rev()
            .scan(self.visited.len(), |end, start| {
                Some(&self.visited[*start..std::mem::replace(end, *start)])
            });
        ends.flatten()
    }

    /// Records that the constraint at `pointer` is dropped; fails with `problem` if the schema is strict.
    fn relax(&mut self, pointer: &str, problem: String) -> Result<(), GrammarError> {
        if self.strict {
            return Err(schema_error(pointer, problem));
        }
        self.record_relaxed(pointer);
        Ok(())
    }

    fn relax_keyword(&mut self, pointer: &str, keyword: &str) -> Result<(), GrammarError> {
        self.relax(pointer, unenforceable(keyword))
    }

    fn record_relaxed(&mut self, pointer: &str) {
        if self.relaxed_set.insert(pointer.to_owned()) {
            self.relaxed.push(pointer.to_owned());
        }
    }

    /// Translates one schema. `is_combined` states that other schemas constrain the same value.
    fn schema(
        &mut self,
        pointer: &str,
        schema: &Value,
        is_combined: bool,
    ) -> Result<Value, GrammarError> {
        if pointer.len() > MAX_POINTER_BYTES {
            return Err(GrammarError::TooLarge(format!(
                "the JSON pointer to a schema has {} bytes, more than {MAX_POINTER_BYTES}",
                pointer.len()
            )));
        }
        self.fuel.spend(STEPS_PER_SCHEMA)?;
        let translated = match schema {
            // A dropped schema keeps its `type`, which can always be enforced.
            _ if self.dropped.contains(pointer) => {
                self.record_relaxed(pointer);
                let mut output = Map::new();
                if let Some(types) = schema.get("type") {
                    self.types(&format!("{pointer}/type"), types, &mut output)?;
                }
                output.into()
            }
            Value::Bool(_) => schema.clone(),
            Value::Object(keywords) => self.keywords(pointer, keywords, is_combined)?,
            _ => {
                return Err(schema_error(
                    pointer,
                    "a schema must be an object or a boolean",
                ));
            }
        };
        if self.visited.len() == MAX_SCHEMAS {
            return Err(GrammarError::TooLarge(format!(
                "the schema has more than {MAX_SCHEMAS} subschemas"
            )));
        }
        self.visited.push(pointer.to_owned());
        Ok(translated)
    }

    fn schemas_in_list(
        &mut self,
        pointer: &str,
        schemas: &Value,
        is_combined: bool,
    ) -> Result<Vec<Value>, GrammarError> {
        let schemas = schemas.as_array();
        let schemas =
            schemas.ok_or_else(|| schema_error(pointer, "it must be a list of schemas"))?;
        let schemas = schemas.iter().enumerate();
        schemas
            .map(|(number, schema)| {
                self.schema(&format!("{pointer}/{number}"), schema, is_combined)
            })
            .collect()
    }
}

fn text<'a>(pointer: &str, value: &'a Value) -> Result<&'a str, GrammarError> {
    value
        .as_str()
        .ok_or_else(|| schema_error(pointer, "it must be a string"))
}

fn count(pointer: &str, value: &Value) -> Result<u64, GrammarError> {
    let whole = |number: &Number| {
        let number = number
            .as_f64()
            .filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
        Some(number as u64)
    };
    let count = value.as_u64().or_else(|| value.as_number().and_then(whole));
    count.ok_or_else(|| schema_error(pointer, "it must be a non-negative integer"))
}
