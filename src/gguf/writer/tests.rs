use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::gguf::listing::HeaderListing;
use crate::gguf::metadata::Value;

/// Generates a metadata value and its encoding (value type, then value).
fn value() -> impl Strategy<Value = (Value, Vec<u8>)> {
    let typed = |kind: u32, bytes: &[u8]| [&kind.to_le_bytes()[..], bytes].concat();
    let text = |text: &str| {
        let mut bytes = Vec::new();
        write_string(&mut bytes, text);
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
        ".{0,9}".prop_map(move |text_value| (
            Value::String(text_value.clone()),
            typed(8, &text(&text_value))
        )),
        vec(".{0,5}", 0..5).prop_map(move |texts| {
            let mut bytes = 8_u32.to_le_bytes().to_vec();
            bytes.extend((texts.len() as u64).to_le_bytes());
            bytes.extend(texts.iter().flat_map(|text_value| text(text_value)));
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

/// Generates a tensor's type and shape, and a seed for the tensor's data.
fn tensor() -> impl Strategy<Value = (TensorType, Vec<usize>, u8)> {
    let kind = prop::sample::select(&TensorType::ALL[..]);
    (kind, 1_usize..3, vec(1_usize..4, 0..3), any::<u8>()).prop_map(|(kind, blocks, more, seed)| {
        let columns = blocks * kind.block_values();
        (kind, [&[columns], &more[..]].concat(), seed)
    })
}

proptest! {
    #[test]
    fn a_written_file_is_parsed_to_the_same_content(
        values in btree_map("[a-z]{1,4}", value(), 0..6),
        tensors in btree_map(".{0,12}", tensor(), 0..6),
        alignment in prop::sample::select(&[32_usize, 1, 8, 64][..]),
        chunk_bytes in 1_usize..100,
    ) {
        let mut entries: BTreeMap<String, (Value, Vec<u8>)> = values;
        let alignment_entry = (alignment != 32).then_some(("general.alignment", alignment as u32));
        for (key, (_, bytes)) in &mut entries {
            let mut encoded = Vec::new();
            write_string(&mut encoded, key);
            encoded.append(bytes);
            *bytes = encoded;
        }
        let pairs: Vec<OutputEntry<'_>> = entries
            .values()
            .map(|(_, bytes)| OutputEntry::Copied(bytes))
            .chain(alignment_entry.map(|(key, number)| OutputEntry::U32(key, number)))
            .collect();
        let infos: Vec<OutputTensor> = tensors
            .iter()
            .map(|(name, (kind, shape, _))| OutputTensor { name: name.clone(), kind: *kind, shape: shape.clone() })
            .collect();
        let contents: Vec<Vec<u8>> = infos
            .iter()
            .zip(tensors.values())
            .map(|(info, (_, _, seed))| (0..info.bytes()).map(|index| (index as u8).wrapping_mul(*seed | 1)).collect())
            .collect();
        let mut writer = GgufWriter::begin(Vec::new(), &pairs, &infos, alignment).unwrap();
        for bytes in &contents {
            for chunk in bytes.chunks(chunk_bytes) {
                writer.write_blocks(chunk).unwrap();
            }
        }
        let file = writer.finish().unwrap();

        let (read, error) = HeaderListing::parse(&file);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!((read.version, read.alignment), (3, alignment));
        let expected = entries.iter().map(|(key, (value, _))| (key.clone(), value.clone()));
        let expected: Vec<_> = expected
            .chain(alignment_entry.map(|(key, number)| (key.to_owned(), Value::Unsigned(number.into()))))
            .collect();
        for (pair, written) in read.metadata.iter().zip(&pairs) {
            if let OutputEntry::Copied(bytes) = written {
                prop_assert_eq!(&file[pair.byte_range.clone()], *bytes);
            }
        }
        let found: Vec<_> = read.metadata.into_iter().map(|pair| (pair.key, pair.value)).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(read.tensors.len(), infos.len());
        for ((found, info), bytes) in read.tensors.iter().zip(&infos).zip(&contents) {
            prop_assert_eq!((&found.name, &found.shape, &found.kind), (&info.name, &info.shape, &Ok(info.kind)));
            let start = read.data_offset + found.offset;
            prop_assert_eq!(&file[start..start + bytes.len()], &bytes[..]);
        }
        prop_assert!(file.len().is_multiple_of(alignment));
    }
}
