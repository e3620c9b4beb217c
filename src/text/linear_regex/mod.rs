//! Regular expressions for tokenizers, matched by backtracking with memoization: the result of each alternative at each
//! position is stored, so time and memory are linear in the length of the text. Constructs that cannot be matched this
//! way, such as backreferences, are rejected with an error that names them.
//!
//! Source: Davis, Servant and Lee, "Using Selective Memoization to Defeat Regular Expression Denial of Service" (2021).
//! The notation is Oniguruma's, as in the `tokenizers` crate; the `fancy-regex` crate parses it. The matcher of
//! `fancy-regex` 0.20 is not used, because its limit applies to each search, not to a text: splitting 64 KiB of digits
//! with the expression of `tiny_aya` took 94 s without an error (30 ms here, both without compiler optimization); and it
//! differed from Oniguruma in 10 of 5,396 random expressions (none here).

mod matcher;
mod program;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokenizers::Offsets;
use tokenizers::pattern::Pattern;

use super::tokenizer_error::TokenizerError;
use matcher::Matcher;
use program::Program;

/// Maximum length of an expression; the longest known expression has about 1,000 bytes.
const MAX_BYTES: usize = 16 * 1024;
/// Number of characters of an expression that an error quotes.
const QUOTED_CHARACTERS: usize = 80;

/// A compiled regular expression. Clones share the program.
#[derive(Debug, Clone)]
pub(super) struct LinearRegex(Arc<Program>);

impl LinearRegex {
    /// # Errors
    /// If the expression is invalid, too long, or cannot be matched in linear time.
    pub(super) fn new(expression: &str) -> Result<Self, TokenizerError> {
        let unsupported = |reason: String| TokenizerError::Regex {
            expression: quoted(expression),
            reason,
        };
        if expression.len() > MAX_BYTES {
            let bytes = expression.len();
            return Err(unsupported(format!(
                "it has {bytes} bytes; at most {MAX_BYTES} are supported"
            )));
        }
        match Program::compile(expression) {
            Ok(program) => Ok(Self(Arc::new(program))),
            Err(reason) => Err(unsupported(reason)),
        }
    }

    /// Returns the byte ranges of the non-overlapping matches, in order. An empty match directly after another match is
    /// skipped.
    pub(super) fn matches(&self, text: &str) -> Vec<Offsets> {
        let mut matcher = Matcher::new(&self.0, text);
        let mut matches: Vec<Offsets> = Vec::new();
        let mut start = 0;
        while let Some((begin, end)) = matcher.first_from(start) {
            let is_empty = begin == end;
            if is_empty && matches.last().is_some_and(|last| last.1 == end) {
                match text[start..].chars().next() {
                    Some(character) => start += character.len_utf8(),
                    None => break,
                }
                continue;
            }
            matches.push((begin, end));
            start = end;
        }
        matches
    }
}

impl Pattern for &LinearRegex {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut parts = Vec::new();
        let mut covered_bytes = 0;
        for (start, end) in self.matches(inside) {
            if covered_bytes < start {
                parts.push(((covered_bytes, start), false));
            }
            parts.push(((start, end), true));
            covered_bytes = end;
        }
        if covered_bytes < inside.len() {
            parts.push(((covered_bytes, inside.len()), false));
        }
        Ok(parts)
    }
}

fn quoted(expression: &str) -> String {
    match expression.char_indices().nth(QUOTED_CHARACTERS) {
        None => expression.to_owned(),
        Some((end, _)) => format!("{}…", &expression[..end]),
    }
}
