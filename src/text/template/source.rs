//! Rewrites template syntax that minijinja lacks: the `{% generation %}` blocks of transformers, which only mark text
//! for training, and the `%` operator after a string literal.

use std::ops::Range;

/// Replaces this syntax with equivalent syntax that minijinja supports. Line numbers stay the same.
pub(super) fn rewrite(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((begin, close)) = next_tag(rest) {
        output.push_str(&rest[..begin]);
        let tag = &rest[begin..];
        if close == "#}" {
            let end = tag.find(close).map_or(tag.len(), |end| end + close.len());
            output.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let end = 2 + tag_end(&tag[2..], close);
        let inner = &tag[2..end];
        if inner.trim_matches(['-', '+', ' ', '\t', '\n', '\r']) == "raw" {
            // The content of a raw block is text.
            let raw_end = tag.find("endraw").unwrap_or(tag.len());
            output.push_str(&tag[..raw_end]);
            rest = &tag[raw_end..];
            continue;
        }
        output.push_str(&tag[..2]);
        output.push_str(&rewrite_tag(inner));
        rest = &tag[end..];
    }
    output.push_str(rest);
    output
}

/// Finds the next tag, expression or comment. Returns its start and its closing delimiter.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    let delimiters = [("{%", "%}"), ("{{", "}}"), ("{#", "#}")];
    let found = delimiters
        .iter()
        .filter_map(|(open, close)| Some((text.find(open)?, *close)));
    found.min()
}

/// Returns the position of the closing delimiter; string literals are skipped.
fn tag_end(text: &str, close: &str) -> usize {
    let mut position = 0;
    while position < text.len() {
        if text[position..].starts_with(close) {
            return position;
        }
        position += token(&text[position..]).len();
    }
    text.len()
}

/// Rewrites the content of a tag or an expression.
fn rewrite_tag(inner: &str) -> String {
    let word = inner.trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
    match word {
        "generation" => return inner.replacen("generation", "if true", 1),
        "endgeneration" => return inner.replacen("endgeneration", "endif", 1),
        _ => {}
    }
    let mut output = String::with_capacity(inner.len());
    let mut position = 0;
    while position < inner.len() {
        let literal = token(&inner[position..]);
        output.push_str(literal);
        position += literal.len();
        if !literal.starts_with(['"', '\'']) {
            continue;
        }
        let spaces = inner[position..].len() - inner[position..].trim_start().len();
        let Some(operand) = inner[position + spaces..].strip_prefix('%') else {
            continue;
        };
        let operand_start = inner.len() - operand.len();
        let Range { start, end } = operand_range(operand);
        let operand = &operand[start..end];
        output.push_str("|format");
        match is_parenthesized(operand) {
            true => output.push_str(&rewrite_tag(operand)),
            false => output.push_str(&format!("({})", rewrite_tag(operand))),
        }
        position = operand_start + end;
    }
    output
}

/// Returns the byte range of the right operand of `%`: up to the next operator or separator outside of brackets.
fn operand_range(text: &str) -> Range<usize> {
    const OPERATORS: [&str; 8] = ["and", "or", "not", "in", "is", "if", "else", "recursive"];
    let start = text.len() - text.trim_start().len();
    let (mut position, mut depth, mut end) = (start, 0_usize, start);
    while position < text.len() {
        let token = token(&text[position..]);
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => break,
            ")" | "]" | "}" => depth -= 1,
            // A sign before the operand is part of the operand.
            "+" | "-" if depth == 0 && end == start => {}
            "+" | "-" | "*" | "/" | "%" | "~" | "=" | "!" | "<" | ">" | "," | ":" if depth == 0 => {
                break;
            }
            word if depth == 0 && end > start && OPERATORS.contains(&word) => break,
            _ => {}
        }
        position += token.len();
        if !token.trim().is_empty() {
            end = position;
        }
    }
    start..end
}

/// Whether the text is one expression in parentheses.
fn is_parenthesized(text: &str) -> bool {
    let (mut position, mut depth) = (0, 0_usize);
    while position < text.len() {
        let token = token(&text[position..]);
        position += token.len();
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    text.starts_with('(') && position == text.len()
}

/// Returns the first token: a string literal, a word, or one character.
fn token(text: &str) -> &str {
    let first = text.chars().next().unwrap_or_default();
    let end = match first {
        '"' | '\'' => {
            let mut escaped = false;
            let close = text[1..].find(|character| {
                let closes = character == first && !escaped;
                escaped = character == '\\' && !escaped;
                closes
            });
            close.map_or(text.len(), |close| close + 2)
        }
        letter if letter.is_alphanumeric() || letter == '_' => text
            .find(|character: char| !character.is_alphanumeric() && character != '_')
            .unwrap_or(text.len()),
        other => other.len_utf8(),
    };
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(rewrite(source), expected);
    }

    #[test]
    fn generation_blocks_become_if_blocks() {
        check(
            "{%- generation -%}a{% endgeneration %}",
            "{%- if true -%}a{% endif %}",
        );
        check("{# {% generation %} #}", "{# {% generation %} #}");
        check(
            "{% raw %}{% generation %}{% endraw %}",
            "{% raw %}{% generation %}{% endraw %}",
        );
        check("{{ '{% generation %}' }}", "{{ '{% generation %}' }}");
    }

    #[test]
    fn the_percent_operator_after_a_literal_becomes_the_format_filter() {
        check("{{ '%s: %d' % (a, b) }}", "{{ '%s: %d'|format(a, b) }}");
        check(
            "{{ '%s' % a.b[0]|upper ~ 'x' }}",
            "{{ '%s'|format(a.b[0]|upper) ~ 'x' }}",
        );
        check(
            "{% if '%d' % -1 == '-1' %}",
            "{% if '%d'|format(-1) == '-1' %}",
        );
        check(
            "{{ '%s' % (a) if b else c }}",
            "{{ '%s'|format(a) if b else c }}",
        );
        check(
            "{{ '%s' % ('%d' % 1) }}",
            "{{ '%s'|format('%d'|format(1)) }}",
        );
        check("{{ 'a %} b' }}", "{{ 'a %} b' }}");
        check(
            "{% set x = 'a' %}{{ 7 % 2 }}",
            "{% set x = 'a' %}{{ 7 % 2 }}",
        );
        check(
            "{% set x = \"it's\" %}é{{ x }}",
            "{% set x = \"it's\" %}é{{ x }}",
        );
    }
}
