//! Cuts a grammar into lexemes: parts that are regular expressions. llguidance follows a lexeme by a table, and
//! what is between lexemes by a parser, which is far slower; but its lexer is greedy: at every place it goes on
//! with whatever lexeme can go on, and does not come back. So a part is a lexeme only if that is never wrong:
//! where a lexeme may end, no lexeme can go on with a character that may come next. What does not pass is cut
//! into smaller parts, in the end into single characters, which always pass.

use std::collections::{HashMap, HashSet};

use llguidance::derivre::{ExprRef, RegexAst, RegexBuilder};

use super::GrammarError;
use super::characters::Characters;
use super::follow::{First, following};
use super::fuel::Fuel;
use super::gbnf::{Expression, Grammar};
use super::lark::write_regex;
use crate::token::TokenId;

/// Most rules of a grammar that is cut; one of more is left in characters.
const MOST_RULES: usize = 500;
/// Steps that looking for lexemes may take. A grammar that takes more is left in characters: it is followed exactly
/// the same, and each token's mask takes longer.
const MAX_CUT_STEPS: u64 = 2_000_000;
/// Longest regular expression of a lexeme.
const MAX_LEXEME_BYTES: usize = 1 << 12;
/// Steps of one comparison of a lexeme with all; one that takes more is taken for failed.
const COMPARISON_FUEL: u64 = 20_000;
/// Steps that a comparison takes in any case, and bytes of expressions that are copied for it in one step.
const LEAST_COMPARISON_STEPS: u64 = 1_000;
const COPIED_BYTES_A_STEP: u64 = 100;

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
///
/// # Errors
/// The compilation was cancelled.
pub(super) fn cut(grammar: &Grammar, fuel: &Fuel<'_>) -> Result<Lexed, GrammarError> {
    let regular = regular_rules(grammar);
    let mut cutter = Cutter {
        grammar,
        regular: &regular,
        broken: HashSet::new(),
        only_characters: grammar.rules.len() > MOST_RULES,
        fuel: fuel.part(MAX_CUT_STEPS),
    };
    match cutter.lexemes() {
        Err(GrammarError::Cancelled) => Err(GrammarError::Cancelled),
        Err(_) => Cutter {
            broken: HashSet::new(),
            only_characters: true,
            fuel: fuel.part(u64::MAX),
            ..cutter
        }
        .lexemes(),
        found => found,
    }
}

/// Which rules are regular: those that name no token, and only rules that are regular. A rule that leads back to
/// itself is not.
fn regular_rules(grammar: &Grammar) -> Vec<bool> {
    let rules = grammar.rules.len();
    let mut regular = vec![false; rules];
    // The rules that name each rule, once for each time, and how many rules each one names that may not be regular.
    let mut named_by = vec![Vec::new(); rules];
    let mut waits_for = vec![0_usize; rules];
    let mut ready = Vec::new();
    for (number, rule) in grammar.rules.iter().enumerate() {
        let mut named = Vec::new();
        if names(rule, &mut named) {
            waits_for[number] = named.len();
            named.iter().for_each(|rule| named_by[*rule].push(number));
            if named.is_empty() {
                ready.push(number);
            }
        }
    }
    while let Some(rule) = ready.pop() {
        regular[rule] = true;
        for by in &named_by[rule] {
            waits_for[*by] -= 1;
            if waits_for[*by] == 0 {
                ready.push(*by);
            }
        }
    }
    regular
}

/// Adds the rules that an expression names. Answers whether it names no token.
fn names(expression: &Expression, rules: &mut Vec<usize>) -> bool {
    match expression {
        Expression::Character(_) => true,
        Expression::Token { .. } => false,
        Expression::Rule(rule) => {
            rules.push(*rule);
            true
        }
        Expression::Sequence(parts) | Expression::Choice(parts) => {
            parts.iter().all(|part| names(part, rules))
        }
        Expression::Repeat { of, .. } => names(of, rules),
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
    regular: &'a [bool],
    /// Regular expressions that are no lexemes after all.
    broken: HashSet<String>,
    only_characters: bool,
    fuel: Fuel<'a>,
}

/// What was found of a grammar so far.
#[derive(Default)]
struct Found {
    lexemes: Vec<Lexeme>,
    numbers: HashMap<String, usize>,
    /// Rules that were named, and whether each one was.
    named: Vec<usize>,
    is_named: Vec<bool>,
}

impl Found {
    fn name(&mut self, rule: usize) {
        if !std::mem::replace(&mut self.is_named[rule], true) {
            self.named.push(rule);
        }
    }
}

impl Cutter<'_> {
    /// Cuts the grammar until no lexeme can be taken wrongly.
    fn lexemes(&mut self) -> Result<Lexed, GrammarError> {
        loop {
            let lexed = self.cut()?;
            if !self.find_conflicts(&lexed)? {
                return Ok(lexed);
            }
        }
    }

    fn cut(&self) -> Result<Lexed, GrammarError> {
        let mut found = Found {
            is_named: vec![false; self.grammar.rules.len()],
            ..Found::default()
        };
        found.name(self.grammar.root);
        let nothing = || Piece::Choice(Vec::new());
        let mut rules: Vec<Piece> = self.grammar.rules.iter().map(|_| nothing()).collect();
        let mut next = 0;
        while let Some(&rule) = found.named.get(next) {
            rules[rule] = self.piece(&self.grammar.rules[rule], &mut found)?;
            next += 1;
        }
        Ok(Lexed {
            rules,
            lexemes: found.lexemes,
        })
    }

    fn piece(&self, expression: &Expression, found: &mut Found) -> Result<Piece, GrammarError> {
        self.fuel.spend(1)?;
        if let Some(lexeme) = self.lexeme(expression, found)? {
            return Ok(Piece::Lexeme(lexeme));
        }
        Ok(match expression {
            // The regular expression of a character is neither too long nor broken.
            Expression::Character(_) => Piece::Choice(Vec::new()),
            Expression::Token { token, negated } => Piece::Token {
                token: *token,
                negated: *negated,
            },
            Expression::Rule(rule) => {
                found.name(*rule);
                Piece::Rule(*rule)
            }
            Expression::Sequence(parts) => Piece::Sequence(self.sequence(parts, found)?),
            Expression::Choice(parts) => {
                let parts = parts.iter().map(|part| self.piece(part, found));
                Piece::Choice(parts.collect::<Result<_, _>>()?)
            }
            Expression::Repeat { of, least, most } => Piece::Repeat {
                of: Box::new(self.piece(of, found)?),
                least: *least,
                most: *most,
            },
        })
    }

    /// Neighbours that are regular become one lexeme, if they may.
    fn sequence(
        &self,
        parts: &[Expression],
        found: &mut Found,
    ) -> Result<Vec<Piece>, GrammarError> {
        let mut pieces = Vec::new();
        for run in parts.chunk_by(|left, right| self.is_regular(left) && self.is_regular(right)) {
            let whole = match run.len() > 1 && run.len() < parts.len() && !self.only_characters {
                true => self.lexeme(&Expression::Sequence(run.to_vec()), found)?,
                false => None,
            };
            match whole {
                Some(lexeme) => pieces.push(Piece::Lexeme(lexeme)),
                None => {
                    for part in run {
                        pieces.push(self.piece(part, found)?);
                    }
                }
            }
        }
        Ok(pieces)
    }

    fn is_regular(&self, expression: &Expression) -> bool {
        is_regular(expression, self.regular)
    }

    /// The number of a regular part, if it may be a lexeme.
    fn lexeme(
        &self,
        expression: &Expression,
        found: &mut Found,
    ) -> Result<Option<usize>, GrammarError> {
        let is_character = matches!(expression, Expression::Character(_));
        if !is_character && (self.only_characters || !self.is_regular(expression)) {
            return Ok(None);
        }
        let regex = write_regex(self.grammar, expression, MAX_LEXEME_BYTES);
        let written = regex.as_ref().map_or(MAX_LEXEME_BYTES, String::len);
        self.fuel.spend(written as u64 / COPIED_BYTES_A_STEP + 1)?;
        let Some(regex) = regex else {
            return Ok(None);
        };
        if regex.is_empty() || (!is_character && self.broken.contains(&regex)) {
            return Ok(None);
        }
        if let Some(&number) = found.numbers.get(&regex) {
            found.lexemes[number].is_character |= is_character;
            return Ok(Some(number));
        }
        let number = found.lexemes.len();
        found.numbers.insert(regex.clone(), number);
        let first = self.first(expression);
        self.fuel.spend(first.characters.ranges().len() as u64)?;
        found.lexemes.push(Lexeme {
            regex,
            first,
            is_character,
        });
        Ok(Some(number))
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
    fn find_conflicts(&mut self, lexed: &Lexed) -> Result<bool, GrammarError> {
        if lexed.lexemes.iter().all(|lexeme| lexeme.is_character) {
            return Ok(false);
        }
        let mut builder = RegexBuilder::new();
        let extended = extended(lexed, &self.fuel)?;
        let extended = builder.mk(&extended).ok();
        let before = self.broken.len();
        for lexeme in lexed.lexemes.iter().filter(|lexeme| !lexeme.is_character) {
            let copied = builder.exprset().num_bytes() as u64 / COPIED_BYTES_A_STEP;
            self.fuel.spend(LEAST_COMPARISON_STEPS + copied)?;
            let (meets, steps) = match extended {
                Some(extended) => may_meet(&mut builder, lexeme, extended),
                None => (true, 0),
            };
            if meets {
                self.broken.insert(lexeme.regex.clone());
            }
            self.fuel.spend(steps)?;
        }
        Ok(self.broken.len() > before)
    }
}

/// Texts of lexemes, a character that may follow there, and anything.
fn extended(lexed: &Lexed, fuel: &Fuel<'_>) -> Result<RegexAst, GrammarError> {
    let mut all = Vec::new();
    for followed in following(lexed, fuel)? {
        let lexemes = followed.lexemes.iter();
        let lexemes = lexemes.map(|number| &lexed.lexemes[*number]);
        let bytes: usize = lexemes.clone().map(|lexeme| lexeme.regex.len()).sum();
        let mut next = String::new();
        followed.next.write(&mut next);
        // Reading a regular expression takes longer than copying it.
        fuel.spend((bytes + next.len()) as u64 / 10)?;
        let next = RegexAst::Regex(next);
        let anything = RegexAst::Regex("(?s:.*)".to_owned());
        let lexemes = RegexAst::Or(lexemes.map(not_empty).collect());
        all.push(RegexAst::Concat(vec![lexemes, next, anything]));
    }
    Ok(RegexAst::Or(all))
}

/// The lexeme's texts but for the empty one, which is never one.
fn not_empty(lexeme: &Lexeme) -> RegexAst {
    let all = RegexAst::Regex(lexeme.regex.clone());
    match lexeme.first.nullable {
        true => RegexAst::And(vec![all, RegexAst::Regex("(?s:.+)".to_owned())]),
        false => all,
    }
}

/// Whether a text of the lexeme may be among these, or that cannot be told; and the steps that it took.
fn may_meet(builder: &mut RegexBuilder, lexeme: &Lexeme, others: ExprRef) -> (bool, u64) {
    let before = builder.exprset().cost();
    let both = builder.mk(&not_empty(lexeme)).and_then(|own| {
        let parts = [own, others].map(RegexAst::ExprRef);
        builder.mk(&RegexAst::And(parts.into()))
    });
    let both = both.and_then(|both| builder.to_regex_limited(both, COMPARISON_FUEL));
    match both {
        Ok(mut both) => (
            !both.always_empty(),
            both.cost().saturating_sub(before).min(COMPARISON_FUEL),
        ),
        Err(_) => (true, COMPARISON_FUEL),
    }
}
