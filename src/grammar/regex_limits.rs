//! What a regular expression of a client may cost: it is read once, without what it stands for, before llguidance gets
//! it. Its derivatives by a character are as many as its optional parts in a row, each as long as the rest, so that time
//! and memory grow with the square of their number; a class of Unicode takes kilobytes; a text that is repeated has as
//! many states as characters.

use std::convert::Infallible;

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    Ast, Flag, FlagsItemKind, RepetitionKind, RepetitionRange, Visitor, visit,
};

use super::GrammarError;

/// Most groups and classes within each other in a regular expression.
pub(super) const MAX_REGEX_NESTING: u32 = 128;
/// Most times that a part of a regular expression is repeated, repetitions within each other multiplied.
pub(super) const MAX_REGEX_REPETITIONS: u64 = 100_000;
/// Most parts that may be empty (`?`, `*`, `{0,9}`, an empty alternative) in all regular expressions of a grammar or schema.
pub(super) const MAX_OPTIONAL_PARTS: usize = 4_000;
/// Most classes of Unicode (`\w`, `\p{L}`, …) in a regular expression, and most letters that ignore case.
pub(super) const MAX_UNICODE_CLASSES: usize = 4_000;

/// What an expression has of what is limited.
#[derive(Debug, Default)]
pub(super) struct RegexCost {
    /// Parts that may be empty.
    pub(super) optional_parts: usize,
    unicode_classes: usize,
    repetitions: Vec<u64>,
    most_repetitions: u64,
    ignores_case: bool,
}

/// Checks an expression against all limits but that of a whole grammar. Answers how many parts may be empty; `None` if it is no
/// regular expression, which llguidance explains better.
///
/// # Errors
/// Which limit it exceeds.
pub(super) fn check(text: &str) -> Result<Option<usize>, GrammarError> {
    let mut parser = ParserBuilder::new().nest_limit(MAX_REGEX_NESTING).build();
    let ast = match parser.parse(text) {
        Ok(ast) => ast,
        Err(error) => {
            return match error.kind() {
                regex_syntax::ast::ErrorKind::NestLimitExceeded(_) => Err(too_large(format!(
                    "groups are nested deeper than {MAX_REGEX_NESTING}"
                ))),
                _ => Ok(None),
            };
        }
    };
    let Ok(cost) = visit(&ast, RegexCost::default());
    if cost.most_repetitions > MAX_REGEX_REPETITIONS {
        return Err(too_large(format!(
            "{} repetitions are more than {MAX_REGEX_REPETITIONS}",
            cost.most_repetitions
        )));
    }
    if cost.unicode_classes > MAX_UNICODE_CLASSES {
        return Err(too_large(format!(
            "{} Unicode classes are more than {MAX_UNICODE_CLASSES}",
            cost.unicode_classes
        )));
    }
    check_optional(cost.optional_parts)?;
    Ok(Some(cost.optional_parts))
}

/// Checks the number of parts that may be empty.
///
/// # Errors
/// There are too many.
pub(super) fn check_optional(parts: usize) -> Result<(), GrammarError> {
    match parts > MAX_OPTIONAL_PARTS {
        true => Err(too_large(format!(
            "{parts} optional parts of regular expressions are more than {MAX_OPTIONAL_PARTS}"
        ))),
        false => Ok(()),
    }
}

fn too_large(problem: String) -> GrammarError {
    GrammarError::TooLarge(problem)
}

/// Whether a repetition may be empty, and how often it is made at most; where that has no end, how often at least.
fn bounds(kind: &RepetitionKind) -> (bool, u64) {
    let (least, most) = match kind {
        RepetitionKind::ZeroOrOne => (0, 1),
        RepetitionKind::ZeroOrMore => (0, 0),
        RepetitionKind::OneOrMore => (1, 1),
        RepetitionKind::Range(RepetitionRange::Exactly(count)) => (*count, *count),
        RepetitionKind::Range(RepetitionRange::AtLeast(count)) => (*count, *count),
        RepetitionKind::Range(RepetitionRange::Bounded(least, most)) => (*least, *most),
    };
    (least == 0, u64::from(most).max(1))
}

impl Visitor for RegexCost {
    type Output = Self;
    type Err = Infallible;

    fn finish(self) -> Result<Self, Infallible> {
        Ok(self)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Infallible> {
        match ast {
            Ast::Empty(_) => self.optional_parts += 1,
            Ast::Repetition(repetition) => {
                let (optional, most) = bounds(&repetition.op.kind);
                self.optional_parts += usize::from(optional);
                let outer = self.repetitions.last().copied().unwrap_or(1);
                self.repetitions.push(outer.saturating_mul(most));
                self.most_repetitions = self.most_repetitions.max(outer.saturating_mul(most));
            }
            Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::Dot(_) => self.unicode_classes += 1,
            Ast::Flags(flags) => self.ignores_case |= sets_case(&flags.flags.items),
            Ast::Group(group) => {
                let flags = group.flags();
                self.ignores_case |= flags.is_some_and(|flags| sets_case(&flags.items));
            }
            Ast::Literal(_) => self.unicode_classes += usize::from(self.ignores_case),
            _ => {}
        }
        Ok(())
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), Infallible> {
        if let Ast::Repetition(_) = ast {
            self.repetitions.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(
        &mut self,
        item: &regex_syntax::ast::ClassSetItem,
    ) -> Result<(), Infallible> {
        use regex_syntax::ast::ClassSetItem::{Ascii, Literal, Perl, Range, Unicode};
        match item {
            Perl(_) | Unicode(_) => self.unicode_classes += 1,
            Literal(_) | Range(_) | Ascii(_) => {
                self.unicode_classes += usize::from(self.ignores_case);
            }
            _ => {}
        }
        Ok(())
    }
}

fn sets_case(items: &[regex_syntax::ast::FlagsItem]) -> bool {
    items
        .iter()
        .any(|item| item.kind == FlagsItemKind::Flag(Flag::CaseInsensitive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_limit(at_the_limit: &str, past_it: &str, words: &str) {
        assert!(check(at_the_limit).is_ok(), "at the limit");
        let error = check(past_it).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn an_expression_is_refused_one_past_each_limit() {
        let nested = |count: usize| format!("{}a{}", "(".repeat(count), ")".repeat(count));
        check_limit(&nested(127), &nested(129), "nested deeper than 128");
        check_limit("a{100000}", "a{100001}", "100001 repetitions");
        check_limit("a{1,100000}", "a{1,100001}", "100001 repetitions");
        check_limit("(a{100}b){1000}", "(a{101}b){1000}", "101000 repetitions");
        for optional in ["a?", "(|a)", "a{0,2}", "(a*)"] {
            let parts = |count: usize| optional.repeat(count);
            check_limit(&parts(4000), &parts(4001), "4001 optional parts");
        }
        for class in [r"\w", r"\p{L}", r"[^\d]", "."] {
            let classes = |count: usize| class.repeat(count);
            check_limit(&classes(4000), &classes(4001), "4001 Unicode classes");
        }
        let letters = |count: usize| format!("(?i){}", "k".repeat(count));
        check_limit(&letters(4000), &letters(4001), "4001 Unicode classes");
    }

    #[test]
    fn what_is_no_expression_is_left_to_its_reader() {
        assert_eq!(check("a)"), Ok(None));
        assert_eq!(check("a?b*"), Ok(Some(2)));
    }
}
