//! Constrained decoding: a GBNF grammar, JSON Schema, regular expression, Lark grammar or tool-call format is compiled
//! before the request is admitted. During decoding, the logits of tokens that the grammar forbids are masked.
//!
//! The llguidance library does the parsing. Submodules translate the formats that llguidance does not support or does
//! not fully enforce: [`gbnf`], [`lexemes`] and [`lark`] translate GBNF, [`schema`] translates JSON Schemas,
//! [`tool_calls`] translates tool-call formats. [`digits`] limits the length of numbers; [`reasoning`] postpones the
//! constraint until the reasoning ends. [`cache`] keeps compiled grammars.

mod cache;
mod constraint;
mod digits;
mod disjoint;
mod follow;
mod fuel;
mod gbnf;
mod lark;
mod lark_limits;
mod lexed_grammar;
mod lexemes;
mod reasoning;
mod regex_limits;
mod schema;
mod tool_calls;
mod vocabulary;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};
use serde::Serialize;
use serde_json::Value;

use crate::cancel::CancelFlag;

pub use constraint::Constraint;
pub use gbnf::MAX_GRAMMAR_BYTES;
pub use reasoning::ReasoningRule;
pub use tool_calls::{ContentGrammar, FunctionGrammar, ToolCallGrammar};
pub use vocabulary::{GrammarToken, GrammarVocabulary, Tokenization};

use cache::{CacheKey, GrammarCache};
use digits::{DigitLimit, DigitTokens, JsonStart};
use fuel::{Fuel, MAX_COMPILE_STEPS};
use reasoning::ReasoningState;
use tool_calls::ToolCallSchemas;
use vocabulary::Environment;

/// llguidance's limit on the work of building the regular expressions of the lexer: tens of milliseconds.
const MAX_LEXER_FUEL: u64 = 1_000_000;
/// Maximum number of symbols in all rules of a grammar.
const MAX_GRAMMAR_SYMBOLS: usize = 100_000;
/// Maximum number of lexer states; each takes one or two kilobytes of memory.
const MAX_LEXER_STATES: usize = 50_000;

/// Steps of [`Fuel`] charged for each compilation by llguidance, in addition to the cost that llguidance reports.
const MIN_LIBRARY_STEPS: u64 = 5_000;
/// One step of [`Fuel`] is charged for this many bytes of a schema or of tool-call rules given to llguidance.
const SCHEMA_BYTES_PER_STEP: u64 = 5;

/// Estimated bytes of a cached grammar per step of [`Fuel`] that its compilation took.
const BYTES_PER_STEP: usize = 100;

/// Stack size of a compilation thread. Compilation recurses for each nested property and reference. Unused pages take
/// no memory.
const STACK_BYTES: usize = 512 * 1024 * 1024;

/// A constraint on the generated text, as the request defines it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum GrammarSource {
    /// A grammar in llama.cpp's GBNF notation.
    Gbnf(String),
    /// The text is a JSON value that is valid for a JSON Schema.
    JsonSchema {
        /// The root schema.
        schema: Value,
        /// Whether the schema is rejected if a constraint cannot be enforced token by token. Otherwise the schema is
        /// relaxed to a superset: see [`Constraint::relaxations`].
        strict: bool,
    },
    /// A regular expression for the whole text.
    Regex(String),
    /// A grammar in llguidance's Lark dialect.
    Lark(String),
    /// Tool calls with arguments that follow JSON Schemas.
    ToolCalls(ToolCallGrammar),
}

/// The format of a grammar. `Display` writes the request field that contains the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarKind {
    /// GBNF, displayed as `grammar`.
    Gbnf,
    /// JSON Schema, displayed as `json_schema`.
    JsonSchema,
    /// Regular expression, displayed as `regex`.
    Regex,
    /// Lark, displayed as `lark`.
    Lark,
    /// Tool-call grammar, displayed as `tools`.
    ToolCalls,
}

impl GrammarSource {
    /// The format of the grammar, for error messages.
    pub fn kind(&self) -> GrammarKind {
        match self {
            Self::Gbnf(_) => GrammarKind::Gbnf,
            Self::JsonSchema { .. } => GrammarKind::JsonSchema,
            Self::Regex(_) => GrammarKind::Regex,
            Self::Lark(_) => GrammarKind::Lark,
            Self::ToolCalls(_) => GrammarKind::ToolCalls,
        }
    }
}

impl fmt::Display for GrammarKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gbnf => "grammar",
            Self::JsonSchema => "json_schema",
            Self::Regex => "regex",
            Self::Lark => "lark",
            Self::ToolCalls => "tools",
        })
    }
}

/// A constraint of a JSON Schema that was dropped because it cannot be enforced token by token. The relaxed schema
/// accepts a superset of the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// The function whose arguments the schema describes; `None` for the schema of the response content.
    pub function: Option<String>,
    /// JSON pointer (RFC 6901) to the keyword that was dropped or weakened, or to a subschema of which at most `type`
    /// is still enforced.
    pub pointer: String,
}

/// An error of the compilation or of the matcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A syntax error in a GBNF grammar.
    #[error("line {line}, column {column}: {problem}")]
    Syntax {
        /// Line number, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// Error message without the position.
        problem: String,
    },
    /// The JSON Schema is invalid, or it is strict and has a constraint that cannot be enforced.
    #[error("{}: {problem}", if .pointer.is_empty() { "the schema" } else { .pointer })]
    Schema {
        /// JSON pointer (RFC 6901) to the keyword or subschema with the error; empty for the whole schema.
        pointer: String,
        /// Error message without the position.
        problem: String,
    },
    /// The arguments schema of a function is invalid or cannot be enforced.
    #[error("function '{name}': {error}")]
    Function {
        /// The function's name.
        name: String,
        /// The error in the arguments schema.
        error: Box<GrammarError>,
    },
    /// The grammar is invalid or uses an unsupported feature.
    #[error("{0}")]
    Rejected(String),
    /// The grammar exceeds a size or cost limit, or llguidance panicked.
    #[error("{0}")]
    TooLarge(String),
    /// The client disconnected or the server is shutting down, so the result is no longer needed.
    #[error("the compilation was cancelled")]
    Cancelled,
    /// During decoding: the grammar forbids an accepted token or allows no token, or the parser exceeds a limit.
    #[error("the grammar cannot be followed any further: {0}")]
    CannotContinue(String),
}

/// Compiles grammars into constraints for one vocabulary.
pub struct GrammarCompiler {
    vocabulary: Arc<dyn GrammarVocabulary>,
    canonical: ParserFactory,
    any_tokenization: ParserFactory,
    /// Built when the first JSON Schema is compiled, because building them iterates over the whole vocabulary.
    digit_tokens: OnceLock<Arc<DigitTokens>>,
    cache: GrammarCache,
}

impl GrammarCompiler {
    /// Builds the token trie and llguidance's parser factories for the vocabulary.
    ///
    /// # Errors
    /// If llguidance does not accept the vocabulary.
    pub fn new(vocabulary: Arc<dyn GrammarVocabulary>) -> Result<Self, GrammarError> {
        let [canonical, any_tokenization] = Environment::both(&vocabulary);
        Ok(Self {
            vocabulary,
            canonical: factory(canonical)?,
            any_tokenization: factory(any_tokenization)?,
            digit_tokens: OnceLock::new(),
            cache: GrammarCache::default(),
        })
    }

    /// Compiles a grammar on a separate thread with a large stack, and waits for the result.
    ///
    /// # Errors
    /// If the source is invalid, cannot be enforced or exceeds a limit.
    pub fn compile(
        &self,
        source: &GrammarSource,
        tokenization: Tokenization,
    ) -> Result<Constraint, GrammarError> {
        let (constraint, _) =
            self.compile_uncached(source, tokenization, &CancelFlag::default())?;
        Ok(constraint)
    }

    /// Returns the constraint from the cache, or compiles it as [`Self::compile`] does and stops soon after `cancel` is
    /// set. Each sequence needs its own [`Constraint::deep_clone`]. Requests with different `scope` share no entries,
    /// so a client cannot measure whether a client of another scope sent the grammar before.
    ///
    /// # Errors
    /// As for [`Self::compile`]; also [`GrammarError::Cancelled`] if `cancel` is set.
    pub fn compile_cached(
        &self,
        source: &GrammarSource,
        tokenization: Tokenization,
        scope: u128,
        cancel: &CancelFlag,
    ) -> Result<Arc<Constraint>, GrammarError> {
        let key = CacheKey::new(source, tokenization, scope)?;
        self.cache.get_or_compile(key, cancel, || {
            let (constraint, steps) = self.compile_uncached(source, tokenization, cancel)?;
            Ok((constraint, steps as usize * BYTES_PER_STEP))
        })
    }

    /// Compiles a grammar on a separate thread. Also returns the number of steps of [`Fuel`].
    fn compile_uncached(
        &self,
        source: &GrammarSource,
        tokenization: Tokenization,
        cancel: &CancelFlag,
    ) -> Result<(Constraint, u64), GrammarError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || {
                    let fuel = Fuel::new(cancel);
                    let constraint = self.compile_on_this_thread(source, tokenization, &fuel)?;
                    Ok((constraint, MAX_COMPILE_STEPS - fuel.left()))
                })
                .map_err(|error| GrammarError::TooLarge(error.to_string()))?
                .join()
                .unwrap_or_else(|_| {
                    Err(GrammarError::TooLarge(
                        "the grammar parser panicked".to_owned(),
                    ))
                })
        })
    }

    /// Returns a constraint for generated text that begins inside the reasoning. After the reasoning, `constraint`
    /// applies; `None` allows any text.
    pub fn after_reasoning(
        &self,
        rule: ReasoningRule,
        constraint: Option<Constraint>,
    ) -> Constraint {
        let (matcher, digit_limit, relaxations) = match constraint {
            Some(inner) => (inner.matcher, inner.digit_limit, inner.relaxations),
            None => (None, None, Arc::default()),
        };
        let vocabulary = Arc::clone(&self.vocabulary);
        let reasoning = ReasoningState::new(rule, vocabulary, matcher.is_some());
        Constraint {
            reasoning: Some(Box::new(reasoning)),
            forced: Vec::new(),
            relaxations,
            digit_limit,
            matcher,
        }
    }

    fn compile_on_this_thread(
        &self,
        source: &GrammarSource,
        tokenization: Tokenization,
        fuel: &Fuel<'_>,
    ) -> Result<Constraint, GrammarError> {
        match source {
            GrammarSource::Gbnf(text) => {
                let grammar = gbnf::parse(text, &*self.vocabulary)?;
                let translated = match lark::as_regex(&grammar) {
                    Some(regex) => {
                        regex_limits::check(&regex)?;
                        TopLevelGrammar::from_regex(&regex)
                    }
                    None => {
                        let rules = lark::as_rules(grammar.root, &lexemes::split(&grammar, fuel)?);
                        TopLevelGrammar::from_lark(rules)
                    }
                };
                self.constraint(translated, tokenization, fuel)?
                    .map_err(GrammarError::TooLarge)
            }
            GrammarSource::JsonSchema { schema, strict } => {
                let compiled = schema::compile(schema, *strict, fuel, |translated, fuel| {
                    self.schema_constraint(translated, tokenization, fuel)
                })?;
                let relaxation = |pointer| Relaxation {
                    function: None,
                    pointer,
                };
                Ok(Constraint {
                    relaxations: compiled.relaxed.into_iter().map(relaxation).collect(),
                    digit_limit: Some(self.digit_limit(JsonStart::TextStart)),
                    ..compiled.constraint
                })
            }
            GrammarSource::Regex(text) => {
                check_length(text)?;
                regex_limits::check(text)?;
                self.constraint(TopLevelGrammar::from_regex(text), tokenization, fuel)?
                    .map_err(|problem| GrammarError::Rejected(regex_problem(text, &problem)))
            }
            GrammarSource::Lark(text) => {
                check_lark(text)?;
                self.constraint(TopLevelGrammar::from_lark(text.clone()), tokenization, fuel)?
                    .map_err(GrammarError::Rejected)
            }
            GrammarSource::ToolCalls(calls) => self.tool_calls(calls, tokenization, fuel),
        }
    }

    /// Compiles a tool-call grammar with all translated schemas. If this fails, first compiles each schema separately
    /// to find the constraints to drop, then the grammar again with the relaxed schemas.
    fn tool_calls(
        &self,
        calls: &ToolCallGrammar,
        tokenization: Tokenization,
        fuel: &Fuel<'_>,
    ) -> Result<Constraint, GrammarError> {
        for separately in [false, true] {
            let mut relaxations = Vec::new();
            let Some(schemas) =
                self.tool_call_schemas(calls, separately, tokenization, fuel, &mut relaxations)?
            else {
                continue;
            };
            let rules = tool_calls::write(calls, schemas, &*self.vocabulary);
            fuel.spend(rules.len() as u64 / SCHEMA_BYTES_PER_STEP)?;
            let grammar = TopLevelGrammar::from_lark(rules);
            if let Ok(constraint) = self.constraint(grammar, tokenization, fuel)? {
                return Ok(Constraint {
                    relaxations: relaxations.into(),
                    digit_limit: Some(self.digit_limit(calls.json_start())),
                    ..constraint
                });
            }
        }
        let problem = "the schemas of all functions together are too large";
        Err(GrammarError::TooLarge(problem.to_owned()))
    }

    /// Translates the schemas of a tool-call grammar, and adds the dropped constraints to `relaxations`. `separately`
    /// also compiles each schema alone; otherwise returns `None` if a schema must be compiled to find the constraints
    /// to drop.
    fn tool_call_schemas(
        &self,
        calls: &ToolCallGrammar,
        separately: bool,
        tokenization: Tokenization,
        fuel: &Fuel<'_>,
        relaxations: &mut Vec<Relaxation>,
    ) -> Result<Option<ToolCallSchemas>, GrammarError> {
        let mut translate = |schema: &Value, strict, function: Option<&String>| {
            let compiled = match separately {
                false => schema::translate_only(schema, strict, fuel),
                true => schema::compile(schema, strict, fuel, |translated, fuel| {
                    let compiled = self.schema_constraint(translated, tokenization, fuel)?;
                    Ok(compiled.map(|_| ()))
                })
                .map(Some),
            };
            let compiled = match (compiled, function) {
                (Err(GrammarError::Cancelled), _) => Err(GrammarError::Cancelled),
                (Err(error), Some(name)) => Err(GrammarError::Function {
                    name: name.clone(),
                    error: Box::new(error),
                }),
                (compiled, _) => compiled,
            }?;
            Ok(compiled.map(
                |schema::Compiled {
                     translated,
                     relaxed,
                     ..
                 }| {
                    relaxations.extend(relaxed.into_iter().map(|pointer| Relaxation {
                        function: function.cloned(),
                        pointer,
                    }));
                    translated
                },
            ))
        };
        let content = match &calls.content {
            ContentGrammar::Json { schema, strict } => match translate(schema, *strict, None)? {
                None => return Ok(None),
                content => content,
            },
            ContentGrammar::CallRequired | ContentGrammar::Text => None,
        };
        let arguments = calls.functions.iter();
        let arguments = arguments
            .map(|function| {
                translate(
                    &function.object_schema(),
                    function.strict,
                    Some(&function.name),
                )
            })
            .collect::<Result<Option<Vec<Value>>, GrammarError>>()?;
        Ok(arguments.map(|arguments| ToolCallSchemas { content, arguments }))
    }

    fn digit_limit(&self, start: JsonStart) -> DigitLimit {
        let make = || Arc::new(DigitTokens::of(&self.vocabulary));
        DigitLimit::new(Arc::clone(self.digit_tokens.get_or_init(make)), start)
    }

    /// Compiles a schema translated by [`schema`]. Returns the same results as [`Self::constraint`].
    fn schema_constraint(
        &self,
        translated: &Value,
        tokenization: Tokenization,
        fuel: &Fuel<'_>,
    ) -> Result<Result<Constraint, String>, GrammarError> {
        fuel.spend(translated.to_string().len() as u64 / SCHEMA_BYTES_PER_STEP)?;
        let grammar = TopLevelGrammar::from_json_schema(translated.clone());
        self.constraint(grammar, tokenization, fuel)
    }

    /// Compiles a grammar with llguidance. The inner error is llguidance's message.
    ///
    /// # Errors
    /// If no fuel is left, or the compilation was cancelled.
    fn constraint(
        &self,
        grammar: TopLevelGrammar,
        tokenization: Tokenization,
        fuel: &Fuel<'_>,
    ) -> Result<Result<Constraint, String>, GrammarError> {
        fuel.spend(MIN_LIBRARY_STEPS)?;
        let factory = match tokenization {
            Tokenization::Canonical => &self.canonical,
            Tokenization::Any => &self.any_tokenization,
        };
        let compile = AssertUnwindSafe(|| {
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            if matcher.get_error().is_none() {
                // The first mask fails if the grammar matches no text.
                let _ = matcher.compute_mask_or_eos();
            }
            matcher
        });
        let Ok(matcher) = catch_unwind(compile) else {
            return Ok(Err("the grammar parser panicked".to_owned()));
        };
        let stats = matcher.last_step_stats();
        let steps = stats.map_or(0, |stats| stats.lexer_cost + stats.all_items as u64);
        fuel.spend(steps)?;
        Ok(match matcher.get_error() {
            Some(error) => Err(one_line_message(&error)),
            None => Ok(Constraint {
                reasoning: None,
                forced: Vec::new(),
                relaxations: Arc::default(),
                digit_limit: None,
                matcher: Some(matcher),
            }),
        })
    }
}

/// Returns llguidance's error message as one line, without debugging details.
fn one_line_message(error: &str) -> String {
    let end = error.find("\n<").unwrap_or(error.len());
    let words: Vec<&str> = error[..end].split_whitespace().collect();
    match words.as_slice() {
        ["NoExtensionBias"] => "no text matches the grammar".to_owned(),
        words => words.join(" "),
    }
}

/// Returns the error message for a client's regular expression, with the position in this expression. llguidance's
/// message `problem` has the position in a Lark grammar built from the expression.
fn regex_problem(expression: &str, problem: &str) -> String {
    let (span, message) = match regex_syntax::parse(expression) {
        Err(regex_syntax::Error::Parse(error)) => (error.span().start, error.kind().to_string()),
        Err(regex_syntax::Error::Translate(error)) => {
            (error.span().start, error.kind().to_string())
        }
        Ok(parsed) if !parsed.properties().look_set().is_empty() => {
            return "word boundaries are not supported, and ^ and $ only at the ends".to_owned();
        }
        // llguidance appends an excerpt of this Lark grammar to the message.
        _ => return problem.split(" 1 | ").next().unwrap_or_default().to_owned(),
    };
    let character = expression[..span.offset].chars().count() + 1;
    format!("character {character}: {message}")
}

fn factory(environment: Environment) -> Result<ParserFactory, GrammarError> {
    let environment: TokEnv = Arc::new(environment);
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &[])
        .map_err(|error| GrammarError::TooLarge(error.to_string()))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits {
        initial_lexer_fuel: MAX_LEXER_FUEL,
        max_grammar_size: MAX_GRAMMAR_SYMBOLS,
        max_lexer_states: MAX_LEXER_STATES,
        verbose_errors: false,
        ..ParserLimits::default()
    };
    Ok(factory)
}

fn check_length(text: &str) -> Result<(), GrammarError> {
    match text.len() > MAX_GRAMMAR_BYTES {
        true => Err(GrammarError::TooLarge(format!(
            "the text has {} bytes; the limit is {MAX_GRAMMAR_BYTES}",
            text.len()
        ))),
        false => Ok(()),
    }
}

/// Checks the length and cost of a Lark grammar, and rejects `%json`.
fn check_lark(text: &str) -> Result<(), GrammarError> {
    check_length(text)?;
    lark_limits::check(text)?;
    match text.contains("%json") {
        true => Err(GrammarError::Rejected(
            "%json is not supported: send the schema as json_schema".to_owned(),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
