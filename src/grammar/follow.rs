//! What may come after the lexemes of a grammar: the sets FIRST and FOLLOW of parsing (Aho, Sethi and Ullman,
//! section 4.4), of characters.
//!
//! The sets are the least solution of inclusions between the parts of the grammar. Parts that include each other have
//! equal sets, so that each set is made once, after those that it includes (DeRemer and Pennello, "Efficient
//! Computation of LALR(1) Look-Ahead Sets", 1982): the time is linear in the grammar times the words of a set.

use super::GrammarError;
use super::characters::Characters;
use super::fuel::Fuel;
use super::lexemes::{Lexed, Piece};

/// What a part of a grammar may begin with.
#[derive(Debug, Clone, Default)]
pub(super) struct First {
    pub(super) characters: Characters,
    /// Whether the part may be the empty text.
    pub(super) nullable: bool,
}

impl First {
    pub(super) fn of(characters: Characters) -> Self {
        Self {
            characters,
            nullable: false,
        }
    }

    /// Of one part after the other.
    pub(super) fn sequence(parts: impl Iterator<Item = Self>) -> Self {
        let mut whole = Self {
            nullable: true,
            ..Self::default()
        };
        for part in parts {
            whole.characters.add(&part.characters);
            if !part.nullable {
                whole.nullable = false;
                break;
            }
        }
        whole
    }

    /// Of one of the parts.
    pub(super) fn choice(parts: impl Iterator<Item = Self>) -> Self {
        parts.fold(Self::default(), |mut whole, part| {
            whole.characters.add(&part.characters);
            whole.nullable |= part.nullable;
            whole
        })
    }

    /// Of a part that comes so often at least.
    pub(super) fn repeated(mut self, least: u32) -> Self {
        self.nullable |= least == 0;
        self
    }
}

/// Lexemes after which the same characters may come.
pub(super) struct Followed {
    /// At least one.
    pub(super) lexemes: Vec<usize>,
    /// The characters that may come next.
    pub(super) next: Characters,
}

/// The characters that may come after each lexeme; lexemes that end every text are left out.
///
/// # Errors
/// The sets take more than `fuel` has.
pub(super) fn following(lexed: &Lexed, fuel: &Fuel<'_>) -> Result<Vec<Followed>, GrammarError> {
    let alphabet = Alphabet::of(lexed);
    let mut inclusions = Inclusions::of(lexed, &alphabet, fuel)?;
    let after: Vec<usize> = (0..lexed.lexemes.len())
        .map(|_| inclusions.add(None))
        .collect();
    let after_rules: Vec<usize> = lexed.rules.iter().map(|_| inclusions.add(None)).collect();
    let mut walk = Walk {
        lexed,
        after: &after,
        after_rules: &after_rules,
    };
    for (rule, piece) in lexed.rules.iter().enumerate() {
        walk.enter(piece, after_rules[rule], &mut inclusions);
    }
    let solution = inclusions.solve(alphabet.words(), fuel)?;
    let mut followed: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut places = vec![None; solution.sets.len()];
    for (lexeme, part) in after.iter().enumerate() {
        let set = solution.of[*part];
        let place = *places[set].get_or_insert_with(|| {
            followed.push((set, Vec::new()));
            followed.len() - 1
        });
        followed[place].1.push(lexeme);
    }
    let followed = followed.into_iter().map(|(set, lexemes)| Followed {
        lexemes,
        next: alphabet.characters(&solution.sets[set]),
    });
    Ok(followed
        .filter(|followed| !followed.next.is_empty())
        .collect())
}

/// The characters of a grammar, as ranges that no set of it divides.
struct Alphabet {
    /// Where each range begins, in order; the last one ends behind the last character.
    starts: Vec<u32>,
}

/// A set of ranges of an [`Alphabet`], a bit for each.
type Set = Vec<u64>;

impl Alphabet {
    fn of(lexed: &Lexed) -> Self {
        let firsts = lexed.lexemes.iter().map(|lexeme| &lexeme.first.characters);
        let all = Characters::all();
        let mut starts: Vec<u32> = firsts
            .chain([&all])
            .flat_map(|characters| characters.ranges())
            .flat_map(|(first, last)| [*first, last + 1])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        Self { starts }
    }

    fn words(&self) -> usize {
        self.starts.len().div_ceil(u64::BITS as usize)
    }

    fn set(&self, characters: &Characters) -> Set {
        let mut set = vec![0; self.words()];
        for (first, last) in characters.ranges() {
            let from = self.starts.partition_point(|start| start < first);
            let to = self.starts.partition_point(|start| start <= last);
            for bit in from..to {
                set[bit / 64] |= 1 << (bit % 64);
            }
        }
        set
    }

    fn characters(&self, set: &Set) -> Characters {
        let is_in = |bit: &usize| set[bit / 64] >> (bit % 64) & 1 == 1;
        let ranges = (0..self.starts.len() - 1).filter(is_in);
        Characters::from_ranges(
            ranges
                .map(|bit| (self.starts[bit], self.starts[bit + 1] - 1))
                .collect(),
        )
    }
}

/// Sets that include others: a set for each part of the grammar.
struct Inclusions {
    /// What is in a set whatever it includes.
    own: Vec<Option<Set>>,
    /// The sets that each includes.
    included: Vec<Vec<usize>>,
    /// Whether each rule may be the empty text.
    nullable: Vec<bool>,
    /// What each rule may begin with.
    rules: Vec<usize>,
    /// The set of all characters.
    all: usize,
}

impl Inclusions {
    /// What the parts of the grammar may begin with. The set of a lexeme has the lexeme's number.
    fn of(lexed: &Lexed, alphabet: &Alphabet, fuel: &Fuel<'_>) -> Result<Self, GrammarError> {
        fuel.spend((lexed.lexemes.len() * alphabet.words()) as u64)?;
        let mut inclusions = Self {
            own: Vec::new(),
            included: Vec::new(),
            nullable: nullable_rules(lexed, fuel)?,
            rules: Vec::new(),
            all: 0,
        };
        for lexeme in &lexed.lexemes {
            inclusions.add(Some(alphabet.set(&lexeme.first.characters)));
        }
        inclusions.all = inclusions.add(Some(alphabet.set(&Characters::all())));
        inclusions.rules = lexed.rules.iter().map(|_| inclusions.add(None)).collect();
        for (rule, piece) in lexed.rules.iter().enumerate() {
            let (first, _) = inclusions.first(lexed, piece);
            inclusions.include(inclusions.rules[rule], first);
        }
        Ok(inclusions)
    }

    fn add(&mut self, own: Option<Set>) -> usize {
        self.own.push(own);
        self.included.push(Vec::new());
        self.own.len() - 1
    }

    fn include(&mut self, whole: usize, part: usize) {
        self.included[whole].push(part);
    }

    /// What a part may begin with, and whether it may be empty.
    fn first(&mut self, lexed: &Lexed, piece: &Piece) -> (usize, bool) {
        match piece {
            Piece::Lexeme(number) => (*number, lexed.lexemes[*number].first.nullable),
            Piece::Token { .. } => (self.all, false),
            Piece::Rule(rule) => (self.rules[*rule], self.nullable[*rule]),
            Piece::Sequence(parts) => {
                let whole = self.add(None);
                for part in parts {
                    let (first, nullable) = self.first(lexed, part);
                    self.include(whole, first);
                    if !nullable {
                        return (whole, false);
                    }
                }
                (whole, true)
            }
            Piece::Choice(parts) => {
                let whole = self.add(None);
                let mut any = false;
                for part in parts {
                    let (first, nullable) = self.first(lexed, part);
                    self.include(whole, first);
                    any |= nullable;
                }
                (whole, any)
            }
            Piece::Repeat { of, least, .. } => {
                let (first, nullable) = self.first(lexed, of);
                (first, nullable || *least == 0)
            }
        }
    }

    /// The least sets that hold all inclusions.
    fn solve(self, words: usize, fuel: &Fuel<'_>) -> Result<Solution, GrammarError> {
        let edges: usize = self.included.iter().map(Vec::len).sum();
        fuel.spend(((edges + self.own.len()) * words) as u64)?;
        let parts = self.own.len();
        let mut solver = Solver {
            inclusions: &self,
            words,
            visited: 0,
            visits: vec![0; parts],
            open: Vec::new(),
            solution: Solution {
                of: vec![UNSOLVED; parts],
                sets: Vec::new(),
            },
        };
        for part in 0..parts {
            if solver.visits[part] == 0 {
                solver.visit(part);
            }
        }
        Ok(solver.solution)
    }
}

/// Whether each rule may be the empty text.
fn nullable_rules(lexed: &Lexed, fuel: &Fuel<'_>) -> Result<Vec<bool>, GrammarError> {
    let mut nullable = vec![false; lexed.rules.len()];
    loop {
        let mut changed = false;
        for (rule, piece) in lexed.rules.iter().enumerate() {
            if !nullable[rule] && is_nullable(lexed, piece, &nullable, fuel)? {
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
    lexed: &Lexed,
    piece: &Piece,
    rules: &[bool],
    fuel: &Fuel<'_>,
) -> Result<bool, GrammarError> {
    fuel.spend(1)?;
    Ok(match piece {
        Piece::Lexeme(number) => lexed.lexemes[*number].first.nullable,
        Piece::Token { .. } => false,
        Piece::Rule(rule) => rules[*rule],
        Piece::Sequence(parts) => {
            for part in parts {
                if !is_nullable(lexed, part, rules, fuel)? {
                    return Ok(false);
                }
            }
            true
        }
        Piece::Choice(parts) => {
            for part in parts {
                if is_nullable(lexed, part, rules, fuel)? {
                    return Ok(true);
                }
            }
            false
        }
        Piece::Repeat { of, least, .. } => *least == 0 || is_nullable(lexed, of, rules, fuel)?,
    })
}

/// Enters what may come after each part.
struct Walk<'a> {
    lexed: &'a Lexed,
    /// What may come after each lexeme, and after each rule.
    after: &'a [usize],
    after_rules: &'a [usize],
}

impl Walk<'_> {
    /// `after` may come after the whole. Answers what the part may begin with, and whether it may be empty.
    fn enter(&mut self, piece: &Piece, after: usize, inclusions: &mut Inclusions) -> (usize, bool) {
        match piece {
            Piece::Lexeme(number) => inclusions.include(self.after[*number], after),
            Piece::Token { .. } => {}
            Piece::Rule(rule) => inclusions.include(self.after_rules[*rule], after),
            Piece::Sequence(parts) => {
                // Behind each part: what the rest may begin with, and what is behind the whole if the rest may be empty.
                let (mut behind, mut rest, mut empty) = (after, None, true);
                for part in parts.iter().rev() {
                    let (first, nullable) = self.enter(part, behind, inclusions);
                    let whole = inclusions.add(None);
                    inclusions.include(whole, first);
                    if let (true, Some(rest)) = (nullable, rest) {
                        inclusions.include(whole, rest);
                    }
                    empty &= nullable;
                    rest = Some(whole);
                    behind = match empty {
                        true => {
                            let both = inclusions.add(None);
                            inclusions.include(both, whole);
                            inclusions.include(both, after);
                            both
                        }
                        false => whole,
                    };
                }
                return match rest {
                    Some(whole) => (whole, empty),
                    None => (inclusions.add(None), true),
                };
            }
            Piece::Choice(parts) => {
                let whole = inclusions.add(None);
                let mut any = false;
                for part in parts {
                    let (first, nullable) = self.enter(part, after, inclusions);
                    inclusions.include(whole, first);
                    any |= nullable;
                }
                return (whole, any);
            }
            Piece::Repeat { of, least, .. } => {
                let behind = inclusions.add(None);
                inclusions.include(behind, after);
                let (first, nullable) = self.enter(of, behind, inclusions);
                inclusions.include(behind, first);
                return (first, nullable || *least == 0);
            }
        }
        inclusions.first(self.lexed, piece)
    }
}

/// The sets, and which of them each part has.
struct Solution {
    of: Vec<usize>,
    sets: Vec<Set>,
}

/// No set yet.
const UNSOLVED: usize = usize::MAX;

/// Finds the parts that include each other (Tarjan's strongly connected components) and makes the set of each group
/// once all sets that it includes are made.
struct Solver<'a> {
    inclusions: &'a Inclusions,
    words: usize,
    visited: usize,
    /// When each part was visited, from 1.
    visits: Vec<usize>,
    /// Visited parts without a set, in this order.
    open: Vec<usize>,
    solution: Solution,
}

impl Solver<'_> {
    /// Visits a part and all that it includes. Answers the earliest visit that it leads back to.
    fn visit(&mut self, part: usize) -> usize {
        let inclusions = self.inclusions;
        self.visited += 1;
        let own = self.visited;
        self.visits[part] = own;
        let place = self.open.len();
        self.open.push(part);
        let mut earliest = own;
        for included in &inclusions.included[part] {
            if self.solution.of[*included] == UNSOLVED {
                let visit = match self.visits[*included] {
                    0 => self.visit(*included),
                    visit => visit,
                };
                earliest = earliest.min(visit);
            }
        }
        if earliest == own {
            let group = self.open.split_off(place);
            let mut set = vec![0; self.words];
            let mut add = |other: &Set| {
                set.iter_mut()
                    .zip(other)
                    .for_each(|(word, more)| *word |= more);
            };
            for part in &group {
                inclusions.own[*part].iter().for_each(&mut add);
                let included = inclusions.included[*part].iter();
                let solved = included.map(|part| self.solution.of[*part]);
                solved
                    .filter(|set| *set != UNSOLVED)
                    .for_each(|set| add(&self.solution.sets[set]));
            }
            let number = self.solution.sets.len();
            self.solution.sets.push(set);
            for part in group {
                self.solution.of[part] = number;
            }
        }
        earliest
    }
}
