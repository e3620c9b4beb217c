//! Safetensors files.

use ortolan::file_bytes::FileAccess;
use ortolan::safetensors::Safetensors;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::folder;
use super::fuzzer::fuzz;
use super::mutations::{mutated, mutated_json};

/// A safetensors file with this header and 36 bytes of data.
fn file(header: &Value) -> Vec<u8> {
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &[7; 36]].concat()
}

#[test]
fn modified_files_cause_no_panic() {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": [2, 2, 2], "data_offsets": [12, 28]},
        "ids": {"dtype": "I64", "shape": [1], "data_offsets": [28, 36]},
    });
    let types = ["F32", "F4", "F8_E4M3", "BOOL"].map(Value::from);
    let types = types
        .into_iter()
        .chain([json!([0, u64::MAX]), json!([12, 0])]);
    let inputs = prop_oneof![
        mutated(vec![file(&header)]),
        mutated_json(vec![header], types.collect()).prop_map(|header| file(&header)),
    ];
    let folder = folder();
    let path = folder.path().join("m.safetensors");
    fuzz("a safetensors file", 2000, 4 << 20, inputs, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        if let Ok(safetensors) = Safetensors::open(&path, FileAccess::Read) {
            for name in safetensors.names() {
                let tensor = safetensors.tensor(name).unwrap();
                assert!(tensor.bytes.len() <= safetensors.contents().len());
            }
        }
    });
}
