//! Relaxes a schema until llguidance takes it: what it refuses is left out at the smallest place that is found.

use std::collections::HashSet;

use serde_json::Value;

use super::super::GrammarError;
use super::super::fuel::Fuel;
use super::{Fault, Reader, Reading, check_size, read, refused, unenforceable};

/// Most parts of a schema that are compiled to find what is refused.
const MOST_TRIALS: usize = 300;
/// Steps that compiling parts of one schema may take.
const MAX_TRIAL_STEPS: u64 = 2_000_000;
/// Most constraints that are left out one by one; after that the whole schema is.
const MOST_ROUNDS: usize = 30;

/// The keywords of a schema, in the order in which they are left out: those first without which least is lost.
const LEFT_OUT_FIRST: [&str; 26] = [
    "multipleOf",
    "format",
    "pattern",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "patternProperties",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minimum",
    "maximum",
    "required",
    "prefixItems",
    "items",
    "additionalProperties",
    "enum",
    "const",
    "allOf",
    "oneOf",
    "anyOf",
    "$ref",
    "properties",
];

/// A schema that was compiled.
pub(in crate::grammar) struct Compiled<T> {
    /// What came of it.
    pub constraint: T,
    /// The schema as it was compiled.
    pub written: Value,
    /// Pointers to the constraints that are not enforced.
    pub relaxed: Vec<String>,
}

/// Reads a schema without compiling it; `None` if constraints have to be left out one by one.
///
/// # Errors
/// As [`compile`].
pub(in crate::grammar) fn read_at_once(
    schema: &Value,
    strict: bool,
    fuel: &Fuel<'_>,
) -> Result<Option<Compiled<()>>, GrammarError> {
    check_size(schema)?;
    match read(schema, strict, &HashSet::new(), fuel) {
        Ok(Reading { written, relaxed }) => Ok(Some(Compiled {
            constraint: (),
            written,
            relaxed,
        })),
        Err(Fault::LeaveOut(_)) => Ok(None),
        Err(Fault::Refused(error)) => Err(error),
    }
}

/// Compiles a schema with `try_`, which says why it cannot be.
///
/// # Errors
/// If it is no schema, if it is too large, or if it is strict and cannot be enforced; what `try_` fails with.
pub(in crate::grammar) fn compile<T>(
    schema: &Value,
    strict: bool,
    fuel: &Fuel<'_>,
    try_: impl Fn(&Value, &Fuel<'_>) -> Result<Result<T, String>, GrammarError>,
) -> Result<Compiled<T>, GrammarError> {
    check_size(schema)?;
    let mut search = Search {
        schema,
        strict,
        left_out: HashSet::new(),
        trials: MOST_TRIALS,
        fuel: fuel.part(MAX_TRIAL_STEPS),
        refuses: |written: &Value, fuel: &Fuel<'_>| Ok(try_(written, fuel)?.err()),
    };
    for round in 0.. {
        let place = match read(schema, strict, &search.left_out, fuel) {
            Ok(Reading { written, relaxed }) => match try_(&written, fuel)? {
                Ok(constraint) => {
                    return Ok(Compiled {
                        constraint,
                        written,
                        relaxed,
                    });
                }
                Err(problem) => {
                    let before = search.fuel.left();
                    let place = search.fault(&problem)?;
                    fuel.spend(before - search.fuel.left())?;
                    place
                }
            },
            Err(Fault::LeaveOut(place)) => place,
            Err(Fault::Refused(error)) => return Err(error),
        };
        let place = match round < MOST_ROUNDS {
            true => place,
            false => String::new(),
        };
        if !search.left_out.insert(place) {
            break;
        }
    }
    Err(refused("", "no text can follow this schema"))
}

struct Search<'a, R> {
    schema: &'a Value,
    strict: bool,
    left_out: HashSet<String>,
    /// Parts that may still be compiled.
    trials: usize,
    fuel: Fuel<'a>,
    /// Why a written schema is refused; `None` if it is not.
    refuses: R,
}

impl<R> Search<'_, R>
where
    R: Fn(&Value, &Fuel<'_>) -> Result<Option<String>, GrammarError>,
{
    /// The place that has to be left out so that the schema is taken, or the error if it is strict.
    fn fault(&mut self, problem: &str) -> Result<String, GrammarError> {
        let (place, problem) = self
            .innermost()
            .unwrap_or((String::new(), problem.to_owned()));
        let keyword = self.keyword(&place);
        if self.strict {
            return Err(match keyword {
                _ if is_contradiction(&problem) => {
                    refused(place, "no value can follow this schema")
                }
                Some(keyword) => refused(format!("{place}/{keyword}"), unenforceable(keyword)),
                None => refused(place, unenforceable("this schema")),
            });
        }
        // A root that is `false` has nothing that could be left out.
        if place.is_empty() && !self.schema.is_object() {
            return Err(refused(place, "no value can follow this schema"));
        }
        Ok(match keyword {
            Some(keyword) => format!("{place}/{keyword}"),
            None => place,
        })
    }

    /// The first part that is refused on its own, what is named before what names it, what is within before what it
    /// is in.
    fn innermost(&mut self) -> Option<(String, String)> {
        let mut reader = Reader::new(self.schema, self.strict, &self.left_out, &self.fuel);
        reader.whole("").ok()?;
        let places: Vec<String> = reader.innermost_first().cloned().collect();
        places.into_iter().find_map(|place| {
            self.schema
                .pointer(&place)
                .filter(|part| part.is_object())?;
            let problem = self.problem(&place, &self.left_out.clone())?;
            Some((place, problem))
        })
    }

    /// The keyword without which the schema at a place is taken.
    fn keyword(&mut self, place: &str) -> Option<&'static str> {
        let keywords = self.schema.pointer(place)?.as_object()?;
        LEFT_OUT_FIRST.into_iter().find(|keyword| {
            let at = format!("{place}/{keyword}");
            let mut left_out = self.left_out.clone();
            keywords.contains_key(*keyword)
                && left_out.insert(at)
                && self.trials > 0
                && self.problem(place, &left_out).is_none()
        })
    }

    /// Why the schema at a place is refused; `None` if it is not, or if no more may be compiled.
    fn problem(&mut self, place: &str, left_out: &HashSet<String>) -> Option<String> {
        self.trials = self.trials.checked_sub(1)?;
        let mut reader = Reader::new(self.schema, self.strict, left_out, &self.fuel);
        let written = reader.whole(place).ok()?;
        let refused = (self.refuses)(&written, &self.fuel);
        refused.unwrap_or_else(|_| {
            self.trials = 0;
            None
        })
    }
}

/// Whether llguidance says that nothing follows the schema.
fn is_contradiction(problem: &str) -> bool {
    [
        "nsatisfiable",
        "incompatible",
        "schema is false",
        "no text can follow",
    ]
    .iter()
    .any(|words| problem.contains(words))
}
