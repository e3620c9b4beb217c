//! Analyzes schemas translated by [`schema`](super::schema): whether two schemas are disjoint, and how many patterns a
//! string must match at once. Two schemas count as disjoint if their types, enumerated values, numeric bounds or
//! properties show that no value is valid for both.

use std::cell::Cell;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::GrammarError;
use super::fuel::Fuel;

/// Maximum depth of nested references and subschemas. Deeper schemas count as not disjoint, and as having too many
/// patterns.
const MAX_DEPTH: usize = 16;
/// Maximum number of subschema visits in all comparisons of a schema. Beyond it, schemas count as they do beyond
/// [`MAX_DEPTH`].
const MAX_COMPARISON_VISITS: usize = 1_000_000;
/// Comparing this many `enum` values counts as one visit.
const VALUES_PER_VISIT: usize = 8;
/// Comparing this many `multipleOf` values costs one step of fuel.
const MULTIPLES_PER_STEP: u64 = 32;

/// The translated targets of `$ref`. Target number `n` is referenced as `#/$defs/n`.
#[derive(Debug, Default)]
pub(super) struct Definitions(Vec<Value>);

impl Definitions {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, schema: Value) {
        self.0.push(schema);
    }

    pub(super) fn reference(number: usize) -> String {
        format!("#/$defs/{number}")
    }

    /// Returns the value of `$defs`: the definitions keyed by number.
    pub(super) fn numbered(&self) -> Map<String, Value> {
        let numbered = self.0.iter().enumerate();
        numbered
            .map(|(number, schema)| (number.to_string(), schema.clone()))
            .collect()
    }

    /// Returns the distinct values of `multipleOf` in `schema` and in all schemas that `schema` references.
    ///
    /// # Errors
    /// If `fuel` runs out.
    pub(super) fn multiples(
        &self,
        schema: &Value,
        fuel: &Fuel<'_>,
    ) -> Result<Vec<f64>, GrammarError> {
        let (mut multiples, mut seen) = (Vec::new(), HashSet::new());
        let mut pending = vec![schema];
        while let Some(value) = pending.pop() {
            fuel.spend(1 + multiples.len() as u64 / MULTIPLES_PER_STEP)?;
            match value {
                Value::Object(fields) => {
                    let multiple = fields.get("multipleOf").and_then(Value::as_f64);
                    multiples.extend(multiple.filter(|multiple| !multiples.contains(multiple)));
                    pending.extend(fields.values().rev());
                }
                Value::Array(values) => pending.extend(values.iter().rev()),
                Value::String(text) if seen.insert(text) => pending.extend(self.referenced(text)),
                _ => {}
            }
        }
        Ok(multiples)
    }

    fn referenced(&self, reference: &str) -> Option<&Value> {
        let number = reference.strip_prefix("#/$defs/")?;
        self.0.get(number.parse::<usize>().ok()?)
    }
}

/// A set of value types, one bit each. Integers and fractional numbers are separate types.
type TypeSet = u8;
const NULL: TypeSet = 1;
const BOOLEAN: TypeSet = 2;
const INTEGER: TypeSet = 4;
const FRACTIONAL: TypeSet = 8;
const STRING: TypeSet = 16;
const ARRAY: TypeSet = 32;
const OBJECT: TypeSet = 64;
const ALL: TypeSet = 127;

/// Compares schemas; all comparisons together make at most [`MAX_COMPARISON_VISITS`] visits.
pub(super) struct SchemaComparison<'a> {
    definitions: &'a Definitions,
    visits_left: Cell<usize>,
}

impl<'a> SchemaComparison<'a> {
    pub(super) fn new(definitions: &'a Definitions) -> Self {
        Self {
            definitions,
            visits_left: Cell::new(MAX_COMPARISON_VISITS),
        }
    }

    /// Returns true only if no value is valid for both schemas; false may mean "unknown".
    pub(super) fn are_disjoint(&self, left: &'a Value, right: &'a Value) -> bool {
        self.disjoint(left, right, MAX_DEPTH)
    }

    /// Returns the maximum number of patterns and formats that a string must match at once to be valid for the schema;
    /// `usize::MAX` if a limit is reached.
    pub(super) fn simultaneous_patterns(&self, schema: &'a Value) -> usize {
        self.patterns(schema, MAX_DEPTH)
    }

    fn patterns(&self, schema: &'a Value, depth: usize) -> usize {
        let Value::Object(schema) = schema else {
            return 0;
        };
        let Some(depth) = self.visit(depth) else {
            return usize::MAX;
        };
        let own = ["pattern", "format"].map(|keyword| usize::from(schema.contains_key(keyword)));
        let together = self.target(schema).into_iter().chain(list(schema, "allOf"));
        let together = together.map(|part| self.patterns(part, depth));
        let alternatives = list(schema, "anyOf").map(|part| self.patterns(part, depth));
        own.into_iter()
            .chain(together)
            .chain(alternatives.max())
            .fold(0, usize::saturating_add)
    }

    /// Counts a visit of a subschema. Returns the depth that remains below the subschema; `None` if a limit is reached.
    fn visit(&self, depth: usize) -> Option<usize> {
        self.visits_left.set(self.visits_left.get().checked_sub(1)?);
        depth.checked_sub(1)
    }

    fn disjoint(&self, left: &'a Value, right: &'a Value, depth: usize) -> bool {
        let Some(depth) = self.visit(depth) else {
            return false;
        };
        let common_types = self.types(left, depth) & self.types(right, depth);
        if common_types == 0 {
            return true;
        }
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        self.flatten(left, depth, &mut lefts);
        self.flatten(right, depth, &mut rights);
        let pairs = || {
            lefts
                .iter()
                .flat_map(|left| rights.iter().map(move |right| (*left, *right)))
        };
        pairs().any(|(left, right)| self.no_common_value(left, right))
            || (common_types & !(INTEGER | FRACTIONAL) == 0 && bounds_are_disjoint(&lefts, &rights))
            || (common_types == OBJECT && self.properties_are_disjoint(&lefts, &rights, depth))
            || self.all_alternatives_are_disjoint(&lefts, right, depth)
            || self.all_alternatives_are_disjoint(&rights, left, depth)
    }

    /// Whether both schemas enumerate their values, and no value is in both enumerations.
    fn no_common_value(&self, left: &Map<String, Value>, right: &Map<String, Value>) -> bool {
        let (Some(lefts), Some(rights)) = (values(left), values(right)) else {
            return false;
        };
        let visits = (lefts.len() + rights.len()) / VALUES_PER_VISIT;
        match self.visits_left.get().checked_sub(visits) {
            Some(left) => self.visits_left.set(left),
            None => return false,
        }
        let rights: HashSet<ComparisonKey<'_>> = rights.iter().map(ComparisonKey::of).collect();
        !lefts
            .iter()
            .any(|left| rights.contains(&ComparisonKey::of(left)))
    }

    /// Returns a superset of the types of all values that are valid for the schema.
    fn types(&self, schema: &Value, depth: usize) -> TypeSet {
        let (schema, depth) = match (schema, self.visit(depth)) {
            (Value::Bool(false), _) => return 0,
            (Value::Object(schema), Some(depth)) => (schema, depth),
            _ => return ALL,
        };
        let mut types = ALL;
        match schema.get("type") {
            Some(Value::String(name)) => types &= types_named(name),
            Some(Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str);
                types &= names.map(types_named).fold(0, |all, one| all | one);
            }
            _ => {}
        }
        if let Some(values) = values(schema) {
            types &= values.iter().map(type_of).fold(0, |all, one| all | one);
        }
        if let Some(target) = self.target(schema) {
            types &= self.types(target, depth);
        }
        for part in list(schema, "allOf") {
            types &= self.types(part, depth);
        }
        if let Some(Value::Array(parts)) = schema.get("anyOf") {
            let parts = parts.iter().map(|part| self.types(part, depth));
            types &= parts.fold(0, |all, one| all | one);
        }
        types
    }

    /// Collects the schemas that every value valid for `schema` satisfies: `schema`, the target of `$ref`, the schemas
    /// in `allOf`, and so on recursively.
    fn flatten(&self, schema: &'a Value, depth: usize, all: &mut Vec<&'a Map<String, Value>>) {
        let Value::Object(schema) = schema else {
            return;
        };
        all.push(schema);
        let Some(depth) = self.visit(depth) else {
            return;
        };
        let parts = self.target(schema).into_iter();
        for part in parts.chain(list(schema, "allOf")) {
            self.flatten(part, depth, all);
        }
    }

    fn target(&self, schema: &Map<String, Value>) -> Option<&'a Value> {
        self.definitions.referenced(schema.get("$ref")?.as_str()?)
    }

    /// Whether one of the schemas has an `anyOf` whose alternatives are all disjoint from `other`.
    fn all_alternatives_are_disjoint(
        &self,
        schemas: &[&'a Map<String, Value>],
        other: &'a Value,
        depth: usize,
    ) -> bool {
        let mut alternatives = schemas
            .iter()
            .filter_map(|schema| schema.get("anyOf").and_then(Value::as_array));
        alternatives.any(|alternatives| {
            alternatives
                .iter()
                .all(|alternative| self.disjoint(alternative, other, depth))
        })
    }

    /// Whether some property is required by either side, and is forbidden by either side or has disjoint schemas on the
    /// two sides.
    fn properties_are_disjoint(
        &self,
        lefts: &[&'a Map<String, Value>],
        rights: &[&'a Map<String, Value>],
        depth: usize,
    ) -> bool {
        let all = || lefts.iter().chain(rights);
        let required = all().flat_map(|schema| list(schema, "required").filter_map(Value::as_str));
        let mut required = required.collect::<Vec<_>>();
        required.sort_unstable();
        required.dedup();
        required.into_iter().any(|name| {
            let own = |schema: &&'a Map<String, Value>| schema.get("properties")?.get(name);
            all().any(|schema| forbids(schema, name))
                || lefts.iter().filter_map(own).any(|left| {
                    let mut rights = rights.iter().filter_map(own);
                    rights.any(|right| self.disjoint(left, right, depth))
                })
        })
    }
}

fn list<'a>(schema: &'a Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'a Value> {
    schema
        .get(keyword)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Returns the values of `const` or `enum`; `None` if the schema has neither.
fn values(schema: &Map<String, Value>) -> Option<&[Value]> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(std::slice::from_ref(value)),
        (None, Some(Value::Array(values))) => Some(values),
        _ => None,
    }
}

/// A key for comparing values. Values with different keys are different; values with equal keys may be equal.
#[derive(PartialEq, Eq, Hash)]
enum ComparisonKey<'a> {
    Null,
    Boolean(bool),
    /// The bits of the number as an `f64`.
    Number(u64),
    String(&'a str),
    /// Arrays and objects are not compared by content, because equal numbers in them may be written differently.
    Array,
    Object,
}

impl<'a> ComparisonKey<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Boolean(*value),
            // Adding 0.0 turns -0.0 into 0.0.
            Value::Number(number) => {
                Self::Number((number.as_f64().unwrap_or_default() + 0.0).to_bits())
            }
            Value::String(text) => Self::String(text),
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }
}

/// Whether the upper bounds of one side leave no number above the lower bounds of the other side.
fn bounds_are_disjoint(lefts: &[&Map<String, Value>], rights: &[&Map<String, Value>]) -> bool {
    let is_below = |uppers: &[&Map<String, Value>], lowers: &[&Map<String, Value>]| {
        let bound = |schema: &&Map<String, Value>, keyword: &str| schema.get(keyword)?.as_f64();
        let upper = |keyword: &str| {
            let bounds = uppers.iter().filter_map(|schema| bound(schema, keyword));
            bounds.fold(f64::INFINITY, f64::min)
        };
        let lower = |keyword: &str| {
            let bounds = lowers.iter().filter_map(|schema| bound(schema, keyword));
            bounds.fold(f64::NEG_INFINITY, f64::max)
        };
        let (max, exclusive_max) = (upper("maximum"), upper("exclusiveMaximum"));
        let (min, exclusive_min) = (lower("minimum"), lower("exclusiveMinimum"));
        min > max || min >= exclusive_max || exclusive_min >= max.min(exclusive_max)
    };
    is_below(lefts, rights) || is_below(rights, lefts)
}

/// Returns true only if no object with the property is valid for the schema.
fn forbids(schema: &Map<String, Value>, name: &str) -> bool {
    match schema.get("properties").and_then(|named| named.get(name)) {
        Some(own) => own == &Value::Bool(false),
        None => {
            schema.get("additionalProperties") == Some(&Value::Bool(false))
                && !schema.contains_key("patternProperties")
        }
    }
}

fn types_named(name: &str) -> TypeSet {
    match name {
        "null" => NULL,
        "boolean" => BOOLEAN,
        "integer" => INTEGER,
        "number" => INTEGER | FRACTIONAL,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        _ => ALL,
    }
}

fn type_of(value: &Value) -> TypeSet {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() != 0.0 => FRACTIONAL,
            _ => INTEGER,
        },
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}
