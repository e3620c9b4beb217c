use tempfile::TempDir;

use super::*;

/// Returns the bytes of a safetensors file with the header `header` and the tensor data `data`.
fn file_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

/// Writes `bytes` to a file and opens the file. Errors have `FILE` in place of the path.
fn open(bytes: &[u8]) -> Result<Safetensors, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let opened = Safetensors::open(&path, FileAccess::Read);
    opened.map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
}

const HEADER: &str = r#"{"__metadata__":{"format":"pt"},
    "a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},
    "ids":{"dtype":"I64","shape":[1],"data_offsets":[12,20]}}"#;

#[test]
fn reads_float_tensors_and_skips_others() {
    let data: Vec<u8> = (0..20).collect();
    let file = open(&file_bytes(HEADER, &data)).unwrap();
    let tensor = file.tensor("a").unwrap();
    assert_eq!(
        (tensor.float_type, tensor.shape),
        (FloatType::F16, &[2, 3][..])
    );
    assert_eq!(tensor.bytes, &data[..12]);
    assert_eq!(file.names().collect::<Vec<_>>(), ["a"]);
    assert!(file.tensor("ids").is_none());
}

#[track_caller]
fn check_refused(bytes: &[u8], reason: &str) {
    let message = open(bytes).unwrap_err();
    assert_eq!(
        message,
        format!("FILE is not a valid safetensors file: {reason}")
    );
}

#[test]
fn rejects_malformed_files() {
    check_refused(b"", "header too small");
    check_refused(b"GGUF\x03\0\0\0", "header too large");
    check_refused(&[9, 0, 0, 0, 0, 0, 0, 0, b'{'], "invalid header length");
    check_refused(
        &file_bytes(HEADER, &[0; 19]),
        "incomplete metadata, file not fully covered",
    );
    check_refused(
        &file_bytes(
            r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}}"#,
            &[0; 4],
        ),
        "tensor \"a\" has 5 dimensions; the maximum is 4",
    );
}
