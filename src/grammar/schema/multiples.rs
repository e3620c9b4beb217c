//! `multipleOf`, and the common multiple of several.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::{Fault, Reader, numbers, refused};

/// The largest number that the values of `multipleOf` of one number have as their common multiple, in units of their
/// smallest decimal: beyond it llguidance may stop midway where there are bounds, too.
const MOST_MULTIPLE: u64 = 10_000;

/// The bounds of a multiple whose schema has none: a number that has become long could not end at once.
const MULTIPLES_WITHIN: i64 = 1_000_000_000_000_000;

/// Most decimals of a value of `multipleOf`: llguidance counts them in 32 bits.
const MOST_MULTIPLE_DECIMALS: u32 = 8;

/// What is said of a `multipleOf` that cannot be held.
const MULTIPLE_TOO_LARGE: &str =
    "the common multiple of all values of multipleOf is too large, or has too many digits";

impl Reader<'_> {
    pub(super) fn multiple(
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

    /// Multiples that one number may be held to at once are held to their common one. That is only so within a schema
    /// that more than itself says something of.
    pub(super) fn check_multiples(&self) -> Result<(), Fault> {
        if self.multiples.len() < 2 {
            return Ok(());
        }
        let mut too_large = None;
        for (_, schema) in &self.joints {
            let multiples = self.written.multiples(schema, self.fuel)?;
            let mut common = (1, 0);
            too_large = multiples.into_iter().find(|multiple| {
                let read = numbers::decimal(*multiple, MOST_MULTIPLE);
                let next = read.and_then(|read| numbers::common_multiple(common, read));
                match next.filter(|(common, _)| *common <= MOST_MULTIPLE) {
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
        let Some((place, _)) = self.multiples.iter().rfind(|(_, own)| *own == value) else {
            return Ok(());
        };
        match self.strict {
            true => Err(refused(place, MULTIPLE_TOO_LARGE).into()),
            false => Err(Fault::LeaveOut(place.clone())),
        }
    }
}

/// Gives a multiple the bounds that it lacks.
pub(super) fn bound_multiple(written: &mut Map<String, Value>) {
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
