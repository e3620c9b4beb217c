//! Parses llama.cpp's GBNF notation (see `grammars/README.md` in llama.cpp): rules `name ::= …` with literals,
//! character classes, groups, alternatives, repetition, tokens and comments. The rule `root` matches the whole text.

use std::collections::HashMap;

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use super::{GrammarError, GrammarVocabulary};
use crate::token::TokenId;

/// Maximum length of a GBNF grammar, regular expression or Lark grammar, in bytes.
pub const MAX_GRAMMAR_BYTES: usize = 1 << 16;
/// Maximum nesting depth of groups.
const MAX_NESTING: usize = 64;
/// Maximum count in a repetition such as `{2,5}`.
const MAX_REPETITIONS: u32 = 2000;

/// A parsed grammar, in which every referenced rule is defined.
#[derive(Debug, PartialEq)]
pub(super) struct Grammar {
    pub(super) rules: Vec<Expression>,
    /// The index of the rule `root`.
    pub(super) root: usize,
}

/// The body of a rule, or a part of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    /// One character of a class.
    Character(ClassUnicode),
    /// The token with this id; other tokens with the same text do not match.
    Token {
        token: TokenId,
        /// Matches every token except `token` instead.
        negated: bool,
    },
    /// The rule with this index.
    Rule(usize),
    /// All parts in order; an empty sequence matches the empty text.
    Sequence(Vec<Expression>),
    /// One of the alternatives.
    Choice(Vec<Expression>),
    Repeat {
        inner: Box<Expression>,
        min: u32,
        /// `None` for no maximum.
        max: Option<u32>,
    },
}

/// Parses a grammar. Token names such as `<think>` are looked up in `vocabulary`.
pub(super) fn parse(
    text: &str,
    vocabulary: &dyn GrammarVocabulary,
) -> Result<Grammar, GrammarError> {
    if text.len() > MAX_GRAMMAR_BYTES {
        return Err(GrammarError::TooLarge(format!(
            "the grammar has {} bytes; the limit is {MAX_GRAMMAR_BYTES}",
            text.len()
        )));
    }
    let mut parser = Parser {
        text: text.chars().collect(),
        position: 0,
        nesting: 0,
        vocabulary,
        tokens_by_name: None,
        names: HashMap::new(),
        rules: Vec::new(),
    };
    parser.skip_space(Newlines::Skip);
    while parser.peek().is_some() {
        parser.rule()?;
    }
    let Parser { names, rules, .. } = &parser;
    let Some(&root) = names.get("root") else {
        return Err(parser.error("rule not found: root"));
    };
    let mut defined = Vec::with_capacity(rules.len());
    for rule in rules {
        match rule {
            Rule::Defined(expression) => defined.push(expression.clone()),
            Rule::Referenced { position, name } => {
                return Err(parser.error_at(*position, format!("rule not found: {name}")));
            }
        }
    }
    Ok(Grammar {
        rules: defined,
        root,
    })
}

#[derive(Debug)]
enum Rule {
    Defined(Expression),
    /// Not defined yet; first referenced at `position`.
    Referenced {
        position: usize,
        name: String,
    },
}

struct Parser<'a> {
    text: Vec<char>,
    position: usize,
    nesting: usize,
    vocabulary: &'a dyn GrammarVocabulary,
    /// Tokens by name; built when the grammar first uses a token name.
    tokens_by_name: Option<HashMap<&'a [u8], TokenId>>,
    /// Rule indices by name.
    names: HashMap<String, usize>,
    rules: Vec<Rule>,
}

/// How to treat a newline: as whitespace, or as the end of the rule.
#[derive(Clone, Copy, PartialEq)]
enum Newlines {
    Skip,
    EndRule,
}

impl Parser<'_> {
    fn rule(&mut self) -> Result<(), GrammarError> {
        let start = self.position;
        let name = self
            .name()
            .ok_or_else(|| self.error("expected a rule name"))?;
        self.skip_space(Newlines::EndRule);
        if !self.eat("::=") {
            return Err(self.error("expected ::= after the rule name"));
        }
        self.skip_space(Newlines::Skip);
        let index = self.rule_index(&name, start);
        if matches!(self.rules[index], Rule::Defined(_)) {
            return Err(self.error_at(start, format!("the rule {name} is defined twice")));
        }
        let expression = self.choice(Newlines::EndRule)?;
        self.rules[index] = Rule::Defined(expression);
        match self.peek() {
            None => Ok(()),
            Some('\r' | '\n') => {
                self.skip_space(Newlines::Skip);
                Ok(())
            }
            Some(')') => Err(self.error("unmatched )")),
            Some(_) => Err(self.error("expected the end of the line")),
        }
    }

    /// Returns the index of the rule `name`. Adds the rule if the name is new.
    fn rule_index(&mut self, name: &str, position: usize) -> usize {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        let index = self.rules.len();
        let name = name.to_owned();
        self.names.insert(name.clone(), index);
        self.rules.push(Rule::Referenced { position, name });
        index
    }

    fn choice(&mut self, newlines: Newlines) -> Result<Expression, GrammarError> {
        let mut choices = vec![self.sequence(newlines)?];
        while self.eat("|") {
            self.skip_space(Newlines::Skip);
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
                    self.position += 1;
                    Expression::Character(all_characters())
                }
                Some('(') => self.group()?,
                Some('<') => self.token(false)?,
                Some('!') if self.text.get(self.position + 1) == Some(&'<') => {
                    self.position += 1;
                    self.token(true)?
                }
                Some(first) if is_name_character(first) => {
                    let start = self.position;
                    let name = self.name().unwrap_or_default();
                    Expression::Rule(self.rule_index(&name, start))
                }
                _ => break,
            };
            let part = self.repeated(part)?;
            parts.push(part);
            self.skip_space(newlines);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Expression::Sequence(parts),
        })
    }

    fn group(&mut self) -> Result<Expression, GrammarError> {
        let start = self.position;
        self.position += 1;
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.error(format!("groups are nested deeper than {MAX_NESTING}")));
        }
        self.skip_space(Newlines::Skip);
        let inner = self.choice(Newlines::Skip)?;
        if !self.eat(")") {
            return Err(match self.peek() {
                None => self.error_at(start, "unclosed ("),
                Some(_) => {
                    self.error("expected a literal, a character class, a group or a rule name")
                }
            });
        }
        self.nesting -= 1;
        Ok(inner)
    }

    /// Parses a token written as `<[id]>` or `<name>`.
    fn token(&mut self, negated: bool) -> Result<Expression, GrammarError> {
        let start = self.position;
        let rest = self.text[start..].iter();
        let length = rest
            .take_while(|character| !matches!(character, '>' | '\n'))
            .count();
        let name: String = self.text[start..start + length]
            .iter()
            .chain(&['>'])
            .collect();
        self.position += length;
        if !self.eat(">") {
            return Err(self.error_at(start, "this token name has no closing >"));
        }
        let id = name
            .strip_prefix("<[")
            .and_then(|rest| rest.strip_suffix("]>"));
        let token = match id {
            Some(id) => id.parse().ok().map(TokenId),
            None => {
                let vocabulary = self.vocabulary;
                let tokens = self
                    .tokens_by_name
                    .get_or_insert_with(|| vocabulary.by_name());
                tokens.get(name.as_bytes()).copied()
            }
        };
        let token = token.filter(|token| token.row() < self.vocabulary.size());
        let token =
            token.ok_or_else(|| self.error_at(start, format!("token not found: {name}")))?;
        Ok(Expression::Token { token, negated })
    }

    /// Applies the repetition operators that follow to `part`.
    fn repeated(&mut self, mut part: Expression) -> Result<Expression, GrammarError> {
        loop {
            let (min, max) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.bounds()?,
                _ => return Ok(part),
            };
            self.position += 1;
            part = Expression::Repeat {
                inner: Box::new(part),
                min,
                max,
            };
        }
    }

    /// Parses `{m}`, `{m,}`, `{m,n}` or `{,n}`, up to but not including the closing brace.
    fn bounds(&mut self) -> Result<(u32, Option<u32>), GrammarError> {
        self.position += 1;
        self.skip_space(Newlines::EndRule);
        let min = self.count()?;
        self.skip_space(Newlines::EndRule);
        let max = match self.eat(",") {
            true => {
                self.skip_space(Newlines::EndRule);
                self.count()?
            }
            false if min.is_none() => return Err(self.error("expected a number")),
            false => min,
        };
        self.skip_space(Newlines::EndRule);
        if self.peek() != Some('}') {
            return Err(self.error("expected }"));
        }
        let min = min.unwrap_or(0);
        if max.is_some_and(|max| max < min) {
            return Err(self.error(format!("the maximum is less than the minimum {min}")));
        }
        Ok((min, max))
    }

    fn count(&mut self) -> Result<Option<u32>, GrammarError> {
        let start = self.position;
        while self
            .peek()
            .is_some_and(|character| character.is_ascii_digit())
        {
            self.position += 1;
        }
        if self.position == start {
            return Ok(None);
        }
        let digits: String = self.text[start..self.position].iter().collect();
        match digits.parse() {
            Ok(count) if count <= MAX_REPETITIONS => Ok(Some(count)),
            _ => Err(self.error_at(start, format!("more than {MAX_REPETITIONS} repetitions"))),
        }
    }

    fn literal(&mut self) -> Result<Expression, GrammarError> {
        let start = self.position;
        self.position += 1;
        let mut characters = Vec::new();
        while !self.eat("\"") {
            if self.peek().is_none() {
                return Err(self.error_at(start, "this literal has no closing quote"));
            }
            let character = self.character()?;
            let range = ClassUnicodeRange::new(character, character);
            characters.push(Expression::Character(ClassUnicode::new([range])));
        }
        Ok(match characters.len() {
            1 => characters.remove(0),
            _ => Expression::Sequence(characters),
        })
    }

    fn class(&mut self) -> Result<Expression, GrammarError> {
        let start = self.position;
        self.position += 1;
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            if self.peek().is_none() {
                return Err(self.error_at(start, "this character class has no closing ]"));
            }
            let first = self.character()?;
            let dash = self.peek() == Some('-') && self.text.get(self.position + 1) != Some(&']');
            let last = match dash {
                true => {
                    self.position += 1;
                    if self.peek().is_none() {
                        return Err(self.error_at(start, "this character class has no closing ]"));
                    }
                    self.character()?
                }
                false => first,
            };
            if last < first {
                return Err(self.error("this range ends before it begins"));
            }
            ranges.push(ClassUnicodeRange::new(first, last));
        }
        if ranges.is_empty() && !negated {
            return Err(self.error_at(start, "this character class is empty"));
        }
        let mut class = ClassUnicode::new(ranges);
        if negated {
            class.negate();
        }
        Ok(Expression::Character(class))
    }

    /// Parses one character of a literal or class, and resolves escape sequences.
    fn character(&mut self) -> Result<char, GrammarError> {
        let start = self.position;
        let Some(character) = self.next() else {
            return Err(self.error("expected a character"));
        };
        if character != '\\' {
            return Ok(character);
        }
        match self.next() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some(escaped @ ('\\' | '"' | '[' | ']' | '-' | '^')) => Ok(escaped),
            Some('x') => self.hexadecimal(start, 2),
            Some('u') => self.hexadecimal(start, 4),
            Some('U') => self.hexadecimal(start, 8),
            _ => Err(self.error_at(start, "unknown escape sequence")),
        }
    }

    fn hexadecimal(&mut self, start: usize, digits: usize) -> Result<char, GrammarError> {
        let mut code_point = 0;
        for _ in 0..digits {
            let digit = self.next().and_then(|digit| digit.to_digit(16));
            let digit = digit.ok_or_else(|| {
                self.error_at(start, format!("expected {digits} hexadecimal digits"))
            })?;
            code_point = code_point * 16 + digit;
        }
        char::from_u32(code_point)
            .ok_or_else(|| self.error_at(start, format!("U+{code_point:04X} is not a character")))
    }

    fn name(&mut self) -> Option<String> {
        let start = self.position;
        while self.peek().is_some_and(is_name_character) {
            self.position += 1;
        }
        (self.position > start).then(|| self.text[start..self.position].iter().collect())
    }

    /// Skips whitespace and comments.
    fn skip_space(&mut self, newlines: Newlines) {
        while let Some(character) = self.peek() {
            match character {
                ' ' | '\t' => self.position += 1,
                '\r' | '\n' if newlines == Newlines::Skip => self.position += 1,
                '#' => {
                    while self
                        .peek()
                        .is_some_and(|character| !matches!(character, '\r' | '\n'))
                    {
                        self.position += 1;
                    }
                }
                _ => return,
            }
        }
    }

    /// Consumes `word` if it comes next.
    fn eat(&mut self, word: &str) -> bool {
        let matches = word
            .chars()
            .enumerate()
            .all(|(offset, character)| self.text.get(self.position + offset) == Some(&character));
        if matches {
            self.position += word.chars().count();
        }
        matches
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.position).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += 1;
        Some(character)
    }

    fn error(&self, problem: impl Into<String>) -> GrammarError {
        self.error_at(self.position, problem)
    }

    fn error_at(&self, position: usize, problem: impl Into<String>) -> GrammarError {
        let before = &self.text[..position.min(self.text.len())];
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

/// Returns the class of all characters.
pub(super) fn all_characters() -> ClassUnicode {
    ClassUnicode::new([ClassUnicodeRange::new('\0', char::MAX)])
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}
