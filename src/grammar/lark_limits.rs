//! What a grammar in llguidance's kind of Lark may cost, found before llguidance gets it. A terminal stands for its text
//! wherever it is named, so that terminals that name each other several times become exponentially large: their optional
//! parts are counted as often as they are named.
//!
//! Source: the tokens of `llguidance/src/lark/lexer.rs`.

use std::collections::{HashMap, HashSet};

use serde::de::IgnoredAny;

use super::GrammarError;
use super::regex_limits::{self, MAX_REGEX_REPETITIONS, check_optional};

/// Most brackets within each other.
pub(super) const MAX_LARK_NESTING: usize = 128;
/// Most `&`: it is not for certain that llguidance ends with sixteen patterns at once. Signs count in literals, too.
pub(super) const MAX_LARK_INTERSECTIONS: usize = 8;

/// Checks a grammar against all limits but that of its length.
///
/// # Errors
/// Which limit it exceeds.
pub(super) fn check(text: &str) -> Result<(), GrammarError> {
    if text.matches('&').count() > MAX_LARK_INTERSECTIONS {
        return Err(GrammarError::TooLarge(format!(
            "more than {MAX_LARK_INTERSECTIONS} times \"&\""
        )));
    }
    let mut grammar = Grammar::default();
    grammar.read(text)?;
    check_optional(grammar.optional_parts())
}

/// What a rule or terminal is made of.
#[derive(Default)]
struct Definition<'a> {
    /// Parts of its own that may be empty, but for those within regular expressions.
    optional: usize,
    /// The same within regular expressions.
    within_regexes: usize,
    /// Rules and terminals in it, those in its attributes (`start[stop=T]`) included.
    names: Vec<&'a str>,
}

/// A definition that continues behind a grammar in it (`%lark { ... }`).
struct Outer<'a> {
    name: &'a str,
    definition: Definition<'a>,
    /// Brackets around its grammar.
    base: usize,
}

#[derive(Default)]
struct Grammar<'a> {
    definitions: HashMap<&'a str, Definition<'a>>,
}

impl<'a> Grammar<'a> {
    /// Reads definitions as llguidance's parser does: one begins with a name at the beginning of a line, and only a line that
    /// begins with `|` continues it.
    fn read(&mut self, text: &'a str) -> Result<(), GrammarError> {
        // Statements that begin with % are a rule without a name.
        let (mut name, mut current) = ("", Definition::default());
        let (mut depth, mut base) = (0_usize, 0_usize);
        let mut outer: Vec<Outer<'_>> = Vec::new();
        // Whether an alternative would be empty if it ended here.
        let mut is_empty = false;
        // Whether a name here begins a definition; and whether this is between its name and its colon.
        let (mut begins_line, mut in_header) = (true, false);
        let mut opens_grammar = false;
        let mut rest = text;
        while let Some((token, behind)) = next(rest) {
            rest = behind;
            let was_empty = std::mem::take(&mut is_empty);
            let began_line = std::mem::take(&mut begins_line) && depth == base;
            let opened_grammar = std::mem::take(&mut opens_grammar);
            match token {
                Token::Newline => (is_empty, begins_line) = (was_empty, true),
                // `?start` and `!start` are rules, too.
                Token::Optional | Token::Other if began_line => {
                    (is_empty, begins_line) = (was_empty, true);
                }
                Token::Name(next) if began_line => {
                    current.optional += usize::from(was_empty);
                    self.define(name, current);
                    (name, current) = (next, Definition::default());
                    in_header = true;
                }
                Token::Name(name) => current.names.push(name),
                Token::Colon if depth == base => (in_header, is_empty) = (false, true),
                Token::Statement(keyword) => {
                    current.optional += usize::from(was_empty);
                    self.define(name, current);
                    (name, current) = ("", Definition::default());
                    begins_line = keyword == "%override";
                    if keyword == "%llguidance" {
                        rest = behind_json(rest);
                    }
                }
                Token::Value("%lark") => opens_grammar = true,
                Token::Value(keyword) => {
                    // A substring may be empty.
                    current.optional += usize::from(keyword == "%regex");
                    rest = behind_json(rest);
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
                        outer.push(Outer {
                            name,
                            definition,
                            base,
                        });
                        (name, base, begins_line) = ("", depth, true);
                    } else {
                        current.optional += usize::from(bracket != b'(' && !in_header);
                        is_empty = true;
                    }
                }
                Token::Close => {
                    current.optional += usize::from(was_empty);
                    if depth == base
                        && let Some(around) = outer.pop()
                    {
                        self.define(name, current);
                        Outer {
                            name,
                            definition: current,
                            base,
                        } = around;
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
                    current.within_regexes += regex_limits::check(regex)?.unwrap_or(0);
                }
                Token::Colon | Token::Number(_) | Token::Other => {}
            }
        }
        current.optional += usize::from(is_empty);
        self.define(name, current);
        for Outer {
            name, definition, ..
        } in outer
        {
            self.define(name, definition);
        }
        Ok(())
    }

    /// Grammars within this one may use a name again: then it stands for all of them.
    fn define(&mut self, name: &'a str, definition: Definition<'a>) {
        let known = self.definitions.entry(name).or_default();
        known.optional = known.optional.saturating_add(definition.optional);
        known.within_regexes = known
            .within_regexes
            .saturating_add(definition.within_regexes);
        known.names.extend(definition.names);
    }

    /// Parts that may be empty in all regular expressions that the rules name.
    fn optional_parts(&self) -> usize {
        let rules = self
            .definitions
            .iter()
            .filter(|(name, _)| !is_terminal(name));
        let mut parts = 0_usize;
        let mut named = HashSet::new();
        for (_, rule) in rules {
            parts = parts.saturating_add(rule.within_regexes);
            named.extend(rule.names.iter().copied());
        }
        let mut counted = HashMap::new();
        named
            .into_iter()
            .filter(|name| is_terminal(name))
            .fold(parts, |parts, name| {
                parts.saturating_add(self.parts_of(name, &mut counted))
            })
    }

    /// Parts that may be empty in a terminal, with all that it stands for. One that leads back to itself is none, which
    /// llguidance says.
    fn parts_of(&self, terminal: &'a str, counted: &mut HashMap<&'a str, usize>) -> usize {
        if let Some(parts) = counted.get(terminal) {
            return *parts;
        }
        counted.insert(terminal, 0);
        let Some(definition) = self.definitions.get(terminal) else {
            return 0;
        };
        let own = definition
            .optional
            .saturating_add(definition.within_regexes);
        let parts = definition.names.iter().fold(own, |parts, name| {
            parts.saturating_add(self.parts_of(name, counted))
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
/// Keywords within a definition that JSON or a grammar follows. `%if` is none of them: its condition is read as names and numbers.
const VALUES: [&str; 3] = ["%json", "%lark", "%regex"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// One of [`STATEMENTS`].
    Statement(&'static str),
    /// One of [`VALUES`].
    Value(&'static str),
    /// Without its slashes.
    Regex(&'a str),
    Number(u64),
    /// `?`, `*`, `~`, or an empty string.
    Optional,
    Colon,
    Bar,
    Open(u8),
    Close,
    Newline,
    Other,
}

/// The next token and what is behind it; blanks and comments are passed over.
fn next(text: &str) -> Option<(Token<'_>, &str)> {
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
            let token = match end {
                2 => Token::Optional,
                _ => Token::Other,
            };
            (token, end)
        }
        b'/' => {
            let end = quoted_end(bytes, b'/');
            let regex = text.get(1..end.saturating_sub(1)).unwrap_or_default();
            (
                Token::Regex(regex),
                run(end.min(bytes.len()), u8::is_ascii_lowercase),
            )
        }
        b'%' => {
            let of = |keywords: &[&'static str]| {
                let mut found = keywords.iter().copied();
                found.find(|keyword| text.starts_with(keyword))
            };
            match (of(&STATEMENTS), of(&VALUES)) {
                (Some(keyword), _) => (Token::Statement(keyword), keyword.len()),
                (_, Some(keyword)) => (Token::Value(keyword), keyword.len()),
                (None, None) => (Token::Other, 1),
            }
        }
        // A special token, `</s>` for example.
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

/// The length of what begins with a quote and ends with the next one that is not escaped.
fn quoted_end(bytes: &[u8], quote: u8) -> usize {
    let mut place = 1;
    while let Some(byte) = bytes.get(place) {
        match *byte {
            b'\\' => place += 1,
            byte if byte == quote => return place + 1,
            _ => {}
        }
        place += 1;
    }
    bytes.len()
}

/// What is behind a JSON value; all of it, if there is none.
fn behind_json(text: &str) -> &str {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => &text[values.byte_offset()..],
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> usize {
        let mut grammar = Grammar::default();
        grammar.read(text).unwrap();
        grammar.optional_parts()
    }

    #[test]
    fn optional_parts_count_as_often_as_they_are_named() {
        for (grammar, expected) in [
            ("start: A\nA: \"a\"? /b*c?/", 3),
            // A grammar of rules is followed by the parser.
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
            assert_eq!(parts(grammar), expected, "{grammar}");
        }
    }

    #[test]
    fn terminals_that_name_each_other_are_not_expanded_beyond_the_limit() {
        let mut grammar = "start: T0\n".to_owned();
        for number in 0..60 {
            let next = number + 1;
            grammar += &format!("T{number}: T{next} T{next}\n");
        }
        let optional = format!("{grammar}T60: \"x\"?");
        assert!(matches!(check(&optional), Err(GrammarError::TooLarge(_))));
        let behind = optional.replace("T0: ", "T0: %regex {\"substring_chars\": \"a\"} ");
        assert!(matches!(check(&behind), Err(GrammarError::TooLarge(_))));
        let parts = "\"x\"? ".repeat(13_000);
        let beside = format!("start: A\nA: %regex {{\"substring_chars\": \"a\"}} {parts}");
        assert!(matches!(check(&beside), Err(GrammarError::TooLarge(_))));
        assert_eq!(check(&format!("{grammar}T60: \"x\"")), Ok(()));
    }

    #[test]
    fn a_repetition_is_refused_one_past_its_limit() {
        let grammar = |count: u64| format!("start[max_tokens=200000]: A\nA: \"a\"{{{count}}}");
        assert_eq!(check(&grammar(MAX_REGEX_REPETITIONS)), Ok(()));
        let error = check(&grammar(MAX_REGEX_REPETITIONS + 1)).unwrap_err();
        assert!(error.to_string().contains("100001 repetitions"), "{error}");
        let within = format!("start: A\nA: [\"a\"{{{}}}]", MAX_REGEX_REPETITIONS + 1);
        assert!(check(&within).is_err(), "{within}");
    }
}
