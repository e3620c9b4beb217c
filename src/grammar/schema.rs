//! Reads a JSON Schema. Every keyword is known, or it is refused with its place: llguidance passes over what it
//! does not know, and then a text would follow less than was asked for. What is written for it holds nothing
//! but keywords that it follows, in the words of draft 2020-12, with every `$ref` to a numbered definition.

use std::collections::{HashMap, HashSet};

use jsonschema::ValidationError;
use serde_json::{Map, Value, json};

use super::GrammarError;
use super::disjoint::{Comparison, Definitions};

/// Longest text of a schema.
pub(super) const MAX_SCHEMA_BYTES: usize = 1 << 19;
/// Most schemas within a schema, itself included.
const MOST_SCHEMAS: usize = 10_000;
/// Most alternatives of one `oneOf`: each is held against each.
const MOST_ALTERNATIVES: usize = 200;
/// The largest number that all values of `multipleOf` have as their common multiple, in units of their smallest
/// decimal: llguidance multiplies two such numbers in 32 bits.
const MOST_MULTIPLE: u64 = 65_535;
/// Most properties of one object that need not be there: each may be the next one.
const MOST_OPTIONAL: usize = 200;
/// Most patterns and formats that one string must follow at once: it is not for certain that llguidance ends with
/// sixteen.
const MOST_PATTERNS: usize = 4;
/// Most parts of a schema that are tried to find the one that is refused.
const MOST_TRIALS: usize = 300;

/// What may stand between two parts of a JSON text: little, so that a model cannot go on with blanks.
const BLANK: &str = r"\x20|\n[\x20\t]{0,32}";

/// Values of `format` that are held; others are refused.
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

/// Keywords without effect on what is valid.
const ANNOTATIONS: [&str; 16] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// Reads a schema and writes what llguidance takes.
pub(super) fn read(schema: &Value) -> Result<Value, GrammarError> {
    let bytes = schema.to_string().len();
    if bytes > MAX_SCHEMA_BYTES {
        return Err(GrammarError::TooLarge(format!(
            "a schema of {bytes} bytes is longer than {MAX_SCHEMA_BYTES}"
        )));
    }
    let dialect = Dialect::of(schema)?;
    dialect.check(schema)?;
    let mut reader = Reader::new(schema, dialect);
    let written = reader.whole("")?;
    reader.check_alternatives()?;
    reader.check_patterns()?;
    reader.check_multiples()?;
    Ok(written)
}

/// Says where the fault is for which llguidance refuses a schema that was read: in the first part that it refuses
/// on its own, what is named before what names it, what is within before what it is in.
pub(super) fn locate(
    schema: &Value,
    problem: String,
    refusal: impl Fn(Value) -> Option<String>,
) -> GrammarError {
    let reader = || Some(Reader::new(schema, Dialect::of(schema).ok()?));
    let fault = |place: &String| {
        schema.pointer(place).filter(|part| part.is_object())?;
        let problem = refusal(reader()?.whole(place).ok()?)?;
        Some((place.clone(), problem))
    };
    let fault = reader().and_then(|mut reader| {
        reader.whole("").ok()?;
        let definitions = reader
            .starts
            .iter()
            .rev()
            .scan(reader.places.len(), |end, start| {
                Some(&reader.places[*start..std::mem::replace(end, *start)])
            });
        definitions.flatten().take(MOST_TRIALS).find_map(fault)
    });
    let (place, problem) = fault.unwrap_or((String::new(), problem));
    refused(place, problem)
}

fn refused(place: impl Into<String>, problem: impl Into<String>) -> GrammarError {
    GrammarError::Schema {
        place: place.into(),
        problem: problem.into(),
    }
}

/// The versions of JSON Schema, as far as they differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Draft6,
    Draft7,
    Draft201909,
    Draft202012,
}

impl Dialect {
    fn of(schema: &Value) -> Result<Self, GrammarError> {
        let Some(uri) = schema.get("$schema") else {
            return Ok(Self::Draft202012);
        };
        let name = uri.as_str().unwrap_or_default().trim_end_matches('#');
        let name = name.split_once("://").map_or(name, |(_, name)| name);
        match name {
            "json-schema.org/draft-06/schema" => Ok(Self::Draft6),
            "json-schema.org/draft-07/schema" => Ok(Self::Draft7),
            "json-schema.org/draft/2019-09/schema" => Ok(Self::Draft201909),
            "json-schema.org/draft/2020-12/schema" => Ok(Self::Draft202012),
            _ => Err(refused(
                "/$schema",
                "drafts 6, 7, 2019-09 and 2020-12 are known",
            )),
        }
    }

    /// Whether the schema is one, by the draft's own schema.
    fn check(self, schema: &Value) -> Result<(), GrammarError> {
        let checked = match self {
            Self::Draft6 => jsonschema::draft6::meta::validate(schema),
            Self::Draft7 => jsonschema::draft7::meta::validate(schema),
            Self::Draft201909 => jsonschema::draft201909::meta::validate(schema),
            Self::Draft202012 => jsonschema::draft202012::meta::validate(schema),
        };
        let place = |error: &ValidationError<'_>| error.instance_path().to_string();
        checked.map_err(|error| refused(place(&error), error.to_string()))
    }
}

/// Alternatives of which a text may follow only one.
struct Alternatives {
    place: String,
    schemas: Vec<Value>,
}

struct Reader<'a> {
    root: &'a Value,
    dialect: Dialect,
    /// The places that a `$ref` named, in the order of their numbers.
    definitions: Vec<String>,
    numbers: HashMap<String, usize>,
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
    fn new(root: &'a Value, dialect: Dialect) -> Self {
        Self {
            root,
            dialect,
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
        let first = self.number(place);
        while let Some(place) = self.definitions.get(self.written.len()).cloned() {
            let schema = self.root.pointer(&place).unwrap_or(&Value::Null);
            self.starts.push(self.places.len());
            let written = self.schema(&place, schema)?;
            self.written.push(written);
        }
        Ok(json!({
            "x-guidance": { "whitespace_pattern": BLANK },
            "$defs": self.written.numbered(),
            "$ref": Definitions::reference(first),
        }))
    }

    /// Of several alternatives only one may hold. That is so if no value follows two of them; otherwise a text
    /// would have to be held against all of them at once, which nothing here can do.
    fn check_alternatives(&self) -> Result<(), GrammarError> {
        let comparison = Comparison::new(&self.written);
        for Alternatives { place, schemas } in &self.alternatives {
            if schemas.len() > MOST_ALTERNATIVES {
                let problem = format!("more than {MOST_ALTERNATIVES} alternatives");
                return Err(refused(place, problem));
            }
            for (later, right) in schemas.iter().enumerate() {
                for (earlier, left) in schemas[..later].iter().enumerate() {
                    if !comparison.are_disjoint(left, right) {
                        let problem = format!(
                            "a value may follow both {earlier} and {later} of these alternatives: tell them \
                             apart by their types or by a required property with a const, or use anyOf"
                        );
                        return Err(refused(place, problem));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_patterns(&self) -> Result<(), GrammarError> {
        let comparison = Comparison::new(&self.written);
        for (place, schema) in &self.joints {
            if comparison.patterns_at_once(schema) > MOST_PATTERNS {
                let problem =
                    format!("a string must follow more than {MOST_PATTERNS} patterns and formats");
                return Err(refused(place, problem));
            }
        }
        Ok(())
    }

    /// Numbers that are held to several multiples at once are held to their common one.
    fn check_multiples(&self) -> Result<(), GrammarError> {
        let (mut common, mut common_decimals) = (1, 0);
        for (place, multiple) in &self.multiples {
            let problem = || {
                let most = "the common multiple of all values of multipleOf is too large, or has too many digits";
                refused(place, most)
            };
            let (multiple, decimals) = decimal(*multiple).ok_or_else(problem)?;
            let both = decimals.max(common_decimals);
            let scaled =
                |number: u64, decimals| number.checked_mul(10_u64.checked_pow(both - decimals)?);
            let (left, right) = (scaled(common, common_decimals), scaled(multiple, decimals));
            let (left, right) = left.zip(right).ok_or_else(problem)?;
            common = left / greatest_divisor(left, right) * right;
            common_decimals = both;
            if multiple == 0 || common > MOST_MULTIPLE {
                return Err(problem());
            }
        }
        Ok(())
    }

    fn schema(&mut self, place: &str, schema: &Value) -> Result<Value, GrammarError> {
        let written = match schema {
            Value::Bool(_) => schema.clone(),
            Value::Object(keywords) => self.keywords(place, keywords)?,
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
    ) -> Result<Value, GrammarError> {
        let mut written = Map::new();
        let mut all_of = Vec::new();
        if let (Dialect::Draft6 | Dialect::Draft7, Some(reference)) =
            (self.dialect, keywords.get("$ref"))
        {
            // Then whatever stands beside it is ignored.
            let place = format!("{place}/$ref");
            return Ok(json!({ "$ref": self.reference(&place, reference)? }));
        }
        let old_array = self.dialect != Dialect::Draft202012;
        let items_in_turn = old_array && keywords.get("items").is_some_and(Value::is_array);
        for (keyword, value) in keywords {
            let place = format!("{place}/{}", escaped(keyword));
            match keyword.as_str() {
                "multipleOf" => {
                    self.multiples
                        .push((place, value.as_f64().unwrap_or_default()));
                    written.insert(keyword.clone(), value.clone());
                }
                "type" | "const" | "enum" | "required" | "pattern" | "minimum" | "maximum"
                | "exclusiveMinimum" | "exclusiveMaximum" | "minLength" | "maxLength"
                | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                    written.insert(keyword.clone(), value.clone());
                }
                "format" => {
                    let format = value.as_str().unwrap_or_default();
                    if !FORMATS.contains(&format) {
                        let known = FORMATS.join(", ");
                        let problem = format!("the formats that can be held are {known}");
                        return Err(refused(place, problem));
                    }
                    match pattern(format) {
                        Some(pattern) => all_of.push(json!({ "pattern": pattern })),
                        None => _ = written.insert(keyword.clone(), value.clone()),
                    }
                }
                "properties" | "patternProperties" => {
                    let schemas = self.named(&place, value)?;
                    written.insert(keyword.clone(), schemas);
                }
                "items" if items_in_turn => {
                    let schemas = self.list(&place, value)?;
                    written.insert("prefixItems".to_owned(), schemas.into());
                }
                "additionalItems" if items_in_turn => {
                    written.insert("items".to_owned(), self.schema(&place, value)?);
                }
                // Without a list in `items` it has no effect.
                "additionalItems" if old_array => {}
                "prefixItems" if !old_array => {
                    let schemas = self.list(&place, value)?;
                    written.insert(keyword.clone(), schemas.into());
                }
                "items" | "additionalProperties" => {
                    written.insert(keyword.clone(), self.schema(&place, value)?);
                }
                "anyOf" => {
                    written.insert(keyword.clone(), self.list(&place, value)?.into());
                }
                "allOf" => all_of.extend(self.list(&place, value)?),
                "oneOf" => {
                    let schemas = self.list(&place, value)?;
                    all_of.push(json!({ "anyOf": schemas }));
                    self.alternatives.push(Alternatives { place, schemas });
                }
                "$ref" => {
                    written.insert(keyword.clone(), self.reference(&place, value)?.into());
                }
                "uniqueItems" if value == &json!(false) => {}
                annotation if ANNOTATIONS.contains(&annotation) || annotation.starts_with("x-") => {
                }
                _ => return Err(refused(place, "this keyword is not supported")),
            }
        }
        if !all_of.is_empty() {
            written.insert("allOf".to_owned(), all_of.into());
        }
        check_optional(place, &written)?;
        if ["allOf", "anyOf", "$ref"]
            .iter()
            .any(|joint| written.contains_key(*joint))
        {
            self.joints.push((place.to_owned(), written.clone().into()));
        }
        Ok(written.into())
    }

    fn named(&mut self, place: &str, schemas: &Value) -> Result<Value, GrammarError> {
        let schemas = schemas.as_object().into_iter().flatten();
        let mut written = Map::new();
        for (name, schema) in schemas {
            let place = format!("{place}/{}", escaped(name));
            written.insert(name.clone(), self.schema(&place, schema)?);
        }
        Ok(written.into())
    }

    fn list(&mut self, place: &str, schemas: &Value) -> Result<Vec<Value>, GrammarError> {
        let schemas = schemas.as_array().into_iter().flatten().enumerate();
        schemas
            .map(|(number, schema)| self.schema(&format!("{place}/{number}"), schema))
            .collect()
    }

    /// What a `$ref` becomes.
    fn reference(&mut self, place: &str, reference: &Value) -> Result<String, GrammarError> {
        let reference = reference.as_str().unwrap_or_default();
        let target = reference.strip_prefix('#').and_then(decoded);
        let target = target.filter(|target| target.is_empty() || target.starts_with('/'));
        let Some(target) = target else {
            return Err(refused(
                place,
                "only references within the schema, by # and a JSON pointer, are followed",
            ));
        };
        match self.root.pointer(&target) {
            Some(Value::Object(_) | Value::Bool(_)) => {
                Ok(Definitions::reference(self.number(&target)))
            }
            _ => Err(refused(place, format!("there is no schema at {reference}"))),
        }
    }

    fn number(&mut self, place: &str) -> usize {
        let next = self.definitions.len();
        let number = *self.numbers.entry(place.to_owned()).or_insert(next);
        if number == next {
            self.definitions.push(place.to_owned());
        }
        number
    }
}

fn check_optional(place: &str, keywords: &Map<String, Value>) -> Result<(), GrammarError> {
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
    let optional = names.filter(|name| !required.contains(name)).count();
    match optional > MOST_OPTIONAL {
        true => Err(refused(
            format!("{place}/properties"),
            format!("more than {MOST_OPTIONAL} properties that are not required"),
        )),
        false => Ok(()),
    }
}

/// A positive number as a whole one and how many of its digits are decimals.
fn decimal(mut number: f64) -> Option<(u64, u32)> {
    let mut decimals = 0;
    while number.fract() != 0.0 {
        number *= 10.0;
        decimals += 1;
    }
    (number <= MOST_MULTIPLE as f64).then_some((number as u64, decimals))
}

fn greatest_divisor(left: u64, right: u64) -> u64 {
    match right {
        0 => left,
        _ => greatest_divisor(right, left % right),
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
