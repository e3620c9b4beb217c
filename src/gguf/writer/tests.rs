use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::gguf::listing::Listing;
use crate::gguf::metadata::Value;

/// A value with its bytes in a file, its type in front.
fn value() -> impl Strategy<Value = (Value, Vec<u8>)> {
    let typed = |kind: u32, bytes: &[u8]| [&kind.to_le_bytes()[..], bytes].concat();
    let text = |text: &str| {
        let mut bytes = Vec::new();
        put_text(&mut bytes, text);
        bytes
    };
    prop_oneof![
        any::<u8>().prop_map(move |n| (Value::Unsigned(n.into()), typed(0, &n.to_le_bytes()))),
        any::<i16>().prop_map(move |n| (Value::Signed(n.into()), typed(3, &n.to_le_bytes()))),
        any::<u32>().prop_map(move |n| (Value::Unsigned(n.into()), typed(4, &n.to_le_bytes()))),
        any::<i64>().prop_map(move |n| (Value::Signed(n), typed(11, &n.to_le_bytes()))),
        (-1e6_f32..1e6).prop_map(move |n| (Value::Float(n.into()), typed(6, &n.to_le_bytes()))),
        (-1e9..1e9).prop_map(move |n: f64| (Value::Float(n), typed(12, &n.to_le_bytes()))),
        any::<bool>().prop_map(move |flag| (Value::Bool(flag), typed(7, &[flag.into()]))),
        ".{0,9}".prop_map(move |said| (Value::String(said.clone()), typed(8, &text(&said)))),
        vec(".{0,5}", 0..5).prop_map(move |texts| {
            let mut bytes = 8_u32.to_le_bytes().to_vec();
            bytes.extend((texts.len() as u64).to_le_bytes());
            bytes.extend(texts.iter().flat_map(|said| text(said)));
            (Value::Strings(texts), typed(9, &bytes))
        }),
        vec(any::<i32>(), 1..5).prop_map(move |numbers| {
            let mut bytes = 5_u32.to_le_bytes().to_vec();
            bytes.extend((numbers.len() as u64).to_le_bytes());
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            let values = numbers
                .into_iter()
                .map(|number| Value::Signed(number.into()));
            (Value::Array(values.collect()), typed(9, &bytes))
        }),
    ]
}

/// A tensor's type and shape, and a seed of its bytes.
fn tensor() -> impl Strategy<Value = (TensorType, Vec<usize>, u8)> {
    let kind = prop::sample::select(&TensorType::ALL[..]);
    (kind, 1_usize..3, vec(1_usize..4, 0..3), any::<u8>()).prop_map(|(kind, blocks, more, seed)| {
        let columns = blocks * kind.block_values();
        (kind, [&[columns], &more[..]].concat(), seed)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_equal(
        values in btree_map("[a-z]{1,4}", value(), 0..6),
        tensors in btree_map(".{0,12}", tensor(), 0..6),
        alignment in prop::sample::select(&[32_usize, 1, 8, 64][..]),
        pieces in 1_usize..100,
    ) {
        let mut copied: BTreeMap<String, (Value, Vec<u8>)> = values;
        let named = (alignment != 32).then_some(("general.alignment", alignment as u32));
        for (key, (_, bytes)) in &mut copied {
            let mut whole = Vec::new();
            put_text(&mut whole, key);
            whole.append(bytes);
            *bytes = whole;
        }
        let pairs: Vec<WrittenPair<'_>> = copied
            .values()
            .map(|(_, bytes)| WrittenPair::Copied(bytes))
            .chain(named.map(|(key, number)| WrittenPair::U32(key, number)))
            .collect();
        let lines: Vec<WrittenTensor> = tensors
            .iter()
            .map(|(name, (kind, shape, _))| WrittenTensor { name: name.clone(), kind: *kind, shape: shape.clone() })
            .collect();
        let contents: Vec<Vec<u8>> = lines
            .iter()
            .zip(tensors.values())
            .map(|(line, (_, _, seed))| (0..line.bytes()).map(|place| (place as u8).wrapping_mul(*seed | 1)).collect())
            .collect();
        let mut writer = GgufWriter::begin(Vec::new(), &pairs, &lines, alignment).unwrap();
        for bytes in &contents {
            for piece in bytes.chunks(pieces) {
                writer.blocks(piece).unwrap();
            }
        }
        let file = writer.finish().unwrap();

        let (read, problem) = Listing::of(&file);
        prop_assert!(problem.is_none(), "{problem:?}");
        prop_assert_eq!((read.version, read.alignment), (3, alignment));
        let wanted = copied.iter().map(|(key, (value, _))| (key.clone(), value.clone()));
        let wanted: Vec<_> = wanted
            .chain(named.map(|(key, number)| (key.to_owned(), Value::Unsigned(number.into()))))
            .collect();
        for (pair, written) in read.pairs.iter().zip(&pairs) {
            if let WrittenPair::Copied(bytes) = written {
                prop_assert_eq!(&file[pair.place.clone()], *bytes);
            }
        }
        let found: Vec<_> = read.pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(read.tensors.len(), lines.len());
        for ((found, line), bytes) in read.tensors.iter().zip(&lines).zip(&contents) {
            prop_assert_eq!((&found.name, &found.shape, &found.kind), (&line.name, &line.shape, &Ok(line.kind)));
            let start = read.data + found.offset;
            prop_assert_eq!(&file[start..start + bytes.len()], &bytes[..]);
        }
        prop_assert!(file.len().is_multiple_of(alignment));
    }
}
