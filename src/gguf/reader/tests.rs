use super::*;
use crate::gguf::listing::DEFAULT_ALIGNMENT;

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A header with one pair and one tensor `[32, 2]`, and as many data bytes as asked for.
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

/// The message that opening a file of these bytes gives.
fn refusal(bytes: &[u8]) -> String {
    let error = Header::parse(bytes).expect_err("the bytes are to be refused");
    error.at(Path::new("m.gguf")).to_string()
}

#[test]
fn a_header_is_read() {
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
fn refusals_say_what_is_wrong() {
    for (bytes, message) in [
        (
            b"".to_vec(),
            "m.gguf is not a GGUF file that can be read: the header ends at byte 0, where 4 more bytes are expected",
        ),
        (
            b"PK\x03\x04....".to_vec(),
            "m.gguf is not a GGUF file that can be read: it does not begin with \"GGUF\"",
        ),
        (
            file(1, 8, 68),
            "m.gguf is not a GGUF file that can be read: its version is 1; 2 and 3 can be read",
        ),
        (
            file(3u32.swap_bytes(), 8, 68),
            "m.gguf is not a GGUF file that can be read: it is big-endian",
        ),
        (
            file(3, 9, 68),
            "m.gguf: tensor \"w\" has the type Q8_1, which is not supported",
        ),
        (
            file(3, 8, 67),
            "m.gguf is truncated: tensor \"w\" ends at byte 228, the file at 227",
        ),
    ] {
        assert_eq!(refusal(&bytes), message);
    }
}

#[test]
fn a_missing_file_is_named() {
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
fn arrays_have_no_more_elements_than_their_limit() {
    const MOST: usize = 1 << 24;
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
    let refused = refusal(&array(MOST + 1));
    assert!(refused.contains("more than 16777216 elements"), "{refused}");
    // A length is held against the file before anything is made of it.
    let mut short = array(2);
    short.truncate(short.len() - 1);
    let refused = refusal(&short);
    assert!(
        refused.contains("a length of 2 passes the file's end"),
        "{refused}"
    );
}
