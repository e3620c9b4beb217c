use super::*;
use crate::gguf::listing::DEFAULT_ALIGNMENT;

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Returns a GGUF file with two metadata entries, a tensor `[32, 2]` of type `kind`, and `data` bytes of tensor data.
fn file(version: u32, kind: u32, data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(1u64.to_le_bytes()); // tensors
    bytes.extend(2u64.to_le_bytes()); // pairs
    bytes.extend(string("general.architecture"));
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(string("llama"));
    bytes.extend(string("numbers"));
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(5u32.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    bytes.extend((-7i32).to_le_bytes());
    bytes.extend(8i32.to_le_bytes());
    bytes.extend(string("w"));
    bytes.extend(2u32.to_le_bytes());
    bytes.extend(32u64.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT) + data, 0);
    bytes
}

/// Returns the error text for a file that consists of `bytes`.
fn error_text(bytes: &[u8]) -> String {
    let error = Header::parse(bytes).expect_err("the header is invalid");
    error.with_path(Path::new("m.gguf")).to_string()
}

#[test]
fn reads_headers_of_versions_2_and_3() {
    for version in [2, 3] {
        let header = Header::parse(&file(version, 8, 68)).unwrap();
        assert_eq!(header.metadata.string("general.architecture"), Ok("llama"));
        assert_eq!(header.metadata.integers("numbers"), Ok(vec![-7, 8]));
        let tensor = &header.tensors["w"];
        assert_eq!((tensor.columns(), tensor.rows()), (32, 2));
        assert_eq!((tensor.kind, tensor.bytes), (TensorType::Q8_0, 68));
    }
}

#[test]
fn error_texts_say_what_is_wrong() {
    for (bytes, message) in [
        (
            b"".to_vec(),
            "m.gguf is not a valid GGUF file: the header ends at byte 0, but 4 more bytes are expected",
        ),
        (
            b"PK\x03\x04....".to_vec(),
            "m.gguf is not a valid GGUF file: it does not begin with \"GGUF\"",
        ),
        (
            file(1, 8, 68),
            "m.gguf is not a valid GGUF file: version 1 is not supported; supported versions: 2 and 3",
        ),
        (
            file(3u32.swap_bytes(), 8, 68),
            "m.gguf is not a valid GGUF file: big-endian files are not supported",
        ),
        (
            file(3, 9, 68),
            "m.gguf: the type Q8_1 of tensor \"w\" is not supported",
        ),
        (
            file(3, 8, 67),
            "m.gguf is truncated: tensor \"w\" ends at byte 228, but the file has 227 bytes",
        ),
    ] {
        assert_eq!(error_text(&bytes), message);
    }
}

#[test]
fn the_error_for_a_missing_file_names_it() {
    let error = GgufFile::open(Path::new("/nowhere/m.gguf"), FileAccess::Map).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot open /nowhere/m.gguf: ")
    );
    let error = GgufFile::open(Path::new("/"), FileAccess::Read).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
}

#[test]
fn rejects_arrays_with_too_many_elements() {
    const MAX_ELEMENTS: usize = 1 << 24;
    let array = |elements: usize| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes()); // tensors
        bytes.extend(1u64.to_le_bytes()); // pairs
        bytes.extend(string("bits"));
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(7u32.to_le_bytes());
        bytes.extend((elements as u64).to_le_bytes());
        bytes.resize(bytes.len() + elements, 0);
        bytes
    };
    let message = error_text(&array(MAX_ELEMENTS + 1));
    assert!(message.contains("more than 16777216 elements"), "{message}");
    // The length is checked against the file size before anything is allocated.
    let mut short = array(2);
    short.truncate(short.len() - 1);
    let message = error_text(&short);
    assert!(
        message.contains("a length of 2 exceeds the file's size"),
        "{message}"
    );
}
