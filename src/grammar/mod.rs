//! What a text must follow: compiled before a request is admitted, then a mask over the vocabulary at every
//! token. llguidance walks it together with the vocabulary's bytes; the rooms here read what it does not:
//! [`gbnf`] llama.cpp's notation, cut by [`lexemes`] and written for it by [`lark`], [`schema`] JSON Schema, of
//! which it passes over what it does not know, [`calls`] puts several schemas among text, [`digits`] bounds the numbers of
//! both, and [`thought`] lets a text think before.

mod calls;
mod characters;
mod digits;
mod disjoint;
mod follow;
mod fuel;
mod gbnf;
mod lark;
mod lark_limits;
mod lexemes;
mod regex_limits;
mod schema;
mod thought;
mod vocabulary;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::cancel::CancelFlag;
use crate::token::TokenId;

pub use calls::{CallGrammar, FunctionCall, Otherwise};
pub use gbnf::MAX_GRAMMAR_BYTES;
pub use thought::ThoughtRule;
pub use vocabulary::{Cutting, GrammarVocabulary, Spelling};

use calls::Schemas;
use digits::{Begin, DigitLimit, DigitTokens};
use fuel::Fuel;
use thought::Thought;
use vocabulary::Environment;

/// Fuel for building the lexer's expressions: some tens of milliseconds.
const MOST_LEXER_FUEL: u64 = 1_000_000;
/// Symbols of all rules.
const MOST_GRAMMAR_SYMBOLS: usize = 100_000;
/// Memory of the lexer: a kilobyte or two for each.
const MOST_LEXER_STATES: usize = 50_000;

/// Steps that are counted for each grammar that llguidance reads, beside those that it tells.
const LEAST_LIBRARY_STEPS: u64 = 5_000;
/// Bytes of a schema that llguidance reads in a step.
const SCHEMA_BYTES_A_STEP: u64 = 5;

/// The stack of a compilation, which recurses into what is within what, once for each property and reference;
/// pages that are not touched cost nothing.
const STACK_BYTES: usize = 512 * 1024 * 1024;

/// What a text must follow, as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSource {
    /// Rules in llama.cpp's notation.
    Gbnf(String),
    /// A JSON Schema.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Whether a constraint that cannot be enforced token by token refuses the schema. If not, it is relaxed
        /// to a superset: see [`Constraint::relaxations`].
        strict: bool,
    },
    /// A regular expression for the whole text.
    Regex(String),
    /// Rules in llguidance's kind of Lark.
    Lark(String),
    /// Calls of functions.
    Calls(CallGrammar),
}

/// The kinds of [`GrammarSource`], by the names that they have in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarKind {
    /// `grammar`.
    Gbnf,
    /// `json_schema`.
    JsonSchema,
    /// `regex`.
    Regex,
    /// `lark`.
    Lark,
    /// `tools`.
    Calls,
}

impl GrammarSource {
    /// Which it is.
    pub fn kind(&self) -> GrammarKind {
        match self {
            Self::Gbnf(_) => GrammarKind::Gbnf,
            Self::JsonSchema { .. } => GrammarKind::JsonSchema,
            Self::Regex(_) => GrammarKind::Regex,
            Self::Lark(_) => GrammarKind::Lark,
            Self::Calls(_) => GrammarKind::Calls,
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
            Self::Calls => "tools",
        })
    }
}

/// A constraint of a JSON Schema that a text is not held to, because it cannot be enforced token by token: without
/// it the schema accepts everything that it accepts with it, and more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// The function whose arguments the schema is for; `None` is the schema of the answer.
    pub function: Option<String>,
    /// The JSON pointer (RFC 6901) to the keyword, or to the part of the schema that was relaxed.
    pub pointer: String,
}

/// Why there is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The text is no grammar.
    #[error("line {line}, column {column}: {problem}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The schema asks for something that is none, or that cannot be held.
    #[error("{}: {problem}", if .place.is_empty() { "the schema" } else { .place })]
    Schema {
        /// A JSON pointer (RFC 6901) into the schema.
        place: String,
        /// What is wrong there.
        problem: String,
    },
    /// The arguments of a function follow no schema, or one that cannot be held.
    #[error("function '{name}': {error}")]
    Function {
        /// The function.
        name: String,
        /// What is wrong with its schema.
        error: Box<GrammarError>,
    },
    /// llguidance does not take it.
    #[error("{0}")]
    Refused(String),
    /// It is one, and more than is taken.
    #[error("{0}")]
    TooLarge(String),
    /// The client left, or the server stops: the result is not needed any more.
    #[error("the compilation was cancelled")]
    Cancelled,
    /// A text has left the grammar, or following it takes too long.
    #[error("the grammar cannot be followed any further: {0}")]
    Stuck(String),
}

/// Makes constraints for one vocabulary.
pub struct GrammarCompiler {
    vocabulary: Arc<dyn GrammarVocabulary>,
    canonical: ParserFactory,
    free: ParserFactory,
    /// Made when the first JSON Schema comes: it walks the whole vocabulary.
    digit_tokens: OnceLock<Arc<DigitTokens>>,
}

impl GrammarCompiler {
    /// For a vocabulary.
    ///
    /// # Errors
    /// If the vocabulary cannot be walked.
    pub fn new(vocabulary: Arc<dyn GrammarVocabulary>) -> Result<Self, GrammarError> {
        let [canonical, free] = Environment::both(&vocabulary);
        Ok(Self {
            vocabulary,
            canonical: factory(canonical)?,
            free: factory(free)?,
            digit_tokens: OnceLock::new(),
        })
    }

    /// A constraint.
    ///
    /// # Errors
    /// If the source is no grammar, asks for what cannot be held, or for more than the limits allow.
    pub fn compile(
        &self,
        source: &GrammarSource,
        cutting: Cutting,
    ) -> Result<Constraint, GrammarError> {
        self.compile_unless(source, cutting, &CancelFlag::default())
    }

    /// The same until it is cancelled: the compilation ends soon after.
    ///
    /// # Errors
    /// As [`Self::compile`]; [`GrammarError::Cancelled`].
    pub fn compile_unless(
        &self,
        source: &GrammarSource,
        cutting: Cutting,
        cancel: &CancelFlag,
    ) -> Result<Constraint, GrammarError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || {
                    self.compile_here(source, cutting, &Fuel::new(cancel))
                })
                .map_err(|error| GrammarError::TooLarge(error.to_string()))?
                .join()
                .unwrap_or_else(|_| Err(GrammarError::TooLarge("reading it panicked".to_owned())))
        })
    }

    /// A text that begins in a thought, and follows a constraint behind it.
    pub fn after_thought(&self, rule: ThoughtRule, answer: Option<Constraint>) -> Constraint {
        let (answer, digits, relaxations) = match answer {
            Some(constraint) => (constraint.answer, constraint.digits, constraint.relaxations),
            None => (None, None, Arc::default()),
        };
        let vocabulary = Arc::clone(&self.vocabulary);
        let thought = Thought::new(rule, vocabulary, answer.is_some());
        Constraint {
            thought: Some(Box::new(thought)),
            certain: Vec::new(),
            relaxations,
            digits,
            answer,
        }
    }

    fn compile_here(
        &self,
        source: &GrammarSource,
        cutting: Cutting,
        fuel: &Fuel<'_>,
    ) -> Result<Constraint, GrammarError> {
        match source {
            GrammarSource::Gbnf(text) => {
                let grammar = gbnf::read(text, &*self.vocabulary)?;
                let written = match lark::as_regex(&grammar) {
                    Some(regex) => {
                        regex_limits::check(&regex)?;
                        TopLevelGrammar::from_regex(&regex)
                    }
                    None => {
                        let rules = lark::as_rules(grammar.root, &lexemes::cut(&grammar, fuel)?);
                        TopLevelGrammar::from_lark(rules)
                    }
                };
                self.constraint(written, cutting, fuel)?
                    .map_err(GrammarError::TooLarge)
            }
            GrammarSource::JsonSchema { schema, strict } => {
                let compiled = schema::compile(schema, *strict, fuel, |written, fuel| {
                    self.schema_constraint(written, cutting, fuel)
                })?;
                let relaxation = |pointer| Relaxation {
                    function: None,
                    pointer,
                };
                Ok(Constraint {
                    relaxations: compiled.relaxed.into_iter().map(relaxation).collect(),
                    digits: Some(self.digit_limit(Begin::Here)),
                    ..compiled.constraint
                })
            }
            GrammarSource::Regex(text) => {
                within(text)?;
                regex_limits::check(text)?;
                self.constraint(TopLevelGrammar::from_regex(text), cutting, fuel)?
                    .map_err(|problem| GrammarError::Refused(regex_problem(text, &problem)))
            }
            GrammarSource::Lark(text) => {
                check_lark(text)?;
                self.constraint(TopLevelGrammar::from_lark(text.clone()), cutting, fuel)?
                    .map_err(GrammarError::Refused)
            }
            GrammarSource::Calls(calls) => self.calls(calls, cutting, fuel),
        }
    }

    /// A constraint to calls. Most schemas can be compiled as they are read; only if all together cannot, each is
    /// compiled alone to find what has to be left out.
    fn calls(
        &self,
        calls: &CallGrammar,
        cutting: Cutting,
        fuel: &Fuel<'_>,
    ) -> Result<Constraint, GrammarError> {
        for alone in [false, true] {
            let mut relaxations = Vec::new();
            let Some(schemas) = self.schemas(calls, alone, cutting, fuel, &mut relaxations)? else {
                continue;
            };
            let written = calls::write(calls, schemas, &*self.vocabulary);
            fuel.spend(written.len() as u64 / SCHEMA_BYTES_A_STEP)?;
            let written = TopLevelGrammar::from_lark(written);
            if let Ok(constraint) = self.constraint(written, cutting, fuel)? {
                return Ok(Constraint {
                    relaxations: relaxations.into(),
                    digits: Some(self.digit_limit(calls.begin())),
                    ..constraint
                });
            }
        }
        let problem = "the schemas of all functions together are too large";
        Err(GrammarError::TooLarge(problem.to_owned()))
    }

    /// The schemas of calls, read, or each compiled alone; `None` if one has to be compiled to be read.
    fn schemas(
        &self,
        calls: &CallGrammar,
        alone: bool,
        cutting: Cutting,
        fuel: &Fuel<'_>,
        relaxations: &mut Vec<Relaxation>,
    ) -> Result<Option<Schemas>, GrammarError> {
        let mut read = |schema: &Value, strict, function: Option<&String>| {
            let compiled = match alone {
                false => schema::read_at_once(schema, strict, fuel),
                true => schema::compile(schema, strict, fuel, |written, fuel| {
                    let compiled = self.schema_constraint(written, cutting, fuel)?;
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
                     written, relaxed, ..
                 }| {
                    relaxations.extend(relaxed.into_iter().map(|pointer| Relaxation {
                        function: function.cloned(),
                        pointer,
                    }));
                    written
                },
            ))
        };
        let answer = match &calls.otherwise {
            Otherwise::Json { schema, strict } => match read(schema, *strict, None)? {
                None => return Ok(None),
                answer => answer,
            },
            Otherwise::Nothing | Otherwise::Text => None,
        };
        let arguments = calls.functions.iter();
        let arguments = arguments
            .map(|function| read(&function.schema(), function.strict, Some(&function.name)))
            .collect::<Result<Option<Vec<Value>>, GrammarError>>()?;
        Ok(arguments.map(|arguments| Schemas { answer, arguments }))
    }

    fn digit_limit(&self, begin: Begin) -> DigitLimit {
        let make = || Arc::new(DigitTokens::of(&self.vocabulary));
        DigitLimit::new(Arc::clone(self.digit_tokens.get_or_init(make)), begin)
    }

    /// A constraint to a schema that [`schema`] wrote, as [`Self::constraint`].
    fn schema_constraint(
        &self,
        written: &Value,
        cutting: Cutting,
        fuel: &Fuel<'_>,
    ) -> Result<Result<Constraint, String>, GrammarError> {
        fuel.spend(written.to_string().len() as u64 / SCHEMA_BYTES_A_STEP)?;
        let written = TopLevelGrammar::from_json_schema(written.clone());
        self.constraint(written, cutting, fuel)
    }

    /// A constraint, or in llguidance's words why there is none.
    ///
    /// # Errors
    /// No steps are left, or the compilation was cancelled.
    fn constraint(
        &self,
        written: TopLevelGrammar,
        cutting: Cutting,
        fuel: &Fuel<'_>,
    ) -> Result<Result<Constraint, String>, GrammarError> {
        fuel.spend(LEAST_LIBRARY_STEPS)?;
        let factory = match cutting {
            Cutting::Canonical => &self.canonical,
            Cutting::Free => &self.free,
        };
        let compile = AssertUnwindSafe(|| {
            let mut matcher = Matcher::new(factory.create_parser(written));
            if matcher.get_error().is_none() {
                // A grammar that nothing can follow shows at its first token.
                let _ = matcher.compute_mask_or_eos();
            }
            matcher
        });
        let Ok(matcher) = catch_unwind(compile) else {
            return Ok(Err("reading it panicked".to_owned()));
        };
        let stats = matcher.last_step_stats();
        let steps = stats.map_or(0, |stats| stats.lexer_cost + stats.all_items as u64);
        fuel.spend(steps)?;
        Ok(match matcher.get_error() {
            Some(error) => Err(plain(&error)),
            None => Ok(Constraint {
                thought: None,
                certain: Vec::new(),
                relaxations: Arc::default(),
                digits: None,
                answer: Some(matcher),
            }),
        })
    }
}

/// What llguidance says, in one line and without what is for its developers.
fn plain(error: &str) -> String {
    let end = error.find("\n<").unwrap_or(error.len());
    let words: Vec<&str> = error[..end].split_whitespace().collect();
    match words.as_slice() {
        ["NoExtensionBias"] => "no text can follow it".to_owned(),
        words => words.join(" "),
    }
}

/// What is wrong with a regular expression, without the grammar that is made of it; `problem` is what llguidance says.
fn regex_problem(expression: &str, problem: &str) -> String {
    let (span, words) = match regex_syntax::parse(expression) {
        Err(regex_syntax::Error::Parse(error)) => (error.span().start, error.kind().to_string()),
        Err(regex_syntax::Error::Translate(error)) => {
            (error.span().start, error.kind().to_string())
        }
        Ok(read) if !read.properties().look_set().is_empty() => {
            return "word boundaries are not supported, and ^ and $ only at the ends".to_owned();
        }
        // llguidance quotes its own grammar behind the problem.
        _ => return problem.split(" 1 | ").next().unwrap_or_default().to_owned(),
    };
    let character = expression[..span.offset].chars().count() + 1;
    format!("character {character}: {words}")
}

fn factory(environment: Environment) -> Result<ParserFactory, GrammarError> {
    let environment: TokEnv = Arc::new(environment);
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &[])
        .map_err(|error| GrammarError::TooLarge(error.to_string()))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits {
        initial_lexer_fuel: MOST_LEXER_FUEL,
        max_grammar_size: MOST_GRAMMAR_SYMBOLS,
        max_lexer_states: MOST_LEXER_STATES,
        verbose_errors: false,
        ..ParserLimits::default()
    };
    Ok(factory)
}

fn within(text: &str) -> Result<(), GrammarError> {
    match text.len() > MAX_GRAMMAR_BYTES {
        true => Err(GrammarError::TooLarge(format!(
            "{} bytes are more than {MAX_GRAMMAR_BYTES}",
            text.len()
        ))),
        false => Ok(()),
    }
}

/// What a grammar in Lark may not be.
fn check_lark(text: &str) -> Result<(), GrammarError> {
    within(text)?;
    lark_limits::check(text)?;
    match text.contains("%json") {
        true => Err(GrammarError::Refused(
            "%json is not taken: send the schema as json_schema".to_owned(),
        )),
        false => Ok(()),
    }
}

/// How far a text has followed its grammar.
#[derive(Clone)]
pub struct Constraint {
    /// Until it is over.
    thought: Option<Box<Thought>>,
    /// What ends it.
    certain: Vec<TokenId>,
    /// What the text is not held to.
    relaxations: Arc<[Relaxation]>,
    /// How long its numbers may be.
    digits: Option<DigitLimit>,
    /// What follows it; anything may, if it is none.
    answer: Option<Matcher>,
}

impl Constraint {
    /// A copy that shares no caches with this one, so that both can be followed at the same time.
    pub fn independent(&self) -> Self {
        Self {
            answer: self.answer.as_ref().map(Matcher::deep_clone),
            thought: self.thought.clone(),
            certain: self.certain.clone(),
            relaxations: Arc::clone(&self.relaxations),
            digits: self.digits.clone(),
        }
    }

    /// Constraints of the JSON Schemas that the text is not held to.
    pub fn relaxations(&self) -> &[Relaxation] {
        &self.relaxations
    }

    /// Takes every token out of the race that cannot come next: its logit becomes minus infinity.
    ///
    /// # Errors
    /// If following the grammar takes more than is allowed.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        if let Some(thought) = &self.thought {
            thought.mask(logits);
            return Ok(());
        }
        let Some(answer) = &mut self.answer else {
            return Ok(());
        };
        let allowed = answer
            .compute_mask_or_eos()
            .map_err(|error| GrammarError::Stuck(plain(&error.to_string())))?;
        allowed.iter_unset_entries(|token| {
            if let Some(logit) = logits.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        });
        let known = allowed.len().min(logits.len());
        logits[known..].fill(f32::NEG_INFINITY);
        if let Some(digits) = &self.digits {
            digits.mask(logits);
        }
        Ok(())
    }

    /// Follows the grammar by a token that the mask allowed.
    ///
    /// # Errors
    /// If the token cannot come here.
    pub fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if let Some(thought) = &mut self.thought {
            if let Some(certain) = thought.accept(token) {
                self.thought = None;
                self.certain = certain;
            }
            return Ok(());
        }
        let Some(answer) = &mut self.answer else {
            return Ok(());
        };
        if let Some(digits) = &mut self.digits {
            digits.follow(token);
        }
        answer
            .consume_token(token.0)
            .map_err(|error| GrammarError::Stuck(plain(&error.to_string())))
    }

    /// Follows the grammar as far as only one text can come next, and tells the tokens. With
    /// [`Cutting::Canonical`] they are the only ones that the mask would allow, one by one; with
    /// [`Cutting::Free`] there are none.
    ///
    /// # Errors
    /// If following the grammar takes more than is allowed.
    pub fn take_forced(&mut self) -> Result<Vec<TokenId>, GrammarError> {
        let mut forced = std::mem::take(&mut self.certain);
        let Some(answer) = self.answer.as_mut().filter(|_| self.thought.is_none()) else {
            return Ok(forced);
        };
        for token in answer.consume_ff_tokens().into_iter().map(TokenId) {
            if let Some(digits) = &mut self.digits {
                digits.follow(token);
            }
            forced.push(token);
        }
        match answer.get_error() {
            Some(error) => Err(GrammarError::Stuck(plain(&error))),
            None => Ok(forced),
        }
    }

    /// Whether the text is complete: nothing may come after it.
    pub fn is_complete(&self) -> bool {
        let answer = self.answer.as_ref().filter(|_| self.thought.is_none());
        answer.is_some_and(Matcher::is_stopped)
    }
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
