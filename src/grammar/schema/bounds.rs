//! `minimum`, `maximum` and their exclusive variants, as defined by each draft.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::keywords::SchemaObject;
use super::numbers::{self, Bound, Side};
use super::{SchemaTranslator, schema_error};

/// The error message for a bound that cannot be enforced exactly.
const BOUND_TOO_LARGE: &str =
    "a bound beyond 2^53 that is not a bound of a 64-bit integer cannot be enforced exactly";

impl SchemaTranslator<'_> {
    pub(super) fn bound(
        &mut self,
        pointer: &str,
        keyword: &str,
        object: &SchemaObject<'_>,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let value = &object.keywords[keyword];
        let (side, inclusive, exclusive) = match keyword {
            "minimum" | "exclusiveMinimum" => (Side::Lower, "minimum", "exclusiveMinimum"),
            _ => (Side::Upper, "maximum", "exclusiveMaximum"),
        };
        // In drafts 3 and 4 and OpenAPI 3.0, `exclusiveMinimum` is a boolean that makes `minimum` exclusive; likewise
        // for the maximum.
        let is_exclusive = match (keyword == exclusive, value) {
            (true, Value::Bool(_)) => return Ok(()),
            (is_exclusive_keyword, _) => {
                is_exclusive_keyword || object.keywords.get(exclusive) == Some(&Value::Bool(true))
            }
        };
        let Value::Number(number) = value else {
            return Err(schema_error(pointer, "it must be a number"));
        };
        let is_integer = numbers::only_integers(object.keywords);
        let (bound, is_exclusive) = numbers::bound(number, is_exclusive, side, is_integer);
        let enforced = match bound {
            Bound::Exact(value) => Some(value),
            Bound::Unneeded => None,
            Bound::Wider(value) => {
                self.relax(pointer, BOUND_TOO_LARGE.to_owned())?;
                Some(value)
            }
            Bound::Unenforceable => {
                self.relax(pointer, BOUND_TOO_LARGE.to_owned())?;
                None
            }
        };
        let name = match is_exclusive {
            true => exclusive,
            false => inclusive,
        };
        if let Some(mut value) = enforced {
            if let Some(other) = output.get(name) {
                value = numbers::stricter(value, other, side);
            }
            output.insert(name.to_owned(), value);
        }
        Ok(())
    }
}
