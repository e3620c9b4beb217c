//! llama.cpp's notation for grammars (its `grammars/README.md`): rules `name ::= …` with literals, character
//! classes, groups, alternatives, repetition, tokens and comments. The rule `root` is the text.

use std::collections::HashMap;

use super::{GrammarError, GrammarVocabulary};
use crate::token::TokenId;

/// Longest text of a grammar.
pub const MAX_GRAMMAR_BYTES: usize = 1 << 16;
/// Most groups within each other.
const MAX_NESTING: usize = 64;
/// Most repetitions of a thing.
const MAX_REPETITIONS: u32 = 2000;

/// Rules; every name in them is one of them.
#[derive(Debug, PartialEq)]
pub(super) struct Grammar {
    pub(super) rules: Vec<Expression>,
    /// The place of `root`.
    pub(super) root: usize,
}

/// What a rule is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    /// One character of a class.
    Character(Class),
    /// One token, whatever it spells.
    Token {
        token: TokenId,
        /// Any but this one.
        negated: bool,
    },
    /// What the rule at this place is.
    Rule(usize),
    /// One after the other; none is the empty text.
    Sequence(Vec<Expression>),
    /// One of these.
    Choice(Vec<Expression>),
    /// So often.
    Repeat {
        of: Box<Expression>,
        least: u32,
        /// `None`: any number.
        most: Option<u32>,
    },
}

/// Characters, or all but these.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Class {
    pub(super) ranges: Vec<(char, char)>,
    pub(super) negated: bool,
}

/// Reads a grammar for a vocabulary.
pub(super) fn read(
    text: &str,
    vocabulary: &dyn GrammarVocabulary,
) -> Result<Grammar, GrammarError> {
    if text.len() > MAX_GRAMMAR_BYTES {
        return Err(GrammarError::TooLarge(format!(
            "a grammar of {} bytes is longer than {MAX_GRAMMAR_BYTES}",
            text.len()
        )));
    }
    let mut reader = Reader {
        text: text.chars().collect(),
        at: 0,
        nesting: 0,
        vocabulary,
        tokens: None,
        names: HashMap::new(),
        rules: Vec::new(),
    };
    reader.space(Newlines::Passed);
    while reader.peek().is_some() {
        reader.rule()?;
    }
    let Reader { names, rules, .. } = &reader;
    let Some(&root) = names.get("root") else {
        return Err(reader.error("there is no rule named root"));
    };
    let mut known = Vec::with_capacity(rules.len());
    for rule in rules {
        match rule {
            Rule::Defined(expression) => known.push(expression.clone()),
            Rule::Named { at, name } => {
                return Err(reader.error_at(*at, format!("there is no rule named {name}")));
            }
        }
    }
    Ok(Grammar { rules: known, root })
}

#[derive(Debug)]
enum Rule {
    Defined(Expression),
    /// Named there, and not defined yet.
    Named {
        at: usize,
        name: String,
    },
}

struct Reader<'a> {
    text: Vec<char>,
    at: usize,
    nesting: usize,
    vocabulary: &'a dyn GrammarVocabulary,
    /// The tokens by their names, once one is looked for.
    tokens: Option<HashMap<&'a [u8], TokenId>>,
    names: HashMap<String, usize>,
    rules: Vec<Rule>,
}

/// Whether a line may end here.
#[derive(Clone, Copy, PartialEq)]
enum Newlines {
    Passed,
    End,
}

impl Reader<'_> {
    fn rule(&mut self) -> Result<(), GrammarError> {
        let at = self.at;
        let name = self
            .name()
            .ok_or_else(|| self.error("a rule begins with its name"))?;
        self.space(Newlines::End);
        if !self.eat("::=") {
            return Err(self.error("::= follows a rule's name"));
        }
        self.space(Newlines::Passed);
        let number = self.number_of(&name, at);
        if matches!(self.rules[number], Rule::Defined(_)) {
            return Err(self.error_at(at, format!("there are two rules named {name}")));
        }
        let expression = self.choice(Newlines::End)?;
        self.rules[number] = Rule::Defined(expression);
        match self.peek() {
            None => Ok(()),
            Some('\r' | '\n') => {
                self.space(Newlines::Passed);
                Ok(())
            }
            Some(')') => Err(self.error("there is no ( for this )")),
            Some(_) => Err(self.error("a rule ends with its line")),
        }
    }

    fn number_of(&mut self, name: &str, at: usize) -> usize {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let number = self.rules.len();
        let name = name.to_owned();
        self.names.insert(name.clone(), number);
        self.rules.push(Rule::Named { at, name });
        number
    }

    fn choice(&mut self, newlines: Newlines) -> Result<Expression, GrammarError> {
        let mut choices = vec![self.sequence(newlines)?];
        while self.eat("|") {
            self.space(Newlines::Passed);
            choices.push(self.sequence(newlines)?);
        }
        Ok(match choices.len() {
            1 => choices.remove(0),
            _ => Expression::Choice(choices),
        })
    }

    fn sequence(&mut self, newlines: Newlines) -> Result<Expression, GrammarError> {
        let mut parts = Vec::new();
        loop {
            let part = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    Expression::Character(Class {
                        ranges: Vec::new(),
                        negated: true,
                    })
                }
                Some('(') => self.group()?,
                Some('<') => self.token(false)?,
                Some('!') if self.text.get(self.at + 1) == Some(&'<') => {
                    self.at += 1;
                    self.token(true)?
                }
                Some(first) if is_name(first) => {
                    let at = self.at;
                    let name = self.name().unwrap_or_default();
                    Expression::Rule(self.number_of(&name, at))
                }
                _ => break,
            };
            let part = self.repeated(part)?;
            parts.push(part);
            self.space(newlines);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Expression::Sequence(parts),
        })
    }

    fn group(&mut self) -> Result<Expression, GrammarError> {
        let at = self.at;
        self.at += 1;
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.error(format!("groups are nested deeper than {MAX_NESTING}")));
        }
        self.space(Newlines::Passed);
        let inner = self.choice(Newlines::Passed)?;
        if !self.eat(")") {
            return Err(match self.peek() {
                None => self.error_at(at, "there is no ) for this ("),
                Some(_) => self.error("a literal, a class, a group or a rule's name is expected"),
            });
        }
        self.nesting -= 1;
        Ok(inner)
    }

    /// `<[id]>` or `<name>`.
    fn token(&mut self, negated: bool) -> Result<Expression, GrammarError> {
        let at = self.at;
        let rest = self.text[at..].iter();
        let length = rest
            .take_while(|character| !matches!(character, '>' | '\n'))
            .count();
        let name: String = self.text[at..at + length].iter().chain(&['>']).collect();
        self.at += length;
        if !self.eat(">") {
            return Err(self.error_at(at, "this token's name does not end"));
        }
        let number = name
            .strip_prefix("<[")
            .and_then(|rest| rest.strip_suffix("]>"));
        let token = match number {
            Some(number) => number.parse().ok().map(TokenId),
            None => {
                let vocabulary = self.vocabulary;
                let tokens = self.tokens.get_or_insert_with(|| vocabulary.by_name());
                tokens.get(name.as_bytes()).copied()
            }
        };
        let token = token.filter(|token| token.row() < self.vocabulary.size());
        let token = token.ok_or_else(|| self.error_at(at, format!("{name} is no token")))?;
        Ok(Expression::Token { token, negated })
    }

    /// The part with the operators that follow it.
    fn repeated(&mut self, mut part: Expression) -> Result<Expression, GrammarError> {
        loop {
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.bounds()?,
                _ => return Ok(part),
            };
            self.at += 1;
            part = Expression::Repeat {
                of: Box::new(part),
                least,
                most,
            };
        }
    }

    /// `{m}`, `{m,}`, `{m,n}` or `{,n}`, up to the closing brace.
    fn bounds(&mut self) -> Result<(u32, Option<u32>), GrammarError> {
        self.at += 1;
        self.space(Newlines::End);
        let least = self.count()?;
        self.space(Newlines::End);
        let most = match self.eat(",") {
            true => {
                self.space(Newlines::End);
                self.count()?
            }
            false if least.is_none() => return Err(self.error("a number is expected")),
            false => least,
        };
        self.space(Newlines::End);
        if self.peek() != Some('}') {
            return Err(self.error("} is expected"));
        }
        let least = least.unwrap_or(0);
        if most.is_some_and(|most| most < least) {
            return Err(self.error(format!("not more than {least}")));
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<Option<u32>, GrammarError> {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|character| character.is_ascii_digit())
        {
            self.at += 1;
        }
        if self.at == start {
            return Ok(None);
        }
        let digits: String = self.text[start..self.at].iter().collect();
        match digits.parse() {
            Ok(count) if count <= MAX_REPETITIONS => Ok(Some(count)),
            _ => Err(self.error_at(start, format!("more than {MAX_REPETITIONS} repetitions"))),
        }
    }

    fn literal(&mut self) -> Result<Expression, GrammarError> {
        let at = self.at;
        self.at += 1;
        let mut characters = Vec::new();
        while !self.eat("\"") {
            if self.peek().is_none() {
                return Err(self.error_at(at, "this literal does not end"));
            }
            let character = self.character()?;
            characters.push(Expression::Character(Class {
                ranges: vec![(character, character)],
                negated: false,
            }));
        }
        Ok(match characters.len() {
            1 => characters.remove(0),
            _ => Expression::Sequence(characters),
        })
    }

    fn class(&mut self) -> Result<Expression, GrammarError> {
        let at = self.at;
        self.at += 1;
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            if self.peek().is_none() {
                return Err(self.error_at(at, "this class does not end"));
            }
            let first = self.character()?;
            let dash = self.peek() == Some('-') && self.text.get(self.at + 1) != Some(&']');
            let last = match dash {
                true => {
                    self.at += 1;
                    if self.peek().is_none() {
                        return Err(self.error_at(at, "this class does not end"));
                    }
                    self.character()?
                }
                false => first,
            };
            if last < first {
                return Err(self.error("a range ends before it begins"));
            }
            ranges.push((first, last));
        }
        if ranges.is_empty() && !negated {
            return Err(self.error_at(at, "no character is in this class"));
        }
        Ok(Expression::Character(Class { ranges, negated }))
    }

    /// A character of a literal or class, escapes resolved.
    fn character(&mut self) -> Result<char, GrammarError> {
        let start = self.at;
        let Some(character) = self.next() else {
            return Err(self.error("a character is expected"));
        };
        if character != '\\' {
            return Ok(character);
        }
        match self.next() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some(same @ ('\\' | '"' | '[' | ']' | '-' | '^')) => Ok(same),
            Some('x') => self.hexadecimal(start, 2),
            Some('u') => self.hexadecimal(start, 4),
            Some('U') => self.hexadecimal(start, 8),
            _ => Err(self.error_at(start, "there is no such escape")),
        }
    }

    fn hexadecimal(&mut self, start: usize, digits: usize) -> Result<char, GrammarError> {
        let mut number = 0;
        for _ in 0..digits {
            let digit = self.next().and_then(|digit| digit.to_digit(16));
            let digit = digit.ok_or_else(|| {
                self.error_at(start, format!("{digits} hexadecimal digits are expected"))
            })?;
            number = number * 16 + digit;
        }
        char::from_u32(number)
            .ok_or_else(|| self.error_at(start, format!("U+{number:04X} is no character")))
    }

    fn name(&mut self) -> Option<String> {
        let start = self.at;
        while self.peek().is_some_and(is_name) {
            self.at += 1;
        }
        (self.at > start).then(|| self.text[start..self.at].iter().collect())
    }

    /// Passes blanks and comments.
    fn space(&mut self, newlines: Newlines) {
        while let Some(character) = self.peek() {
            match character {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if newlines == Newlines::Passed => self.at += 1,
                '#' => {
                    while self
                        .peek()
                        .is_some_and(|character| !matches!(character, '\r' | '\n'))
                    {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn eat(&mut self, word: &str) -> bool {
        let fits = word
            .chars()
            .enumerate()
            .all(|(offset, character)| self.text.get(self.at + offset) == Some(&character));
        if fits {
            self.at += word.chars().count();
        }
        fits
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        Some(character)
    }

    fn error(&self, problem: impl Into<String>) -> GrammarError {
        self.error_at(self.at, problem)
    }

    fn error_at(&self, at: usize, problem: impl Into<String>) -> GrammarError {
        let before = &self.text[..at.min(self.text.len())];
        let line_start = before.iter().rposition(|character| *character == '\n');
        GrammarError::Syntax {
            line: 1 + before
                .iter()
                .filter(|character| **character == '\n')
                .count(),
            column: before.len() - line_start.map_or(0, |start| start + 1) + 1,
            problem: problem.into(),
        }
    }
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}
