//! Numbers of a schema as llguidance can hold them: it reads bounds in double precision and clamps those of integers
//! to 64 bits with a sign.

use serde_json::{Map, Number, Value};

/// The least integer that an answer may have (`DigitLimit` enforces it): a bound at or below it needs no grammar.
const LEAST_INTEGER: i128 = i64::MIN as i128;
/// The largest integer that an answer may have.
const LARGEST_INTEGER: i128 = u64::MAX as i128;
/// The largest integer in double precision whose magnitude llguidance can read.
const LARGEST_READABLE: i128 = (1 << 63) - 1024;
/// From this integer on llguidance cannot write a range without an upper bound.
const LARGEST_OPEN_MINIMUM: i128 = 1_000_000_000_000_000_000;

/// What a bound becomes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bound {
    /// This number, exactly.
    Exact(Value),
    /// This number, which lets through a little more.
    Wider(Value),
    /// None is needed: every number that an answer may have is within it.
    Unneeded,
    /// None can be held.
    Lost,
}

/// Which side of a range a bound is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Lower,
    Upper,
}

/// Whether the schema's numbers can only be integers.
pub(super) fn only_integers(keywords: &Map<String, Value>) -> bool {
    match keywords.get("type") {
        Some(Value::String(name)) => name == "integer",
        Some(Value::Array(names)) => {
            names.iter().any(|name| name == "integer") && names.iter().all(|name| name != "number")
        }
        _ => false,
    }
}

/// A number without a fraction, exactly.
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

/// A bound, and whether it still excludes its own value.
pub(super) fn bound(number: &Number, exclusive: bool, side: Side, integers: bool) -> (Bound, bool) {
    let Some(value) = integer(number) else {
        let value = number.as_f64().unwrap_or_default();
        let bound = match (side, value.abs() < 1e18) {
            (_, true) => Bound::Exact(Value::Number(number.clone())),
            // Every number in double precision, or every integer that an answer may have, is within it.
            (Side::Lower, false) if value < 0.0 && (integers || value <= f64::MIN) => {
                Bound::Unneeded
            }
            (Side::Upper, false) if value > 0.0 && (integers || value >= f64::MAX) => {
                Bound::Unneeded
            }
            _ => Bound::Lost,
        };
        return (bound, exclusive);
    };
    // An integer just below the least one of 64 bits is read as that one, in double precision.
    if integers && exclusive && side == Side::Lower && number.is_f64() && value <= LEAST_INTEGER {
        return (Bound::Unneeded, false);
    }
    let (value, exclusive) = match (integers && exclusive, side) {
        (true, Side::Lower) => (value + 1, false),
        (true, Side::Upper) => (value - 1, false),
        (false, _) => (value, exclusive),
    };
    let bound = match side {
        Side::Lower if value <= LEAST_INTEGER && integers => Bound::Unneeded,
        Side::Upper if value >= LARGEST_INTEGER && integers => Bound::Unneeded,
        // llguidance reads it as 2^63 and clamps that.
        Side::Upper if value == i64::MAX.into() && integers => Bound::Exact(Value::from(i64::MAX)),
        Side::Lower if value >= LARGEST_OPEN_MINIMUM => Bound::Lost,
        Side::Upper if value <= -LARGEST_OPEN_MINIMUM => Bound::Lost,
        _ if value.abs() > LARGEST_READABLE => Bound::Lost,
        // Those of other numbers are written with as few digits as tell them apart in double precision.
        _ if !integers && format!("{}", value as f64) != value.to_string() => Bound::Lost,
        _ => in_double_precision(value, side),
    };
    (bound, exclusive)
}

/// The nearest number in double precision that lets through no less.
fn in_double_precision(value: i128, side: Side) -> Bound {
    let near = value as f64;
    let (found, wider) = match (near as i128).cmp(&value) {
        std::cmp::Ordering::Equal => return Bound::Exact(exactly(near)),
        std::cmp::Ordering::Less => (near, near.next_up()),
        std::cmp::Ordering::Greater => (near.next_down(), near),
    };
    Bound::Wider(exactly(match side {
        Side::Lower => found,
        Side::Upper => wider,
    }))
}

/// An integer in double precision within 64 bits.
fn exactly(value: f64) -> Value {
    Value::from(value as i64)
}

/// The stricter one of two bounds.
pub(super) fn stricter(left: Value, right: &Value, side: Side) -> Value {
    let order = left.as_f64().partial_cmp(&right.as_f64());
    match (side, order) {
        (Side::Lower, Some(std::cmp::Ordering::Less)) => right.clone(),
        (Side::Upper, Some(std::cmp::Ordering::Greater)) => right.clone(),
        _ => left,
    }
}

/// A constant as llguidance writes it without loss; `None` if a number in it has no such form.
pub(super) fn constant(value: &Value) -> Option<Value> {
    match value {
        // Integers are compared in double precision, and those of 64 bits without their sign; the least one has none.
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

/// A positive number as a whole one and how many of its digits are decimals; `None` if the whole one is larger than
/// `most`.
pub(super) fn decimal(mut number: f64, most: u64) -> Option<(u64, u32)> {
    let mut decimals = 0;
    while number.fract() != 0.0 {
        number *= 10.0;
        decimals += 1;
    }
    (number <= most as f64).then_some((number as u64, decimals))
}

/// The least common multiple of two decimal numbers; `None` if it does not fit into 64 bits.
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

    fn read(number: Value, exclusive: bool, side: Side, integers: bool) -> (Bound, bool) {
        let Value::Number(number) = number else {
            panic!("a bound is a number")
        };
        bound(&number, exclusive, side, integers)
    }

    #[test]
    fn the_bounds_of_64_bits_are_exact() {
        let unneeded = (Bound::Unneeded, false);
        assert_eq!(read(json!(i64::MIN), false, Side::Lower, true), unneeded);
        assert_eq!(read(json!(u64::MAX), false, Side::Upper, true), unneeded);
        let largest = (Bound::Exact(json!(i64::MAX)), false);
        assert_eq!(read(json!(i64::MAX), false, Side::Upper, true), largest);
        let beyond = read(
            json!(9_223_372_036_854_775_808_u64),
            true,
            Side::Upper,
            true,
        );
        assert_eq!(beyond, largest);
        let below: Value = serde_json::from_str("-9223372036854775809").unwrap();
        assert_eq!(read(below, true, Side::Lower, true), unneeded);
        let small = read(json!(3), true, Side::Lower, true);
        assert_eq!(small, (Bound::Exact(json!(4)), false));
    }

    #[test]
    fn a_bound_between_two_doubles_becomes_the_outer_one() {
        let odd = json!((1_i64 << 53) + 1);
        let lower = read(odd.clone(), false, Side::Lower, true).0;
        assert_eq!(lower, Bound::Wider(json!(1_i64 << 53)));
        let upper = read(odd, false, Side::Upper, true).0;
        assert_eq!(upper, Bound::Wider(json!((1_i64 << 53) + 2)));
        assert_eq!(read(json!(1e30), false, Side::Upper, false).0, Bound::Lost);
        assert_eq!(
            read(json!(f64::MAX), false, Side::Upper, false).0,
            Bound::Unneeded
        );
    }

    #[test]
    fn constants_keep_their_value_or_have_no_form() {
        assert_eq!(
            constant(&json!([1, {"a": 0.5}])),
            Some(json!([1, {"a": 0.5}]))
        );
        assert_eq!(constant(&json!((1_i64 << 53) + 1)), None);
        assert_eq!(constant(&json!({"a": [i64::MIN]})), None);
        assert_eq!(constant(&json!(1e25)), Some(json!(1e25)));
    }
}
