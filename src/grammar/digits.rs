//! Limits the length of numbers in generated JSON: without bounds in the schema, a model could generate digits
//! endlessly. The limit applies to the token mask: digits beyond the limit are masked only where the grammar also
//! allows another token. So constants and explicit bounds in the schema stay exact.

use std::sync::Arc;

use super::vocabulary::{GrammarToken, GrammarVocabulary};
use crate::token::TokenId;

/// Largest magnitude of a negative integer, the magnitude of `i64::MIN`.
const MAX_NEGATIVE_MAGNITUDE: u128 = 1 << 63;
/// Largest positive integer.
const MAX_POSITIVE: u128 = u64::MAX as u128;
/// Maximum number of digits after the decimal point. A double-precision number of at least 1e-4 needs no more.
const MAX_FRACTION_DIGITS: u32 = 20;
/// Maximum number of digits in an exponent, leading zeros included.
const MAX_EXPONENT_DIGITS: u32 = 3;
/// Largest exponent: `u64::MAX` with this exponent is still finite in double precision.
const MAX_EXPONENT: u32 = 288;
/// Integers with up to this many digits never exceed the limits above.
const SAFE_INTEGER_DIGITS: u32 = 18;

/// The tokens of the vocabulary that contain digits.
pub(super) struct DigitTokens {
    vocabulary: Arc<dyn GrammarVocabulary>,
    tokens: Vec<TokenId>,
    /// Maximum number of digits in one token.
    max_digits: u32,
}

impl DigitTokens {
    pub(super) fn of(vocabulary: &Arc<dyn GrammarVocabulary>) -> Self {
        let all = (0..vocabulary.size() as u32).map(TokenId);
        let count = |token: &TokenId| match vocabulary.grammar_token(*token) {
            GrammarToken::Text(bytes) => bytes.iter().filter(|byte| byte.is_ascii_digit()).count(),
            GrammarToken::Control(_) => 0,
        };
        let tokens: Vec<TokenId> = all.filter(|token| count(token) > 0).collect();
        let max_digits = tokens.iter().map(count).max().unwrap_or(0);
        Self {
            vocabulary: Arc::clone(vocabulary),
            max_digits: u32::try_from(max_digits).unwrap_or(u32::MAX),
            tokens,
        }
    }
}

/// Where the JSON begins in the generated text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JsonStart {
    /// The whole text is JSON.
    TextStart,
    /// At the first occurrence of this marker.
    Marker(String),
    /// At this marker, which begins the text; otherwise the text contains no JSON.
    LeadingMarker(String),
}

/// Scans the generated text for numbers, and masks tokens that would make a number too long.
#[derive(Clone)]
pub(super) struct DigitLimit {
    tokens: Arc<DigitTokens>,
    /// Where the JSON will begin; `None` once the JSON has begun.
    start: Option<JsonStart>,
    /// The last bytes before the JSON, at most as many as the marker has.
    before: Vec<u8>,
    scan: NumberScan,
}

impl DigitLimit {
    pub(super) fn new(tokens: Arc<DigitTokens>, start: JsonStart) -> Self {
        let is_pending = match &start {
            JsonStart::TextStart => false,
            JsonStart::Marker(marker) | JsonStart::LeadingMarker(marker) => !marker.is_empty(),
        };
        Self {
            tokens,
            start: is_pending.then_some(start),
            before: Vec::new(),
            scan: NumberScan::Outside,
        }
    }

    /// Masks the tokens that would make a number too long, unless no other token is allowed.
    pub(super) fn mask(&self, logits: &mut [f32]) {
        if self.start.is_some() || !self.scan.is_near_limit(self.tokens.max_digits) {
            return;
        }
        let allowed = |logit: &f32| *logit != f32::NEG_INFINITY;
        let too_long: Vec<usize> = self
            .tokens
            .tokens
            .iter()
            .filter(|token| logits.get(token.row()).is_some_and(allowed))
            .filter(|token| {
                let bytes = self.tokens.vocabulary.bytes_or_name(**token);
                self.scan.after(bytes).is_none()
            })
            .map(|token| token.row())
            .collect();
        if logits.iter().filter(|logit| allowed(logit)).count() > too_long.len() {
            for token in too_long {
                logits[token] = f32::NEG_INFINITY;
            }
        }
    }

    /// Advances the scan past an accepted token.
    pub(super) fn accept(&mut self, token: TokenId) {
        let tokens = Arc::clone(&self.tokens);
        for byte in tokens.vocabulary.bytes_or_name(token) {
            self.scan_byte(*byte);
        }
    }

    fn scan_byte(&mut self, byte: u8) {
        let marker = match &self.start {
            // Beyond the limit, in digits that the grammar forces, the state stays the same.
            None => {
                self.scan = self.scan.next(byte).unwrap_or(self.scan);
                return;
            }
            Some(JsonStart::TextStart) => return,
            Some(JsonStart::Marker(marker)) => {
                if self.before.len() == marker.len() {
                    self.before.remove(0);
                }
                marker
            }
            Some(JsonStart::LeadingMarker(marker)) if self.before.len() == marker.len() => return,
            Some(JsonStart::LeadingMarker(marker)) => marker,
        };
        self.before.push(byte);
        if self.before == marker.as_bytes() {
            self.scan = NumberScan::Outside
                .after(&self.before)
                .unwrap_or(NumberScan::Outside);
            self.start = None;
        }
    }
}

/// The state of a scan for numbers in JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberScan {
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

impl NumberScan {
    /// Returns the state after `bytes`; `None` if a number becomes too long.
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
                let max = match negative {
                    true => MAX_NEGATIVE_MAGNITUDE,
                    false => MAX_POSITIVE,
                };
                (value <= max).then_some(())?;
                let digits = digits + 1;
                Self::Integer {
                    negative,
                    value,
                    digits,
                }
            }
            (Self::Integer { .. }, b'.') => Self::Fraction { digits: 0 },
            (Self::Fraction { digits }, _) if is_digit => {
                (digits < MAX_FRACTION_DIGITS).then_some(())?;
                Self::Fraction { digits: digits + 1 }
            }
            (Self::Integer { .. } | Self::Fraction { .. }, b'e' | b'E') => Self::Exponent {
                value: 0,
                digits: 0,
            },
            (Self::Exponent { digits: 0, .. }, b'+' | b'-') => self,
            (Self::Exponent { value, digits }, _) if is_digit => {
                let value = value * 10 + digit;
                (digits < MAX_EXPONENT_DIGITS && value <= MAX_EXPONENT).then_some(())?;
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

    /// Whether a token with `max_digits` digits could make a number too long.
    fn is_near_limit(self, max_digits: u32) -> bool {
        let safe_digits = match self {
            Self::String { .. } => return false,
            Self::Outside => SAFE_INTEGER_DIGITS,
            Self::Integer { digits, .. } => SAFE_INTEGER_DIGITS.saturating_sub(digits),
            Self::Fraction { digits } => MAX_FRACTION_DIGITS.saturating_sub(digits),
            Self::Exponent { .. } => 0,
        };
        max_digits > safe_digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(text: &str) -> bool {
        NumberScan::Outside.after(text.as_bytes()).is_some()
    }

    #[test]
    fn integers_are_limited_to_64_bits() {
        assert!(fits("[18446744073709551615, -9223372036854775808]"));
        assert!(!fits("18446744073709551616"));
        assert!(!fits("-9223372036854775809"));
        assert!(fits(
            "{\"a\": \"184467440737095516160 -9999999999999999999999 \\\" 99999999999999999999999\"}"
        ));
        assert!(!fits("{\"a\\\\\": 99999999999999999999999"));
    }

    #[test]
    fn the_digits_of_fractions_and_exponents_are_limited() {
        assert!(fits("0.12345678901234567890"));
        assert!(!fits("0.123456789012345678901"));
        assert!(fits("[1.5e-288, 1E+288, 1e007]"));
        assert!(!fits("1e289"));
        assert!(!fits("1e0007"));
    }
}
