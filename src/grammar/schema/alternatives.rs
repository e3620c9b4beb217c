//! `oneOf`: alternatives of which a value may follow only one.

use serde_json::Value;

use super::super::GrammarError;
use super::super::disjoint::Comparison;
use super::Reader;

/// Most alternatives of one `oneOf` that are compared: each is compared with each.
const MOST_ALTERNATIVES: usize = 200;

/// Alternatives of which a text may follow only one.
pub(super) struct Alternatives {
    pub(super) place: String,
    pub(super) schemas: Vec<Value>,
}

impl Reader<'_> {
    /// Of several alternatives only one may hold. That is so if no value follows two of them; otherwise a text
    /// would have to be compared with all of them at once.
    pub(super) fn check_alternatives(&mut self) -> Result<(), GrammarError> {
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
