//! Reads a JSON Schema and writes what llguidance takes: only keywords that it enforces, in the words of draft 2020-12,
//! with every `$ref` to a numbered definition. Alone it passes over keywords that no draft knows, and does not say
//! where the one stands that it refuses.
//!
//! A constraint that cannot be enforced token by token is left out, so that the written schema accepts a superset, and
//! its place is listed; where the schema is strict, it is refused with its place.

mod numbers;
mod relaxing;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value, json};

use super::GrammarError;
use super::disjoint::{Comparison, Definitions};
use numbers::{Bound, Side};
pub(super) use relaxing::{Compiled, compile, read_at_once};

/// Longest text of a schema.
pub(super) const MAX_SCHEMA_BYTES: usize = 1 << 19;
/// Most schemas within a schema, itself included.
const MOST_SCHEMAS: usize = 10_000;
/// Most alternatives of one `oneOf` that are compared: each is compared with each.
const MOST_ALTERNATIVES: usize = 200;
/// The largest number that the values of `multipleOf` of one number have as their common multiple, in units of their
/// smallest decimal: beyond it llguidance may stop midway where there are bounds, too.
const MOST_MULTIPLE: u64 = 10_000;
/// The bounds of a multiple whose schema has none: a number that has become long could not end at once.
const MULTIPLES_WITHIN: i64 = 1_000_000_000_000_000;
/// Most decimals of a value of `multipleOf`: llguidance counts them in 32 bits.
const MOST_MULTIPLE_DECIMALS: u32 = 8;
/// Most properties of one object that need not be there: each may be the next one.
const MOST_OPTIONAL: usize = 200;
/// Most patterns and formats that one string must follow at once: it is not for certain that llguidance ends with
/// sixteen.
const MOST_PATTERNS: usize = 4;

/// What may stand between two parts of a JSON text: little, so that a model cannot go on with blanks.
const BLANK: &str = r"\x20|\n[\x20\t]{0,32}";

/// Values of `format` that are enforced.
pub(super) const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];

/// Values of `format` that JSON Schema defines and that are not enforced. Others are no constraints.
const OTHER_FORMATS: [&str; 9] = [
    "idn-email",
    "idn-hostname",
    "iri",
    "iri-reference",
    "json-pointer",
    "regex",
    "relative-json-pointer",
    "uri-reference",
    "uri-template",
];

/// The values of `type`.
const TYPES: [&str; 7] = [
    "array", "boolean", "integer", "null", "number", "object", "string",
];

/// Keywords by which an object may have other properties than those of its `properties`, or says that it has none.
const OPENING: [&str; 15] = [
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "dependencies",
    "dependentSchemas",
    "else",
    "if",
    "oneOf",
    "patternProperties",
    "propertyNames",
    "then",
    "unevaluatedProperties",
];

/// Keywords that say something of the parts of a value, or of which parts it has.
const STRUCTURAL: [&str; 20] = [
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "if",
    "items",
    "oneOf",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// A day that its year has. (llguidance gives each year a 29th of February.)
const DATE: &str = "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])\
    |(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))\
    |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)";
/// A time of a day without leap seconds. (llguidance gives each minute one.)
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
/// Up to four labels, none too long or with two hyphens in a row, as encoded ones have them.
const HOST: &str =
    r"(?:[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}\.){0,3}[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}";
/// At most 63 characters. (llguidance knows no limit.)
const MAILBOX: &str = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-](?:\.?[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]){0,31}";

/// What stands for a format of which llguidance lets through more than it is.
fn pattern(format: &str) -> Option<String> {
    match format {
        "date" => Some(format!("^{DATE}$")),
        "time" => Some(format!("^{TIME}$")),
        "date-time" => Some(format!("^{DATE}[tT]{TIME}$")),
        "hostname" => Some(format!("^{HOST}$")),
        "email" => Some(format!("^{MAILBOX}@{HOST}$")),
        _ => None,
    }
}

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
fn read(schema: &Value, strict: bool, left_out: &HashSet<String>) -> Result<Reading, Fault> {
    let mut reader = Reader::new(schema, strict, left_out);
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

/// Whether the schema's draft ignores what stands beside a `$ref`.
fn ignores_siblings_of_references(schema: &Value) -> bool {
    let uri = schema.get("$schema").and_then(Value::as_str);
    let name = uri.unwrap_or_default().trim_end_matches('#');
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    ["draft-03", "draft-04", "draft-05", "draft-06", "draft-07"]
        .iter()
        .any(|draft| name == format!("json-schema.org/{draft}/schema"))
}

/// Whether a schema accepts every value.
fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        Value::Object(keywords) => keywords.keys().all(|keyword| !is_constraint(keyword)),
        _ => false,
    }
}

/// Whether a schema accepts no value, as far as that is written plainly.
fn accepts_none(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => !accepts,
        Value::Object(keywords) => keywords.get("not").is_some_and(accepts_all),
        _ => false,
    }
}

/// Whether a keyword of this name can refuse a value.
fn is_constraint(keyword: &str) -> bool {
    const OTHERS: [&str; 23] = [
        "const",
        "contains",
        "else",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "not",
        "pattern",
        "then",
        "type",
        "uniqueItems",
    ];
    STRUCTURAL.contains(&keyword) || OTHERS.contains(&keyword)
}

/// Whether a keyword says something of the parts of a value.
pub(super) fn is_structural(keyword: &str) -> bool {
    STRUCTURAL.contains(&keyword)
}

/// Alternatives of which a text may follow only one.
struct Alternatives {
    place: String,
    schemas: Vec<Value>,
}

/// A schema that is read once for each use: whether other schemas say something of the same value, too.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Definition {
    place: String,
    joined: bool,
}

struct Reader<'a> {
    root: &'a Value,
    strict: bool,
    left_out: &'a HashSet<String>,
    relaxed: Vec<String>,
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
    fn new(root: &'a Value, strict: bool, left_out: &'a HashSet<String>) -> Self {
        Self {
            root,
            strict,
            left_out,
            relaxed: Vec::new(),
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
        let first = self.number(place, false);
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
        if !self.relaxed.iter().any(|known| known == place) {
            self.relaxed.push(place.to_owned());
        }
    }

    /// Of several alternatives only one may hold. That is so if no value follows two of them; otherwise a text
    /// would have to be compared with all of them at once.
    fn check_alternatives(&mut self) -> Result<(), GrammarError> {
        let overlapping: Vec<(String, String)> = {
            let comparison = Comparison::new(&self.written);
            let problem = |alternatives: &Alternatives| {
                let problem = overlap(&comparison, &alternatives.schemas)?;
                Some((alternatives.place.clone(), problem))
            };
            self.alternatives.iter().filter_map(problem).collect()
        };
        for (place, problem) in overlapping {
            self.relax(&place, problem)?;
        }
        Ok(())
    }

    fn check_patterns(&self) -> Result<(), Fault> {
        let comparison = Comparison::new(&self.written);
        for (place, schema) in &self.joints {
            if comparison.patterns_at_once(schema) <= MOST_PATTERNS {
                continue;
            }
            let joints = ["format", "pattern", "allOf", "anyOf", "oneOf", "$ref"];
            let keywords = self.root.pointer(place).and_then(Value::as_object);
            let mut places = joints
                .iter()
                .filter(|keyword| keywords.is_some_and(|keywords| keywords.contains_key(**keyword)))
                .map(|keyword| format!("{place}/{keyword}"));
            let fault = places.find(|place| !self.left_out.contains(place));
            return Err(match fault.filter(|_| !self.strict) {
                Some(place) => Fault::LeaveOut(place),
                None => {
                    let problem = format!(
                        "a string must follow more than {MOST_PATTERNS} patterns and formats"
                    );
                    refused(place, problem).into()
                }
            });
        }
        Ok(())
    }

    /// Multiples that one number may be held to at once are held to their common one. That is only so within a schema
    /// that more than itself says something of.
    fn check_multiples(&self) -> Result<(), Fault> {
        if self.multiples.len() < 2 {
            return Ok(());
        }
        let mut within = self
            .joints
            .iter()
            .map(|(_, schema)| self.written.multiples(schema));
        let too_large = within.find_map(|multiples| {
            let mut common = (1, 0);
            multiples.into_iter().find(|multiple| {
                let read = numbers::decimal(*multiple, MOST_MULTIPLE);
                let next = read.and_then(|read| numbers::common_multiple(common, read));
                match next.filter(|(common, _)| *common <= MOST_MULTIPLE) {
                    Some(next) => {
                        common = next;
                        false
                    }
                    None => true,
                }
            })
        });
        let Some(value) = too_large else {
            return Ok(());
        };
        let Some((place, _)) = self.multiples.iter().rfind(|(_, own)| *own == value) else {
            return Ok(());
        };
        match self.strict {
            true => Err(refused(place, MULTIPLE_TOO_LARGE).into()),
            false => Err(Fault::LeaveOut(place.clone())),
        }
    }

    fn schema(&mut self, place: &str, schema: &Value, joined: bool) -> Result<Value, GrammarError> {
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

    fn keywords(
        &mut self,
        place: &str,
        keywords: &Map<String, Value>,
        joined: bool,
    ) -> Result<Value, GrammarError> {
        let object = Object {
            place,
            keywords,
            joined,
        };
        let nullable = keywords.get("nullable") == Some(&Value::Bool(true));
        let reference = keywords.get("$ref").filter(|_| self.ignores_siblings);
        let written = match reference {
            Some(reference) => {
                let mut written = Map::new();
                self.reference(&object, reference, &mut written)?;
                written.into()
            }
            None if keywords.get("not").is_some_and(accepts_all) => Value::Bool(false),
            None => self.constraints(&object)?,
        };
        Ok(match nullable {
            // As OpenAPI 3.0 means it.
            true => json!({ "anyOf": [written, { "type": "null" }] }),
            false => written,
        })
    }

    fn constraints(&mut self, object: &Object<'_>) -> Result<Value, GrammarError> {
        let &Object {
            place, keywords, ..
        } = object;
        let mut written = Map::new();
        let mut all_of = Vec::new();
        for (keyword, value) in keywords {
            let at = object.at(keyword);
            // Generators write null for what is not there.
            if value.is_null() && keyword != "const" {
                continue;
            }
            if self.left_out.contains(&at) {
                self.note(&at);
                continue;
            }
            match keyword.as_str() {
                "type" => self.types(&at, value, &mut written)?,
                "enum" | "const" => self.constants(&at, keyword, value, &mut written)?,
                "required" => match value {
                    // As draft 3 has it.
                    Value::Bool(false) => {}
                    Value::Bool(true) => self.relax_keyword(&at, "a required that is no list")?,
                    _ => {
                        let is_name = |name: &Value| name.is_string();
                        let names = value.as_array().filter(|names| names.iter().all(is_name));
                        names.ok_or_else(|| refused(&at, "it must be a list of names"))?;
                        written.insert(keyword.clone(), value.clone());
                    }
                },
                "pattern" => {
                    let pattern = text(&at, value)?;
                    match regex_syntax::parse(pattern) {
                        Ok(_) => _ = written.insert(keyword.clone(), value.clone()),
                        Err(_) => {
                            let problem = "this pattern cannot be enforced: look-around, back-references and \
                                           unknown escapes are not supported";
                            self.relax(&at, problem.to_owned())?;
                        }
                    }
                }
                "format" => {
                    let format = text(&at, value)?;
                    match pattern(format) {
                        Some(pattern) => all_of.push(json!({ "pattern": pattern })),
                        None if FORMATS.contains(&format) => {
                            written.insert(keyword.clone(), value.clone());
                        }
                        None if OTHER_FORMATS.contains(&format) => {
                            let known = FORMATS.join(", ");
                            let problem = format!("the formats that can be enforced are {known}");
                            self.relax(&at, problem)?;
                        }
                        None => {}
                    }
                }
                "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
                | "maxProperties" => {
                    let count = count(&at, value)?;
                    if count > 0 || keyword.starts_with("max") {
                        written.insert(keyword.clone(), count.into());
                    }
                }
                "multipleOf" => self.multiple(&at, value, &mut written)?,
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                    self.bound(&at, keyword, object, &mut written)?;
                }
                "properties" | "patternProperties" => {
                    let joined = object.has_joined_properties();
                    let schemas = self.named(&at, value, joined)?;
                    written.insert(keyword.clone(), schemas);
                }
                "additionalProperties"
                    if self.is_left_out(object, &["properties", "patternProperties"]) => {}
                "additionalProperties" => {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert(keyword.clone(), schema);
                }
                "items" if value.is_array() => {
                    let schemas = self.list(&at, value, object.joined)?;
                    written.insert("prefixItems".to_owned(), schemas.into());
                }
                "additionalItems"
                    if keywords.get("items").is_some_and(Value::is_array)
                        && !self.is_left_out(object, &["items"]) =>
                {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert("items".to_owned(), schema);
                }
                // Without a list in `items` it has no effect.
                "additionalItems" => {}
                "items" if self.is_left_out(object, &["prefixItems"]) => {}
                "items" => {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert(keyword.clone(), schema);
                }
                "prefixItems" => {
                    let schemas = self.list(&at, value, object.joined)?;
                    written.insert(keyword.clone(), schemas.into());
                }
                "anyOf" => {
                    let schemas = self.list(&at, value, object.joins(keyword))?;
                    written.insert(keyword.clone(), schemas.into());
                }
                "allOf" => {
                    let several = value.as_array().is_some_and(|schemas| schemas.len() > 1);
                    all_of.extend(self.list(&at, value, several || object.joins(keyword))?);
                }
                "oneOf" => {
                    let schemas = self.list(&at, value, object.joins(keyword))?;
                    all_of.push(json!({ "anyOf": schemas }));
                    let place = at;
                    self.alternatives.push(Alternatives { place, schemas });
                }
                "$ref" => self.reference(object, value, &mut written)?,
                "$recursiveRef" | "$dynamicRef" => self.relax_keyword(&at, keyword)?,
                "not" if accepts_none(value) => {}
                "uniqueItems" if value == &json!(false) || at_most_one_item(keywords) => {}
                "contains" => all_of.extend(self.contains(&at, object)?),
                "if" if !["then", "else"].iter().any(|branch| object.says(branch)) => {}
                "dependencies" | "dependentRequired" | "dependentSchemas"
                    if value.as_object().is_some_and(Map::is_empty) => {}
                "not" | "uniqueItems" | "if" | "dependencies" | "dependentRequired"
                | "dependentSchemas" => self.relax_keyword(&at, keyword)?,
                // What it holds is said by additionalProperties, unless schemas are put together.
                "unevaluatedProperties"
                    if accepts_all(value)
                        || object.says("additionalProperties")
                        || self.is_left_out(object, &["properties", "patternProperties"]) => {}
                "unevaluatedProperties" if !object.composes() => {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert("additionalProperties".to_owned(), schema);
                }
                "unevaluatedItems" if accepts_all(value) => {}
                "unevaluatedProperties" | "unevaluatedItems" => self.relax_keyword(&at, keyword)?,
                // Others are no constraints, or belong to one of these.
                _ => {}
            }
        }
        if let Some(names) = keywords.get("propertyNames") {
            self.property_names(object, names, &mut written)?;
        }
        if object.closes() && !self.is_left_out(object, &["properties"]) {
            written.insert("additionalProperties".to_owned(), no_others());
        }
        bound_multiple(&mut written);
        if !all_of.is_empty() {
            written.insert("allOf".to_owned(), all_of.into());
        }
        self.check_optional(place, &mut written)?;
        if ["allOf", "anyOf", "$ref"]
            .iter()
            .any(|joint| written.contains_key(*joint))
        {
            self.joints.push((place.to_owned(), written.clone().into()));
        }
        Ok(written.into())
    }

    fn is_left_out(&self, object: &Object<'_>, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| {
            object.keywords.contains_key(*keyword) && self.left_out.contains(&object.at(keyword))
        })
    }

    fn types(
        &mut self,
        at: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let names = match value {
            Value::Array(names) => names.as_slice(),
            name => std::slice::from_ref(name),
        };
        if names.iter().any(|name| name == "any") {
            return self.relax_keyword(at, "the type \"any\"");
        }
        let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
        if names.is_empty() || !names.iter().all(known) {
            let types = TYPES.join(", ");
            return Err(refused(
                at,
                format!("{value} is no type: the types are {types}"),
            ));
        }
        written.insert("type".to_owned(), value.clone());
        Ok(())
    }

    fn constants(
        &mut self,
        at: &str,
        keyword: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let values = match (keyword, value) {
            ("const", value) => std::slice::from_ref(value),
            (_, Value::Array(values)) => values.as_slice(),
            _ => return Err(refused(at, "it must be a list of values")),
        };
        let constants: Option<Vec<Value>> = values.iter().map(numbers::constant).collect();
        match constants {
            None => {
                let problem =
                    "an integer beyond 2^53 that double precision does not have cannot be enforced";
                self.relax(at, problem.to_owned())
            }
            Some(mut constants) => {
                let value = match keyword {
                    "const" => constants.pop().unwrap_or(Value::Null),
                    _ => constants.into(),
                };
                written.insert(keyword.to_owned(), value);
                Ok(())
            }
        }
    }

    fn multiple(
        &mut self,
        at: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let multiple = value.as_f64().filter(|multiple| *multiple > 0.0);
        let multiple = multiple.ok_or_else(|| refused(at, "it must be a number above 0"))?;
        match numbers::decimal(multiple, MOST_MULTIPLE) {
            Some((_, decimals)) if decimals <= MOST_MULTIPLE_DECIMALS => {
                self.multiples.push((at.to_owned(), multiple));
                written.insert("multipleOf".to_owned(), value.clone());
                Ok(())
            }
            _ => self.relax(at, MULTIPLE_TOO_LARGE.to_owned()),
        }
    }

    fn bound(
        &mut self,
        at: &str,
        keyword: &str,
        object: &Object<'_>,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let value = &object.keywords[keyword];
        let (side, inclusive, exclusive) = match keyword {
            "minimum" | "exclusiveMinimum" => (Side::Lower, "minimum", "exclusiveMinimum"),
            _ => (Side::Upper, "maximum", "exclusiveMaximum"),
        };
        // As drafts 3 and 4 and OpenAPI 3.0 have it, the exclusive one says how the other one is meant.
        let excludes = match (keyword == exclusive, value) {
            (true, Value::Bool(_)) => return Ok(()),
            (own, _) => own || object.keywords.get(exclusive) == Some(&Value::Bool(true)),
        };
        let Value::Number(number) = value else {
            return Err(refused(at, "it must be a number"));
        };
        let integers = numbers::only_integers(object.keywords);
        let (bound, excludes) = numbers::bound(number, excludes, side, integers);
        let written_bound = match bound {
            Bound::Exact(value) => Some(value),
            Bound::Unneeded => None,
            Bound::Wider(value) => {
                self.relax(at, BOUND_TOO_LARGE.to_owned())?;
                Some(value)
            }
            Bound::Lost => {
                self.relax(at, BOUND_TOO_LARGE.to_owned())?;
                None
            }
        };
        let name = match excludes {
            true => exclusive,
            false => inclusive,
        };
        if let Some(mut value) = written_bound {
            if let Some(other) = written.get(name) {
                value = numbers::stricter(value, other, side);
            }
            written.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// What can be held of `contains`: that there are as many items.
    fn contains(&mut self, at: &str, object: &Object<'_>) -> Result<Option<Value>, GrammarError> {
        let counted = |keyword: &str| match object.keywords.get(keyword) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => count(&object.at(keyword), value).map(Some),
        };
        let least = counted("minContains")?.unwrap_or(1);
        let most = counted("maxContains")?;
        let any = accepts_all(&object.keywords["contains"]);
        if !any && (least > 0 || most.is_some()) {
            self.relax_keyword(at, "contains")?;
        }
        let mut items = Map::new();
        if least > 0 {
            items.insert("minItems".to_owned(), least.into());
        }
        if let Some(most) = most.filter(|_| any) {
            items.insert("maxItems".to_owned(), most.into());
        }
        Ok((!items.is_empty()).then(|| items.into()))
    }

    /// Names of properties: those of a list become properties, those of a pattern `patternProperties`.
    fn property_names(
        &mut self,
        object: &Object<'_>,
        names: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let at = object.at("propertyNames");
        if self.left_out.contains(&at) {
            self.note(&at);
            return Ok(());
        }
        let Value::Object(keywords) = names else {
            return match names {
                // Then there is no property.
                Value::Bool(false) => {
                    written.remove("properties");
                    written.remove("patternProperties");
                    written.insert("additionalProperties".to_owned(), false.into());
                    Ok(())
                }
                _ => Ok(()),
            };
        };
        let constraining = |keyword: &&String| is_constraint(keyword);
        let constraints: Vec<&str> = keywords
            .keys()
            .filter(constraining)
            .map(String::as_str)
            .filter(|keyword| *keyword != "type" || keywords[*keyword] != "string")
            .collect();
        let rest = written.get("additionalProperties").cloned();
        let rest = rest.unwrap_or(Value::Bool(true));
        let listed = match constraints.as_slice() {
            [] => return Ok(()),
            ["enum"] => keywords["enum"].as_array().cloned(),
            ["const"] => Some(vec![keywords["const"].clone()]),
            ["$ref"] => self.listed_names(&keywords["$ref"]),
            _ => None,
        };
        let has_patterns = object.says("patternProperties");
        if let Some(listed) = listed.filter(|listed| !has_patterns && listed.len() <= MOST_OPTIONAL)
        {
            let listed: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
            let named = written.entry("properties").or_insert_with(|| json!({}));
            if let Value::Object(named) = named {
                for (name, schema) in named.iter_mut() {
                    if !listed.contains(&name.as_str()) {
                        *schema = Value::Bool(false);
                    }
                }
                for name in listed {
                    named.entry(name).or_insert_with(|| rest.clone());
                }
            }
            written.insert("additionalProperties".to_owned(), false.into());
            return Ok(());
        }
        let pattern = match constraints.as_slice() {
            ["pattern"] => keywords["pattern"].as_str(),
            _ => None,
        };
        let pattern = pattern.filter(|pattern| {
            !has_patterns && !object.says("properties") && regex_syntax::parse(pattern).is_ok()
        });
        if let Some(pattern) = pattern {
            written.insert("patternProperties".to_owned(), json!({ pattern: rest }));
            written.insert("additionalProperties".to_owned(), false.into());
            return Ok(());
        }
        self.relax_keyword(&at, "propertyNames")
    }

    /// The values of a schema that lists them and says nothing else, behind a reference.
    fn listed_names(&self, reference: &Value) -> Option<Vec<Value>> {
        let target = self.target(reference.as_str()?)?;
        let keywords = self.root.pointer(&target)?.as_object()?;
        let mut constraints = keywords.keys().filter(|keyword| is_constraint(keyword));
        let only = constraints.all(|keyword| keyword == "enum" || keywords[keyword] == "string");
        keywords.get("enum").filter(|_| only)?.as_array().cloned()
    }

    /// Drops the names of properties where too many may be the next one.
    fn check_optional(
        &mut self,
        place: &str,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        if optional_properties(written) > MOST_OPTIONAL {
            let problem = format!("more than {MOST_OPTIONAL} properties that are not required");
            self.relax(&format!("{place}/properties"), problem)?;
            written.remove("properties");
            written.remove("additionalProperties");
        }
        Ok(())
    }

    fn named(&mut self, place: &str, schemas: &Value, joined: bool) -> Result<Value, GrammarError> {
        let mut written = Map::new();
        // PHP writes an empty object as an empty list.
        if schemas.as_array().is_some_and(Vec::is_empty) {
            return Ok(written.into());
        }
        let schemas = schemas.as_object();
        let schemas = schemas.ok_or_else(|| refused(place, "it must be an object of schemas"))?;
        for (name, schema) in schemas {
            let place = format!("{place}/{}", escaped(name));
            written.insert(name.clone(), self.schema(&place, schema, joined)?);
        }
        Ok(written.into())
    }

    fn list(
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

    /// Follows a `$ref`.
    fn reference(
        &mut self,
        object: &Object<'_>,
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
                let number = self.number(&target, joined);
                written.insert("$ref".to_owned(), Definitions::reference(number).into());
                Ok(())
            }
            _ => self.relax(&at, format!("there is no schema at {reference}")),
        }
    }

    /// The place that a reference names, if it is one of this document.
    fn target(&self, reference: &str) -> Option<String> {
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
            false => anchored(self.root, &fragment, String::new(), MOST_ANCHOR_DEPTH),
        }
    }

    fn number(&mut self, place: &str, joined: bool) -> usize {
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

/// What is said of a `multipleOf` that cannot be held.
const MULTIPLE_TOO_LARGE: &str =
    "the common multiple of all values of multipleOf is too large, or has too many digits";
/// What is said of a bound that cannot be held.
const BOUND_TOO_LARGE: &str =
    "a bound beyond 2^53 that is none of a 64-bit integer cannot be enforced exactly";
/// How deep anchors are looked for.
const MOST_ANCHOR_DEPTH: usize = 64;

/// A schema that is an object, where it stands.
struct Object<'a> {
    place: &'a str,
    keywords: &'a Map<String, Value>,
    /// Whether other schemas say something of the same value.
    joined: bool,
}

impl Object<'_> {
    /// The place of a keyword.
    fn at(&self, keyword: &str) -> String {
        format!("{}/{}", self.place, escaped(keyword))
    }

    fn says(&self, keyword: &str) -> bool {
        self.keywords
            .get(keyword)
            .is_some_and(|value| !value.is_null())
    }

    /// Whether more than the schemas of this keyword says something of the parts of the value.
    fn joins(&self, keyword: &str) -> bool {
        let mut others = STRUCTURAL.iter().filter(|other| **other != keyword);
        self.joined || others.any(|other| self.says(other))
    }

    /// Whether a property may have to follow more schemas than its own.
    fn has_joined_properties(&self) -> bool {
        self.joined || (self.says("properties") && self.says("patternProperties"))
    }

    /// Whether schemas beside this one decide which properties are evaluated.
    fn composes(&self) -> bool {
        let others = OPENING.iter();
        let mut others = others.filter(|keyword| {
            ![
                "additionalProperties",
                "patternProperties",
                "propertyNames",
                "unevaluatedProperties",
            ]
            .contains(*keyword)
        });
        others.any(|keyword| self.says(keyword))
    }

    /// Whether the object has no properties but those that it names: it names some, is silent about others, and
    /// nothing else says something of it.
    fn closes(&self) -> bool {
        let Some(Value::Object(named)) = self.keywords.get("properties") else {
            return false;
        };
        let required = self.keywords.get("required").and_then(Value::as_array);
        let mut required = required.into_iter().flatten().filter_map(Value::as_str);
        let least = self.keywords.get("minProperties").and_then(Value::as_u64);
        !self.joined
            && !named.is_empty()
            && !OPENING.iter().any(|keyword| self.says(keyword))
            && required.all(|name| named.contains_key(name))
            && least.unwrap_or(0) <= named.len() as u64
    }
}

/// What additional properties have to follow where the schema does not say that there are none: no value does. It is
/// not written as `false`, so that alternatives are not told apart by what their schemas leave open.
fn no_others() -> Value {
    json!({ "enum": [] })
}

/// Gives a multiple the bounds that it lacks.
fn bound_multiple(written: &mut Map<String, Value>) {
    if !written.contains_key("multipleOf") {
        return;
    }
    let bound = |keywords: [&str; 2]| {
        let mut bounds = keywords.iter().filter_map(|keyword| written.get(*keyword));
        bounds.next().and_then(Value::as_f64)
    };
    let least = bound(["minimum", "exclusiveMinimum"]);
    let most = bound(["maximum", "exclusiveMaximum"]);
    let within = MULTIPLES_WITHIN as f64;
    if least.is_none() && most.is_none_or(|most| most > -within) {
        written.insert("minimum".to_owned(), (-MULTIPLES_WITHIN).into());
    }
    if most.is_none() && least.is_none_or(|least| least < within) {
        written.insert("maximum".to_owned(), MULTIPLES_WITHIN.into());
    }
}

/// Whether two of the alternatives may accept the same value, in words.
fn overlap(comparison: &Comparison<'_>, schemas: &[Value]) -> Option<String> {
    if schemas.len() > MOST_ALTERNATIVES {
        return Some(format!("more than {MOST_ALTERNATIVES} alternatives"));
    }
    schemas.iter().enumerate().find_map(|(later, right)| {
        let mut before = schemas[..later].iter();
        let earlier = before.position(|left| !comparison.are_disjoint(left, right))?;
        Some(format!(
            "a value may follow both {earlier} and {later} of these alternatives: tell them apart by their types or \
             by a required property with a const, or use anyOf"
        ))
    })
}

fn optional_properties(keywords: &Map<String, Value>) -> usize {
    let required = keywords.get("required").and_then(Value::as_array);
    let required: HashSet<&str> = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = keywords.get("properties").and_then(Value::as_object);
    let names = properties
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    names.filter(|name| !required.contains(name)).count()
}

fn at_most_one_item(keywords: &Map<String, Value>) -> bool {
    let most = keywords.get("maxItems").and_then(Value::as_u64);
    most.is_some_and(|most| most <= 1)
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

/// The place of the schema with this anchor.
fn anchored(value: &Value, name: &str, place: String, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Object(fields) => {
            let is_named = |keyword: &str| fields.get(keyword).and_then(Value::as_str);
            let fragment = |keyword| is_named(keyword).and_then(|id| id.strip_prefix('#'));
            let anchors = [
                is_named("$anchor"),
                is_named("$dynamicAnchor"),
                fragment("$id"),
                fragment("id"),
            ];
            if anchors.contains(&Some(name)) {
                return Some(place);
            }
            fields.iter().find_map(|(field, value)| {
                anchored(value, name, format!("{place}/{}", escaped(field)), depth)
            })
        }
        Value::Array(values) => values
            .iter()
            .enumerate()
            .find_map(|(number, value)| anchored(value, name, format!("{place}/{number}"), depth)),
        _ => None,
    }
}

/// A name as a step of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
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
