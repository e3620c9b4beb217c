//! Writes a GBNF grammar for llguidance: as one regular expression if possible, else as Lark rules over the lexemes
//! found by [`lexemes`](super::lexemes).

use std::fmt::Write;

use regex_syntax::hir::ClassUnicode;

use super::gbnf::{Expression, Grammar};
use super::lexed_grammar::{LexedExpression, LexedGrammar};

/// Maximum length of the regular expression of a whole grammar; longer grammars are written as rules.
const MAX_REGEX_BYTES: usize = 1 << 16;

/// Writes the grammar as one regular expression; `None` if the grammar is recursive or contains tokens, or if the
/// expression becomes too long.
pub(super) fn as_regex(grammar: &Grammar) -> Option<String> {
    write_regex(grammar, &Expression::Rule(grammar.root), MAX_REGEX_BYTES)
}

/// Writes a part of the grammar as [`as_regex`] does, with the limit `max_bytes`.
pub(super) fn write_regex(
    grammar: &Grammar,
    part: &Expression,
    max_bytes: usize,
) -> Option<String> {
    let mut writer = RegexWriter {
        grammar,
        max_bytes,
        is_open: vec![false; grammar.rules.len()],
        regex: String::new(),
    };
    writer.part(part)?;
    Some(writer.regex)
}

struct RegexWriter<'a> {
    grammar: &'a Grammar,
    max_bytes: usize,
    /// For each rule, whether the rule is being written. A reference to such a rule is recursive.
    is_open: Vec<bool>,
    regex: String,
}

impl RegexWriter<'_> {
    fn part(&mut self, part: &Expression) -> Option<()> {
        if self.regex.len() > self.max_bytes {
            return None;
        }
        match part {
            Expression::Character(class) => write_class(class, &mut self.regex),
            // Regular expressions match characters, not tokens.
            Expression::Token { .. } => return None,
            Expression::Rule(rule) => {
                if std::mem::replace(&mut self.is_open[*rule], true) {
                    return None;
                }
                let grammar = self.grammar;
                self.group(&grammar.rules[*rule])?;
                self.is_open[*rule] = false;
            }
            Expression::Sequence(parts) => {
                for part in parts {
                    self.part(part)?;
                }
            }
            Expression::Choice(choices) => {
                self.regex.push_str("(?:");
                for (number, choice) in choices.iter().enumerate() {
                    if number > 0 {
                        self.regex.push('|');
                    }
                    self.part(choice)?;
                }
                self.regex.push(')');
            }
            Expression::Repeat { inner, min, max } => {
                self.group(inner)?;
                write_bounds(*min, *max, &mut self.regex);
            }
        }
        Some(())
    }

    fn group(&mut self, part: &Expression) -> Option<()> {
        self.regex.push_str("(?:");
        self.part(part)?;
        self.regex.push(')');
        Some(())
    }
}

/// Appends the class as part of a regular expression.
pub(super) fn write_class(class: &ClassUnicode, text: &mut String) {
    if class.ranges().is_empty() {
        text.push_str(r"[^\x{0}-\x{10ffff}]");
        return;
    }
    text.push('[');
    for range in class.ranges() {
        let (first, last) = (u32::from(range.start()), u32::from(range.end()));
        // Writing to a string does not fail.
        let _ = write!(text, "\\x{{{first:x}}}-\\x{{{last:x}}}");
    }
    text.push(']');
}

fn write_bounds(min: u32, max: Option<u32>, text: &mut String) {
    let _ = match max {
        Some(max) => write!(text, "{{{min},{max}}}"),
        None => write!(text, "{{{min},}}"),
    };
}

/// Writes the grammar as Lark rules `r0`, `r1`, … over the lexemes `T0`, `T1`, …
pub(super) fn as_rules(root: usize, lexed: &LexedGrammar) -> String {
    let mut text = format!("start: r{root}\n");
    for (number, rule) in lexed.rules.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(text, "r{number}: ");
        write_expression(lexed, rule, &mut text);
        text.push('\n');
    }
    for (number, lexeme) in lexed.lexemes.iter().enumerate() {
        // llguidance's lexemes cannot match the empty text; nullable lexemes are optional in the rules instead.
        let not_empty = if lexeme.first.nullable {
            " & /(?s:.+)/"
        } else {
            ""
        };
        let _ = writeln!(text, "T{number}: /{}/{not_empty}", lexeme.regex);
    }
    text
}

fn write_expression(lexed: &LexedGrammar, expression: &LexedExpression, text: &mut String) {
    match expression {
        LexedExpression::Lexeme(number) => {
            let optional = if lexed.lexemes[*number].first.nullable {
                "?"
            } else {
                ""
            };
            let _ = write!(text, "T{number}{optional}");
        }
        LexedExpression::Token { token, negated } => {
            let negation = if *negated { "^" } else { "" };
            let _ = write!(text, "<[{negation}{}]>", token.0);
        }
        LexedExpression::Rule(rule) => {
            let _ = write!(text, "r{rule}");
        }
        LexedExpression::Sequence(parts) | LexedExpression::Choice(parts) if parts.is_empty() => {
            text.push_str("\"\"");
        }
        LexedExpression::Sequence(parts) => {
            for (number, part) in parts.iter().enumerate() {
                if number > 0 {
                    text.push(' ');
                }
                write_expression(lexed, part, text);
            }
        }
        LexedExpression::Choice(choices) => {
            text.push('(');
            for (number, choice) in choices.iter().enumerate() {
                if number > 0 {
                    text.push_str(" | ");
                }
                write_expression(lexed, choice, text);
            }
            text.push(')');
        }
        LexedExpression::Repeat { inner, min, max } => {
            text.push('(');
            write_expression(lexed, inner, text);
            text.push(')');
            match (min, max) {
                (0, None) => text.push('*'),
                (1, None) => text.push('+'),
                (min, max) => write_bounds(*min, *max, text),
            }
        }
    }
}
