//! Computes FIRST and FOLLOW sets of characters for the lexemes of a grammar (Aho, Sethi and Ullman, section 4.4).
//!
//! The sets are the nodes of a graph; each edge means that one set includes another set. Nodes on a cycle have equal
//! sets. So each strongly connected component is computed once, after the components that it includes (DeRemer and
//! Pennello, "Efficient Computation of LALR(1) Look-Ahead Sets", 1982). The time is linear in the product of the
//! grammar's size and the size of a set.

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use super::GrammarError;
use super::fuel::Fuel;
use super::gbnf::all_characters;
use super::lexed_grammar::{LexedExpression, LexedGrammar};

/// Lexemes with the same FOLLOW set.
pub(super) struct LexemesWithFollow {
    /// Indices of the lexemes, at least one.
    pub(super) lexemes: Vec<usize>,
    /// The characters that can come directly after these lexemes.
    pub(super) follow: ClassUnicode,
}

/// Computes the FOLLOW sets of all lexemes. Lexemes with an empty set are omitted.
///
/// # Errors
/// If `fuel` runs out.
pub(super) fn follow_sets(
    lexed: &LexedGrammar,
    fuel: &Fuel<'_>,
) -> Result<Vec<LexemesWithFollow>, GrammarError> {
    let alphabet = Alphabet::of(lexed);
    let mut inclusions = Inclusions::of(lexed, &alphabet, fuel)?;
    for (rule, expression) in lexed.rules.iter().enumerate() {
        let (first, _) = inclusions.visit(expression, inclusions.rule_follows[rule]);
        inclusions.include(inclusions.rule_firsts[rule], first);
    }
    let solution = inclusions.solve(alphabet.words(), fuel)?;
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut group_of_set = vec![None; solution.sets.len()];
    for (lexeme, node) in inclusions.lexeme_follows.iter().enumerate() {
        let set = solution.set_of[*node];
        let group = *group_of_set[set].get_or_insert_with(|| {
            groups.push((set, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(lexeme);
    }
    let groups = groups.into_iter().map(|(set, lexemes)| LexemesWithFollow {
        lexemes,
        follow: alphabet.characters(&solution.sets[set]),
    });
    Ok(groups
        .filter(|group| !group.follow.ranges().is_empty())
        .collect())
}

/// A partition of all code points into ranges, such that the FIRST set of each lexeme is a union of ranges.
struct Alphabet {
    /// The first code point of each range, sorted; the last element is one past the last code point.
    starts: Vec<u32>,
}

/// A character set with one bit for each range of an [`Alphabet`].
type Set = Vec<u64>;

impl Alphabet {
    fn of(lexed: &LexedGrammar) -> Self {
        let firsts = lexed.lexemes.iter().map(|lexeme| &lexeme.first.characters);
        let all = all_characters();
        let mut starts: Vec<u32> = firsts
            .chain([&all])
            .flat_map(ClassUnicode::ranges)
            .flat_map(|range| [u32::from(range.start()), u32::from(range.end()) + 1])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        Self { starts }
    }

    fn words(&self) -> usize {
        self.starts.len().div_ceil(u64::BITS as usize)
    }

    fn set(&self, characters: &ClassUnicode) -> Set {
        let mut set = vec![0; self.words()];
        for range in characters.ranges() {
            let (first, last) = (u32::from(range.start()), u32::from(range.end()));
            let from = self.starts.partition_point(|start| *start < first);
            let to = self.starts.partition_point(|start| *start <= last);
            for bit in from..to {
                set[bit / 64] |= 1 << (bit % 64);
            }
        }
        set
    }

    fn characters(&self, set: &Set) -> ClassUnicode {
        let is_in = |bit: &usize| set[bit / 64] >> (bit % 64) & 1 == 1;
        let bits = (0..self.starts.len() - 1).filter(is_in);
        ClassUnicode::new(bits.filter_map(|bit| {
            // A range may begin or end with surrogates, which are not characters.
            let first = char::from_u32(self.starts[bit]).unwrap_or('\u{e000}');
            let last = char::from_u32(self.starts[bit + 1] - 1).unwrap_or('\u{d7ff}');
            (first <= last).then(|| ClassUnicodeRange::new(first, last))
        }))
    }
}

/// A graph of set inclusions. Each FIRST or FOLLOW set is a node. The FIRST node of a lexeme has the same index as the
/// lexeme.
struct Inclusions<'a> {
    lexed: &'a LexedGrammar,
    /// Whether each rule is nullable.
    nullable: Vec<bool>,
    /// For each node, the characters that the node adds to those of its included nodes.
    own: Vec<Option<Set>>,
    /// For each node, the nodes that it includes.
    included: Vec<Vec<usize>>,
    /// The node of the set of all characters.
    all: usize,
    /// The FIRST node of each rule.
    rule_firsts: Vec<usize>,
    /// The FOLLOW node of each rule.
    rule_follows: Vec<usize>,
    /// The FOLLOW node of each lexeme.
    lexeme_follows: Vec<usize>,
}

impl<'a> Inclusions<'a> {
    /// Creates the graph with the nodes of the lexemes and rules. [`Self::visit`] adds the inclusions.
    fn of(
        lexed: &'a LexedGrammar,
        alphabet: &Alphabet,
        fuel: &Fuel<'_>,
    ) -> Result<Self, GrammarError> {
        fuel.spend((lexed.lexemes.len() * alphabet.words()) as u64)?;
        let mut inclusions = Self {
            lexed,
            nullable: nullable_rules(lexed, fuel)?,
            own: Vec::new(),
            included: Vec::new(),
            all: 0,
            rule_firsts: Vec::new(),
            rule_follows: Vec::new(),
            lexeme_follows: Vec::new(),
        };
        for lexeme in &lexed.lexemes {
            inclusions.add(Some(alphabet.set(&lexeme.first.characters)));
        }
        inclusions.all = inclusions.add(Some(alphabet.set(&all_characters())));
        let mut add = |_| inclusions.add(None);
        let rule_firsts = (0..lexed.rules.len()).map(&mut add).collect();
        let rule_follows = (0..lexed.rules.len()).map(&mut add).collect();
        let lexeme_follows = (0..lexed.lexemes.len()).map(&mut add).collect();
        Ok(Self {
            rule_firsts,
            rule_follows,
            lexeme_follows,
            ..inclusions
        })
    }

    fn add(&mut self, own: Option<Set>) -> usize {
        self.own.push(own);
        self.included.push(Vec::new());
        self.own.len() - 1
    }

    fn include(&mut self, whole: usize, part: usize) {
        self.included[whole].push(part);
    }

    /// Adds the inclusions for an expression with the FOLLOW node `follow`: the FOLLOW nodes of the lexemes and rules
    /// with which the expression can end include `follow`. Returns the FIRST node of the expression, and whether the
    /// expression is nullable.
    fn visit(&mut self, expression: &LexedExpression, follow: usize) -> (usize, bool) {
        match expression {
            LexedExpression::Lexeme(number) => {
                self.include(self.lexeme_follows[*number], follow);
                (*number, self.lexed.lexemes[*number].first.nullable)
            }
            LexedExpression::Token { .. } => (self.all, false),
            LexedExpression::Rule(rule) => {
                self.include(self.rule_follows[*rule], follow);
                (self.rule_firsts[*rule], self.nullable[*rule])
            }
            LexedExpression::Sequence(parts) => {
                // The FOLLOW set of a part: FIRST of the rest, and FOLLOW of the whole sequence if the rest is
                // nullable.
                let (mut rest, mut rest_is_nullable) = (self.add(None), true);
                let mut part_follow = follow;
                for part in parts.iter().rev() {
                    let (first, nullable) = self.visit(part, part_follow);
                    let whole = self.add(None);
                    self.include(whole, first);
                    if nullable {
                        self.include(whole, rest);
                    }
                    rest_is_nullable &= nullable;
                    rest = whole;
                    part_follow = whole;
                    if rest_is_nullable {
                        part_follow = self.add(None);
                        self.include(part_follow, whole);
                        self.include(part_follow, follow);
                    }
                }
                (rest, rest_is_nullable)
            }
            LexedExpression::Choice(parts) => {
                let whole = self.add(None);
                let mut any = false;
                for part in parts {
                    let (first, nullable) = self.visit(part, follow);
                    self.include(whole, first);
                    any |= nullable;
                }
                (whole, any)
            }
            LexedExpression::Repeat { inner, min, .. } => {
                let inner_follow = self.add(None);
                self.include(inner_follow, follow);
                let (first, nullable) = self.visit(inner, inner_follow);
                self.include(inner_follow, first);
                (first, nullable || *min == 0)
            }
        }
    }

    /// Computes the least sets that satisfy all inclusions.
    fn solve(&self, words: usize, fuel: &Fuel<'_>) -> Result<Solution, GrammarError> {
        let edges: usize = self.included.iter().map(Vec::len).sum();
        fuel.spend(((edges + self.own.len()) * words) as u64)?;
        let nodes = self.own.len();
        let mut solver = Solver {
            inclusions: self,
            words,
            visited: 0,
            visits: vec![0; nodes],
            stack: Vec::new(),
            solution: Solution {
                set_of: vec![UNSOLVED; nodes],
                sets: Vec::new(),
            },
        };
        for node in 0..nodes {
            if solver.visits[node] == 0 {
                solver.visit(node);
            }
        }
        Ok(solver.solution)
    }
}

fn nullable_rules(lexed: &LexedGrammar, fuel: &Fuel<'_>) -> Result<Vec<bool>, GrammarError> {
    let mut nullable = vec![false; lexed.rules.len()];
    loop {
        let mut changed = false;
        for (rule, expression) in lexed.rules.iter().enumerate() {
            if !nullable[rule] && is_nullable(lexed, expression, &nullable, fuel)? {
                nullable[rule] = true;
                changed = true;
            }
        }
        if !changed {
            return Ok(nullable);
        }
    }
}

fn is_nullable(
    lexed: &LexedGrammar,
    expression: &LexedExpression,
    rules: &[bool],
    fuel: &Fuel<'_>,
) -> Result<bool, GrammarError> {
    fuel.spend(1)?;
    Ok(match expression {
        LexedExpression::Lexeme(number) => lexed.lexemes[*number].first.nullable,
        LexedExpression::Token { .. } => false,
        LexedExpression::Rule(rule) => rules[*rule],
        LexedExpression::Sequence(parts) => {
            for part in parts {
                if !is_nullable(lexed, part, rules, fuel)? {
                    return Ok(false);
                }
            }
            true
        }
        LexedExpression::Choice(parts) => {
            for part in parts {
                if is_nullable(lexed, part, rules, fuel)? {
                    return Ok(true);
                }
            }
            false
        }
        LexedExpression::Repeat { inner, min, .. } => {
            *min == 0 || is_nullable(lexed, inner, rules, fuel)?
        }
    })
}

/// The computed sets. `set_of` maps each node to the index of its set in `sets`.
struct Solution {
    set_of: Vec<usize>,
    sets: Vec<Set>,
}

/// Marks a node whose set is not computed yet.
const UNSOLVED: usize = usize::MAX;

/// Finds the strongly connected components with Tarjan's algorithm, and computes the set of each component after the
/// sets that it includes.
struct Solver<'a> {
    inclusions: &'a Inclusions<'a>,
    words: usize,
    visited: usize,
    /// For each node, its position in the order of visits, from 1; 0 if not visited.
    visits: Vec<usize>,
    /// Tarjan's stack: visited nodes whose set is not computed yet.
    stack: Vec<usize>,
    solution: Solution,
}

impl Solver<'_> {
    /// Visits a node and, recursively, the nodes that it includes. Returns the lowest visit number reachable from the
    /// node (Tarjan's low-link).
    fn visit(&mut self, node: usize) -> usize {
        let inclusions = self.inclusions;
        self.visited += 1;
        let own = self.visited;
        self.visits[node] = own;
        let position = self.stack.len();
        self.stack.push(node);
        let mut earliest = own;
        for included in &inclusions.included[node] {
            if self.solution.set_of[*included] == UNSOLVED {
                let visit = match self.visits[*included] {
                    0 => self.visit(*included),
                    visit => visit,
                };
                earliest = earliest.min(visit);
            }
        }
        if earliest == own {
            let component = self.stack.split_off(position);
            let mut set = vec![0; self.words];
            let mut add = |other: &Set| {
                set.iter_mut()
                    .zip(other)
                    .for_each(|(word, other)| *word |= other);
            };
            for node in &component {
                inclusions.own[*node].iter().for_each(&mut add);
                let included = inclusions.included[*node].iter();
                let solved = included.map(|node| self.solution.set_of[*node]);
                solved
                    .filter(|set| *set != UNSOLVED)
                    .for_each(|set| add(&self.solution.sets[set]));
            }
            let index = self.solution.sets.len();
            self.solution.sets.push(set);
            for node in component {
                self.solution.set_of[node] = index;
            }
        }
        earliest
    }
}
