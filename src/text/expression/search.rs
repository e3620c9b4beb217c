//! Follows a program's steps through one text.

use super::program::{Branch, Place, Program, Step};

/// Matches of one program in one text.
pub(super) struct Search<'a> {
    program: &'a Program,
    text: &'a str,
    /// Two bits for each branch at each place: what it came to there.
    known: Vec<u64>,
    /// What can still be tried: a step, its place, and how long `path` was.
    open: Vec<(usize, usize, usize)>,
    /// The branches on the way to where the search is.
    path: Vec<usize>,
}

/// What a branch came to at a place. What is on the path counts as failed: to come there again without having taken a
/// character is impossible, and the other ways there are tried only when it has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing = 0,
    Failed = 1,
    Matched = 2,
}

/// Branches in a word of [`Search::known`].
const PER_WORD: usize = 32;

impl<'a> Search<'a> {
    pub(super) fn new(program: &'a Program, text: &'a str) -> Self {
        let branches = program.branches * (text.len() + 1);
        Self {
            program,
            text,
            known: vec![0; branches.div_ceil(PER_WORD)],
            open: Vec::new(),
            path: Vec::new(),
        }
    }

    /// The first match that begins at `start`, a character's beginning, or behind.
    pub(super) fn first_from(&mut self, start: usize) -> Option<(usize, usize)> {
        let places = self.text[start..].char_indices();
        let places = places.map(|(place, _)| start + place);
        let text = self.text;
        let mut places = places.chain([text.len()]);
        places.find_map(|place| {
            let end = self.run(0, place, Known::Nothing)?;
            Some((place, end))
        })
    }

    /// Where a match from this step on ends. The branches on its way are then known as `way`.
    fn run(&mut self, mut step: usize, mut place: usize, way: Known) -> Option<usize> {
        let (open, path) = (self.open.len(), self.path.len());
        loop {
            let goes_on = match self.program.steps[step] {
                Step::Take(class) => match self.text[place..].chars().next() {
                    Some(character) if self.program.classes[class].has(character) => {
                        place += character.len_utf8();
                        Some(step + 1)
                    }
                    _ => None,
                },
                Step::Assert(wanted) => self.is_at(wanted, place).then_some(step + 1),
                Step::Go(next) => Some(next),
                Step::Look {
                    branch,
                    back,
                    wanted,
                    next,
                } => (self.looks(step + 1, branch, back, place) == wanted).then_some(next),
                Step::Either {
                    branch,
                    first,
                    second,
                } => {
                    let row = self.row(branch, place);
                    match self.known(row) {
                        Known::Failed => None,
                        Known::Matched => {
                            // Only where a look goes by; where it ends is nobody's matter.
                            self.close(open, path, way);
                            return Some(place);
                        }
                        Known::Nothing => {
                            self.learn(row, Known::Failed);
                            self.path.push(row);
                            self.open.push((second, place, self.path.len()));
                            Some(first)
                        }
                    }
                }
                Step::Done => {
                    self.close(open, path, way);
                    return Some(place);
                }
            };
            match goes_on {
                Some(next) => step = next,
                None if self.open.len() == open => {
                    self.path.truncate(path);
                    return None;
                }
                None => {
                    let length;
                    (step, place, length) = self.open.pop()?;
                    self.path.truncate(length);
                }
            }
        }
    }

    /// The search from there has matched.
    fn close(&mut self, open: usize, path: usize, way: Known) {
        self.open.truncate(open);
        for row in self.path.split_off(path) {
            self.learn(row, way);
        }
    }

    /// Whether what begins with `step` matches there.
    fn looks(&mut self, step: usize, branch: Branch, back: usize, place: usize) -> bool {
        let row = self.row(branch, place);
        if self.known(row) == Known::Nothing {
            let before = self.text[..place].char_indices().rev();
            let start = match back {
                0 => Some(place),
                _ => before.map(|(start, _)| start).nth(back - 1),
            };
            let end = start.and_then(|start| self.run(step, start, Known::Matched));
            self.learn(
                row,
                match end {
                    Some(_) => Known::Matched,
                    None => Known::Failed,
                },
            );
        }
        self.known(row) == Known::Matched
    }

    fn is_at(&self, wanted: Place, place: usize) -> bool {
        let (before, after) = self.text.split_at(place);
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        let is_edge = || before.ends_with(is_word) != after.starts_with(is_word);
        match wanted {
            Place::Start => before.is_empty(),
            Place::End => after.is_empty(),
            Place::LastLine => matches!(after, "" | "\n"),
            Place::LineStart => before.is_empty() || before.ends_with('\n') && !after.is_empty(),
            Place::LineEnd => after.is_empty() || after.starts_with('\n'),
            Place::WordEdge => is_edge(),
            Place::NoWordEdge => !is_edge(),
        }
    }

    fn row(&self, Branch(branch): Branch, place: usize) -> usize {
        place * self.program.branches + branch
    }

    fn known(&self, row: usize) -> Known {
        match self.known[row / PER_WORD] >> (row % PER_WORD * 2) & 0b11 {
            0 => Known::Nothing,
            1 => Known::Failed,
            _ => Known::Matched,
        }
    }

    fn learn(&mut self, row: usize, known: Known) {
        let shift = row % PER_WORD * 2;
        let word = &mut self.known[row / PER_WORD];
        *word = *word & !(0b11 << shift) | (known as u64) << shift;
    }
}
