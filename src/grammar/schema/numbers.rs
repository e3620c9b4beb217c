//! Converts the numbers of a schema to numbers that llguidance represents exactly. llguidance parses bounds in double
//! precision and clamps integer bounds to `i64`.

use serde_json::{Map, Number, Value};

/// The smallest integer that `DigitLimit` allows. The grammar needs no lower bound at or below this integer.
const MIN_INTEGER: i128 = i64::MIN as i128;
/// The largest integer that `DigitLimit` allows.
const MAX_INTEGER: i128 = u64::MAX as i128;
/// The largest double-precision integer below 2^63; llguidance cannot parse bounds of larger magnitude.
const MAX_PARSED_MAGNITUDE: i128 = (1 << 63) - 1024;
/// llguidance cannot generate an open range from this minimum or a larger one; likewise for negative maxima.
const MAX_OPEN_MINIMUM: i128 = 1_000_000_000_000_000_000;

/// The result of converting a bound.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bound {
    /// The bound is represented exactly by this number.
    Exact(Value),
    /// The bound is replaced by the nearest representable number that accepts slightly more values.
    Wider(Value),
    /// No bound is needed: every number that `DigitLimit` allows is within the bound.
    Unneeded,
    Unenforceable,
}

/// Which side of a range a bound is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Lower,
    Upper,
}

/// Whether the schema's `type` allows integers and no other numbers.
pub(super) fn only_integers(keywords: &Map<String, Value>) -> bool {
    match keywords.get("type") {
        Some(Value::String(name)) => name == "integer",
        Some(Value::Array(names)) => {
            names.iter().any(|name| name == "integer") && names.iter().all(|name| name != "number")
        }
        _ => false,
    }
}

/// Returns the exact value of a number; `None` if the number has a fraction or is too large.
fn integer(number: &Number) -> Option<i128> {
    if let Some(value) = number.as_i64() {
        return Some(value.into());
    }
    if let Some(value) = number.as_u64() {
        return Some(value.into());
    }
    let value = number.as_f64()?;
    (value.fract() == 0.0 && value.abs() < 1e30).then_some(value as i128)
}

/// Converts a bound. Also returns whether the converted bound is exclusive.
pub(super) fn bound(
    number: &Number,
    exclusive: bool,
    side: Side,
    is_integer: bool,
) -> (Bound, bool) {
    let Some(value) = integer(number) else {
        let value = number.as_f64().unwrap_or_default();
        let bound = match (side, value.abs() < 1e18) {
            (_, true) => Bound::Exact(Value::Number(number.clone())),
            // Every double-precision number, or every integer that `DigitLimit` allows, is within the bound.
            (Side::Lower, false) if value < 0.0 && (is_integer || value <= f64::MIN) => {
                Bound::Unneeded
            }
            (Side::Upper, false) if value > 0.0 && (is_integer || value >= f64::MAX) => {
                Bound::Unneeded
            }
            _ => Bound::Unenforceable,
        };
        return (bound, exclusive);
    };
    // -2^63 - 1 is rounded to -2^63 in double precision.
    if is_integer && exclusive && side == Side::Lower && number.is_f64() && value <= MIN_INTEGER {
        return (Bound::Unneeded, false);
    }
    let (value, exclusive) = match (is_integer && exclusive, side) {
        (true, Side::Lower) => (value + 1, false),
        (true, Side::Upper) => (value - 1, false),
        (false, _) => (value, exclusive),
    };
    let bound = match side {
        Side::Lower if value <= MIN_INTEGER && is_integer => Bound::Unneeded,
        Side::Upper if value >= MAX_INTEGER && is_integer => Bound::Unneeded,
        // llguidance parses i64::MAX as 2^63, and clamps that to i64::MAX.
        Side::Upper if value == i64::MAX.into() && is_integer => {
            Bound::Exact(Value::from(i64::MAX))
        }
        Side::Lower if value >= MAX_OPEN_MINIMUM => Bound::Unenforceable,
        Side::Upper if value <= -MAX_OPEN_MINIMUM => Bound::Unenforceable,
        _ if value.abs() > MAX_PARSED_MAGNITUDE => Bound::Unenforceable,
        // For non-integers, llguidance writes the shortest decimal that round-trips in double precision.
        _ if !is_integer && format!("{}", value as f64) != value.to_string() => {
            Bound::Unenforceable
        }
        _ => in_double_precision(value, side),
    };
    (bound, exclusive)
}

/// Returns the nearest double-precision bound that accepts at least the same values.
fn in_double_precision(value: i128, side: Side) -> Bound {
    let nearest = value as f64;
    let (below, above) = match (nearest as i128).cmp(&value) {
        std::cmp::Ordering::Equal => return Bound::Exact(as_integer(nearest)),
        std::cmp::Ordering::Less => (nearest, nearest.next_up()),
        std::cmp::Ordering::Greater => (nearest.next_down(), nearest),
    };
    Bound::Wider(as_integer(match side {
        Side::Lower => below,
        Side::Upper => above,
    }))
}

/// `value` must be an integer within the range of `i64`.
fn as_integer(value: f64) -> Value {
    Value::from(value as i64)
}

pub(super) fn stricter(left: Value, right: &Value, side: Side) -> Value {
    let order = left.as_f64().partial_cmp(&right.as_f64());
    match (side, order) {
        (Side::Lower, Some(std::cmp::Ordering::Less)) => right.clone(),
        (Side::Upper, Some(std::cmp::Ordering::Greater)) => right.clone(),
        _ => left,
    }
}

/// Returns the constant if llguidance represents all numbers in it exactly; otherwise `None`.
pub(super) fn constant(value: &Value) -> Option<Value> {
    match value {
        // llguidance compares the magnitudes of integers in double precision. The magnitude of i64::MIN overflows.
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            let integer = number.as_i64().filter(|integer| *integer != i64::MIN)?;
            let exact = (integer as f64) as i128 == i128::from(integer);
            exact.then(|| value.clone())
        }
        Value::Array(values) => values.iter().map(constant).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(name, value)| Some((name.clone(), constant(value)?)));
            fields.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        _ => Some(value.clone()),
    }
}

/// Splits a positive number into an integer and a number of decimals: 0.25 is (25, 2). Returns `None` if the integer is
/// larger than `max`.
pub(super) fn decimal(mut number: f64, max: u64) -> Option<(u64, u32)> {
    let mut decimals = 0;
    while number.fract() != 0.0 {
        number *= 10.0;
        decimals += 1;
    }
    (number <= max as f64).then_some((number as u64, decimals))
}

/// Returns the least common multiple of two numbers in the form of [`decimal`]; `None` if the multiple does not fit
/// into 64 bits.
pub(super) fn common_multiple(
    (left, left_decimals): (u64, u32),
    (right, right_decimals): (u64, u32),
) -> Option<(u64, u32)> {
    let both = left_decimals.max(right_decimals);
    let scaled = |number: u64, decimals| number.checked_mul(10_u64.checked_pow(both - decimals)?);
    let (left, right) = (scaled(left, left_decimals)?, scaled(right, right_decimals)?);
    let common = (left / greatest_divisor(left, right)).checked_mul(right)?;
    Some((common, both))
}

fn greatest_divisor(left: u64, right: u64) -> u64 {
    match right {
        0 => left,
        _ => greatest_divisor(right, left % right),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn converted(number: Value, exclusive: bool, side: Side, is_integer: bool) -> (Bound, bool) {
        let Value::Number(number) = number else {
            panic!("a bound must be a number")
        };
        bound(&number, exclusive, side, is_integer)
    }

    #[test]
    fn bounds_of_64_bit_integers_are_exact() {
        let unneeded = (Bound::Unneeded, false);
        assert_eq!(
            converted(json!(i64::MIN), false, Side::Lower, true),
            unneeded
        );
        assert_eq!(
            converted(json!(u64::MAX), false, Side::Upper, true),
            unneeded
        );
        let largest = (Bound::Exact(json!(i64::MAX)), false);
        assert_eq!(
            converted(json!(i64::MAX), false, Side::Upper, true),
            largest
        );
        let beyond = converted(
            json!(9_223_372_036_854_775_808_u64),
            true,
            Side::Upper,
            true,
        );
        assert_eq!(beyond, largest);
        let below: Value = serde_json::from_str("-9223372036854775809").unwrap();
        assert_eq!(converted(below, true, Side::Lower, true), unneeded);
        let small = converted(json!(3), true, Side::Lower, true);
        assert_eq!(small, (Bound::Exact(json!(4)), false));
    }

    #[test]
    fn a_bound_between_two_doubles_is_widened() {
        let odd = json!((1_i64 << 53) + 1);
        let lower = converted(odd.clone(), false, Side::Lower, true).0;
        assert_eq!(lower, Bound::Wider(json!(1_i64 << 53)));
        let upper = converted(odd, false, Side::Upper, true).0;
        assert_eq!(upper, Bound::Wider(json!((1_i64 << 53) + 2)));
        assert_eq!(
            converted(json!(1e30), false, Side::Upper, false).0,
            Bound::Unenforceable
        );
        assert_eq!(
            converted(json!(f64::MAX), false, Side::Upper, false).0,
            Bound::Unneeded
        );
    }

    #[test]
    fn constants_that_lose_precision_are_not_converted() {
        assert_eq!(
            constant(&json!([1, {"a": 0.5}])),
            Some(json!([1, {"a": 0.5}]))
        );
        assert_eq!(constant(&json!((1_i64 << 53) + 1)), None);
        assert_eq!(constant(&json!({"a": [i64::MIN]})), None);
        assert_eq!(constant(&json!(1e25)), Some(json!(1e25)));
    }
}
