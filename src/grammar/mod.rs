//! Grammars that a text must follow: compiled before a request is admitted, then a mask over the vocabulary
//! at every token. The notation of llama.cpp is read by [`gbnf`] and handed to llguidance, which walks it
//! together with the vocabulary's bytes.

mod gbnf;
mod lark;

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::token::TokenId;

pub use gbnf::MAX_GRAMMAR_BYTES;

/// Fuel for building the lexer's expressions: some tens of milliseconds.
const MOST_LEXER_FUEL: u64 = 1_000_000;
/// Symbols of all rules.
const MOST_GRAMMAR_SYMBOLS: usize = 100_000;
/// Memory of the lexer: a kilobyte or two for each.
const MOST_LEXER_STATES: usize = 50_000;

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
    /// It is one, and more than is taken.
    #[error("{0}")]
    TooLarge(String),
    /// A text has left the grammar, or following it takes too long.
    #[error("the grammar cannot be followed any further: {0}")]
    Stuck(String),
}

/// Makes constraints for one vocabulary.
pub struct GrammarCompiler(ParserFactory);

impl GrammarCompiler {
    /// For a vocabulary: what each token spells, `None` for a token that is no text (control tokens), and
    /// the tokens that end a text.
    ///
    /// # Errors
    /// If the vocabulary cannot be walked.
    pub fn new<'a>(
        spellings: impl Iterator<Item = Option<&'a [u8]>>,
        ends: &[TokenId],
    ) -> Result<Self, GrammarError> {
        let words: Vec<Vec<u8>> = spellings
            .enumerate()
            .map(|(id, spelling)| match spelling {
                Some(bytes) => bytes.to_vec(),
                None => {
                    let name = format!("<control {id}>");
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
                }
            })
            .collect();
        let ends: Vec<u32> = ends.iter().map(|end| end.0).collect();
        let first = ends.first().copied().unwrap_or(u32::MAX);
        let info = TokRxInfo::new(words.len() as u32, first);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
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
        Ok(Self(factory))
    }

    /// A constraint for a grammar in llama.cpp's notation.
    pub fn gbnf(&self, text: &str) -> Result<Constraint, GrammarError> {
        let grammar = gbnf::read(text)?;
        let written = match lark::as_regex(&grammar) {
            Some(regex) => TopLevelGrammar::from_regex(&regex),
            None => TopLevelGrammar::from_lark(lark::as_rules(&grammar)),
        };
        let mut matcher = Matcher::new(self.0.create_parser(written));
        match matcher.get_error() {
            Some(error) => Err(GrammarError::TooLarge(error)),
            None => {
                // A grammar that nothing can follow shows at its first token.
                matcher
                    .compute_mask_or_eos()
                    .map_err(|error| GrammarError::TooLarge(error.to_string()))?;
                Ok(Constraint(matcher))
            }
        }
    }
}

/// How far a text has followed its grammar.
pub struct Constraint(Matcher);

impl Constraint {
    /// Takes every token out of the race that cannot come next: its logit becomes minus infinity.
    ///
    /// # Errors
    /// If following the grammar takes more than is allowed.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        let allowed = self
            .0
            .compute_mask_or_eos()
            .map_err(|error| GrammarError::Stuck(error.to_string()))?;
        allowed.iter_unset_entries(|token| {
            if let Some(logit) = logits.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        });
        let known = allowed.len().min(logits.len());
        logits[known..].fill(f32::NEG_INFINITY);
        Ok(())
    }

    /// Follows the grammar by a token that the mask allowed. Answers whether the text is complete: nothing
    /// may come after it.
    ///
    /// # Errors
    /// If the token cannot come here.
    pub fn accept(&mut self, token: TokenId) -> Result<bool, GrammarError> {
        self.0
            .consume_token(token.0)
            .map_err(|error| GrammarError::Stuck(error.to_string()))?;
        Ok(self.0.is_stopped())
    }
}

#[cfg(test)]
mod tests;
