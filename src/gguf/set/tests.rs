use std::fs;

use tempfile::TempDir;

use super::*;

/// A file of a set with these vectors of 32 bytes: `split.no`, `split.count`, `split.tensors.count`.
fn file(place: [u32; 3], tensors: &[(&str, u8)]) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(4u64.to_le_bytes());
    for (key, value) in ["split.no", "split.count", "split.tensors.count"]
        .into_iter()
        .zip(place)
    {
        bytes.extend(string(key));
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(string("number"));
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(place[0].to_le_bytes());
    for (index, (name, _)) in tensors.iter().enumerate() {
        bytes.extend(string(name));
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(8u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((index as u64 * 32).to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    for (_, value) in tensors {
        bytes.extend([*value; 32]);
    }
    bytes
}

/// A folder with the three files of a set.
fn set() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, 1, &file([0, 3, 4], &[]));
    write(&folder, 2, &file([1, 3, 4], &[("a", 1), ("b", 2)]));
    write(&folder, 3, &file([2, 3, 4], &[("c", 3), ("d", 4)]));
    folder
}

fn path(folder: &TempDir, number: usize) -> PathBuf {
    folder.path().join(format!("m-{number:05}-of-00003.gguf"))
}

fn write(folder: &TempDir, number: usize, bytes: &[u8]) {
    fs::write(path(folder, number), bytes).unwrap();
}

#[test]
fn a_set_is_one_model() {
    let folder = set();
    let model = Gguf::open(&path(&folder, 1), FileAccess::Map).unwrap();
    assert_eq!(model.metadata().count("number"), Ok(0));
    for (name, value) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        assert_eq!(model.bytes(model.tensor(name).unwrap()), [value; 32]);
    }
    assert_eq!(model.tensors().count(), 4);
    let bytes = (1..=3).map(|number| fs::metadata(path(&folder, number)).unwrap().len());
    assert_eq!(model.file_bytes(), bytes.sum::<u64>());
}

#[test]
fn a_set_of_one_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("m.gguf");
    fs::write(&alone, file([0, 1, 1], &[("a", 1)])).unwrap();
    assert_eq!(
        Gguf::open(&alone, FileAccess::Map)
            .unwrap()
            .tensors()
            .count(),
        1
    );
}

#[test]
fn what_is_no_set_is_told_with_the_file() {
    let check = |change: fn(&TempDir), number: usize, cause: &str| {
        let folder = set();
        change(&folder);
        let message = Gguf::open(&path(&folder, 1), FileAccess::Map)
            .unwrap_err()
            .to_string();
        let named = path(&folder, number);
        assert!(message.contains(named.to_str().unwrap()), "{message}");
        assert!(message.contains(cause), "{message}");
    };
    let missing = |folder: &TempDir| fs::remove_file(path(folder, 2)).unwrap();
    check(missing, 2, "cannot open");
    let later = |folder: &TempDir| {
        fs::copy(path(folder, 3), path(folder, 1)).unwrap();
    };
    check(
        later,
        1,
        "it is number 3 of 3 files with 4 tensors; name the first",
    );
    let twice = |folder: &TempDir| {
        fs::copy(path(folder, 2), path(folder, 3)).unwrap();
    };
    check(
        twice,
        3,
        "it is number 2 of 3 files with 4 tensors, not number 3 of 3",
    );
    let other_set = |folder: &TempDir| write(folder, 3, &file([2, 3, 9], &[("c", 3)]));
    check(
        other_set,
        3,
        "it is number 3 of 3 files with 9 tensors, not number 3 of 3",
    );
    let longer_set = |folder: &TempDir| write(folder, 2, &file([1, 4, 4], &[("a", 1)]));
    check(longer_set, 2, "it is number 2 of 4 files");
    let alone = |folder: &TempDir| write(folder, 2, &file([1, 0, 4], &[("a", 1)]));
    check(alone, 2, "it is alone, not number 2 of 3");
    let same_tensor = |folder: &TempDir| write(folder, 3, &file([2, 3, 4], &[("a", 3)]));
    check(
        same_tensor,
        3,
        "the tensor \"a\" is in a file before it, too",
    );
    let too_few = |folder: &TempDir| write(folder, 3, &file([2, 3, 4], &[("c", 3)]));
    check(too_few, 1, "its files have 3 tensors together, not 4");
    let too_many = |folder: &TempDir| write(folder, 1, &file([0, 1001, 4], &[]));
    check(too_many, 1, "a set of 1001 files is more than 1000");
    let broken = |folder: &TempDir| write(folder, 2, b"GGUF");
    check(broken, 2, "is not a GGUF file that can be read");
}

#[test]
fn the_first_file_shows_where_the_others_are() {
    let folder = set();
    let renamed = folder.path().join("m.gguf");
    fs::rename(path(&folder, 1), &renamed).unwrap();
    let message = Gguf::open(&renamed, FileAccess::Map)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("does not end with -00001-of-00003.gguf"),
        "{message}"
    );
}
