use std::fs;

use tempfile::TempDir;

use super::*;

/// Returns a shard whose tensors are vectors of 32 equal bytes. `split` contains the values of `split.no`,
/// `split.count` and `split.tensors.count`.
fn shard(split: [u32; 3], tensors: &[(&str, u8)]) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(4u64.to_le_bytes());
    for (key, value) in ["split.no", "split.count", "split.tensors.count"]
        .into_iter()
        .zip(split)
    {
        bytes.extend(string(key));
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(string("number"));
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(split[0].to_le_bytes());
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

/// Writes a model with three shards to a temporary folder.
fn split_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, 1, &shard([0, 3, 4], &[]));
    write(&folder, 2, &shard([1, 3, 4], &[("a", 1), ("b", 2)]));
    write(&folder, 3, &shard([2, 3, 4], &[("c", 3), ("d", 4)]));
    folder
}

fn path(folder: &TempDir, number: usize) -> PathBuf {
    folder.path().join(format!("m-{number:05}-of-00003.gguf"))
}

fn write(folder: &TempDir, number: usize, bytes: &[u8]) {
    fs::write(path(folder, number), bytes).unwrap();
}

#[test]
fn a_split_model_is_opened_as_one_model() {
    let folder = split_model();
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
fn a_split_count_of_one_is_a_single_file() {
    let folder = tempfile::tempdir().unwrap();
    let single = folder.path().join("m.gguf");
    fs::write(&single, shard([0, 1, 1], &[("a", 1)])).unwrap();
    assert_eq!(
        Gguf::open(&single, FileAccess::Map)
            .unwrap()
            .tensors()
            .count(),
        1
    );
}

#[test]
fn errors_name_the_inconsistent_shard() {
    let check = |change: fn(&TempDir), number: usize, cause: &str| {
        let folder = split_model();
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
    let not_first = |folder: &TempDir| {
        fs::copy(path(folder, 3), path(folder, 1)).unwrap();
    };
    check(
        not_first,
        1,
        "it is shard 3 of 3 (4 tensors in total); pass the path of the first shard",
    );
    let duplicate_shard = |folder: &TempDir| {
        fs::copy(path(folder, 2), path(folder, 3)).unwrap();
    };
    check(
        duplicate_shard,
        3,
        "it is shard 2 of 3 (4 tensors in total), not shard 3 of 3",
    );
    let other_model = |folder: &TempDir| write(folder, 3, &shard([2, 3, 9], &[("c", 3)]));
    check(
        other_model,
        3,
        "it is shard 3 of 3 (9 tensors in total), not shard 3 of 3",
    );
    let other_count = |folder: &TempDir| write(folder, 2, &shard([1, 4, 4], &[("a", 1)]));
    check(other_count, 2, "it is shard 2 of 4");
    let not_split = |folder: &TempDir| write(folder, 2, &shard([1, 0, 4], &[("a", 1)]));
    check(not_split, 2, "it is not split, but shard 2 of 3");
    let same_tensor = |folder: &TempDir| write(folder, 3, &shard([2, 3, 4], &[("a", 3)]));
    check(same_tensor, 3, "tensor \"a\" is also in an earlier shard");
    let too_few = |folder: &TempDir| write(folder, 3, &shard([2, 3, 4], &[("c", 3)]));
    check(too_few, 1, "the shards have 3 tensors in total, not 4");
    let too_many = |folder: &TempDir| write(folder, 1, &shard([0, 1001, 4], &[]));
    check(too_many, 1, "1001 shards; the maximum is 1000");
    let broken = |folder: &TempDir| write(folder, 2, b"GGUF");
    check(broken, 2, "is not a valid GGUF file");
}

#[test]
fn the_name_of_the_first_shard_must_have_the_shard_suffix() {
    let folder = split_model();
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
