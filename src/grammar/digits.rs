//! A limit on the numbers of a JSON text: without one, a number of a schema without bounds may go on for ever. It is
//! none of the schema's, so that constants and explicit bounds stay exact: a digit beyond the limit is only forbidden
//! where something else may come.

use std::sync::Arc;

use super::vocabulary::{GrammarVocabulary, Spelling};
use crate::token::TokenId;

/// The largest magnitude of a negative integer: that of 64 bits with a sign.
const LARGEST_NEGATIVE: u128 = 1 << 63;
/// The largest integer: that of 64 bits without a sign.
const LARGEST_POSITIVE: u128 = u64::MAX as u128;
/// Most digits of a fraction: no number in double precision from 1e-4 on needs more.
const MOST_FRACTION_DIGITS: u32 = 20;
/// Most digits of an exponent.
const MOST_EXPONENT_DIGITS: u32 = 3;
/// The largest exponent: with the largest integer before it the number is still one in double precision.
const LARGEST_EXPONENT: u32 = 288;
/// Digits that every integer may have.
const FREE_DIGITS: u32 = 18;

/// The tokens that have digits.
pub(super) struct DigitTokens {
    vocabulary: Arc<dyn GrammarVocabulary>,
    tokens: Vec<TokenId>,
    /// The most digits of one.
    most: u32,
}

impl DigitTokens {
    pub(super) fn of(vocabulary: &Arc<dyn GrammarVocabulary>) -> Self {
        let all = (0..vocabulary.size() as u32).map(TokenId);
        let count = |token: &TokenId| match vocabulary.spelling(*token) {
            Spelling::Text(bytes) => bytes.iter().filter(|byte| byte.is_ascii_digit()).count(),
            Spelling::Control(_) => 0,
        };
        let tokens: Vec<TokenId> = all.filter(|token| count(token) > 0).collect();
        let most = tokens.iter().map(count).max().unwrap_or(0);
        Self {
            vocabulary: Arc::clone(vocabulary),
            most: u32::try_from(most).unwrap_or(u32::MAX),
            tokens,
        }
    }

    fn bytes(&self, token: TokenId) -> &[u8] {
        match self.vocabulary.spelling(token) {
            Spelling::Text(bytes) => bytes,
            Spelling::Control(name) => name.as_bytes(),
        }
    }
}

/// Where JSON begins in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Begin {
    /// At once.
    Here,
    /// With this mark, which may come anywhere.
    AtMark(String),
    /// With this mark, if the text begins with it.
    WithMark(String),
}

/// Follows a text, and forbids digits that would make a number too long.
#[derive(Clone)]
pub(super) struct DigitLimit {
    tokens: Arc<DigitTokens>,
    /// What is waited for; `None` once the text is JSON.
    begin: Option<Begin>,
    /// The last bytes before it is.
    before: Vec<u8>,
    scan: Scan,
}

impl DigitLimit {
    pub(super) fn new(tokens: Arc<DigitTokens>, begin: Begin) -> Self {
        let waits = match &begin {
            Begin::Here => false,
            Begin::AtMark(mark) | Begin::WithMark(mark) => !mark.is_empty(),
        };
        Self {
            tokens,
            begin: waits.then_some(begin),
            before: Vec::new(),
            scan: Scan::Outside,
        }
    }

    /// Takes the tokens out of the race that would make a number too long, unless there are no others.
    pub(super) fn mask(&self, logits: &mut [f32]) {
        if self.begin.is_some() || !self.scan.is_near_limit(self.tokens.most) {
            return;
        }
        let allowed = |logit: &f32| *logit != f32::NEG_INFINITY;
        let too_long: Vec<usize> = self
            .tokens
            .tokens
            .iter()
            .filter(|token| logits.get(token.row()).is_some_and(allowed))
            .filter(|token| self.scan.after(self.tokens.bytes(**token)).is_none())
            .map(|token| token.row())
            .collect();
        if logits.iter().filter(|logit| allowed(logit)).count() > too_long.len() {
            for token in too_long {
                logits[token] = f32::NEG_INFINITY;
            }
        }
    }

    /// Follows a token of the text.
    pub(super) fn follow(&mut self, token: TokenId) {
        let tokens = Arc::clone(&self.tokens);
        for byte in tokens.bytes(token) {
            self.follow_byte(*byte);
        }
    }

    fn follow_byte(&mut self, byte: u8) {
        let mark = match &self.begin {
            // A number that can only go on stays where it is.
            None => {
                self.scan = self.scan.next(byte).unwrap_or(self.scan);
                return;
            }
            Some(Begin::Here) => return,
            Some(Begin::AtMark(mark)) => {
                if self.before.len() == mark.len() {
                    self.before.remove(0);
                }
                mark
            }
            Some(Begin::WithMark(mark)) if self.before.len() == mark.len() => return,
            Some(Begin::WithMark(mark)) => mark,
        };
        self.before.push(byte);
        if self.before == mark.as_bytes() {
            self.scan = Scan::Outside.after(&self.before).unwrap_or(Scan::Outside);
            self.begin = None;
        }
    }
}

/// How far a JSON text is, as far as it matters for numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    /// Neither in a number nor in a string.
    Outside,
    String {
        escaped: bool,
    },
    Integer {
        negative: bool,
        value: u128,
        digits: u32,
    },
    Fraction {
        digits: u32,
    },
    Exponent {
        value: u32,
        digits: u32,
    },
}

impl Scan {
    /// After more bytes; `None` if a number would be too long.
    fn after(self, bytes: &[u8]) -> Option<Self> {
        bytes.iter().try_fold(self, |scan, byte| scan.next(*byte))
    }

    fn next(self, byte: u8) -> Option<Self> {
        let digit = u32::from(byte.wrapping_sub(b'0'));
        let is_digit = byte.is_ascii_digit();
        Some(match (self, byte) {
            (Self::String { escaped: true }, _) => Self::String { escaped: false },
            (Self::String { .. }, b'\\') => Self::String { escaped: true },
            (Self::String { .. }, b'"') => Self::Outside,
            (Self::String { .. }, _) => self,
            (
                Self::Integer {
                    negative,
                    value,
                    digits,
                },
                _,
            ) if is_digit => {
                let value = value * 10 + u128::from(digit);
                let largest = match negative {
                    true => LARGEST_NEGATIVE,
                    false => LARGEST_POSITIVE,
                };
                (value <= largest).then_some(())?;
                let digits = digits + 1;
                Self::Integer {
                    negative,
                    value,
                    digits,
                }
            }
            (Self::Integer { .. }, b'.') => Self::Fraction { digits: 0 },
            (Self::Fraction { digits }, _) if is_digit => {
                (digits < MOST_FRACTION_DIGITS).then_some(())?;
                Self::Fraction { digits: digits + 1 }
            }
            (Self::Integer { .. } | Self::Fraction { .. }, b'e' | b'E') => Self::Exponent {
                value: 0,
                digits: 0,
            },
            (Self::Exponent { digits: 0, .. }, b'+' | b'-') => self,
            (Self::Exponent { value, digits }, _) if is_digit => {
                let value = value * 10 + digit;
                (digits < MOST_EXPONENT_DIGITS && value <= LARGEST_EXPONENT).then_some(())?;
                Self::Exponent {
                    value,
                    digits: digits + 1,
                }
            }
            (_, b'"') => Self::String { escaped: false },
            (_, b'-') => Self::Integer {
                negative: true,
                value: 0,
                digits: 0,
            },
            _ if is_digit => Self::Integer {
                negative: false,
                value: digit.into(),
                digits: 1,
            },
            _ => Self::Outside,
        })
    }

    /// Whether a token with so many digits may be too long.
    fn is_near_limit(self, most: u32) -> bool {
        let free = match self {
            Self::String { .. } => return false,
            Self::Outside => FREE_DIGITS,
            Self::Integer { digits, .. } => FREE_DIGITS.saturating_sub(digits),
            Self::Fraction { digits } => MOST_FRACTION_DIGITS.saturating_sub(digits),
            Self::Exponent { .. } => 0,
        };
        most > free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(text: &str) -> bool {
        Scan::Outside.after(text.as_bytes()).is_some()
    }

    #[test]
    fn integers_have_64_bits() {
        assert!(fits("[18446744073709551615, -9223372036854775808]"));
        assert!(!fits("18446744073709551616"));
        assert!(!fits("-9223372036854775809"));
        assert!(fits(
            "{\"a\": \"184467440737095516160 -9999999999999999999999 \\\" 99999999999999999999999\"}"
        ));
        assert!(!fits("{\"a\\\\\": 99999999999999999999999"));
    }

    #[test]
    fn fractions_and_exponents_end() {
        assert!(fits("0.12345678901234567890"));
        assert!(!fits("0.123456789012345678901"));
        assert!(fits("[1.5e-288, 1E+288, 1e007]"));
        assert!(!fits("1e289"));
        assert!(!fits("1e0007"));
    }
}
