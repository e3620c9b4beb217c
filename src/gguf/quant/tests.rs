//! Dequantized blocks compared with the values of an independent implementation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Recorded by `tests/golden/quants.py`.
fn golden() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/golden/quants.json")).unwrap()
}

#[test]
fn dequantized_blocks_equal_those_of_an_independent_implementation() {
    let golden = golden();
    for (name, recorded) in golden.as_object().unwrap() {
        let kind = TensorType::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.unwrap_or_else(|| panic!("{name} is a tensor type"));
        let bytes = |key: &str| STANDARD.decode(recorded[key].as_str().unwrap()).unwrap();
        let words = bytes("values");
        let words = words.as_chunks::<4>().0.iter();
        let expected: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
        let mut values = vec![f32::NAN; expected.len()];
        kind.dequantize(&bytes("blocks"), &mut values);
        assert_eq!(values, expected, "{name}");
    }
    assert_eq!(golden.as_object().unwrap().len(), 22);
}

#[test]
fn quants_are_within_their_range() {
    let mut decoded = DecodedBlock::default();
    for kind in TensorType::ALL {
        let Some(format) = kind.quant_format() else {
            continue;
        };
        let values = kind.block_values();
        for seed in 0..=u8::MAX {
            let block: Vec<u8> = (0..kind.block_bytes())
                .map(|index| (index as u8).wrapping_mul(seed | 1).wrapping_add(seed))
                .collect();
            kind.decode_block(&block, &mut decoded);
            let quants = &decoded.quants[..values];
            assert!(
                quants
                    .iter()
                    .all(|quant| (format.min_quant..=format.max_quant).contains(quant)),
                "{kind:?}: {quants:?}"
            );
        }
        assert!(values.is_multiple_of(format.group_size));
    }
}

#[track_caller]
fn check(kind: TensorType, block: &[u8], expected: &[f32]) {
    let mut values = vec![0.0; expected.len()];
    kind.dequantize(block, &mut values);
    assert_eq!(values, expected);
}

#[test]
fn reads_float_types() {
    check(TensorType::F32, &(-1.5f32).to_le_bytes(), &[-1.5]);
    check(TensorType::F16, &f16::from_f32(0.25).to_le_bytes(), &[0.25]);
    check(TensorType::Bf16, &[0x80, 0x3f], &[1.0]);
}

#[test]
fn a_q8_k_block_has_a_single_precision_scale() {
    let mut block = 0.5f32.to_le_bytes().to_vec();
    block.extend((0..=255_u8).map(|q| q.wrapping_sub(128)));
    block.resize(292, 7);
    let expected: Vec<f32> = (0..256).map(|q| 0.5 * (q - 128) as f32).collect();
    check(TensorType::Q8K, &block, &expected);
}

#[test]
fn an_unsupported_type_is_named() {
    assert_eq!(TensorType::from_id(40), Err("NVFP4".to_owned()));
    assert_eq!(TensorType::from_id(9999), Err("number 9999".to_owned()));
    for kind in TensorType::ALL {
        assert_eq!(TensorType::from_id(kind.id()), Ok(kind));
    }
}
