//! The regular expressions of vocabularies, searched for in time and memory that are proportional to the text, whatever
//! they say: what an alternative came to at a place is remembered, so that no place is tried twice. What cannot be
//! searched for that way (references back, say) is refused by name.
//!
//! Source: Davis, Servant and Lee, "Using Selective Memoization to Defeat Regular Expression Denial of Service" (2021).
//! The crate `fancy-regex` reads the notation, which is Oniguruma's, as that of the crate `tokenizers`.

mod program;
mod search;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokenizers::Offsets;
use tokenizers::pattern::Pattern;

use super::tokenizer::TokenizerError;
use program::Program;
use search::Search;

/// Most bytes of an expression; the longest known one has some 1,000.
const MOST_BYTES: usize = 16 * 1024;
/// How much of an expression is shown in an error.
const SHOWN_CHARACTERS: usize = 80;

/// An expression that can be searched for. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Expression(Arc<Program>);

impl Expression {
    /// # Errors
    /// It is none, too long, or cannot be searched for in linear time.
    pub(super) fn new(expression: &str) -> Result<Self, TokenizerError> {
        let refuse = |reason: String| TokenizerError::Expression {
            expression: shown(expression),
            reason,
        };
        if expression.len() > MOST_BYTES {
            let bytes = expression.len();
            return Err(refuse(format!("it has {bytes} bytes of {MOST_BYTES}")));
        }
        match Program::of(expression) {
            Ok(program) => Ok(Self(Arc::new(program))),
            Err(reason) => Err(refuse(reason)),
        }
    }

    /// Where it matches, each match beginning where the one before ends or behind. None is empty at another's end.
    pub(super) fn matches(&self, text: &str) -> Vec<Offsets> {
        let mut search = Search::new(&self.0, text);
        let mut found: Vec<Offsets> = Vec::new();
        let mut start = 0;
        while let Some((begin, end)) = search.first_from(start) {
            let is_empty = begin == end;
            if is_empty && found.last().is_some_and(|last| last.1 == end) {
                match text[start..].chars().next() {
                    Some(character) => start += character.len_utf8(),
                    None => break,
                }
                continue;
            }
            found.push((begin, end));
            start = end;
        }
        found
    }
}

impl Pattern for &Expression {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut parts = Vec::new();
        let mut written = 0;
        for (start, end) in self.matches(inside) {
            if written < start {
                parts.push(((written, start), false));
            }
            parts.push(((start, end), true));
            written = end;
        }
        if written < inside.len() {
            parts.push(((written, inside.len()), false));
        }
        Ok(parts)
    }
}

fn shown(expression: &str) -> String {
    match expression.char_indices().nth(SHOWN_CHARACTERS) {
        None => expression.to_owned(),
        Some((end, _)) => format!("{}…", &expression[..end]),
    }
}
