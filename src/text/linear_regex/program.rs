//! Compiles a parsed regular expression into instructions for the matcher.

use fancy_regex::internal::{FLAG_MULTI, FLAG_ONIGURUMA_MODE, FLAG_UNICODE};
use fancy_regex::{Assertion, Expr, LookAround};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class as Characters, ClassUnicode, ClassUnicodeRange, HirKind};

/// Maximum number of instructions, into which counted repetitions are expanded.
const MAX_INSTRUCTIONS: usize = 16 * 1024;
/// Maximum number of memoized instructions; each needs two bits per position of the text.
pub(super) const MAX_MEMOIZED: usize = 1024;

/// A compiled regular expression. Matching starts at the first instruction.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) instructions: Vec<Instruction>,
    pub(super) classes: Vec<CharacterClass>,
    /// Number of [`Instruction::Split`] and [`Instruction::LookAround`] instructions.
    pub(super) memoized: usize,
}

/// An instruction of the matcher. Targets of jumps are indexes into [`Program::instructions`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Instruction {
    /// Consumes a character of the class with this index in [`Program::classes`].
    Class(usize),
    /// Fails unless the anchor matches.
    Assert(Anchor),
    /// Continues at `first` and, if that fails, at `second`.
    Split {
        memo: MemoId,
        first: usize,
        second: usize,
    },
    /// Matches the instructions after this instruction without consuming text. Continues at `next` if the result is
    /// `expected`.
    LookAround {
        memo: MemoId,
        /// Number of characters before the current position at which the match starts; 0 for a lookahead.
        back: usize,
        expected: bool,
        next: usize,
    },
    Jump(usize),
    Match,
}

/// The number of a memoized instruction, less than [`Program::memoized`].
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoId(pub(super) usize);

/// A condition on a position of the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    TextStart,
    TextEnd,
    /// The end of the text, or the position before a final line feed.
    TextEndOrFinalLineFeed,
    LineStart,
    LineEnd,
    WordBoundary,
    NotWordBoundary,
}

/// A set of characters.
#[derive(Debug)]
pub(super) struct CharacterClass {
    /// One bit per ASCII character.
    ascii: u128,
    all: ClassUnicode,
}

impl CharacterClass {
    pub(super) fn contains(&self, character: char) -> bool {
        match character.is_ascii() {
            true => self.ascii >> u32::from(character) & 1 == 1,
            false => contains(&self.all, character),
        }
    }

    fn new(all: ClassUnicode) -> Self {
        let ascii = ('\0'..='\x7F').filter(|character| contains(&all, *character));
        let ascii = ascii.fold(0, |set, character| set | 1 << u32::from(character));
        Self { ascii, all }
    }
}

fn contains(class: &ClassUnicode, character: char) -> bool {
    let ranges = class.ranges();
    let index = ranges.partition_point(|range| range.end() < character);
    ranges
        .get(index)
        .is_some_and(|range| range.start() <= character)
}

impl Program {
    /// # Errors
    /// If the expression is not supported; the error is the reason.
    pub(super) fn compile(expression: &str) -> Result<Self, String> {
        // In Oniguruma `^` and `$` match at line boundaries.
        let flags = FLAG_MULTI | FLAG_ONIGURUMA_MODE | FLAG_UNICODE;
        let tree = Expr::parse_tree_with_flags(expression, flags);
        let tree = tree.map_err(|error| error.to_string())?;
        let mut program = Self::default();
        program.emit(&tree.expr)?;
        program.push(Instruction::Match)?;
        Ok(program)
    }

    /// Appends an instruction and returns its index.
    fn push(&mut self, instruction: Instruction) -> Result<usize, String> {
        if self.instructions.len() == MAX_INSTRUCTIONS {
            return Err(format!(
                "it expands to more than {MAX_INSTRUCTIONS} instructions"
            ));
        }
        self.instructions.push(instruction);
        Ok(self.instructions.len() - 1)
    }

    fn new_memo(&mut self) -> Result<MemoId, String> {
        if self.memoized == MAX_MEMOIZED {
            let counted = "alternatives and repetitions";
            return Err(format!("it expands to more than {MAX_MEMOIZED} {counted}"));
        }
        self.memoized += 1;
        Ok(MemoId(self.memoized - 1))
    }

    fn emit(&mut self, expression: &Expr) -> Result<(), String> {
        match expression {
            Expr::Empty => Ok(()),
            Expr::Group(inner) => self.emit(inner),
            Expr::Concat(parts) => parts.iter().try_for_each(|part| self.emit(part)),
            Expr::Alt(parts) => self.emit_alternatives(parts),
            Expr::Any { newline, .. } => {
                let notation = if *newline { r"(?s:.)" } else { r"[^\n]" };
                self.emit_class(parse_class(notation, false)?)
            }
            Expr::Delegate { inner, casei } => self.emit_class(parse_class(inner, *casei)?),
            Expr::Literal { val, casei } => val.chars().try_for_each(|character| {
                let mut class = single_character(character);
                if *casei {
                    class.case_fold_simple();
                }
                self.emit_class(class)
            }),
            Expr::Assertion(assertion) => {
                let anchor = anchor(assertion)?;
                self.push(Instruction::Assert(anchor)).map(drop)
            }
            Expr::LookAround(inner, kind) => self.emit_look_around(inner, *kind),
            Expr::AtomicGroup(inner) => self.emit_possessive(inner),
            Expr::Repeat {
                child,
                lo,
                hi,
                greedy,
            } => self.emit_repetition(child, *lo, *hi, *greedy),
            other => Err(format!("it contains {}", construct_name(other))),
        }
    }

    fn emit_class(&mut self, class: ClassUnicode) -> Result<(), String> {
        self.classes.push(CharacterClass::new(class));
        self.push(Instruction::Class(self.classes.len() - 1))
            .map(drop)
    }

    fn emit_alternatives(&mut self, parts: &[Expr]) -> Result<(), String> {
        let Some((last, others)) = parts.split_last() else {
            return Ok(());
        };
        let mut jumps = Vec::new();
        for part in others {
            let split = self.push_split()?;
            self.emit(part)?;
            // A placeholder, replaced by a jump below.
            jumps.push(self.push(Instruction::Match)?);
            self.set_targets(split, true);
        }
        self.emit(last)?;
        let end = self.instructions.len();
        for jump in jumps {
            self.instructions[jump] = Instruction::Jump(end);
        }
        Ok(())
    }

    /// Appends a split and returns its index. [`Program::set_targets`] sets the targets later.
    fn push_split(&mut self) -> Result<usize, String> {
        let (memo, next) = (self.new_memo()?, self.instructions.len() + 1);
        self.push(Instruction::Split {
            memo,
            first: next,
            second: next,
        })
    }

    /// Sets the targets of a split: the instruction after the split and the next instruction to be appended. `greedy`
    /// prefers the former.
    fn set_targets(&mut self, split: usize, greedy: bool) {
        let (inside, after) = (split + 1, self.instructions.len());
        if let Instruction::Split { first, second, .. } = &mut self.instructions[split] {
            (*first, *second) = match greedy {
                true => (inside, after),
                false => (after, inside),
            };
        }
    }

    /// Emits `child`, repeated `min` to `max` times; a `max` of `usize::MAX` sets no limit.
    fn emit_repetition(
        &mut self,
        child: &Expr,
        min: usize,
        max: usize,
        greedy: bool,
    ) -> Result<(), String> {
        for _ in 0..min {
            let before = self.instructions.len();
            self.emit(child)?;
            if self.instructions.len() == before {
                break;
            }
        }
        if max == usize::MAX {
            if min_characters(child) == 0 {
                return Err(
                    "it contains an unbounded repetition of a possibly empty match".to_owned(),
                );
            }
            let split = self.push_split()?;
            self.emit(child)?;
            self.push(Instruction::Jump(split))?;
            self.set_targets(split, greedy);
            return Ok(());
        }
        let mut splits = Vec::new();
        for _ in min..max {
            splits.push(self.push_split()?);
            self.emit(child)?;
        }
        for split in splits {
            self.set_targets(split, greedy);
        }
        Ok(())
    }

    /// Emits a possessive repetition of a character class `X`: `X*+` as `X*(?!X)`, `X?+` as `X|(?!X)`. Rejects other
    /// atomic groups.
    fn emit_possessive(&mut self, inner: &Expr) -> Result<(), String> {
        let unsupported = || Err("it contains an atomic group".to_owned());
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
                self.emit_repetition(child, *lo, *hi, true)?;
                self.emit_look_around(child, LookAround::LookAheadNeg)
            }
            (true, 0, 1) => {
                let absent = Expr::LookAround(child.clone(), LookAround::LookAheadNeg);
                self.emit_alternatives(&[(**child).clone(), absent])
            }
            _ => unsupported(),
        }
    }

    fn emit_look_around(&mut self, inner: &Expr, kind: LookAround) -> Result<(), String> {
        let (is_lookbehind, expected) = match kind {
            LookAround::LookAhead => (false, true),
            LookAround::LookAheadNeg => (false, false),
            LookAround::LookBehind => (true, true),
            LookAround::LookBehindNeg => (true, false),
        };
        let back = match (is_lookbehind, fixed_characters(inner)) {
            (false, _) => 0,
            (true, Some(width)) => width,
            (true, None) => {
                return Err("it contains a lookbehind of variable length".to_owned());
            }
        };
        let memo = self.new_memo()?;
        let look_around = self.push(Instruction::Match)?;
        self.emit(inner)?;
        let next = self.push(Instruction::Match)? + 1;
        self.instructions[look_around] = Instruction::LookAround {
            memo,
            back,
            expected,
            next,
        };
        Ok(())
    }
}

fn parse_class(notation: &str, case_insensitive: bool) -> Result<ClassUnicode, String> {
    // POSIX classes contain only ASCII characters in `regex-syntax`, but also other characters in Oniguruma.
    let differs = |name: &str| {
        notation.contains(&format!("[:{name}:]")) || notation.contains(&format!("[:^{name}:]"))
    };
    if [
        "alpha", "alnum", "digit", "punct", "space", "upper", "lower",
    ]
    .into_iter()
    .any(differs)
    {
        return Err("it contains a POSIX character class".to_owned());
    }
    let mut parser = ParserBuilder::new()
        .case_insensitive(case_insensitive)
        .build();
    let parsed = parser.parse(notation).ok();
    let class = parsed.and_then(|parsed| match parsed.into_kind() {
        HirKind::Class(Characters::Unicode(class)) => Some(class),
        HirKind::Class(Characters::Bytes(class)) => class.to_unicode_class(),
        HirKind::Literal(literal) => {
            let text = str::from_utf8(&literal.0).ok()?;
            text.parse().ok().map(single_character)
        }
        _ => None,
    });
    class.ok_or_else(|| format!("\"{notation}\" is not a character class"))
}

fn single_character(character: char) -> ClassUnicode {
    ClassUnicode::new([ClassUnicodeRange::new(character, character)])
}

fn anchor(assertion: &Assertion) -> Result<Anchor, String> {
    Ok(match assertion {
        Assertion::StartText => Anchor::TextStart,
        Assertion::EndText => Anchor::TextEnd,
        Assertion::EndTextIgnoreTrailingNewlines { crlf: false } => Anchor::TextEndOrFinalLineFeed,
        Assertion::StartLine { crlf: false } | Assertion::StartLineOniguruma { crlf: false } => {
            Anchor::LineStart
        }
        Assertion::EndLine { crlf: false } => Anchor::LineEnd,
        Assertion::WordBoundary => Anchor::WordBoundary,
        Assertion::NotWordBoundary => Anchor::NotWordBoundary,
        other => return Err(format!("it contains the assertion {other:?}")),
    })
}

/// Returns the minimum number of characters of a match.
fn min_characters(expression: &Expr) -> usize {
    match expression {
        Expr::Literal { val, .. } => val.chars().count(),
        Expr::Any { .. } | Expr::Delegate { .. } => 1,
        Expr::Group(inner) => min_characters(inner),
        Expr::AtomicGroup(inner) => min_characters(inner),
        Expr::Concat(parts) => parts
            .iter()
            .fold(0, |sum, part| sum.saturating_add(min_characters(part))),
        Expr::Alt(parts) => parts.iter().map(min_characters).min().unwrap_or(0),
        Expr::Repeat { child, lo, .. } => lo.saturating_mul(min_characters(child)),
        _ => 0,
    }
}

/// Returns the number of characters of a match; `None` if it varies.
fn fixed_characters(expression: &Expr) -> Option<usize> {
    match expression {
        Expr::Group(inner) => fixed_characters(inner),
        Expr::Concat(parts) => parts.iter().try_fold(0_usize, |sum, part| {
            sum.checked_add(fixed_characters(part)?)
        }),
        Expr::Alt(parts) => {
            let mut widths = parts.iter().map(fixed_characters);
            let first = widths.next()??;
            widths.all(|width| width == Some(first)).then_some(first)
        }
        Expr::Repeat { child, lo, hi, .. } if lo == hi => lo.checked_mul(fixed_characters(child)?),
        Expr::Repeat { .. } | Expr::AtomicGroup(_) => None,
        other => Some(min_characters(other)),
    }
}

/// Returns the name of an unsupported construct, with an article.
fn construct_name(expression: &Expr) -> &'static str {
    match expression {
        Expr::Backref { .. } | Expr::BackrefWithRelativeRecursionLevel { .. } => "a backreference",
        Expr::BackrefExistsCondition { .. } | Expr::Conditional { .. } => "a conditional",
        Expr::SubroutineCall(_) | Expr::DefineGroup { .. } => "a subroutine call",
        Expr::LiteralBytes { .. } => "a byte that is not a character",
        Expr::GeneralNewline { .. } => r#""\R""#,
        Expr::KeepOut => r#""\K""#,
        Expr::ContinueFromPreviousMatchEnd => r#""\G""#,
        Expr::BacktrackingControlVerb(_) => "a backtracking control verb",
        Expr::Absent(_) => "an absence operator",
        _ => "an unknown construct",
    }
}
