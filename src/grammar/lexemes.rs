//! Splits a grammar into lexemes: regular parts that llguidance matches with its lexer, which is much faster than its
//! parser. But the lexer takes the longest match and does not backtrack. So a part becomes a lexeme only if the longest
//! match is always right: none of its texts may begin with the text of a lexeme and a character that can follow that
//! lexeme. Other parts are split further, down to single characters, which are always right.

use std::collections::{HashMap, HashSet};

use llguidance::derivre::{ExprRef, RegexAst, RegexBuilder};

use super::GrammarError;
use super::follow::follow_sets;
use super::fuel::Fuel;
use super::gbnf::{Expression, Grammar, all_characters};
use super::lark::{write_class, write_regex};
use super::lexed_grammar::{First, LexedExpression, LexedGrammar, Lexeme};

/// Maximum number of rules of a grammar that is split into lexemes. In larger grammars, each character is a lexeme.
const MAX_LEXED_RULES: usize = 500;
/// Maximum number of steps of the search for lexemes. Beyond it, each character is a lexeme: the grammar matches the
/// same texts, but each token mask takes longer.
const MAX_SPLIT_STEPS: u64 = 2_000_000;
/// Maximum length of a lexeme's regular expression, in bytes.
const MAX_LEXEME_BYTES: usize = 1 << 12;
/// Maximum number of steps to compare one lexeme with all lexemes. A comparison that needs more counts as a conflict.
const COMPARISON_FUEL: u64 = 20_000;
/// Base cost of a comparison in steps.
const MIN_COMPARISON_STEPS: u64 = 1_000;
/// Copying this many bytes of regular expressions costs one step.
const COPIED_BYTES_PER_STEP: u64 = 100;

/// Splits a grammar into lexemes, or into single characters if the search exceeds a limit.
///
/// # Errors
/// If the compilation was cancelled, or `fuel` runs out.
pub(super) fn split(grammar: &Grammar, fuel: &Fuel<'_>) -> Result<LexedGrammar, GrammarError> {
    let regular = regular_rules(grammar);
    let mut splitter = LexemeSplitter {
        grammar,
        regular: &regular,
        conflicting: HashSet::new(),
        only_characters: grammar.rules.len() > MAX_LEXED_RULES,
        fuel: fuel.limited_to(MAX_SPLIT_STEPS),
    };
    match splitter.lexemes() {
        Err(GrammarError::Cancelled) => Err(GrammarError::Cancelled),
        Err(_) => LexemeSplitter {
            conflicting: HashSet::new(),
            only_characters: true,
            fuel: fuel.limited_to(u64::MAX),
            ..splitter
        }
        .lexemes(),
        lexed => lexed,
    }
}

/// Finds the regular rules: those that contain no token and reference only regular rules. Recursive rules are not
/// regular.
fn regular_rules(grammar: &Grammar) -> Vec<bool> {
    let rules = grammar.rules.len();
    let mut regular = vec![false; rules];
    // For each rule, the rules that reference it, once per reference.
    let mut referenced_by = vec![Vec::new(); rules];
    // For each rule, the number of references to rules that are not known to be regular.
    let mut unresolved = vec![0_usize; rules];
    let mut ready = Vec::new();
    for (number, rule) in grammar.rules.iter().enumerate() {
        let mut referenced = Vec::new();
        if collect_references(rule, &mut referenced) {
            unresolved[number] = referenced.len();
            referenced
                .iter()
                .for_each(|rule| referenced_by[*rule].push(number));
            if referenced.is_empty() {
                ready.push(number);
            }
        }
    }
    while let Some(rule) = ready.pop() {
        regular[rule] = true;
        for referencing in &referenced_by[rule] {
            unresolved[*referencing] -= 1;
            if unresolved[*referencing] == 0 {
                ready.push(*referencing);
            }
        }
    }
    regular
}

/// Appends the rules that an expression references to `rules`. Returns false if the expression contains a token.
fn collect_references(expression: &Expression, rules: &mut Vec<usize>) -> bool {
    match expression {
        Expression::Character(_) => true,
        Expression::Token { .. } => false,
        Expression::Rule(rule) => {
            rules.push(*rule);
            true
        }
        Expression::Sequence(parts) | Expression::Choice(parts) => {
            parts.iter().all(|part| collect_references(part, rules))
        }
        Expression::Repeat { inner, .. } => collect_references(inner, rules),
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
        Expression::Repeat { inner, .. } => is_regular(inner, regular),
    }
}

struct LexemeSplitter<'a> {
    grammar: &'a Grammar,
    regular: &'a [bool],
    /// Regular expressions that cannot be lexemes, because the longest match may be wrong.
    conflicting: HashSet<String>,
    only_characters: bool,
    fuel: Fuel<'a>,
}

/// The state of one pass over the grammar.
#[derive(Default)]
struct SplitPass {
    lexemes: Vec<Lexeme>,
    /// Lexeme indices by regular expression.
    indices: HashMap<String, usize>,
    /// Referenced rules, in the order of their first reference.
    referenced: Vec<usize>,
    is_referenced: Vec<bool>,
}

impl SplitPass {
    fn reference(&mut self, rule: usize) {
        if !std::mem::replace(&mut self.is_referenced[rule], true) {
            self.referenced.push(rule);
        }
    }
}

impl LexemeSplitter<'_> {
    /// Splits the grammar repeatedly, until no lexemes conflict.
    fn lexemes(&mut self) -> Result<LexedGrammar, GrammarError> {
        loop {
            let lexed = self.split()?;
            if !self.find_conflicts(&lexed)? {
                return Ok(lexed);
            }
        }
    }

    fn split(&self) -> Result<LexedGrammar, GrammarError> {
        let mut pass = SplitPass {
            is_referenced: vec![false; self.grammar.rules.len()],
            ..SplitPass::default()
        };
        pass.reference(self.grammar.root);
        let empty_choice = |_| LexedExpression::Choice(Vec::new());
        let mut rules: Vec<LexedExpression> = self.grammar.rules.iter().map(empty_choice).collect();
        let mut next = 0;
        while let Some(&rule) = pass.referenced.get(next) {
            rules[rule] = self.expression(&self.grammar.rules[rule], &mut pass)?;
            next += 1;
        }
        Ok(LexedGrammar {
            rules,
            lexemes: pass.lexemes,
        })
    }

    fn expression(
        &self,
        expression: &Expression,
        pass: &mut SplitPass,
    ) -> Result<LexedExpression, GrammarError> {
        self.fuel.spend(1)?;
        if let Some(lexeme) = self.lexeme(expression, pass)? {
            return Ok(LexedExpression::Lexeme(lexeme));
        }
        Ok(match expression {
            // Unreachable: a single character is always a lexeme.
            Expression::Character(_) => LexedExpression::Choice(Vec::new()),
            Expression::Token { token, negated } => LexedExpression::Token {
                token: *token,
                negated: *negated,
            },
            Expression::Rule(rule) => {
                pass.reference(*rule);
                LexedExpression::Rule(*rule)
            }
            Expression::Sequence(parts) => LexedExpression::Sequence(self.sequence(parts, pass)?),
            Expression::Choice(parts) => {
                let parts = parts.iter().map(|part| self.expression(part, pass));
                LexedExpression::Choice(parts.collect::<Result<_, _>>()?)
            }
            Expression::Repeat { inner, min, max } => LexedExpression::Repeat {
                inner: Box::new(self.expression(inner, pass)?),
                min: *min,
                max: *max,
            },
        })
    }

    /// Splits the parts of a sequence. Adjacent regular parts become one lexeme if possible.
    fn sequence(
        &self,
        parts: &[Expression],
        pass: &mut SplitPass,
    ) -> Result<Vec<LexedExpression>, GrammarError> {
        let mut split = Vec::new();
        for run in parts.chunk_by(|left, right| self.is_regular(left) && self.is_regular(right)) {
            let whole = match run.len() > 1 && run.len() < parts.len() && !self.only_characters {
                true => self.lexeme(&Expression::Sequence(run.to_vec()), pass)?,
                false => None,
            };
            match whole {
                Some(lexeme) => split.push(LexedExpression::Lexeme(lexeme)),
                None => {
                    for part in run {
                        split.push(self.expression(part, pass)?);
                    }
                }
            }
        }
        Ok(split)
    }

    fn is_regular(&self, expression: &Expression) -> bool {
        is_regular(expression, self.regular)
    }

    /// Returns the index of the lexeme for an expression; `None` if the expression cannot be a lexeme. Adds the lexeme
    /// if it is new.
    fn lexeme(
        &self,
        expression: &Expression,
        pass: &mut SplitPass,
    ) -> Result<Option<usize>, GrammarError> {
        let is_character = matches!(expression, Expression::Character(_));
        if !is_character && (self.only_characters || !self.is_regular(expression)) {
            return Ok(None);
        }
        let regex = write_regex(self.grammar, expression, MAX_LEXEME_BYTES);
        let bytes = regex.as_ref().map_or(MAX_LEXEME_BYTES, String::len);
        self.fuel.spend(bytes as u64 / COPIED_BYTES_PER_STEP + 1)?;
        let Some(regex) = regex else {
            return Ok(None);
        };
        if regex.is_empty() || (!is_character && self.conflicting.contains(&regex)) {
            return Ok(None);
        }
        if let Some(&index) = pass.indices.get(&regex) {
            pass.lexemes[index].is_character |= is_character;
            return Ok(Some(index));
        }
        let index = pass.lexemes.len();
        pass.indices.insert(regex.clone(), index);
        let first = self.first(expression);
        self.fuel.spend(first.characters.ranges().len() as u64)?;
        pass.lexemes.push(Lexeme {
            regex,
            first,
            is_character,
        });
        Ok(Some(index))
    }

    fn first(&self, expression: &Expression) -> First {
        match expression {
            Expression::Character(class) => First::of(class.clone()),
            Expression::Token { .. } => First::of(all_characters()),
            Expression::Rule(rule) => self.first(&self.grammar.rules[*rule]),
            Expression::Sequence(parts) => {
                First::sequence(parts.iter().map(|part| self.first(part)))
            }
            Expression::Choice(parts) => First::choice(parts.iter().map(|part| self.first(part))),
            Expression::Repeat { inner, min, .. } => self.first(inner).repeated(*min),
        }
    }

    /// Adds the lexemes for which the longest match may be wrong to `conflicting`. Returns whether any were added.
    fn find_conflicts(&mut self, lexed: &LexedGrammar) -> Result<bool, GrammarError> {
        if lexed.lexemes.iter().all(|lexeme| lexeme.is_character) {
            return Ok(false);
        }
        let mut builder = RegexBuilder::new();
        let extended = extended_lexemes(lexed, &self.fuel)?;
        let extended = builder.mk(&extended).ok();
        let before = self.conflicting.len();
        for lexeme in lexed.lexemes.iter().filter(|lexeme| !lexeme.is_character) {
            let copied = builder.exprset().num_bytes() as u64 / COPIED_BYTES_PER_STEP;
            self.fuel.spend(MIN_COMPARISON_STEPS + copied)?;
            let (conflicts, steps) = match extended {
                Some(extended) => may_intersect(&mut builder, lexeme, extended),
                None => (true, 0),
            };
            if conflicts {
                self.conflicting.insert(lexeme.regex.clone());
            }
            self.fuel.spend(steps)?;
        }
        Ok(self.conflicting.len() > before)
    }
}

/// Builds a regular expression that matches each non-empty text of each lexeme, followed by a character of the lexeme's
/// FOLLOW set and any text.
fn extended_lexemes(lexed: &LexedGrammar, fuel: &Fuel<'_>) -> Result<RegexAst, GrammarError> {
    let mut all = Vec::new();
    for group in follow_sets(lexed, fuel)? {
        let lexemes = group.lexemes.iter();
        let lexemes = lexemes.map(|number| &lexed.lexemes[*number]);
        let bytes: usize = lexemes.clone().map(|lexeme| lexeme.regex.len()).sum();
        let mut next = String::new();
        write_class(&group.follow, &mut next);
        // Parsing a regular expression takes longer than copying it.
        fuel.spend((bytes + next.len()) as u64 / 10)?;
        let next = RegexAst::Regex(next);
        let anything = RegexAst::Regex("(?s:.*)".to_owned());
        let lexemes = RegexAst::Or(lexemes.map(without_empty_text).collect());
        all.push(RegexAst::Concat(vec![lexemes, next, anything]));
    }
    Ok(RegexAst::Or(all))
}

/// Builds the lexeme's regular expression without the empty text, which llguidance never matches as a lexeme.
fn without_empty_text(lexeme: &Lexeme) -> RegexAst {
    let all = RegexAst::Regex(lexeme.regex.clone());
    match lexeme.first.nullable {
        true => RegexAst::And(vec![all, RegexAst::Regex("(?s:.+)".to_owned())]),
        false => all,
    }
}

/// Returns whether the lexeme and `others` may match the same text (true if the fuel runs out), and the steps used.
fn may_intersect(builder: &mut RegexBuilder, lexeme: &Lexeme, others: ExprRef) -> (bool, u64) {
    let before = builder.exprset().cost();
    let both = builder.mk(&without_empty_text(lexeme)).and_then(|own| {
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
