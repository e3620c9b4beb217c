//! Keywords for strings: `pattern` and `format`.

use serde_json::{Map, Value, json};

use super::super::GrammarError;
use super::super::disjoint::SchemaComparison;
use super::super::regex_limits;
use super::{SchemaTranslator, TranslationError, schema_error, text};

/// Maximum number of patterns and formats that one string must match at once. With sixteen, llguidance may not
/// terminate.
const MAX_PATTERNS: usize = 4;

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

/// Values of `format` that JSON Schema defines but that cannot be enforced. Unknown formats are annotations.
const UNENFORCED_FORMATS: [&str; 9] = [
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

/// A valid date. llguidance's own format accepts February 29 in every year.
const DATE: &str = "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])\
    |(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))\
    |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)";

/// A time without leap seconds. llguidance's own format accepts a leap second in every minute.
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

/// A host name of up to four labels. Each label has at most 61 characters, and no two hyphens in a row (as in
/// Punycode).
const HOST: &str =
    r"(?:[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}\.){0,3}[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}";

/// The local part of an email address, at most 63 characters. llguidance's own format has no limit.
const MAILBOX: &str = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-](?:\.?[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]){0,31}";

impl SchemaTranslator<'_> {
    pub(super) fn pattern(
        &mut self,
        pointer: &str,
        value: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        match self.pattern_problem(text(pointer, value)?) {
            None => {
                output.insert("pattern".to_owned(), value.clone());
                Ok(())
            }
            Some(problem) => self.relax(pointer, problem),
        }
    }

    /// Returns an error message if a pattern of `patternProperties` exceeds a limit.
    pub(super) fn property_pattern_problem(&mut self, schemas: &Value) -> Option<String> {
        let mut patterns = schemas.as_object().into_iter().flat_map(Map::keys);
        let error = patterns.find_map(|pattern| self.count_pattern(pattern).err())?;
        Some(format!("a pattern cannot be enforced: {error}"))
    }

    /// Returns an error message if a pattern cannot be enforced.
    pub(super) fn pattern_problem(&mut self, pattern: &str) -> Option<String> {
        if let Err(error) = self.count_pattern(pattern) {
            return Some(format!("this pattern cannot be enforced: {error}"));
        }
        let unsupported = "this pattern cannot be enforced: look-around, back-references and \
                       unknown escapes are not supported";
        regex_syntax::parse(pattern)
            .is_err()
            .then(|| unsupported.to_owned())
    }

    /// Adds the optional parts of a pattern to those of the schema's other patterns, and checks the limits.
    fn count_pattern(&mut self, pattern: &str) -> Result<(), GrammarError> {
        let parts = self.optional_parts + regex_limits::check(pattern)?.unwrap_or(0);
        regex_limits::check_optional(parts)?;
        self.optional_parts = parts;
        Ok(())
    }

    /// Translates `format`. Returns a schema to add to `allOf` if the format is enforced by a pattern.
    pub(super) fn format(
        &mut self,
        pointer: &str,
        value: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<Option<Value>, GrammarError> {
        let format = text(pointer, value)?;
        if let Some(pattern) = format_pattern(format) {
            return Ok(Some(json!({ "pattern": pattern })));
        }
        if FORMATS.contains(&format) {
            output.insert("format".to_owned(), value.clone());
        } else if UNENFORCED_FORMATS.contains(&format) {
            let supported = FORMATS.join(", ");
            let problem = format!("the formats that can be enforced are {supported}");
            self.relax(pointer, problem)?;
        }
        Ok(None)
    }

    /// Checks that no string must match more than [`MAX_PATTERNS`] patterns and formats at once.
    pub(super) fn check_patterns(&self) -> Result<(), TranslationError> {
        let comparison = SchemaComparison::new(&self.translated);
        for (pointer, schema) in &self.combined_schemas {
            if comparison.simultaneous_patterns(schema) <= MAX_PATTERNS {
                continue;
            }
            let candidates = ["format", "pattern", "allOf", "anyOf", "oneOf", "$ref"];
            let keywords = self.root.pointer(pointer).and_then(Value::as_object);
            let mut pointers = candidates
                .iter()
                .filter(|keyword| keywords.is_some_and(|keywords| keywords.contains_key(**keyword)))
                .map(|keyword| format!("{pointer}/{keyword}"));
            let to_drop = pointers.find(|pointer| !self.dropped.contains(pointer));
            return Err(match to_drop.filter(|_| !self.strict) {
                Some(pointer) => TranslationError::MustDrop(pointer),
                None => {
                    let problem = format!(
                        "a string must match more than {MAX_PATTERNS} patterns and formats at once"
                    );
                    schema_error(pointer, problem).into()
                }
            });
        }
        Ok(())
    }
}

/// Returns the pattern that replaces `format`, if llguidance's own format accepts invalid values.
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
