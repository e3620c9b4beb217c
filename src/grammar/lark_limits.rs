//! Limits on the cost of a grammar in llguidance's Lark dialect, checked before llguidance compiles the grammar.
//! llguidance expands a terminal at each reference, so terminals that reference each other several times grow
//! exponentially. Therefore the optional parts of a terminal, those that can match the empty text, are counted once per
//! reference. The tokens are those of `llguidance/src/lark/lexer.rs`.

use std::collections::{HashMap, HashSet};

use serde::de::IgnoredAny;

use super::GrammarError;
use super::regex_limits::{self, MAX_REGEX_REPETITIONS, check_optional};

/// Maximum nesting depth of brackets.
pub(super) const MAX_LARK_NESTING: usize = 128;
/// Maximum number of `&` characters, including those in literals. With sixteen intersections, llguidance may not
/// terminate.
pub(super) const MAX_LARK_INTERSECTIONS: usize = 8;

/// Checks a Lark grammar against all limits except the length.
///
/// # Errors
/// If the grammar exceeds a limit.
pub(super) fn check(text: &str) -> Result<(), GrammarError> {
    if text.matches('&').count() > MAX_LARK_INTERSECTIONS {
        return Err(GrammarError::TooLarge(format!(
            "more than {MAX_LARK_INTERSECTIONS} occurrences of \"&\""
        )));
    }
    let mut grammar = Grammar::default();
    grammar.scan(text)?;
    check_optional(grammar.optional_parts())
}

/// A rule or terminal: the number of its optional parts, and its references.
#[derive(Default)]
struct Definition<'a> {
    /// The number of optional parts outside regular expressions.
    optional: usize,
    /// The number of optional parts within regular expressions.
    optional_in_regexes: usize,
    /// Referenced rules and terminals, including those in attributes (`start[stop=T]`).
    references: Vec<&'a str>,
}

/// A definition that continues after a nested grammar (`%lark { ... }`).
struct EnclosingDefinition<'a> {
    name: &'a str,
    definition: Definition<'a>,
    /// The number of open brackets around the grammar that contains this definition.
    base_depth: usize,
}

#[derive(Default)]
struct Grammar<'a> {
    definitions: HashMap<&'a str, Definition<'a>>,
}

impl<'a> Grammar<'a> {
    /// Scans definitions as llguidance's parser does: a definition begins with a name at the start of a line, and only
    /// a line that begins with `|` continues it.
    fn scan(&mut self, text: &'a str) -> Result<(), GrammarError> {
        // Statements such as %ignore are counted as a rule without a name.
        let (mut name, mut current) = ("", Definition::default());
        let (mut depth, mut base_depth) = (0_usize, 0_usize);
        let mut enclosing: Vec<EnclosingDefinition<'_>> = Vec::new();
        // Whether the current alternative is empty so far.
        let mut is_empty = false;
        // `begins_line`: a name here begins a definition. `in_header`: between the name of a definition and the colon.
        let (mut begins_line, mut in_header) = (true, false);
        let mut opens_grammar = false;
        let mut rest = text;
        while let Some((token, after)) = next_token(rest) {
            rest = after;
            let was_empty = std::mem::take(&mut is_empty);
            let began_line = std::mem::take(&mut begins_line) && depth == base_depth;
            let opened_grammar = std::mem::take(&mut opens_grammar);
            match token {
                Token::Newline => (is_empty, begins_line) = (was_empty, true),
                // A rule may be written `?start` or `!start`.
                Token::Optional | Token::Other if began_line => {
                    (is_empty, begins_line) = (was_empty, true);
                }
                Token::Name(defined) if began_line => {
                    current.optional += usize::from(was_empty);
                    self.define(name, current);
                    (name, current) = (defined, Definition::default());
                    in_header = true;
                }
                Token::Name(name) => current.references.push(name),
                Token::Colon if depth == base_depth => (in_header, is_empty) = (false, true),
                Token::Statement(keyword) => {
                    current.optional += usize::from(was_empty);
                    self.define(name, current);
                    (name, current) = ("", Definition::default());
                    begins_line = keyword == "%override";
                    if keyword == "%llguidance" {
                        rest = after_json(rest);
                    }
                }
                Token::Value("%lark") => opens_grammar = true,
                Token::Value(keyword) => {
                    // The substring that %regex matches may be empty.
                    current.optional += usize::from(keyword == "%regex");
                    rest = after_json(rest);
                }
                Token::Bar => {
                    current.optional += usize::from(was_empty);
                    is_empty = true;
                }
                Token::Open(bracket) => {
                    depth += 1;
                    if depth > MAX_LARK_NESTING {
                        return Err(GrammarError::TooLarge(format!(
                            "brackets are nested deeper than {MAX_LARK_NESTING}"
                        )));
                    }
                    if opened_grammar {
                        let definition = std::mem::take(&mut current);
                        enclosing.push(EnclosingDefinition {
                            name,
                            definition,
                            base_depth,
                        });
                        (name, base_depth, begins_line) = ("", depth, true);
                    } else {
                        current.optional += usize::from(bracket != b'(' && !in_header);
                        is_empty = true;
                    }
                }
                Token::Close => {
                    current.optional += usize::from(was_empty);
                    if depth == base_depth
                        && let Some(outer) = enclosing.pop()
                    {
                        self.define(name, current);
                        EnclosingDefinition {
                            name,
                            definition: current,
                            base_depth,
                        } = outer;
                    } else {
                        is_empty = was_empty;
                    }
                    depth = depth.saturating_sub(1);
                }
                Token::Optional => current.optional += 1,
                Token::Number(number) if !in_header && number > MAX_REGEX_REPETITIONS => {
                    return Err(GrammarError::TooLarge(format!(
                        "{number} repetitions are more than {MAX_REGEX_REPETITIONS}"
                    )));
                }
                Token::Regex(regex) => {
                    current.optional_in_regexes += regex_limits::check(regex)?.unwrap_or(0);
                }
                Token::CaseInsensitiveRegex(regex) => {
                    let cost = regex_limits::check(&format!("(?i){regex}"))?;
                    current.optional_in_regexes += cost.unwrap_or(0);
                }
                Token::CaseInsensitiveString(string) => {
                    regex_limits::check(&format!("(?i){}", regex_syntax::escape(string)))?;
                }
                Token::Colon | Token::Number(_) | Token::Other => {}
            }
        }
        current.optional += usize::from(is_empty);
        self.define(name, current);
        for EnclosingDefinition {
            name, definition, ..
        } in enclosing
        {
            self.define(name, definition);
        }
        Ok(())
    }

    /// Adds a definition. Definitions with the same name, in different nested grammars, are merged.
    fn define(&mut self, name: &'a str, definition: Definition<'a>) {
        let merged = self.definitions.entry(name).or_default();
        merged.optional = merged.optional.saturating_add(definition.optional);
        merged.optional_in_regexes = merged
            .optional_in_regexes
            .saturating_add(definition.optional_in_regexes);
        merged.references.extend(definition.references);
    }

    /// Counts the optional parts in the regular expressions of all rules and in the terminals that the rules reference.
    fn optional_parts(&self) -> usize {
        let rules = self
            .definitions
            .iter()
            .filter(|(name, _)| !is_terminal(name));
        let mut parts = 0_usize;
        let mut referenced = HashSet::new();
        for (_, rule) in rules {
            parts = parts.saturating_add(rule.optional_in_regexes);
            referenced.extend(rule.references.iter().copied());
        }
        let mut counted = HashMap::new();
        referenced
            .into_iter()
            .filter(|name| is_terminal(name))
            .fold(parts, |parts, name| {
                parts.saturating_add(self.optional_parts_of(name, &mut counted))
            })
    }

    /// Counts the optional parts of a terminal, with references expanded. A recursive reference counts 0, because
    /// llguidance rejects recursive terminals.
    fn optional_parts_of(&self, terminal: &'a str, counted: &mut HashMap<&'a str, usize>) -> usize {
        if let Some(parts) = counted.get(terminal) {
            return *parts;
        }
        counted.insert(terminal, 0);
        let Some(definition) = self.definitions.get(terminal) else {
            return 0;
        };
        let own = definition
            .optional
            .saturating_add(definition.optional_in_regexes);
        let parts = definition.references.iter().fold(own, |parts, name| {
            parts.saturating_add(self.optional_parts_of(name, counted))
        });
        counted.insert(terminal, parts);
        parts
    }
}

fn is_terminal(name: &str) -> bool {
    name.bytes()
        .find(u8::is_ascii_alphabetic)
        .is_some_and(|letter| letter.is_ascii_uppercase())
}

/// Keywords that begin a statement.
const STATEMENTS: [&str; 5] = ["%declare", "%ignore", "%import", "%llguidance", "%override"];
/// Keywords within a definition that are followed by JSON or a nested grammar. `%if` is not included: its condition is
/// scanned as names and numbers.
const VALUES: [&str; 3] = ["%json", "%lark", "%regex"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// One of [`STATEMENTS`].
    Statement(&'static str),
    /// One of [`VALUES`].
    Value(&'static str),
    /// A regular expression, without its slashes.
    Regex(&'a str),
    /// A regular expression with the flag `i`, without its slashes.
    CaseInsensitiveRegex(&'a str),
    /// A string literal with the flag `i`, without its quotes.
    CaseInsensitiveString(&'a str),
    Number(u64),
    /// `?`, `*`, `~`, or an empty string literal.
    Optional,
    Colon,
    Bar,
    Open(u8),
    Close,
    Newline,
    Other,
}

/// Returns the next token after whitespace and comments, and the text after this token.
fn next_token(text: &str) -> Option<(Token<'_>, &str)> {
    let mut text = text.trim_start_matches([' ', '\t', '\r']);
    while text.starts_with('#') || text.starts_with("//") {
        text = text[text.find('\n').unwrap_or(text.len())..].trim_start_matches([' ', '\t', '\r']);
    }
    let bytes = text.as_bytes();
    let first = *bytes.first()?;
    let run = |from: usize, is_in: fn(&u8) -> bool| {
        let length = bytes[from..].iter().take_while(|byte| is_in(byte)).count();
        from + length
    };
    let is_number = |byte: &u8| byte.is_ascii_digit();
    let (token, length) = match first {
        b'\n' => (Token::Newline, 1),
        b':' if bytes.get(1) == Some(&b':') => (Token::Other, 2),
        b':' => (Token::Colon, 1),
        b'|' => (Token::Bar, 1),
        b'(' | b'[' | b'{' => (Token::Open(first), 1),
        b')' | b']' | b'}' => (Token::Close, 1),
        b'?' | b'*' | b'~' => (Token::Optional, 1),
        b'"' => {
            let end = quoted_end(bytes, b'"');
            let string = text.get(1..end.saturating_sub(1)).unwrap_or_default();
            match (bytes.get(end), string) {
                (_, "") => (Token::Optional, end),
                (Some(b'i'), _) => (Token::CaseInsensitiveString(string), end + 1),
                _ => (Token::Other, end),
            }
        }
        b'/' => {
            let end = quoted_end(bytes, b'/');
            let regex = text.get(1..end.saturating_sub(1)).unwrap_or_default();
            let flags_end = run(end, u8::is_ascii_lowercase);
            let token = match text[end..flags_end].contains('i') {
                true => Token::CaseInsensitiveRegex(regex),
                false => Token::Regex(regex),
            };
            (token, flags_end)
        }
        b'%' => {
            let keyword_of = |keywords: &[&'static str]| {
                let mut keywords = keywords.iter().copied();
                keywords.find(|keyword| text.starts_with(keyword))
            };
            match (keyword_of(&STATEMENTS), keyword_of(&VALUES)) {
                (Some(keyword), _) => (Token::Statement(keyword), keyword.len()),
                (_, Some(keyword)) => (Token::Value(keyword), keyword.len()),
                (None, None) => (Token::Other, 1),
            }
        }
        // A special token, such as `</s>`.
        b'<' => {
            let is_end = |character: char| "<>".contains(character) || character.is_whitespace();
            let end = text[1..].find(is_end).map(|end| end + 1);
            let end = end.filter(|end| bytes[*end] == b'>');
            (Token::Other, end.map_or(1, |end| end + 1))
        }
        b'0'..=b'9' => {
            let end = run(0, is_number);
            (Token::Number(text[..end].parse().unwrap_or(u64::MAX)), end)
        }
        b'_' | b'A'..=b'Z' | b'a'..=b'z' => {
            let letter = bytes.iter().find(|byte| **byte != b'_');
            let upper = letter.is_some_and(u8::is_ascii_uppercase);
            let end = match upper {
                true => run(
                    0,
                    |byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-'),
                ),
                false => run(
                    0,
                    |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'),
                ),
            };
            (Token::Name(&text[..end]), end)
        }
        _ => (Token::Other, text.chars().next()?.len_utf8()),
    };
    Some((token, &text[length..]))
}

/// Returns the length of the quoted text at the start of `bytes`, including the closing quote if there is one.
fn quoted_end(bytes: &[u8], quote: u8) -> usize {
    let mut position = 1;
    while let Some(byte) = bytes.get(position) {
        match *byte {
            b'\\' => position += 1,
            byte if byte == quote => return position + 1,
            _ => {}
        }
        position += 1;
    }
    bytes.len()
}

/// Returns the text after the JSON value at the start of `text`, or all of `text` if there is no valid JSON value.
fn after_json(text: &str) -> &str {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => &text[values.byte_offset()..],
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::regex_limits::MAX_UNICODE_CLASSES;
    use super::*;

    fn optional_parts(text: &str) -> usize {
        let mut grammar = Grammar::default();
        grammar.scan(text).unwrap();
        grammar.optional_parts()
    }

    #[test]
    fn optional_parts_count_once_per_reference() {
        for (grammar, expected) in [
            ("start: A\nA: \"a\"? /b*c?/", 3),
            // Optional parts of rules are handled by the parser and do not count.
            ("start: a? a*\na: \"x\" | ", 0),
            ("start: A B\nA: B B\nB: C C C\nC: \"x\"?", 9),
            ("start: A\nA[lazy]: \"x\" |\nB: \"y\"*", 1),
            ("start: A // B\n# C: D\nA: (\"x\" | | \"y\") \"\" # ?\n", 2),
            (
                "start: A\nA.2: \"a:b?\" \"x\"{2,5}\n %ignore B\nB: /?/ \"z\"~0..3",
                2,
            ),
            (
                "start: x\n%lark { start: A\nA: B B\nB: \"y\"? }\nx: \"z\"",
                2,
            ),
            ("start: x\nx: %lark { start: B\nB: \"y\"? } A\nA: \"z\"?", 2),
            (
                "start: (%lark { start: A\nA: B B\nB: \"y\"? })\nx: \"z\"",
                2,
            ),
            (
                "start: A\nA: %regex {\"substring_chars\": \"a:?\"} \"x\"? B\nB: \"y\"*",
                3,
            ),
            ("start: %json {\"a\": \"b?\"} A\nA: \"x\"?", 1),
            ("a::_: \"x\" %if is_ones([0:2])\nstart: A\nA: \"x\"?", 1),
            ("start: </s> A\nA: B B\nB: \"y\"? <(>\nx: C\nC: \"z\"?", 3),
            ("start[stop=A]: /a/\nA: B B\nB: \"y\"?", 2),
            ("B: \"x\"\n?start[stop=/a?/]: /a/", 1),
            ("start: A\nA: \"x\" |", 1),
            ("start: A\nA: [\"x\"] (\"y\")", 1),
        ] {
            assert_eq!(optional_parts(grammar), expected, "{grammar}");
        }
    }

    #[test]
    fn terminals_that_reference_each_other_are_not_expanded_past_the_limit() {
        let mut grammar = "start: T0\n".to_owned();
        for number in 0..60 {
            let next = number + 1;
            grammar += &format!("T{number}: T{next} T{next}\n");
        }
        let optional = format!("{grammar}T60: \"x\"?");
        assert!(matches!(check(&optional), Err(GrammarError::TooLarge(_))));
        let nested = optional.replace("T0: ", "T0: %regex {\"substring_chars\": \"a\"} ");
        assert!(matches!(check(&nested), Err(GrammarError::TooLarge(_))));
        let parts = "\"x\"? ".repeat(13_000);
        let combined = format!("start: A\nA: %regex {{\"substring_chars\": \"a\"}} {parts}");
        assert!(matches!(check(&combined), Err(GrammarError::TooLarge(_))));
        assert_eq!(check(&format!("{grammar}T60: \"x\"")), Ok(()));
    }

    #[test]
    fn case_insensitive_literals_past_the_limit_are_rejected() {
        let letters = |count: usize| "a".repeat(count);
        for (start, end) in [("/", "/i"), ("/", "/si"), ("\"", "\"i")] {
            let grammar = |count| format!("start: A\nA: {start}{}{end}", letters(count));
            assert_eq!(check(&grammar(MAX_UNICODE_CLASSES)), Ok(()), "{end}");
            let error = check(&grammar(MAX_UNICODE_CLASSES + 1)).unwrap_err();
            assert!(
                error.to_string().contains("4001 Unicode classes"),
                "{error}"
            );
        }
        let case_sensitive = format!("start: A\nA: /{}/s", letters(MAX_UNICODE_CLASSES + 1));
        assert_eq!(check(&case_sensitive), Ok(()));
    }

    #[test]
    fn a_repetition_one_past_the_limit_is_rejected() {
        let grammar = |count: u64| format!("start[max_tokens=200000]: A\nA: \"a\"{{{count}}}");
        assert_eq!(check(&grammar(MAX_REGEX_REPETITIONS)), Ok(()));
        let error = check(&grammar(MAX_REGEX_REPETITIONS + 1)).unwrap_err();
        assert!(error.to_string().contains("100001 repetitions"), "{error}");
        let in_brackets = format!("start: A\nA: [\"a\"{{{}}}]", MAX_REGEX_REPETITIONS + 1);
        assert!(check(&in_brackets).is_err(), "{in_brackets}");
    }
}
