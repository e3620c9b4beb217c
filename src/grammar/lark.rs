//! Writes a grammar in the words of llguidance: as one regular expression, which it follows exactly, or as rules
//! over the lexemes into which `lexemes` cuts it.

use std::fmt::Write;

use super::gbnf::{Class, Expression, Grammar};
use super::lexemes::{Lexed, Piece};

/// Longest regular expression of a whole grammar; one that would be longer is written as rules.
const MAX_REGEX_BYTES: usize = 1 << 16;

/// The grammar as one regular expression, if no rule comes back to itself and it is not too long.
pub(super) fn as_regex(grammar: &Grammar) -> Option<String> {
    write_regex(grammar, &Expression::Rule(grammar.root), MAX_REGEX_BYTES)
}

/// A part of the grammar as a regular expression, if it is one and not longer than that.
pub(super) fn write_regex(
    grammar: &Grammar,
    part: &Expression,
    most_bytes: usize,
) -> Option<String> {
    let mut writer = RegexWriter {
        grammar,
        most_bytes,
        open: vec![false; grammar.rules.len()],
        regex: String::new(),
    };
    writer.part(part)?;
    Some(writer.regex)
}

struct RegexWriter<'a> {
    grammar: &'a Grammar,
    most_bytes: usize,
    /// The rules that are being written.
    open: Vec<bool>,
    regex: String,
}

impl RegexWriter<'_> {
    fn part(&mut self, part: &Expression) -> Option<()> {
        if self.regex.len() > self.most_bytes {
            return None;
        }
        match part {
            Expression::Character(class) => write_class(class, &mut self.regex),
            // A regular expression is of characters.
            Expression::Token { .. } => return None,
            Expression::Rule(rule) => {
                if std::mem::replace(&mut self.open[*rule], true) {
                    return None;
                }
                let grammar = self.grammar;
                self.group(&grammar.rules[*rule])?;
                self.open[*rule] = false;
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
            Expression::Repeat { of, least, most } => {
                self.group(of)?;
                write_bounds(*least, *most, &mut self.regex);
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

fn write_class(class: &Class, text: &mut String) {
    if class.ranges.is_empty() {
        text.push_str("(?s:.)");
        return;
    }
    text.push('[');
    if class.negated {
        text.push('^');
    }
    for (first, last) in &class.ranges {
        // Writing to a string does not fail.
        let _ = write!(text, "\\x{{{:x}}}-\\x{{{:x}}}", *first as u32, *last as u32);
    }
    text.push(']');
}

fn write_bounds(least: u32, most: Option<u32>, text: &mut String) {
    let _ = match most {
        Some(most) => write!(text, "{{{least},{most}}}"),
        None => write!(text, "{{{least},}}"),
    };
}

/// The grammar as rules over its lexemes.
pub(super) fn as_rules(root: usize, lexed: &Lexed) -> String {
    let mut text = format!("start: r{root}\n");
    for (number, rule) in lexed.rules.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(text, "r{number}: ");
        write_piece(lexed, rule, &mut text);
        text.push('\n');
    }
    for (number, lexeme) in lexed.lexemes.iter().enumerate() {
        // No lexeme is empty; one that may be is left out instead.
        let some = if lexeme.first.nullable {
            " & /(?s:.+)/"
        } else {
            ""
        };
        let _ = writeln!(text, "T{number}: /{}/{some}", lexeme.regex);
    }
    text
}

fn write_piece(lexed: &Lexed, piece: &Piece, text: &mut String) {
    match piece {
        Piece::Lexeme(number) => {
            let optional = if lexed.lexemes[*number].first.nullable {
                "?"
            } else {
                ""
            };
            let _ = write!(text, "T{number}{optional}");
        }
        Piece::Token { token, negated } => {
            let but = if *negated { "^" } else { "" };
            let _ = write!(text, "<[{but}{}]>", token.0);
        }
        Piece::Rule(rule) => {
            let _ = write!(text, "r{rule}");
        }
        Piece::Sequence(parts) | Piece::Choice(parts) if parts.is_empty() => {
            text.push_str("\"\"");
        }
        Piece::Sequence(parts) => {
            for (number, part) in parts.iter().enumerate() {
                if number > 0 {
                    text.push(' ');
                }
                write_piece(lexed, part, text);
            }
        }
        Piece::Choice(choices) => {
            text.push('(');
            for (number, choice) in choices.iter().enumerate() {
                if number > 0 {
                    text.push_str(" | ");
                }
                write_piece(lexed, choice, text);
            }
            text.push(')');
        }
        Piece::Repeat { of, least, most } => {
            text.push('(');
            write_piece(lexed, of, text);
            text.push(')');
            match (least, most) {
                (0, None) => text.push('*'),
                (1, None) => text.push('+'),
                (least, most) => write_bounds(*least, *most, text),
            }
        }
    }
}
