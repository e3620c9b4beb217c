//! The bounds of numbers, as each draft writes them.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::keywords::SchemaObject;
use super::numbers::{self, Bound, Side};
use super::{Reader, refused};

/// What is said of a bound that cannot be held.
const BOUND_TOO_LARGE: &str =
    "a bound beyond 2^53 that is none of a 64-bit integer cannot be enforced exactly";

impl Reader<'_> {
    pub(super) fn bound(
        &mut self,
        at: &str,
        keyword: &str,
        object: &SchemaObject<'_>,
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
}
