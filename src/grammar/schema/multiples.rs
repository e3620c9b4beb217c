//! `multipleOf`, and the least common multiple where several values apply to one number.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::{SchemaTranslator, TranslationError, numbers, schema_error};

/// Maximum common multiple of the `multipleOf` values of one number, in units of the last decimal place. Beyond this,
/// llguidance may allow no token in the middle of a number that also has bounds.
const MAX_MULTIPLE: u64 = 10_000;

/// Magnitude of the bounds added to a `multipleOf` without bounds. Without the added bounds, a number could reach the
/// digit limit before it is a multiple.
const DEFAULT_BOUND_MAGNITUDE: i64 = 1_000_000_000_000_000;

/// Maximum number of decimals of `multipleOf`, because llguidance uses 32-bit arithmetic.
const MAX_MULTIPLE_DECIMALS: u32 = 8;

/// The error message for a `multipleOf` that cannot be enforced.
const MULTIPLE_TOO_LARGE: &str =
    "the common multiple of all values of multipleOf is too large, or has too many digits";

impl SchemaTranslator<'_> {
    pub(super) fn multiple(
        &mut self,
        pointer: &str,
        value: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let multiple = value.as_f64().filter(|multiple| *multiple > 0.0);
        let multiple =
            multiple.ok_or_else(|| schema_error(pointer, "it must be a number greater than 0"))?;
        match numbers::decimal(multiple, MAX_MULTIPLE) {
            Some((_, decimals)) if decimals <= MAX_MULTIPLE_DECIMALS => {
                self.multiples.push((pointer.to_owned(), multiple));
                output.insert("multipleOf".to_owned(), value.clone());
                Ok(())
            }
            _ => self.relax(pointer, MULTIPLE_TOO_LARGE.to_owned()),
        }
    }

    /// Checks the common multiple of the `multipleOf` values that may apply to one number. Several values apply to one
    /// number only where schemas are combined.
    pub(super) fn check_multiples(&self) -> Result<(), TranslationError> {
        if self.multiples.len() < 2 {
            return Ok(());
        }
        let mut too_large = None;
        for (_, schema) in &self.combined_schemas {
            let multiples = self.translated.multiples(schema, self.fuel)?;
            let mut common = (1, 0);
            too_large = multiples.into_iter().find(|multiple| {
                let decimal = numbers::decimal(*multiple, MAX_MULTIPLE);
                let next = decimal.and_then(|decimal| numbers::common_multiple(common, decimal));
                match next.filter(|(common, _)| *common <= MAX_MULTIPLE) {
                    Some(next) => {
                        common = next;
                        false
                    }
                    None => true,
                }
            });
            if too_large.is_some() {
                break;
            }
        }
        let Some(value) = too_large else {
            return Ok(());
        };
        let Some((pointer, _)) = self.multiples.iter().rfind(|(_, own)| *own == value) else {
            return Ok(());
        };
        match self.strict {
            true => Err(schema_error(pointer, MULTIPLE_TOO_LARGE).into()),
            false => Err(TranslationError::MustDrop(pointer.clone())),
        }
    }
}

/// Adds the missing bounds to a schema with `multipleOf`.
pub(super) fn bound_multiple(output: &mut Map<String, Value>) {
    if !output.contains_key("multipleOf") {
        return;
    }
    let bound = |keywords: [&str; 2]| {
        let mut bounds = keywords.iter().filter_map(|keyword| output.get(*keyword));
        bounds.next().and_then(Value::as_f64)
    };
    let min = bound(["minimum", "exclusiveMinimum"]);
    let max = bound(["maximum", "exclusiveMaximum"]);
    let magnitude = DEFAULT_BOUND_MAGNITUDE as f64;
    if min.is_none() && max.is_none_or(|max| max > -magnitude) {
        output.insert("minimum".to_owned(), (-DEFAULT_BOUND_MAGNITUDE).into());
    }
    if max.is_none() && min.is_none_or(|min| min < magnitude) {
        output.insert("maximum".to_owned(), DEFAULT_BOUND_MAGNITUDE.into());
    }
}
