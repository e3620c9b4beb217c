use tempfile::TempDir;

use super::*;

const NO_LIMITS: SlotFileLimits = SlotFileLimits {
    max_files: usize::MAX,
    max_bytes: u64::MAX,
};

/// Header of a file with 40 tokens in two blocks of 4 bytes.
fn header() -> SlotFileHeader {
    SlotFileHeader {
        model: "m".to_owned(),
        salt: Some("s".to_owned()),
        adapters: Vec::new(),
        tokens: (0..40).collect(),
        blocks: 2,
        block_bytes: 4,
    }
}

fn expected() -> ExpectedModel {
    ExpectedModel {
        model: "m".to_owned(),
        vocabulary_size: 40,
        block_bytes: 4,
        element_bytes: 2,
        cache_blocks: 10,
    }
}

const BLOCKS: [[u8; 4]; 2] = [[1, 2, 3, 4], [5, 6, 7, 8]];

fn blocks() -> Vec<Vec<u8>> {
    BLOCKS.map(Vec::from).to_vec()
}

/// Writes a file with a correct digest and a header that `change` modifies.
fn write_changed(change: impl FnOnce(&mut SlotFileHeader), blocks: &[Vec<u8>]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut header = header();
    change(&mut header);
    write(&folder.path().join("slot"), &header, blocks, NO_LIMITS).unwrap();
    folder
}

#[track_caller]
fn check_rejected(folder: &TempDir, expected: &ExpectedModel, cause: &str) {
    let error = read(&folder.path().join("slot"), expected).expect_err("the file was accepted");
    assert!(error.to_string().contains(cause), "{error}");
}

#[test]
fn reads_a_written_file() {
    let folder = write_changed(|_| (), &blocks());
    let path = folder.path().join("slot");
    let (header, read_blocks, length) = read(&path, &expected()).unwrap();
    assert_eq!(
        (header.tokens.len(), header.salt.as_deref()),
        (40, Some("s"))
    );
    assert_eq!(read_blocks, blocks());
    assert_eq!(length, fs::metadata(&path).unwrap().len());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // With a smaller cache, the blocks that fit are returned.
    let small = ExpectedModel {
        cache_blocks: 1,
        ..expected()
    };
    assert_eq!(read(&path, &small).unwrap().1, blocks()[..1]);
}

#[test]
fn rejects_damaged_files_with_the_reason() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<u8>), cause: &str) {
        let folder = write_changed(|_| (), &blocks());
        let path = folder.path().join("slot");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        check_rejected(&folder, &expected(), cause);
    }
    check(Vec::clear, "first line");
    check(|bytes| bytes.truncate(20), "header is not valid");
    check(|bytes| bytes.truncate(bytes.len() - 1), "file length");
    check(|bytes| bytes.push(0), "file length");
    let damage = |bytes: &mut Vec<u8>| {
        let index = bytes.len() - SHA256_OUTPUT_LEN - 2;
        bytes[index] ^= 1;
    };
    check(damage, "is damaged");
}

#[test]
fn rejects_inconsistent_files_with_a_correct_digest() {
    let other = ExpectedModel {
        model: "other".to_owned(),
        ..expected()
    };
    check_rejected(&write_changed(|_| (), &blocks()), &other, "another model");
    // With a block size of 0, any number of blocks matches the length of the file.
    let endless = write_changed(
        |header| (header.blocks, header.block_bytes) = (usize::MAX, 0),
        &[],
    );
    check_rejected(&endless, &expected(), "block size");
    let overflowing = write_changed(|header| header.block_bytes = usize::MAX, &blocks());
    check_rejected(&overflowing, &expected(), "file length");
    let narrow = write_changed(|header| header.block_bytes = 2, &[vec![1, 2], vec![3, 4]]);
    check_rejected(&narrow, &expected(), "block size");
    let more = [blocks(), blocks()].concat();
    let more = write_changed(|header| header.blocks = 4, &more);
    check_rejected(&more, &expected(), "number of blocks");
    let few = write_changed(|header| header.tokens.truncate(32), &blocks());
    check_rejected(&few, &expected(), "number of blocks");
    let unknown_token = write_changed(|header| header.tokens[39] = 40, &blocks());
    check_rejected(&unknown_token, &expected(), "another model");
    let nan = half::f16::NAN.to_le_bytes();
    let with_nan = [BLOCKS[0].to_vec(), [nan, nan].concat()];
    check_rejected(&write_changed(|_| (), &with_nan), &expected(), "NaN");
    let with_infinity = [BLOCKS[0].to_vec(), f32::INFINITY.to_le_bytes().to_vec()];
    let single = ExpectedModel {
        element_bytes: 4,
        ..expected()
    };
    check_rejected(&write_changed(|_| (), &with_infinity), &single, "infinite");
}

#[test]
fn unused_rows_of_a_block_are_zeroed() {
    // A block with two matrices, whose rows have 3 bytes.
    let row = [7, 8, 9];
    let mut block = row.repeat(2 * BLOCK_TOKENS);
    clear_unused_rows(&mut block, 5, row.len());
    let matrix = [row.repeat(5), vec![0; (BLOCK_TOKENS - 5) * row.len()]].concat();
    assert_eq!(block, matrix.repeat(2));
}

#[test]
fn rejects_a_file_that_exceeds_the_limits_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, max_files, max_bytes| {
        let limits = SlotFileLimits {
            max_files,
            max_bytes,
        };
        write(&folder.path().join(name), &header(), &blocks(), limits)
    };
    let length = save("a", 1, u64::MAX).unwrap();
    // Replacing a file does not count it twice.
    save("a", 1, length).unwrap();
    let error = save("b", 1, u64::MAX).unwrap_err().to_string();
    assert!(error.contains("--slot-save-max-files"), "{error}");
    let error = save("b", 2, 2 * length - 1).unwrap_err().to_string();
    assert!(error.contains("--slot-save-max-bytes"), "{error}");
    save("b", 2, 2 * length).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn partial_files_of_killed_servers_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let key_folder = folder.path().join("key-1");
    fs::create_dir(&key_folder).unwrap();
    for name in [
        "a.0123456789abcdef.part",
        ".a.0123456789abcdef.part",
        "key-1/.b.0123456789abcdef.part",
        "key-1/b",
    ] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    assert_eq!(remove_parts(folder.path()).unwrap(), 3);
    assert!(key_folder.join("b").exists());
}
