//! `oneOf`: a value must be valid for exactly one of the alternatives.

use serde_json::Value;

use super::super::GrammarError;
use super::super::disjoint::SchemaComparison;
use super::SchemaTranslator;

/// Maximum number of alternatives of one `oneOf`, because each pair is compared.
const MAX_ALTERNATIVES: usize = 200;

/// The translated alternatives of one `oneOf`.
pub(super) struct Alternatives {
    pub(super) pointer: String,
    pub(super) schemas: Vec<Value>,
}

impl SchemaTranslator<'_> {
    /// Checks that the alternatives of each `oneOf` are disjoint. If they are not, the `oneOf` is relaxed to `anyOf`:
    /// the grammar cannot count the alternatives that a text matches.
    pub(super) fn check_alternatives(&mut self) -> Result<(), GrammarError> {
        let overlapping: Vec<(String, String)> = {
            let comparison = SchemaComparison::new(&self.translated);
            let problem = |alternatives: &Alternatives| {
                let problem = overlap(&comparison, &alternatives.schemas)?;
                Some((alternatives.pointer.clone(), problem))
            };
            self.alternatives.iter().filter_map(problem).collect()
        };
        for (pointer, problem) in overlapping {
            self.relax(&pointer, problem)?;
        }
        Ok(())
    }
}

/// Returns an error message if two alternatives may accept the same value, or if there are too many alternatives.
fn overlap(comparison: &SchemaComparison<'_>, schemas: &[Value]) -> Option<String> {
    if schemas.len() > MAX_ALTERNATIVES {
        return Some(format!("more than {MAX_ALTERNATIVES} alternatives"));
    }
    schemas.iter().enumerate().find_map(|(later, right)| {
        let mut before = schemas[..later].iter();
        let earlier = before.position(|left| !comparison.are_disjoint(left, right))?;
        Some(format!(
            "a value may match both alternative {earlier} and alternative {later}: distinguish them by type or by a \
             required property with a const, or use anyOf"
        ))
    })
}
