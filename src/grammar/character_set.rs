//! Character sets, used to find the characters that can begin or follow a lexeme.

use std::fmt::Write;

use super::gbnf::CharacterClass;

/// Inclusive ranges of code points: sorted, neither overlapping nor adjacent. Ranges may include surrogates, which are
/// not characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CharacterSet(Vec<(u32, u32)>);

/// The largest code point.
const LAST: u32 = char::MAX as u32;

impl CharacterSet {
    pub(super) fn all() -> Self {
        Self(vec![(0, LAST)])
    }

    pub(super) fn of(class: &CharacterClass) -> Self {
        let ranges = class.ranges.iter();
        let ranges = Self::from_ranges(
            ranges
                .map(|(first, last)| (*first as u32, *last as u32))
                .collect(),
        );
        match class.negated {
            true => ranges.complement(),
            false => ranges,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the characters of `other`. Returns whether the set grew.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        let all = self.0.iter().chain(&other.0).copied().collect();
        let sum = Self::from_ranges(all);
        let has_grown = sum != *self;
        *self = sum;
        has_grown
    }

    /// Appends the set to `regex` as a character class. The set must not be empty.
    pub(super) fn write(&self, regex: &mut String) {
        regex.push('[');
        for (first, last) in &self.0 {
            // Regular expressions cannot contain surrogates: shrink a range that begins or ends with a surrogate.
            let first = char::from_u32(*first).unwrap_or('\u{e000}');
            let last = char::from_u32(*last).unwrap_or('\u{d7ff}');
            if first <= last {
                let (first, last) = (first as u32, last as u32);
                // Writing to a string does not fail.
                let _ = write!(regex, "\\x{{{first:x}}}-\\x{{{last:x}}}");
            }
        }
        regex.push(']');
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    pub(super) fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn complement(&self) -> Self {
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        let mut next = 0;
        for (first, last) in &self.0 {
            if next < *first {
                rest.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            rest.push((next, LAST));
        }
        Self(rest)
    }
}
