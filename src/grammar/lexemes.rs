//! Cuts a grammar into lexemes: parts that are regular expressions. llguidance follows a lexeme by a table, and
//! what is between lexemes by a parser, which is far slower; but its lexer is greedy: at every place it goes on
//! with whatever lexeme can go on, and does not come back. So a part is a lexeme only if that is never wrong:
//! where a lexeme may end, no lexeme can go on with a character that may come next. What does not pass is cut
//! into smaller parts, in the end into single characters, which always pass.

use std::collections::{HashMap, HashSet};

use llguidance::derivre::{ExprRef, RegexAst, RegexBuilder};

use super::characters::Characters;
use super::follow::{First, following};
use super::gbnf::{Expression, Grammar};
use super::lark::write_regex;
use crate::token::TokenId;

/// Most rules of a grammar that is cut; one of more is left in characters.
const MOST_RULES: usize = 500;
/// Most comparisons of one lexeme with all: a fraction of a millisecond each. Beyond it everything is characters.
const MOST_COMPARISONS: usize = 300;
/// Longest regular expression of a lexeme.
const MAX_LEXEME_BYTES: usize = 1 << 12;
/// Steps of one comparison; one that takes more is taken for failed.
const COMPARISON_FUEL: u64 = 20_000;

/// A grammar as its lexemes and what is between them.
pub(super) struct Lexed {
    /// One for each rule of the grammar; those that nothing names are empty choices.
    pub(super) rules: Vec<Piece>,
    pub(super) lexemes: Vec<Lexeme>,
}

/// A regular part.
pub(super) struct Lexeme {
    pub(super) regex: String,
    /// What it may begin with.
    pub(super) first: First,
    /// Whether it is always one character.
    is_character: bool,
}

/// A rule, or a part of one.
pub(super) enum Piece {
    Lexeme(usize),
    Token {
        token: TokenId,
        negated: bool,
    },
    Rule(usize),
    Sequence(Vec<Piece>),
    Choice(Vec<Piece>),
    Repeat {
        of: Box<Piece>,
        least: u32,
        most: Option<u32>,
    },
}

/// Cuts a grammar.
pub(super) fn cut(grammar: &Grammar) -> Lexed {
    let mut cutter = Cutter {
        grammar,
        regular: regular_rules(grammar),
        broken: HashSet::new(),
        only_characters: grammar.rules.len() > MOST_RULES,
        comparisons: 0,
    };
    loop {
        let lexed = cutter.cut();
        if !cutter.find_conflicts(&lexed) {
            return lexed;
        }
    }
}

/// Which rules are regular: those that name only such rules, and no token.
fn regular_rules(grammar: &Grammar) -> Vec<bool> {
    let mut regular = vec![false; grammar.rules.len()];
    loop {
        let more: Vec<usize> = (0..regular.len())
            .filter(|rule| !regular[*rule] && is_regular(&grammar.rules[*rule], &regular))
            .collect();
        if more.is_empty() {
            return regular;
        }
        more.into_iter().for_each(|rule| regular[rule] = true);
    }
}

fn is_regular(expression: &Expression, regular: &[bool]) -> bool {
    match expression {
        Expression::Character(_) => true,
        Expression::Token { .. } => false,
        Expression::Rule(rule) => regular[*rule],
        Expression::Sequence(parts) | Expression::Choice(parts) => {
            parts.iter().all(|part| is_regular(part, regular))
        }
        Expression::Repeat { of, .. } => is_regular(of, regular),
    }
}

struct Cutter<'a> {
    grammar: &'a Grammar,
    regular: Vec<bool>,
    /// Regular expressions that are no lexemes after all.
    broken: HashSet<String>,
    only_characters: bool,
    comparisons: usize,
}

/// What was found of a grammar so far.
#[derive(Default)]
struct Found {
    lexemes: Vec<Lexeme>,
    numbers: HashMap<String, usize>,
    /// Rules that were named.
    named: Vec<usize>,
}

impl Cutter<'_> {
    fn cut(&self) -> Lexed {
        let mut found = Found {
            named: vec![self.grammar.root],
            ..Found::default()
        };
        let nothing = || Piece::Choice(Vec::new());
        let mut rules: Vec<Piece> = self.grammar.rules.iter().map(|_| nothing()).collect();
        let mut next = 0;
        while let Some(&rule) = found.named.get(next) {
            rules[rule] = self.piece(&self.grammar.rules[rule], &mut found);
            next += 1;
        }
        Lexed {
            rules,
            lexemes: found.lexemes,
        }
    }

    fn piece(&self, expression: &Expression, found: &mut Found) -> Piece {
        if is_regular(expression, &self.regular)
            && let Some(lexeme) = self.lexeme(expression, found)
        {
            return Piece::Lexeme(lexeme);
        }
        match expression {
            // The regular expression of a character is neither too long nor broken.
            Expression::Character(_) => Piece::Choice(Vec::new()),
            Expression::Token { token, negated } => Piece::Token {
                token: *token,
                negated: *negated,
            },
            Expression::Rule(rule) => {
                if !found.named.contains(rule) {
                    found.named.push(*rule);
                }
                Piece::Rule(*rule)
            }
            Expression::Sequence(parts) => Piece::Sequence(self.sequence(parts, found)),
            Expression::Choice(parts) => {
                let parts = parts.iter().map(|part| self.piece(part, found));
                Piece::Choice(parts.collect())
            }
            Expression::Repeat { of, least, most } => Piece::Repeat {
                of: Box::new(self.piece(of, found)),
                least: *least,
                most: *most,
            },
        }
    }

    /// Neighbours that are regular become one lexeme, if they may.
    fn sequence(&self, parts: &[Expression], found: &mut Found) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for run in parts.chunk_by(|left, right| {
            is_regular(left, &self.regular) && is_regular(right, &self.regular)
        }) {
            let whole = (run.len() > 1 && run.len() < parts.len())
                .then(|| self.lexeme(&Expression::Sequence(run.to_vec()), found));
            match whole.flatten() {
                Some(lexeme) => pieces.push(Piece::Lexeme(lexeme)),
                None => pieces.extend(run.iter().map(|part| self.piece(part, found))),
            }
        }
        pieces
    }

    /// The number of a regular part, if it may be a lexeme.
    fn lexeme(&self, expression: &Expression, found: &mut Found) -> Option<usize> {
        let is_character = matches!(expression, Expression::Character(_));
        if self.only_characters && !is_character {
            return None;
        }
        let regex = write_regex(self.grammar, expression, MAX_LEXEME_BYTES)?;
        if regex.is_empty() || (!is_character && self.broken.contains(&regex)) {
            return None;
        }
        if let Some(&number) = found.numbers.get(&regex) {
            found.lexemes[number].is_character |= is_character;
            return Some(number);
        }
        let number = found.lexemes.len();
        found.numbers.insert(regex.clone(), number);
        found.lexemes.push(Lexeme {
            regex,
            first: self.first(expression),
            is_character,
        });
        Some(number)
    }

    /// What a regular part may begin with.
    fn first(&self, expression: &Expression) -> First {
        match expression {
            Expression::Character(class) => First::of(Characters::of(class)),
            Expression::Token { .. } => First::of(Characters::all()),
            Expression::Rule(rule) => self.first(&self.grammar.rules[*rule]),
            Expression::Sequence(parts) => {
                First::sequence(parts.iter().map(|part| self.first(part)))
            }
            Expression::Choice(parts) => First::choice(parts.iter().map(|part| self.first(part))),
            Expression::Repeat { of, least, .. } => self.first(of).repeated(*least),
        }
    }

    /// Finds the lexemes that a greedy lexer would take wrongly. Answers whether there are any.
    fn find_conflicts(&mut self, lexed: &Lexed) -> bool {
        let long = || lexed.lexemes.iter().filter(|lexeme| !lexeme.is_character);
        self.comparisons += long().count();
        if self.comparisons > MOST_COMPARISONS {
            return !std::mem::replace(&mut self.only_characters, true);
        }
        let mut builder = RegexBuilder::new();
        let went_on = builder.mk(&went_on(lexed)).ok();
        let conflicts = long()
            .filter(|lexeme| went_on.is_none_or(|went_on| may_meet(&mut builder, lexeme, went_on)));
        let before = self.broken.len();
        self.broken
            .extend(conflicts.map(|lexeme| lexeme.regex.clone()));
        self.broken.len() > before
    }
}

/// Texts of lexemes, a character that may follow there, and anything.
fn went_on(lexed: &Lexed) -> RegexAst {
    let ends = lexed.lexemes.iter().zip(following(lexed));
    let went_on = ends
        .filter(|(_, follow)| !follow.is_empty())
        .map(|(lexeme, follow)| {
            let mut next = String::new();
            follow.write(&mut next);
            let next = RegexAst::Regex(next);
            let anything = RegexAst::Regex("(?s:.*)".to_owned());
            RegexAst::Concat(vec![not_empty(lexeme), next, anything])
        });
    RegexAst::Or(went_on.collect())
}

/// The lexeme's texts but for the empty one, which is never one.
fn not_empty(lexeme: &Lexeme) -> RegexAst {
    let all = RegexAst::Regex(lexeme.regex.clone());
    match lexeme.first.nullable {
        true => RegexAst::And(vec![all, RegexAst::Regex("(?s:.+)".to_owned())]),
        false => all,
    }
}

/// Whether a text of the lexeme may be among these, or that cannot be told.
fn may_meet(builder: &mut RegexBuilder, lexeme: &Lexeme, others: ExprRef) -> bool {
    let both = builder.mk(&not_empty(lexeme)).and_then(|own| {
        let parts = [own, others].map(RegexAst::ExprRef);
        builder.mk(&RegexAst::And(parts.into()))
    });
    let both = both.and_then(|both| builder.to_regex_limited(both, COMPARISON_FUEL));
    both.map_or(true, |mut both| !both.always_empty())
}
