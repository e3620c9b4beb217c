//! The backtracking matcher: runs a [`Program`] on one text.

use regex_syntax::is_word_character;

use super::program::{Anchor, Instruction, MemoId, Program};

/// Finds the matches of a program in a text.
pub(super) struct Matcher<'a> {
    program: &'a Program,
    text: &'a str,
    /// Two bits for each memoized instruction at each byte position: the [`Outcome`].
    memo: Vec<u64>,
    /// The backtracking stack: an instruction, its position, and the length of `path` when the alternative was pushed.
    stack: Vec<(usize, usize, usize)>,
    /// The memo entries of the splits on the current matching path.
    path: Vec<usize>,
}

/// The result of a memoized instruction at a position. Entries on the current path are marked as failed in advance: the
/// path cannot reach an entry twice, because every loop consumes a character, and other paths reach the entry only
/// after it has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown = 0,
    Failed = 1,
    Matched = 2,
}

/// Number of entries in a word of [`Matcher::memo`].
const ENTRIES_PER_WORD: usize = 32;

impl<'a> Matcher<'a> {
    pub(super) fn new(program: &'a Program, text: &'a str) -> Self {
        let entries = program.memoized * (text.len() + 1);
        Self {
            program,
            text,
            memo: vec![0; entries.div_ceil(ENTRIES_PER_WORD)],
            stack: Vec::new(),
            path: Vec::new(),
        }
    }

    /// Returns the first match that begins at or after `start`, which must be a character boundary.
    pub(super) fn first_from(&mut self, start: usize) -> Option<(usize, usize)> {
        let positions = self.text[start..].char_indices();
        let positions = positions.map(|(offset, _)| start + offset);
        let text = self.text;
        let mut positions = positions.chain([text.len()]);
        positions.find_map(|begin| {
            let end = self.run(0, begin, Outcome::Unknown)?;
            Some((begin, end))
        })
    }

    /// Runs the program from `instruction` at `position`. Returns the end of the match, and sets the memo entries on
    /// the matching path to `path_outcome`.
    fn run(
        &mut self,
        mut instruction: usize,
        mut position: usize,
        path_outcome: Outcome,
    ) -> Option<usize> {
        let (stack, path) = (self.stack.len(), self.path.len());
        loop {
            let next = match self.program.instructions[instruction] {
                Instruction::Class(class) => match self.text[position..].chars().next() {
                    Some(character) if self.program.classes[class].contains(character) => {
                        position += character.len_utf8();
                        Some(instruction + 1)
                    }
                    _ => None,
                },
                Instruction::Assert(anchor) => {
                    let matches = self.anchor_matches(anchor, position);
                    matches.then_some(instruction + 1)
                }
                Instruction::Jump(next) => Some(next),
                Instruction::LookAround {
                    memo,
                    back,
                    expected,
                    next,
                } => {
                    let matches = self.look_around_matches(instruction + 1, memo, back, position);
                    (matches == expected).then_some(next)
                }
                Instruction::Split {
                    memo,
                    first,
                    second,
                } => {
                    let entry = self.entry(memo, position);
                    match self.outcome(entry) {
                        Outcome::Failed => None,
                        Outcome::Matched => {
                            // Happens only within a lookaround, which does not use the end of the match.
                            self.finish_path(stack, path, path_outcome);
                            return Some(position);
                        }
                        Outcome::Unknown => {
                            self.memoize(entry, Outcome::Failed);
                            self.path.push(entry);
                            self.stack.push((second, position, self.path.len()));
                            Some(first)
                        }
                    }
                }
                Instruction::Match => {
                    self.finish_path(stack, path, path_outcome);
                    return Some(position);
                }
            };
            match next {
                Some(next) => instruction = next,
                None if self.stack.len() == stack => {
                    self.path.truncate(path);
                    return None;
                }
                None => {
                    let path_length;
                    (instruction, position, path_length) = self.stack.pop()?;
                    self.path.truncate(path_length);
                }
            }
        }
    }

    /// Restores the lengths of stack and path after a match, and sets the memo entries of the path to `outcome`.
    fn finish_path(&mut self, stack: usize, path: usize, outcome: Outcome) {
        self.stack.truncate(stack);
        for entry in self.path.split_off(path) {
            self.memoize(entry, outcome);
        }
    }

    /// Whether the instructions from `instruction` on match, starting `back` characters before `position`.
    fn look_around_matches(
        &mut self,
        instruction: usize,
        memo: MemoId,
        back: usize,
        position: usize,
    ) -> bool {
        let entry = self.entry(memo, position);
        if self.outcome(entry) == Outcome::Unknown {
            let before = self.text[..position].char_indices().rev();
            let start = match back {
                0 => Some(position),
                _ => before.map(|(start, _)| start).nth(back - 1),
            };
            let end = start.and_then(|start| self.run(instruction, start, Outcome::Matched));
            self.memoize(
                entry,
                match end {
                    Some(_) => Outcome::Matched,
                    None => Outcome::Failed,
                },
            );
        }
        self.outcome(entry) == Outcome::Matched
    }

    fn anchor_matches(&self, anchor: Anchor, position: usize) -> bool {
        let (before, after) = self.text.split_at(position);
        let is_boundary =
            || before.ends_with(is_word_character) != after.starts_with(is_word_character);
        match anchor {
            Anchor::TextStart => before.is_empty(),
            Anchor::TextEnd => after.is_empty(),
            Anchor::TextEndOrFinalLineFeed => matches!(after, "" | "\n"),
            Anchor::LineStart => before.is_empty() || before.ends_with('\n') && !after.is_empty(),
            Anchor::LineEnd => after.is_empty() || after.starts_with('\n'),
            Anchor::WordBoundary => is_boundary(),
            Anchor::NotWordBoundary => !is_boundary(),
        }
    }

    /// Returns the index of a memo entry.
    fn entry(&self, MemoId(memo): MemoId, position: usize) -> usize {
        position * self.program.memoized + memo
    }

    fn outcome(&self, entry: usize) -> Outcome {
        match self.memo[entry / ENTRIES_PER_WORD] >> (entry % ENTRIES_PER_WORD * 2) & 0b11 {
            0 => Outcome::Unknown,
            1 => Outcome::Failed,
            _ => Outcome::Matched,
        }
    }

    fn memoize(&mut self, entry: usize, outcome: Outcome) {
        let shift = entry % ENTRIES_PER_WORD * 2;
        let word = &mut self.memo[entry / ENTRIES_PER_WORD];
        *word = *word & !(0b11 << shift) | (outcome as u64) << shift;
    }
}
