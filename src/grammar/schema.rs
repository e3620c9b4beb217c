//! Reads a JSON Schema and writes what llguidance takes: only keywords that it enforces, in the words of draft 2020-12,
//! with every `$ref` to a numbered definition. Alone it passes over keywords that no draft knows, and does not say
//! where the one stands that it refuses.
//!
//! A constraint that cannot be enforced token by token is left out, so that the written schema accepts a superset, and
//! its place is listed; where the schema is strict, it is refused with its place.

mod alternatives;
mod arrays;
mod bounds;
mod constraints;
mod keywords;
mod multiples;
mod numbers;
mod objects;
mod references;
mod relaxing;
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
pub(super) use relaxing::{Compiled, compile, read_at_once};
#[cfg(test)]
pub(super) use strings::FORMATS;

/// Longest text of a schema.
pub(super) const MAX_SCHEMA_BYTES: usize = 1 << 19;
/// Longest JSON pointer to a schema within a schema: each schema is known by its pointer.
const MAX_POINTER_BYTES: usize = 4096;
/// Most schemas within a schema, itself included.
const MOST_SCHEMAS: usize = 10_000;
/// Steps to read a schema without those within it.
const STEPS_A_SCHEMA: u64 = 20;

/// What may stand between two parts of a JSON text: little, so that a model cannot go on with blanks.
const BLANK: &str = r"\x20|\n[\x20\t]{0,32}";

/// A schema as llguidance takes it.
struct Reading {
    written: Value,
    /// Places of constraints that are not enforced, in the order in which they were met.
    relaxed: Vec<String>,
}

/// Why a schema has no reading.
enum Fault {
    /// It is no schema, it is too large, or it is strict and cannot be enforced.
    Refused(GrammarError),
    /// The keyword, or the whole schema, at this place has to be left out.
    LeaveOut(String),
}

impl From<GrammarError> for Fault {
    fn from(error: GrammarError) -> Self {
        Self::Refused(error)
    }
}

fn check_size(schema: &Value) -> Result<(), GrammarError> {
    let bytes = schema.to_string().len();
    match bytes > MAX_SCHEMA_BYTES {
        true => Err(GrammarError::TooLarge(format!(
            "a schema of {bytes} bytes is longer than {MAX_SCHEMA_BYTES}"
        ))),
        false => Ok(()),
    }
}

/// Reads a schema of at most [`MAX_SCHEMA_BYTES`]. The keywords and schemas at the places in `left_out` do not count.
fn read(
    schema: &Value,
    strict: bool,
    left_out: &HashSet<String>,
    fuel: &Fuel<'_>,
) -> Result<Reading, Fault> {
    let mut reader = Reader::new(schema, strict, left_out, fuel);
    let written = reader.whole("")?;
    reader.check_alternatives()?;
    reader.check_patterns()?;
    reader.check_multiples()?;
    Ok(Reading {
        written,
        relaxed: reader.relaxed,
    })
}

fn refused(place: impl Into<String>, problem: impl Into<String>) -> GrammarError {
    GrammarError::Schema {
        place: place.into(),
        problem: problem.into(),
    }
}

/// What is said of a keyword that a strict schema may not have.
fn unenforceable(keyword: &str) -> String {
    format!("{keyword} cannot be enforced token by token; leave it out, or do not set strict")
}

struct Reader<'a> {
    root: &'a Value,
    strict: bool,
    left_out: &'a HashSet<String>,
    fuel: &'a Fuel<'a>,
    relaxed: Vec<String>,
    /// The same, to be found in.
    known_relaxed: HashSet<String>,
    /// Parts that may be empty in the patterns so far.
    optional_parts: usize,
    /// The places of the anchors, once one is looked for.
    anchors: OnceCell<HashMap<&'a str, String>>,
    ignores_siblings: bool,
    /// What a `$ref` named, in the order of the numbers.
    definitions: Vec<Definition>,
    numbers: HashMap<Definition, usize>,
    written: Definitions,
    alternatives: Vec<Alternatives>,
    /// Schemas that more than themselves say something of, and their places.
    joints: Vec<(String, Value)>,
    /// Where `multipleOf` stands, and its value.
    multiples: Vec<(String, f64)>,
    /// Every schema that was read, what is within another one before it.
    places: Vec<String>,
    /// Where in `places` each definition starts.
    starts: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(
        root: &'a Value,
        strict: bool,
        left_out: &'a HashSet<String>,
        fuel: &'a Fuel<'a>,
    ) -> Self {
        Self {
            root,
            strict,
            left_out,
            fuel,
            relaxed: Vec::new(),
            known_relaxed: HashSet::new(),
            optional_parts: 0,
            anchors: OnceCell::new(),
            ignores_siblings: ignores_siblings_of_references(root),
            definitions: Vec::new(),
            numbers: HashMap::new(),
            written: Definitions::default(),
            alternatives: Vec::new(),
            joints: Vec::new(),
            multiples: Vec::new(),
            places: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// The schema at a place with all that it names, as a document.
    fn whole(&mut self, place: &str) -> Result<Value, GrammarError> {
        let first = self.definition_number(place, false);
        while let Some(Definition { place, joined }) =
            self.definitions.get(self.written.len()).cloned()
        {
            let schema = self.root.pointer(&place).unwrap_or(&Value::Null);
            self.starts.push(self.places.len());
            let written = self.schema(&place, schema, joined)?;
            self.written.push(written);
        }
        Ok(json!({
            "x-guidance": { "whitespace_pattern": BLANK },
            "$defs": self.written.numbered(),
            "$ref": Definitions::reference(first),
        }))
    }

    /// The places of all schemas that were read, what is named before what names it, what is within before what it
    /// is in.
    fn innermost_first(&self) -> impl Iterator<Item = &String> {
        let ends = self
            .starts
            .iter()
            .rev()
            .scan(self.places.len(), |end, start| {
                Some(&self.places[*start..std::mem::replace(end, *start)])
            });
        ends.flatten()
    }

    /// Leaves out a constraint; a strict schema is refused.
    fn relax(&mut self, place: &str, problem: String) -> Result<(), GrammarError> {
        if self.strict {
            return Err(refused(place, problem));
        }
        self.note(place);
        Ok(())
    }

    /// Leaves out a keyword of this name.
    fn relax_keyword(&mut self, place: &str, keyword: &str) -> Result<(), GrammarError> {
        self.relax(place, unenforceable(keyword))
    }

    fn note(&mut self, place: &str) {
        if self.known_relaxed.insert(place.to_owned()) {
            self.relaxed.push(place.to_owned());
        }
    }

    fn schema(&mut self, place: &str, schema: &Value, joined: bool) -> Result<Value, GrammarError> {
        if place.len() > MAX_POINTER_BYTES {
            return Err(GrammarError::TooLarge(format!(
                "the JSON pointer to a schema has {} bytes, more than {MAX_POINTER_BYTES}",
                place.len()
            )));
        }
        self.fuel.spend(STEPS_A_SCHEMA)?;
        let written = match schema {
            // The type alone can always be enforced.
            _ if self.left_out.contains(place) => {
                self.note(place);
                let mut written = Map::new();
                if let Some(kind) = schema.get("type") {
                    self.types(&format!("{place}/type"), kind, &mut written)?;
                }
                written.into()
            }
            Value::Bool(_) => schema.clone(),
            Value::Object(keywords) => self.keywords(place, keywords, joined)?,
            _ => return Err(refused(place, "a schema is an object or a boolean")),
        };
        if self.places.len() == MOST_SCHEMAS {
            return Err(GrammarError::TooLarge(format!(
                "more than {MOST_SCHEMAS} schemas within each other"
            )));
        }
        self.places.push(place.to_owned());
        Ok(written)
    }

    fn schemas_in_list(
        &mut self,
        place: &str,
        schemas: &Value,
        joined: bool,
    ) -> Result<Vec<Value>, GrammarError> {
        let schemas = schemas.as_array();
        let schemas = schemas.ok_or_else(|| refused(place, "it must be a list of schemas"))?;
        let schemas = schemas.iter().enumerate();
        schemas
            .map(|(number, schema)| self.schema(&format!("{place}/{number}"), schema, joined))
            .collect()
    }
}

fn text<'a>(place: &str, value: &'a Value) -> Result<&'a str, GrammarError> {
    value
        .as_str()
        .ok_or_else(|| refused(place, "it must be a string"))
}

fn count(place: &str, value: &Value) -> Result<u64, GrammarError> {
    let whole = |number: &Number| {
        let number = number
            .as_f64()
            .filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
        Some(number as u64)
    };
    let count = value.as_u64().or_else(|| value.as_number().and_then(whole));
    count.ok_or_else(|| refused(place, "it must be a number from 0, without a fraction"))
}
