//! Writes a grammar in the words of llguidance. Its lexer is greedy: a lexeme takes as much as it can, and a
//! grammar in which a shorter one would have done is not followed. So either the whole grammar is one regular
//! expression, which it follows exactly; or every lexeme is a single character, which is never too much.

use std::fmt::Write;

use super::gbnf::{Class, Expression, Grammar};

/// Longest regular expression; a grammar that would be longer is written as rules.
const MAX_REGEX_BYTES: usize = 1 << 16;

/// The grammar as one regular expression, if no rule comes back to itself and it is not too long.
pub(super) fn as_regex(grammar: &Grammar) -> Option<String> {
    let mut regex = String::new();
    let mut open = vec![false; grammar.rules.len()];
    write_regex(grammar, grammar.root, &mut open, &mut regex)?;
    Some(regex)
}

fn write_regex(
    grammar: &Grammar,
    rule: usize,
    open: &mut [bool],
    regex: &mut String,
) -> Option<()> {
    if std::mem::replace(&mut open[rule], true) {
        return None;
    }
    write_expression(&grammar.rules[rule], regex, &mut |rule, regex| {
        write_regex(grammar, rule, open, regex)
    })?;
    open[rule] = false;
    Some(())
}

/// Writes an expression that both notations have in common; rules by `write_rule`.
fn write_expression(
    expression: &Expression,
    text: &mut String,
    write_rule: &mut dyn FnMut(usize, &mut String) -> Option<()>,
) -> Option<()> {
    if text.len() > MAX_REGEX_BYTES {
        return None;
    }
    match expression {
        Expression::Character(class) => write_class(class, text),
        // A regular expression is of characters.
        Expression::Token { .. } => return None,
        Expression::Rule(rule) => {
            text.push_str("(?:");
            write_rule(*rule, text)?;
            text.push(')');
        }
        Expression::Sequence(parts) => {
            for part in parts {
                write_expression(part, text, write_rule)?;
            }
        }
        Expression::Choice(choices) => {
            text.push_str("(?:");
            for (number, choice) in choices.iter().enumerate() {
                if number > 0 {
                    text.push('|');
                }
                write_expression(choice, text, write_rule)?;
            }
            text.push(')');
        }
        Expression::Repeat { of, least, most } => {
            text.push_str("(?:");
            write_expression(of, text, write_rule)?;
            text.push(')');
            write_bounds(*least, *most, text);
        }
    }
    Some(())
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

/// The grammar as rules, each lexeme a character.
pub(super) fn as_rules(grammar: &Grammar) -> String {
    let mut text = format!("start: r{}\n", grammar.root);
    for (number, rule) in grammar.rules.iter().enumerate() {
        let _ = write!(text, "r{number}: ");
        write_rule_body(rule, &mut text);
        text.push('\n');
    }
    text
}

fn write_rule_body(expression: &Expression, text: &mut String) {
    match expression {
        Expression::Character(class) => {
            text.push('/');
            write_class(class, text);
            text.push('/');
        }
        Expression::Token { token, negated } => {
            let but = if *negated { "^" } else { "" };
            let _ = write!(text, "<[{but}{}]>", token.0);
        }
        Expression::Rule(rule) => {
            let _ = write!(text, "r{rule}");
        }
        Expression::Sequence(parts) if parts.is_empty() => text.push_str("\"\""),
        Expression::Sequence(parts) => {
            for (number, part) in parts.iter().enumerate() {
                if number > 0 {
                    text.push(' ');
                }
                write_rule_body(part, text);
            }
        }
        Expression::Choice(choices) => {
            text.push('(');
            for (number, choice) in choices.iter().enumerate() {
                if number > 0 {
                    text.push_str(" | ");
                }
                write_rule_body(choice, text);
            }
            text.push(')');
        }
        Expression::Repeat { of, least, most } => {
            text.push('(');
            write_rule_body(of, text);
            text.push(')');
            match (least, most) {
                (0, None) => text.push('*'),
                (1, None) => text.push('+'),
                (least, most) => write_bounds(*least, *most, text),
            }
        }
    }
}
