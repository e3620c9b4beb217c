//! Limits on the cost of a client's regular expression, checked on its syntax tree before llguidance compiles the
//! expression. llguidance matches with regular expression derivatives. With n optional parts in a row, there are n
//! derivatives, each as long as the rest of the expression: time and memory are quadratic in n. A Unicode class takes
//! kilobytes. A repeated literal takes one lexer state per character.

use std::convert::Infallible;

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    Ast, Flag, FlagsItemKind, RepetitionKind, RepetitionRange, Visitor, visit,
};

use super::GrammarError;

/// Maximum nesting depth of groups and classes in a regular expression.
pub(super) const MAX_REGEX_NESTING: u32 = 128;
/// Maximum count in a repetition; the counts of nested repetitions are multiplied.
pub(super) const MAX_REGEX_REPETITIONS: u64 = 100_000;
/// Maximum number of parts that can match the empty text (`?`, `*`, `{0,9}`, an empty alternative) in all regular
/// expressions of a grammar or schema.
pub(super) const MAX_OPTIONAL_PARTS: usize = 4_000;
/// Maximum number of Unicode classes (`\w`, `\p{L}`, …) and case-insensitive characters in a regular expression.
pub(super) const MAX_UNICODE_CLASSES: usize = 4_000;

/// The cost of a regular expression, counted on its syntax tree.
#[derive(Debug, Default)]
pub(super) struct RegexCost {
    /// The number of parts that can match the empty text.
    pub(super) optional_parts: usize,
    unicode_classes: usize,
    /// For each enclosing repetition, the product of its count and the counts of all repetitions around it.
    repetitions: Vec<u64>,
    max_repetitions: u64,
    ignores_case: bool,
}

/// Checks a regular expression against the limits. Returns the number of its optional parts; `None` if the syntax is
/// invalid. llguidance later reports syntax errors.
///
/// # Errors
/// If the expression exceeds a limit.
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
    if cost.max_repetitions > MAX_REGEX_REPETITIONS {
        return Err(too_large(format!(
            "{} repetitions are more than {MAX_REGEX_REPETITIONS}",
            cost.max_repetitions
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

/// Checks the number of parts that can match the empty text.
///
/// # Errors
/// If `parts` exceeds [`MAX_OPTIONAL_PARTS`].
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

/// Returns whether a repetition can match the empty text, and the maximum count (without a maximum, the minimum count;
/// at least 1).
fn bounds(kind: &RepetitionKind) -> (bool, u64) {
    let (min, max) = match kind {
        RepetitionKind::ZeroOrOne => (0, 1),
        RepetitionKind::ZeroOrMore => (0, 0),
        RepetitionKind::OneOrMore => (1, 1),
        RepetitionKind::Range(RepetitionRange::Exactly(count)) => (*count, *count),
        RepetitionKind::Range(RepetitionRange::AtLeast(count)) => (*count, *count),
        RepetitionKind::Range(RepetitionRange::Bounded(min, max)) => (*min, *max),
    };
    (min == 0, u64::from(max).max(1))
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
                let (is_optional, max) = bounds(&repetition.op.kind);
                self.optional_parts += usize::from(is_optional);
                let outer = self.repetitions.last().copied().unwrap_or(1);
                self.repetitions.push(outer.saturating_mul(max));
                self.max_repetitions = self.max_repetitions.max(outer.saturating_mul(max));
            }
            Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::Dot(_) => self.unicode_classes += 1,
            Ast::Flags(flags) => self.ignores_case |= sets_case_insensitive(&flags.flags.items),
            Ast::Group(group) => {
                let flags = group.flags();
                self.ignores_case |= flags.is_some_and(|flags| sets_case_insensitive(&flags.items));
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

fn sets_case_insensitive(items: &[regex_syntax::ast::FlagsItem]) -> bool {
    items
        .iter()
        .any(|item| item.kind == FlagsItemKind::Flag(Flag::CaseInsensitive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_limit(at_the_limit: &str, past_the_limit: &str, message: &str) {
        assert!(check(at_the_limit).is_ok(), "at the limit");
        let error = check(past_the_limit).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn an_expression_one_past_each_limit_is_rejected() {
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
    fn invalid_syntax_is_left_to_llguidance() {
        assert_eq!(check("a)"), Ok(None));
        assert_eq!(check("a?b*"), Ok(Some(2)));
    }
}
