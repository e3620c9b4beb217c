use tempfile::TempDir;

use super::*;

const NO_LIMITS: SlotFileLimits = SlotFileLimits {
    files: usize::MAX,
    bytes: u64::MAX,
};

/// A file of 40 tokens in two blocks of 4 bytes.
fn header() -> Header {
    Header {
        model: "m".to_owned(),
        salt: Some("s".to_owned()),
        adapters: Vec::new(),
        tokens: (0..40).collect(),
        blocks: 2,
        block_bytes: 4,
    }
}

fn expected() -> Expected {
    Expected {
        model: "m".to_owned(),
        vocabulary: 40,
        block_bytes: 4,
        element_bytes: 2,
        cache_blocks: 10,
    }
}

const BLOCKS: [[u8; 4]; 2] = [[1, 2, 3, 4], [5, 6, 7, 8]];

fn blocks() -> Vec<Vec<u8>> {
    BLOCKS.map(Vec::from).to_vec()
}

/// A file that says of itself what `change` makes of a right one, with the right digest.
fn written(change: impl FnOnce(&mut Header), blocks: &[Vec<u8>]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut header = header();
    change(&mut header);
    write(&folder.path().join("slot"), &header, blocks, NO_LIMITS).unwrap();
    folder
}

#[track_caller]
fn refuses(folder: &TempDir, expected: &Expected, cause: &str) {
    let error = read(&folder.path().join("slot"), expected).expect_err("it was taken");
    assert!(error.to_string().contains(cause), "{error}");
}

#[test]
fn what_was_written_is_read() {
    let folder = written(|_| (), &blocks());
    let path = folder.path().join("slot");
    let (header, read_blocks, length) = read(&path, &expected()).unwrap();
    assert_eq!(
        (header.tokens.len(), header.salt.as_deref()),
        (40, Some("s"))
    );
    assert_eq!(read_blocks, blocks());
    assert_eq!(length, fs::metadata(&path).unwrap().len());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // A smaller cache takes what it has room for.
    let small = Expected {
        cache_blocks: 1,
        ..expected()
    };
    assert_eq!(read(&path, &small).unwrap().1, blocks()[..1]);
}

#[test]
fn what_is_no_saved_slot_is_refused_with_its_reason() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<u8>), cause: &str) {
        let folder = written(|_| (), &blocks());
        let path = folder.path().join("slot");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        refuses(&folder, &expected(), cause);
    }
    check(Vec::clear, "does not begin");
    check(|bytes| bytes.truncate(20), "does not say");
    check(|bytes| bytes.truncate(bytes.len() - 1), "not as long");
    check(|bytes| bytes.push(0), "not as long");
    let damage = |bytes: &mut Vec<u8>| {
        let place = bytes.len() - SHA256_OUTPUT_LEN - 2;
        bytes[place] ^= 1;
    };
    check(damage, "was damaged");
}

#[test]
fn a_right_digest_does_not_make_a_file_honest() {
    let other = Expected {
        model: "other".to_owned(),
        ..expected()
    };
    refuses(&written(|_| (), &blocks()), &other, "another model");
    // Blocks without bytes are as long as their file says, however many there are.
    let endless = written(
        |header| (header.blocks, header.block_bytes) = (usize::MAX, 0),
        &[],
    );
    refuses(&endless, &expected(), "another size");
    let overflowing = written(|header| header.block_bytes = usize::MAX, &blocks());
    refuses(&overflowing, &expected(), "not as long");
    let narrow = written(|header| header.block_bytes = 2, &[vec![1, 2], vec![3, 4]]);
    refuses(&narrow, &expected(), "another size");
    let more = [blocks(), blocks()].concat();
    let more = written(|header| header.blocks = 4, &more);
    refuses(&more, &expected(), "another number of blocks");
    let few = written(|header| header.tokens.truncate(32), &blocks());
    refuses(&few, &expected(), "another number of blocks");
    let foreign = written(|header| header.tokens[39] = 40, &blocks());
    refuses(&foreign, &expected(), "another model");
    let nan = half::f16::NAN.to_le_bytes();
    let poisoned = [BLOCKS[0].to_vec(), [nan, nan].concat()];
    refuses(&written(|_| (), &poisoned), &expected(), "NaN");
    let infinite = [BLOCKS[0].to_vec(), f32::INFINITY.to_le_bytes().to_vec()];
    let single = Expected {
        element_bytes: 4,
        ..expected()
    };
    refuses(&written(|_| (), &infinite), &single, "infinite");
}

#[test]
fn rows_without_tokens_are_zeros() {
    // Two runs of rows of 3 bytes.
    let row = [7, 8, 9];
    let mut block = row.repeat(2 * BLOCK_TOKENS);
    clear_unused_rows(&mut block, 5, row.len());
    let run = [row.repeat(5), vec![0; (BLOCK_TOKENS - 5) * row.len()]].concat();
    assert_eq!(block, run.repeat(2));
}

#[test]
fn a_folder_has_no_more_files_and_bytes_than_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, files, bytes| {
        let limits = SlotFileLimits { files, bytes };
        write(&folder.path().join(name), &header(), &blocks(), limits)
    };
    let length = save("a", 1, u64::MAX).unwrap();
    // One that is replaced does not count.
    save("a", 1, length).unwrap();
    let refused = save("b", 1, u64::MAX).unwrap_err().to_string();
    assert!(refused.contains("--slot-save-max-files"), "{refused}");
    let refused = save("b", 2, 2 * length - 1).unwrap_err().to_string();
    assert!(refused.contains("--slot-save-max-bytes"), "{refused}");
    save("b", 2, 2 * length).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn parts_of_killed_saves_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let of_a_key = folder.path().join("key-1");
    fs::create_dir(&of_a_key).unwrap();
    for name in [
        "a.0123456789abcdef.part",
        ".a.0123456789abcdef.part",
        "key-1/.b.0123456789abcdef.part",
        "key-1/b",
    ] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    assert_eq!(remove_parts(folder.path()).unwrap(), 3);
    assert!(of_a_key.join("b").exists());
}
