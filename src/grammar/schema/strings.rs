//! Strings: patterns and formats.

use serde_json::{Map, Value, json};

use super::super::GrammarError;
use super::super::disjoint::Comparison;
use super::super::regex_limits;
use super::{Fault, Reader, refused, text};

/// Most patterns and formats that one string must follow at once: it is not for certain that llguidance ends with
/// sixteen.
const MOST_PATTERNS: usize = 4;

/// Values of `format` that are enforced.
pub(in crate::grammar) const FORMATS: [&str; 10] = [
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

impl Reader<'_> {
    /// Reads `pattern`.
    pub(super) fn pattern(
        &mut self,
        at: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        match self.pattern_problem(text(at, value)?) {
            None => {
                written.insert("pattern".to_owned(), value.clone());
                Ok(())
            }
            Some(problem) => self.relax(at, problem),
        }
    }

    /// Why one of the patterns that properties' names follow takes too much.
    pub(super) fn problem_of_names(&mut self, schemas: &Value) -> Option<String> {
        let mut names = schemas.as_object().into_iter().flat_map(Map::keys);
        let error = names.find_map(|pattern| self.count_pattern(pattern).err())?;
        Some(format!("a pattern cannot be enforced: {error}"))
    }

    /// Why a pattern cannot be enforced.
    pub(super) fn pattern_problem(&mut self, pattern: &str) -> Option<String> {
        if let Err(error) = self.count_pattern(pattern) {
            return Some(format!("this pattern cannot be enforced: {error}"));
        }
        let unknown = "this pattern cannot be enforced: look-around, back-references and \
                       unknown escapes are not supported";
        regex_syntax::parse(pattern)
            .is_err()
            .then(|| unknown.to_owned())
    }

    /// Counts what may be empty in a pattern, with that of the patterns before it.
    fn count_pattern(&mut self, pattern: &str) -> Result<(), GrammarError> {
        let parts = self.optional_parts + regex_limits::check(pattern)?.unwrap_or(0);
        regex_limits::check_optional(parts)?;
        self.optional_parts = parts;
        Ok(())
    }

    /// Reads `format`; a schema that must hold, too, is returned.
    pub(super) fn format(
        &mut self,
        at: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<Option<Value>, GrammarError> {
        let format = text(at, value)?;
        if let Some(pattern) = format_pattern(format) {
            return Ok(Some(json!({ "pattern": pattern })));
        }
        if FORMATS.contains(&format) {
            written.insert("format".to_owned(), value.clone());
        } else if OTHER_FORMATS.contains(&format) {
            let known = FORMATS.join(", ");
            self.relax(at, format!("the formats that can be enforced are {known}"))?;
        }
        Ok(None)
    }

    pub(super) fn check_patterns(&self) -> Result<(), Fault> {
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
}

/// What stands for a format of which llguidance lets through more than it is.
fn format_pattern(format: &str) -> Option<String> {
    match format {
        "date" => Some(format!("^{DATE}$")),
        "time" => Some(format!("^{TIME}$")),
        "date-time" => Some(format!("^{DATE}[tT]{TIME}$")),
        "hostname" => Some(format!("^{HOST}$")),
        "email" => Some(format!("^{MAILBOX}@{HOST}$")),
        _ => None,
    }
}
