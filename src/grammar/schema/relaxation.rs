//! Relaxes a schema until llguidance accepts it: repeatedly finds the smallest rejected part by trial compilations, and
//! drops that part.

use std::collections::HashSet;

use serde_json::Value;

use super::super::GrammarError;
use super::super::fuel::Fuel;
use super::{
    SchemaTranslator, Translation, TranslationError, check_size, schema_error, translate,
    unenforceable,
};

/// Maximum number of trial compilations to find the rejected parts of a schema.
const MAX_TRIALS: usize = 300;
/// Maximum number of steps of all trial compilations of one schema.
const MAX_TRIAL_STEPS: u64 = 2_000_000;
/// Maximum number of constraints that are dropped one by one; after that the whole schema is dropped.
const MAX_ROUNDS: usize = 30;

/// Keywords in the order in which they are tried for dropping, the least important first.
const DROP_ORDER: [&str; 26] = [
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

/// A translated schema, and the result of compiling it.
pub(in crate::grammar) struct Compiled<T> {
    /// The result of `try_compile`; `()` if the schema was only translated.
    pub constraint: T,
    /// The schema translated for llguidance.
    pub translated: Value,
    /// Pointers to the dropped constraints.
    pub relaxed: Vec<String>,
}

/// Translates a schema without compiling it. Returns `None` if constraints have to be dropped one by one, by
/// [`compile`].
///
/// # Errors
/// As for [`compile`].
pub(in crate::grammar) fn translate_only(
    schema: &Value,
    strict: bool,
    fuel: &Fuel<'_>,
) -> Result<Option<Compiled<()>>, GrammarError> {
    check_size(schema)?;
    match translate(schema, strict, &HashSet::new(), fuel) {
        Ok(Translation {
            translated,
            relaxed,
        }) => Ok(Some(Compiled {
            constraint: (),
            translated,
            relaxed,
        })),
        Err(TranslationError::MustDrop(_)) => Ok(None),
        Err(TranslationError::Rejected(error)) => Err(error),
    }
}

/// Translates a schema and compiles it with `try_compile`. If llguidance rejects the schema, drops constraints until it
/// compiles. The inner error of `try_compile` is llguidance's message.
///
/// # Errors
/// If the schema is invalid, too large, or strict and cannot be enforced, or if `try_compile` fails.
pub(in crate::grammar) fn compile<T>(
    schema: &Value,
    strict: bool,
    fuel: &Fuel<'_>,
    try_compile: impl Fn(&Value, &Fuel<'_>) -> Result<Result<T, String>, GrammarError>,
) -> Result<Compiled<T>, GrammarError> {
    check_size(schema)?;
    let mut search = RelaxationSearch {
        schema,
        strict,
        dropped: HashSet::new(),
        trials_left: MAX_TRIALS,
        fuel: fuel.limited_to(MAX_TRIAL_STEPS),
        compile_error: |translated: &Value, fuel: &Fuel<'_>| {
            Ok(try_compile(translated, fuel)?.err())
        },
    };
    for round in 0.. {
        let pointer = match translate(schema, strict, &search.dropped, fuel) {
            Ok(Translation {
                translated,
                relaxed,
            }) => match try_compile(&translated, fuel)? {
                Ok(constraint) => {
                    return Ok(Compiled {
                        constraint,
                        translated,
                        relaxed,
                    });
                }
                Err(problem) => {
                    let before = search.fuel.left();
                    let pointer = search.pointer_to_drop(&problem)?;
                    fuel.spend(before - search.fuel.left())?;
                    pointer
                }
            },
            Err(TranslationError::MustDrop(pointer)) => pointer,
            Err(TranslationError::Rejected(error)) => return Err(error),
        };
        let pointer = match round < MAX_ROUNDS {
            true => pointer,
            false => String::new(),
        };
        if !search.dropped.insert(pointer) {
            break;
        }
    }
    Err(schema_error("", "no text matches this schema"))
}

struct RelaxationSearch<'a, F> {
    schema: &'a Value,
    strict: bool,
    dropped: HashSet<String>,
    trials_left: usize,
    fuel: Fuel<'a>,
    /// Compiles a translated schema. Returns llguidance's error, or `None` if the schema compiles.
    compile_error: F,
}

impl<F> RelaxationSearch<'_, F>
where
    F: Fn(&Value, &Fuel<'_>) -> Result<Option<String>, GrammarError>,
{
    /// Returns the pointer to the keyword or schema to drop next. `problem` is llguidance's error for the whole schema.
    ///
    /// # Errors
    /// If the schema is strict, or if the whole schema is `false`.
    fn pointer_to_drop(&mut self, problem: &str) -> Result<String, GrammarError> {
        let (pointer, problem) = self
            .innermost_rejected()
            .unwrap_or((String::new(), problem.to_owned()));
        let keyword = self.rejected_keyword(&pointer);
        if self.strict {
            return Err(match keyword {
                _ if is_contradiction(&problem) => {
                    schema_error(pointer, "no value matches this schema")
                }
                Some(keyword) => {
                    schema_error(format!("{pointer}/{keyword}"), unenforceable(keyword))
                }
                None => schema_error(pointer, unenforceable("this schema")),
            });
        }
        // A schema that is `false` has no constraint to drop.
        if pointer.is_empty() && !self.schema.is_object() {
            return Err(schema_error(pointer, "no value matches this schema"));
        }
        Ok(match keyword {
            Some(keyword) => format!("{pointer}/{keyword}"),
            None => pointer,
        })
    }

    /// Returns the pointer to the innermost schema that llguidance rejects on its own, and llguidance's error.
    fn innermost_rejected(&mut self) -> Option<(String, String)> {
        let mut translator =
            SchemaTranslator::new(self.schema, self.strict, &self.dropped, &self.fuel);
        translator.document("").ok()?;
        let pointers: Vec<String> = translator.innermost_first().cloned().collect();
        pointers.into_iter().find_map(|pointer| {
            self.schema
                .pointer(&pointer)
                .filter(|part| part.is_object())?;
            let problem = self.problem(&pointer, &self.dropped.clone())?;
            Some((pointer, problem))
        })
    }

    /// Finds the first keyword in [`DROP_ORDER`] without which the schema at a pointer compiles.
    fn rejected_keyword(&mut self, pointer: &str) -> Option<&'static str> {
        let keywords = self.schema.pointer(pointer)?.as_object()?;
        DROP_ORDER.into_iter().find(|keyword| {
            let keyword_pointer = format!("{pointer}/{keyword}");
            let mut dropped = self.dropped.clone();
            keywords.contains_key(*keyword)
                && dropped.insert(keyword_pointer)
                && self.trials_left > 0
                && self.problem(pointer, &dropped).is_none()
        })
    }

    /// Returns llguidance's error for the schema at a pointer; `None` if the schema compiles, or if no trials or fuel
    /// are left.
    fn problem(&mut self, pointer: &str, dropped: &HashSet<String>) -> Option<String> {
        self.trials_left = self.trials_left.checked_sub(1)?;
        let mut translator = SchemaTranslator::new(self.schema, self.strict, dropped, &self.fuel);
        let translated = translator.document(pointer).ok()?;
        let problem = (self.compile_error)(&translated, &self.fuel);
        problem.unwrap_or_else(|_| {
            self.trials_left = 0;
            None
        })
    }
}

/// Whether llguidance's error means that no value matches the schema.
fn is_contradiction(problem: &str) -> bool {
    [
        "nsatisfiable",
        "incompatible",
        "schema is false",
        "no text matches",
    ]
    .iter()
    .any(|words| problem.contains(words))
}
