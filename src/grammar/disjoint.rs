//! What schemas say together: whether no value can follow two of them at once, as far as that can be seen by kinds,
//! by lists of values, by bounds of numbers and by properties; and how many patterns a string must follow. Schemas
//! are as `schema` writes them.

use std::cell::Cell;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::GrammarError;
use super::fuel::Fuel;

/// How far references and schemas within schemas are followed; beyond it nothing is certain.
const MOST_DEPTH: usize = 16;
/// Schemas that are looked at in all comparisons of a schema, each as often as it is met; after that nothing is
/// certain.
const MOST_LOOKS: usize = 1_000_000;
/// Values of an `enum` that are compared in a look.
const VALUES_A_LOOK: usize = 8;
/// Values of `multipleOf` that are compared in a step.
const MULTIPLES_A_STEP: u64 = 32;

/// The schemas that references name, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Definitions(Vec<Value>);

impl Definitions {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, schema: Value) {
        self.0.push(schema);
    }

    /// The `$ref` to a number.
    pub(super) fn reference(number: usize) -> String {
        format!("#/$defs/{number}")
    }

    /// The value of `$defs`.
    pub(super) fn numbered(&self) -> Map<String, Value> {
        let numbered = self.0.iter().enumerate();
        numbered
            .map(|(number, schema)| (number.to_string(), schema.clone()))
            .collect()
    }

    /// The values of `multipleOf` in a schema and in all that it names.
    ///
    /// # Errors
    /// They take more than `fuel` has.
    pub(super) fn multiples(
        &self,
        schema: &Value,
        fuel: &Fuel<'_>,
    ) -> Result<Vec<f64>, GrammarError> {
        let (mut multiples, mut seen) = (Vec::new(), HashSet::new());
        let mut waiting = vec![schema];
        while let Some(value) = waiting.pop() {
            fuel.spend(1 + multiples.len() as u64 / MULTIPLES_A_STEP)?;
            match value {
                Value::Object(fields) => {
                    let multiple = fields.get("multipleOf").and_then(Value::as_f64);
                    multiples.extend(multiple.filter(|multiple| !multiples.contains(multiple)));
                    waiting.extend(fields.values().rev());
                }
                Value::Array(values) => waiting.extend(values.iter().rev()),
                Value::String(text) if seen.insert(text) => waiting.extend(self.named(text)),
                _ => {}
            }
        }
        Ok(multiples)
    }

    fn named(&self, reference: &str) -> Option<&Value> {
        let number = reference.strip_prefix("#/$defs/")?;
        self.0.get(number.parse::<usize>().ok()?)
    }
}

/// Kinds of values, a bit for each; a whole number is one of its own.
type Kinds = u8;
const NULL: Kinds = 1;
const BOOLEAN: Kinds = 2;
const WHOLE: Kinds = 4;
const BROKEN: Kinds = 8;
const STRING: Kinds = 16;
const ARRAY: Kinds = 32;
const OBJECT: Kinds = 64;
const ALL: Kinds = 127;

/// Compares schemas.
pub(super) struct Comparison<'a> {
    definitions: &'a Definitions,
    looks: Cell<usize>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(definitions: &'a Definitions) -> Self {
        Self {
            definitions,
            looks: Cell::new(MOST_LOOKS),
        }
    }

    /// Whether it is certain that no value follows both.
    pub(super) fn are_disjoint(&self, left: &'a Value, right: &'a Value) -> bool {
        self.disjoint(left, right, MOST_DEPTH)
    }

    /// How many patterns and formats a string must follow at most, if it follows the schema.
    pub(super) fn patterns_at_once(&self, schema: &'a Value) -> usize {
        self.patterns(schema, MOST_DEPTH)
    }

    fn patterns(&self, schema: &'a Value, depth: usize) -> usize {
        let Value::Object(schema) = schema else {
            return 0;
        };
        let Some(depth) = self.deeper(depth) else {
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

    /// One level deeper, if that is allowed.
    fn deeper(&self, depth: usize) -> Option<usize> {
        self.looks.set(self.looks.get().checked_sub(1)?);
        depth.checked_sub(1)
    }

    fn disjoint(&self, left: &'a Value, right: &'a Value, depth: usize) -> bool {
        let Some(depth) = self.deeper(depth) else {
            return false;
        };
        let kinds = self.kinds(left, depth) & self.kinds(right, depth);
        if kinds == 0 {
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
            || (kinds & !(WHOLE | BROKEN) == 0 && bounds_part(&lefts, &rights))
            || (kinds == OBJECT && self.properties_part(&lefts, &rights, depth))
            || self.every_alternative(&lefts, right, depth)
            || self.every_alternative(&rights, left, depth)
    }

    /// Whether both schemas list their values, and none of one is among the other's.
    fn no_common_value(&self, left: &Map<String, Value>, right: &Map<String, Value>) -> bool {
        let (Some(lefts), Some(rights)) = (values(left), values(right)) else {
            return false;
        };
        let looks = (lefts.len() + rights.len()) / VALUES_A_LOOK;
        match self.looks.get().checked_sub(looks) {
            Some(left) => self.looks.set(left),
            None => return false,
        }
        let rights: HashSet<Compared<'_>> = rights.iter().map(Compared::of).collect();
        !lefts
            .iter()
            .any(|left| rights.contains(&Compared::of(left)))
    }

    /// The kinds that a value following the schema may have, and perhaps others.
    fn kinds(&self, schema: &Value, depth: usize) -> Kinds {
        let (schema, depth) = match (schema, self.deeper(depth)) {
            (Value::Bool(false), _) => return 0,
            (Value::Object(schema), Some(depth)) => (schema, depth),
            _ => return ALL,
        };
        let mut kinds = ALL;
        match schema.get("type") {
            Some(Value::String(name)) => kinds &= kinds_named(name),
            Some(Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str);
                kinds &= names.map(kinds_named).fold(0, |all, one| all | one);
            }
            _ => {}
        }
        if let Some(values) = values(schema) {
            kinds &= values.iter().map(kind_of).fold(0, |all, one| all | one);
        }
        if let Some(target) = self.target(schema) {
            kinds &= self.kinds(target, depth);
        }
        for part in list(schema, "allOf") {
            kinds &= self.kinds(part, depth);
        }
        if let Some(Value::Array(parts)) = schema.get("anyOf") {
            let parts = parts.iter().map(|part| self.kinds(part, depth));
            kinds &= parts.fold(0, |all, one| all | one);
        }
        kinds
    }

    /// The schemas that all hold where this one does: itself, what it refers to, what is in `allOf`.
    fn flatten(&self, schema: &'a Value, depth: usize, all: &mut Vec<&'a Map<String, Value>>) {
        let Value::Object(schema) = schema else {
            return;
        };
        all.push(schema);
        let Some(depth) = self.deeper(depth) else {
            return;
        };
        let parts = self.target(schema).into_iter();
        for part in parts.chain(list(schema, "allOf")) {
            self.flatten(part, depth, all);
        }
    }

    fn target(&self, schema: &Map<String, Value>) -> Option<&'a Value> {
        self.definitions.named(schema.get("$ref")?.as_str()?)
    }

    /// Whether one of the schemas has alternatives, none of which can hold where the other schema does.
    fn every_alternative(
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

    /// Whether objects that follow both would need a property that one side forbids, or that no value fits.
    fn properties_part(
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

/// The only values that may follow it, if it lists them.
fn values(schema: &Map<String, Value>) -> Option<&[Value]> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(std::slice::from_ref(value)),
        (None, Some(Value::Array(values))) => Some(values),
        _ => None,
    }
}

/// What a value is to comparisons: equal as JSON Schema means it, or not certainly different.
#[derive(PartialEq, Eq, Hash)]
enum Compared<'a> {
    Null,
    Boolean(bool),
    /// The bits of the number in double precision.
    Number(u64),
    String(&'a str),
    /// Numbers within may be written differently.
    Array,
    Object,
}

impl<'a> Compared<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Boolean(*value),
            // The sum makes one zero of both.
            Value::Number(number) => {
                Self::Number((number.as_f64().unwrap_or_default() + 0.0).to_bits())
            }
            Value::String(text) => Self::String(text),
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }
}

fn bounds_part(lefts: &[&Map<String, Value>], rights: &[&Map<String, Value>]) -> bool {
    let above = |uppers: &[&Map<String, Value>], lowers: &[&Map<String, Value>]| {
        let bound = |schema: &Map<String, Value>, keyword: &str| schema.get(keyword)?.as_f64();
        let (upper, open_upper) =
            uppers
                .iter()
                .fold((f64::INFINITY, f64::INFINITY), |least, schema| {
                    (
                        bound(schema, "maximum").map_or(least.0, |bound| bound.min(least.0)),
                        bound(schema, "exclusiveMaximum")
                            .map_or(least.1, |bound| bound.min(least.1)),
                    )
                });
        let (lower, open_lower) =
            lowers
                .iter()
                .fold((f64::NEG_INFINITY, f64::NEG_INFINITY), |most, schema| {
                    (
                        bound(schema, "minimum").map_or(most.0, |bound| bound.max(most.0)),
                        bound(schema, "exclusiveMinimum").map_or(most.1, |bound| bound.max(most.1)),
                    )
                });
        lower > upper || open_lower >= upper || lower >= open_upper || open_lower >= open_upper
    };
    above(lefts, rights) || above(rights, lefts)
}

/// Whether an object that follows the schema certainly lacks the property.
fn forbids(schema: &Map<String, Value>, name: &str) -> bool {
    match schema.get("properties").and_then(|named| named.get(name)) {
        Some(own) => own == &Value::Bool(false),
        None => {
            schema.get("additionalProperties") == Some(&Value::Bool(false))
                && !schema.contains_key("patternProperties")
        }
    }
}

fn kinds_named(name: &str) -> Kinds {
    match name {
        "null" => NULL,
        "boolean" => BOOLEAN,
        "integer" => WHOLE,
        "number" => WHOLE | BROKEN,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        _ => ALL,
    }
}

fn kind_of(value: &Value) -> Kinds {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() != 0.0 => BROKEN,
            _ => WHOLE,
        },
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}
