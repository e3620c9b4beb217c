//! What is done to what is valid.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// Lengths, counts and offsets that nobody means.
const EXTREMES: [u64; 20] = [
    0,
    1,
    2,
    3,
    31,
    255,
    256,
    65_535,
    65_536,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    1 << 40,
    1 << 48,
    1 << 61,
    u64::MAX >> 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// One change of bytes.
#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    /// Of what looks like a length: eight bytes of which the upper six are 0, or any.
    Length(Index, u64),
    /// Of four bytes.
    Half(Index, u32),
    Cut(Index),
    Remove(Index, u8),
    /// These bytes stand there once more.
    Again(Index, Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    let length = || prop_oneof![4 => select(&EXTREMES[..]), 1 => any::<u64>()];
    prop_oneof![
        3 => (place(), any::<u8>()).prop_map(|(place, byte)| Change::Byte(place, byte)),
        4 => (place(), length()).prop_map(|(place, value)| Change::Length(place, value)),
        2 => (place(), length()).prop_map(|(place, value)| Change::Half(place, value as u32)),
        1 => place().prop_map(Change::Cut),
        1 => (place(), 1..16_u8).prop_map(|(place, bytes)| Change::Remove(place, bytes)),
        1 => (place(), place(), 1..64_u8).prop_map(|(from, to, bytes)| Change::Again(from, to, bytes)),
    ]
}

/// One of these, with up to four changes; sometimes bytes that were never anything.
pub(crate) fn altered(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        19 => (select(valid), vec(change(), 0..5)).prop_map(|(mut bytes, changes)| {
            changes.iter().for_each(|change| apply(change, &mut bytes));
            bytes
        }),
        1 => vec(any::<u8>(), 0..200),
    ]
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let put = |bytes: &mut Vec<u8>, place: usize, value: &[u8]| {
        let there = bytes.len().min(place + value.len()) - place;
        bytes[place..place + there].copy_from_slice(&value[..there]);
    };
    let length = bytes.len();
    match change {
        Change::Byte(place, byte) => bytes[place.index(length)] = *byte,
        Change::Half(place, value) => put(bytes, place.index(length), &value.to_le_bytes()),
        Change::Length(place, value) => {
            let looks_like_one = |place: &usize| bytes[place + 2..place + 8] == [0; 6];
            let places = 0..length.saturating_sub(8);
            let places: Vec<usize> = places.filter(looks_like_one).collect();
            if !places.is_empty() {
                put(
                    bytes,
                    places[place.index(places.len())],
                    &value.to_le_bytes(),
                );
            }
        }
        Change::Cut(place) => bytes.truncate(place.index(length)),
        Change::Remove(place, count) => {
            let start = place.index(length);
            bytes.drain(start..length.min(start + usize::from(*count)));
        }
        Change::Again(from, to, count) => {
            let start = from.index(length);
            let part = bytes[start..length.min(start + usize::from(*count))].to_vec();
            let to = to.index(length);
            bytes.splice(to..to, part);
        }
    }
}

/// One of these, with up to three values in the place of others, or without them.
pub(crate) fn altered_json(valid: Vec<Value>, more: Vec<Value>) -> impl Strategy<Value = Value> {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1_u64 << 40),
        json!(""),
        json!("a"),
        json!(" "),
        json!("Ünknown \u{2581}🙂"),
        json!("a".repeat(5000)),
        json!([]),
        json!([[], 1, "a"]),
        json!({}),
        json!({"type": "Sequence"}),
    ];
    let values = values.into_iter().chain(more).collect::<Vec<_>>();
    let value = prop_oneof![6 => select(values).prop_map(Some), 1 => Just(None)];
    let changes = vec((any::<Index>(), any::<Index>(), value), 0..4);
    (select(valid), changes).prop_map(|(mut file, changes)| {
        for (place, other, value) in changes {
            let mut places = Vec::new();
            find(&file, &mut Vec::new(), &mut places);
            // What lies deep is more than all else.
            let few = |path: &&Vec<String>| path.len() < 4;
            let shallow: Vec<&Vec<String>> = places.iter().filter(few).collect();
            let path = match other.index(3) {
                0 => &places[place.index(places.len())],
                _ => shallow[place.index(shallow.len())],
            };
            let value = value.unwrap_or_else(|| {
                let other = &places[other.index(places.len())];
                at(&mut file, other).clone()
            });
            *at(&mut file, path) = value;
        }
        file
    })
}

/// The keys on the way to everything in a value.
fn find(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    found.push(path.clone());
    let mut below = |key: String, value: &Value| {
        path.push(key);
        find(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| below(key.clone(), value)),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .for_each(|(row, value)| below(row.to_string(), value)),
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(value, |value, key| match value {
        Value::Array(values) => &mut values[key.parse::<usize>().unwrap()],
        other => &mut other[key],
    })
}

/// Text that is meant to be hard to cut.
pub(crate) fn texts() -> impl Strategy<Value = String> {
    let parts = select(vec![
        "a",
        "ab",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "1234",
        "é",
        "e\u{301}",
        "日本",
        "🙂",
        "\u{200D}",
        "\u{FDFA}",
        "\u{2581}",
        "\0",
        "\u{FEFF}",
        "<s>",
        "<|end|>",
        "</s>",
        "'ll",
        "!?",
        "{{",
        "İ",
        "##",
        "\u{1F1E6}",
    ]);
    let repeated = (parts, prop_oneof![9 => 1..4_usize, 1 => 1..400_usize]);
    prop_oneof![
        4 => vec(repeated.prop_map(|(part, times)| part.repeat(times)), 0..12).prop_map(|parts| parts.concat()),
        1 => any::<String>(),
    ]
}
