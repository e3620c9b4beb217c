//! An expression as read → steps.

use fancy_regex::internal::{FLAG_MULTI, FLAG_ONIGURUMA_MODE, FLAG_UNICODE};
use fancy_regex::{Assertion, Expr, LookAround};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class as Characters, ClassUnicode, ClassUnicodeRange, HirKind};

/// Most steps of a program: counted repetitions are written out.
const MOST_STEPS: usize = 16 * 1024;
/// Most of them that are remembered for each place of a text, two bits each.
pub(super) const MOST_BRANCHES: usize = 1024;

/// What is done, from the first step on.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) classes: Vec<Class>,
    /// How many there are of [`Branch`] and of [`Step::Look`].
    pub(super) branches: usize,
}

/// What stands for a step is its place in the program.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Takes a character of this class.
    Take(usize),
    /// Goes on only there.
    Assert(Place),
    /// Tries the one and, if it fails, the other.
    Either {
        branch: Branch,
        first: usize,
        second: usize,
    },
    /// Goes on only where what begins behind this step matches, or does not; without taking it.
    Look {
        branch: Branch,
        /// How many characters before.
        back: usize,
        wanted: bool,
        next: usize,
    },
    Go(usize),
    /// It matches.
    Done,
}

/// A step's number among those that are remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Branch(pub(super) usize);

/// A place in a text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Start,
    End,
    /// The end, or before a last line feed.
    LastLine,
    LineStart,
    LineEnd,
    WordEdge,
    NoWordEdge,
}

/// A set of characters.
#[derive(Debug)]
pub(super) struct Class {
    ascii: u128,
    /// In order, both ends included.
    ranges: Box<[(char, char)]>,
}

impl Class {
    pub(super) fn has(&self, character: char) -> bool {
        if character.is_ascii() {
            return self.ascii >> u32::from(character) & 1 == 1;
        }
        let place = self.ranges.partition_point(|(_, end)| *end < character);
        self.ranges
            .get(place)
            .is_some_and(|(start, _)| *start <= character)
    }

    fn new(characters: &ClassUnicode) -> Self {
        let ranges = characters.iter().map(|range| (range.start(), range.end()));
        let ranges: Box<[_]> = ranges.collect();
        let has = |byte: &u8| {
            let character = char::from(*byte);
            let mut ranges = ranges.iter();
            ranges.any(|(start, end)| (*start..=*end).contains(&character))
        };
        let ascii = (0..128).filter(has).fold(0, |set, byte| set | 1 << byte);
        Self { ascii, ranges }
    }
}

impl Program {
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn of(expression: &str) -> Result<Self, String> {
        // In Oniguruma `^` and `$` are a line's.
        let flags = FLAG_MULTI | FLAG_ONIGURUMA_MODE | FLAG_UNICODE;
        let tree = Expr::parse_tree_with_flags(expression, flags);
        let tree = tree.map_err(|error| error.to_string())?;
        let mut program = Self::default();
        program.write(&tree.expr)?;
        program.put(Step::Done)?;
        Ok(program)
    }

    fn put(&mut self, step: Step) -> Result<usize, String> {
        if self.steps.len() == MOST_STEPS {
            return Err(format!("it comes to more than {MOST_STEPS} steps"));
        }
        self.steps.push(step);
        Ok(self.steps.len() - 1)
    }

    fn branch(&mut self) -> Result<Branch, String> {
        if self.branches == MOST_BRANCHES {
            let what = "alternatives and repetitions";
            return Err(format!("it comes to more than {MOST_BRANCHES} {what}"));
        }
        self.branches += 1;
        Ok(Branch(self.branches - 1))
    }

    fn write(&mut self, expression: &Expr) -> Result<(), String> {
        match expression {
            Expr::Empty => Ok(()),
            Expr::Group(inner) => self.write(inner),
            Expr::Concat(parts) => parts.iter().try_for_each(|part| self.write(part)),
            Expr::Alt(parts) => self.alternatives(parts),
            Expr::Any { newline, .. } => self.class(match newline {
                true => r"(?s:.)",
                false => r"[^\n]",
            }),
            Expr::Delegate { inner, casei } => self.take(&read_class(inner, *casei)?),
            Expr::Literal { val, casei } => val.chars().try_for_each(|character| {
                let mut class = ClassUnicode::new([ClassUnicodeRange::new(character, character)]);
                if *casei {
                    class.case_fold_simple();
                }
                self.take(&class)
            }),
            Expr::Assertion(assertion) => {
                let place = place(assertion)?;
                self.put(Step::Assert(place)).map(drop)
            }
            Expr::LookAround(inner, kind) => self.look(inner, *kind),
            Expr::AtomicGroup(inner) => self.possessive(inner),
            Expr::Repeat {
                child,
                lo,
                hi,
                greedy,
            } => self.repeat(child, *lo, *hi, *greedy),
            other => Err(format!("{} is not supported", named(other))),
        }
    }

    fn class(&mut self, notation: &str) -> Result<(), String> {
        self.take(&read_class(notation, false)?)
    }

    fn take(&mut self, class: &ClassUnicode) -> Result<(), String> {
        self.classes.push(Class::new(class));
        self.put(Step::Take(self.classes.len() - 1)).map(drop)
    }

    fn alternatives(&mut self, parts: &[Expr]) -> Result<(), String> {
        let Some((last, others)) = parts.split_last() else {
            return Ok(());
        };
        let mut ends = Vec::new();
        for part in others {
            let either = self.either()?;
            self.write(part)?;
            ends.push(self.put(Step::Done)?);
            self.second(either, true);
        }
        self.write(last)?;
        let end = self.steps.len();
        for place in ends {
            self.steps[place] = Step::Go(end);
        }
        Ok(())
    }

    /// Puts a choice between what follows and what [`Program::second`] will say.
    fn either(&mut self) -> Result<usize, String> {
        let (branch, next) = (self.branch()?, self.steps.len() + 1);
        self.put(Step::Either {
            branch,
            first: next,
            second: next,
        })
    }

    /// The choice is between what follows it and what comes now, the former first if `greedy`.
    fn second(&mut self, either: usize, greedy: bool) {
        let (inside, behind) = (either + 1, self.steps.len());
        if let Step::Either { first, second, .. } = &mut self.steps[either] {
            (*first, *second) = match greedy {
                true => (inside, behind),
                false => (behind, inside),
            };
        }
    }

    fn repeat(&mut self, child: &Expr, lo: usize, hi: usize, greedy: bool) -> Result<(), String> {
        for _ in 0..lo {
            let before = self.steps.len();
            self.write(child)?;
            if self.steps.len() == before {
                break;
            }
        }
        if hi == usize::MAX {
            if least_characters(child) == 0 {
                return Err(
                    "a repetition without end of what may be empty is not supported".to_owned(),
                );
            }
            let either = self.either()?;
            self.write(child)?;
            self.put(Step::Go(either))?;
            self.second(either, greedy);
            return Ok(());
        }
        let mut choices = Vec::new();
        for _ in lo..hi {
            choices.push(self.either()?);
            self.write(child)?;
        }
        for either in choices {
            self.second(either, greedy);
        }
        Ok(())
    }

    /// What takes as much as it can and gives nothing back: behind it comes none of what it repeats.
    fn possessive(&mut self, inner: &Expr) -> Result<(), String> {
        let unsupported = || Err("an atomic group is not supported".to_owned());
        let Expr::Repeat {
            child,
            lo,
            hi,
            greedy: true,
        } = inner
        else {
            return unsupported();
        };
        let is_character = match &**child {
            Expr::Literal { val, .. } => val.chars().nth(1).is_none(),
            Expr::Delegate { .. } | Expr::Any { .. } => true,
            _ => false,
        };
        match (is_character, lo, hi) {
            (true, _, &usize::MAX) => {
                self.repeat(child, *lo, *hi, true)?;
                self.look(child, LookAround::LookAheadNeg)
            }
            (true, 0, 1) => {
                let none = Expr::LookAround(child.clone(), LookAround::LookAheadNeg);
                self.alternatives(&[(**child).clone(), none])
            }
            _ => unsupported(),
        }
    }

    fn look(&mut self, inner: &Expr, kind: LookAround) -> Result<(), String> {
        let (behind, wanted) = match kind {
            LookAround::LookAhead => (false, true),
            LookAround::LookAheadNeg => (false, false),
            LookAround::LookBehind => (true, true),
            LookAround::LookBehindNeg => (true, false),
        };
        let back = match (behind, characters(inner)) {
            (false, _) => 0,
            (true, Some(width)) => width,
            (true, None) => {
                return Err("a look behind of no fixed length is not supported".to_owned());
            }
        };
        let branch = self.branch()?;
        let look = self.put(Step::Done)?;
        self.write(inner)?;
        let next = self.put(Step::Done)? + 1;
        self.steps[look] = Step::Look {
            branch,
            back,
            wanted,
            next,
        };
        Ok(())
    }
}

fn read_class(notation: &str, folded: bool) -> Result<ClassUnicode, String> {
    // Oniguruma's have more than ASCII's characters, the other crate's not.
    if [
        "[:alpha:]",
        "[:alnum:]",
        "[:digit:]",
        "[:punct:]",
        "[:space:]",
        "[:upper:]",
        "[:lower:]",
    ]
    .iter()
    .any(|posix| notation.contains(posix) || notation.contains(&posix.replace("[:", "[:^")))
    {
        return Err("a class by POSIX's name is not supported".to_owned());
    }
    let mut parser = ParserBuilder::new().case_insensitive(folded).build();
    let parsed = parser.parse(notation);
    let parsed = parsed.map_err(|_| format!("\"{notation}\" is no class of characters"))?;
    let one = match parsed.kind() {
        HirKind::Class(Characters::Unicode(class)) => return Ok(class.clone()),
        HirKind::Class(Characters::Bytes(class)) => class.to_unicode_class(),
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).ok();
            let mut characters = text.unwrap_or_default().chars();
            match (characters.next(), characters.next()) {
                (Some(one), None) => Some(ClassUnicode::new([ClassUnicodeRange::new(one, one)])),
                _ => None,
            }
        }
        _ => None,
    };
    one.ok_or_else(|| format!("\"{notation}\" is no class of characters"))
}

fn place(assertion: &Assertion) -> Result<Place, String> {
    Ok(match assertion {
        Assertion::StartText => Place::Start,
        Assertion::EndText => Place::End,
        Assertion::EndTextIgnoreTrailingNewlines { crlf: false } => Place::LastLine,
        Assertion::StartLine { crlf: false } | Assertion::StartLineOniguruma { crlf: false } => {
            Place::LineStart
        }
        Assertion::EndLine { crlf: false } => Place::LineEnd,
        Assertion::WordBoundary => Place::WordEdge,
        Assertion::NotWordBoundary => Place::NoWordEdge,
        other => return Err(format!("the assertion {other:?} is not supported")),
    })
}

/// How many characters it takes at least.
fn least_characters(expression: &Expr) -> usize {
    match expression {
        Expr::Literal { val, .. } => val.chars().count(),
        Expr::Any { .. } | Expr::Delegate { .. } => 1,
        Expr::Group(inner) => least_characters(inner),
        Expr::AtomicGroup(inner) => least_characters(inner),
        Expr::Concat(parts) => parts
            .iter()
            .fold(0, |sum, part| sum.saturating_add(least_characters(part))),
        Expr::Alt(parts) => parts.iter().map(least_characters).min().unwrap_or(0),
        Expr::Repeat { child, lo, .. } => lo.saturating_mul(least_characters(child)),
        _ => 0,
    }
}

/// How many characters it takes, if it is always as many.
fn characters(expression: &Expr) -> Option<usize> {
    match expression {
        Expr::Group(inner) => characters(inner),
        Expr::Concat(parts) => parts
            .iter()
            .try_fold(0_usize, |sum, part| sum.checked_add(characters(part)?)),
        Expr::Alt(parts) => {
            let mut widths = parts.iter().map(characters);
            let first = widths.next()??;
            widths.all(|width| width == Some(first)).then_some(first)
        }
        Expr::Repeat { child, lo, hi, .. } if lo == hi => lo.checked_mul(characters(child)?),
        Expr::Repeat { .. } | Expr::AtomicGroup(_) => None,
        other => Some(least_characters(other)),
    }
}

/// What is not supported, in words.
fn named(expression: &Expr) -> &'static str {
    match expression {
        Expr::Backref { .. } | Expr::BackrefWithRelativeRecursionLevel { .. } => "a reference back",
        Expr::BackrefExistsCondition { .. } | Expr::Conditional { .. } => "a condition",
        Expr::SubroutineCall(_) | Expr::DefineGroup { .. } => "a call of a group",
        Expr::LiteralBytes { .. } => "a byte that is no character",
        Expr::GeneralNewline { .. } => r#""\R""#,
        Expr::KeepOut => r#""\K""#,
        Expr::ContinueFromPreviousMatchEnd => r#""\G""#,
        Expr::BacktrackingControlVerb(_) => "a verb of control",
        Expr::Absent(_) => "an absence",
        _ => "a part",
    }
}
