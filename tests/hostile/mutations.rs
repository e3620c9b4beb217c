//! Random modifications of valid inputs: bytes, JSON values and texts.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// Lengths, counts and offsets at the limits of integer types.
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

/// One modification of a byte sequence.
#[derive(Debug, Clone)]
enum Change {
    /// Replaces a byte.
    Byte(Index, u8),
    /// Replaces eight bytes that look like a length: the upper six are 0.
    Length(Index, u64),
    /// Replaces four bytes.
    Word(Index, u32),
    Truncate(Index),
    /// Removes this number of bytes.
    Remove(Index, u8),
    /// Inserts a copy of this number of bytes: from, to, count.
    Duplicate(Index, Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    let length = || prop_oneof![4 => select(&EXTREMES[..]), 1 => any::<u64>()];
    prop_oneof![
        3 => (index(), any::<u8>()).prop_map(|(index, byte)| Change::Byte(index, byte)),
        4 => (index(), length()).prop_map(|(index, value)| Change::Length(index, value)),
        2 => (index(), length()).prop_map(|(index, value)| Change::Word(index, value as u32)),
        1 => index().prop_map(Change::Truncate),
        1 => (index(), 1..16_u8).prop_map(|(index, bytes)| Change::Remove(index, bytes)),
        1 => (index(), index(), 1..64_u8).prop_map(|(from, to, bytes)| Change::Duplicate(from, to, bytes)),
    ]
}

/// One of the valid inputs with up to four changes; sometimes random bytes.
pub(crate) fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
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
    let overwrite = |bytes: &mut Vec<u8>, offset: usize, value: &[u8]| {
        let count = bytes.len().min(offset + value.len()) - offset;
        bytes[offset..offset + count].copy_from_slice(&value[..count]);
    };
    let length = bytes.len();
    match change {
        Change::Byte(index, byte) => bytes[index.index(length)] = *byte,
        Change::Word(index, value) => overwrite(bytes, index.index(length), &value.to_le_bytes()),
        Change::Length(index, value) => {
            let looks_like_length = |offset: &usize| bytes[offset + 2..offset + 8] == [0; 6];
            let offsets = 0..length.saturating_sub(8);
            let offsets: Vec<usize> = offsets.filter(looks_like_length).collect();
            if !offsets.is_empty() {
                overwrite(
                    bytes,
                    offsets[index.index(offsets.len())],
                    &value.to_le_bytes(),
                );
            }
        }
        Change::Truncate(index) => bytes.truncate(index.index(length)),
        Change::Remove(index, count) => {
            let start = index.index(length);
            bytes.drain(start..length.min(start + usize::from(*count)));
        }
        Change::Duplicate(from, to, count) => {
            let start = from.index(length);
            let part = bytes[start..length.min(start + usize::from(*count))].to_vec();
            let to = to.index(length);
            bytes.splice(to..to, part);
        }
    }
}

/// One of the valid documents with up to three values replaced, by `more` values or by other parts of the document.
pub(crate) fn mutated_json(valid: Vec<Value>, more: Vec<Value>) -> impl Strategy<Value = Value> {
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
        for (index, other, value) in changes {
            let mut paths = Vec::new();
            collect_paths(&file, &mut Vec::new(), &mut paths);
            // Most values are deep, so shallow ones are preferred.
            let is_shallow = |path: &&Vec<String>| path.len() < 4;
            let shallow: Vec<&Vec<String>> = paths.iter().filter(is_shallow).collect();
            let path = match other.index(3) {
                0 => &paths[index.index(paths.len())],
                _ => shallow[index.index(shallow.len())],
            };
            let value = value.unwrap_or_else(|| {
                let other = &paths[other.index(paths.len())];
                at(&mut file, other).clone()
            });
            *at(&mut file, path) = value;
        }
        file
    })
}

/// Collects the paths of a value and of all values within it.
fn collect_paths(value: &Value, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    paths.push(path.clone());
    let mut descend = |key: String, value: &Value| {
        path.push(key);
        collect_paths(value, path, paths);
        path.pop();
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| descend(key.clone(), value)),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .for_each(|(index, value)| descend(index.to_string(), value)),
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(value, |value, key| match value {
        Value::Array(values) => &mut values[key.parse::<usize>().unwrap()],
        other => &mut other[key],
    })
}

/// Texts that are hard to tokenize.
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
