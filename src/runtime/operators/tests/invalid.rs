//! Inputs of paged attention that do not match each other: the error names the invalid input.

use super::*;

/// Applies `corrupt` to a valid step. Checks the error, and that the caches are unchanged.
fn check(corrupt: impl FnOnce(&mut AttentionShape, &mut Tensors), expected: &str) {
    let (node, chunks) = small();
    let mut caches = node.caches(&chunks);
    let before = caches.bits();
    let mut tensors = node.tensors(&chunks);
    let mut shape = node.shape;
    corrupt(&mut shape, &mut tensors);
    let mut output = vec![0.0; 4 * 64];
    let attention_caches = AttentionCaches {
        keys: &mut caches.keys,
        values: &mut caches.values,
    };
    let result = attend(
        shape,
        &node.inputs(&tensors),
        attention_caches,
        &mut output,
        Instructions::detect(),
        &one_thread,
    );
    assert_eq!(result.unwrap_err().to_string(), expected);
    assert_eq!(caches.bits(), before);
}

#[test]
fn mismatched_inputs_are_rejected_by_name() {
    check(
        |shape, _| shape.heads = 3,
        "query: has 3 heads, expected a multiple of 2 key/value heads up to 1024",
    );
    check(
        |shape, _| shape.head_size = 12,
        "key_cache: head size 12 is not a multiple of 8 up to 1024",
    );
    check(
        |shape, _| shape.blocks = usize::MAX,
        "key_cache: has 2048 elements, which do not match its shape",
    );
    check(
        |shape, _| shape.block_tokens = 0,
        "key_cache: has 2048 elements, which do not match its shape",
    );
    check(
        |_, t| t.query.truncate(100),
        "query: has 100 elements, not a multiple of the row size 64",
    );
    check(
        |_, t| t.query.truncate(64),
        "output: has 256 elements for 1 tokens",
    );
    check(
        |_, t| t.key_value.as_mut().unwrap().0.truncate(32),
        "key: does not have 4 rows of 32 elements",
    );
    check(
        |_, t| t.key_value.as_mut().unwrap().1.clear(),
        "value: does not have 4 rows of 32 elements",
    );

    let cumulative = "cumulative_sequence_length";
    check(
        |_, t| t.cumulative.truncate(2),
        &format!("{cumulative}: has 2 entries, expected 3 (one more than past_seqlens)"),
    );
    check(
        |_, t| t.cumulative.clear(),
        &format!("{cumulative}: has 0 entries, expected 3 (one more than past_seqlens)"),
    );
    for invalid in [
        [1, 1, 4],
        [0, 1, 5],
        [0, -1, 4],
        [0, 5, 4],
        [0, 4, i32::MIN],
    ] {
        check(
            |_, t| t.cumulative = invalid.to_vec(),
            &format!("{cumulative}: does not ascend from 0 to the 4 tokens of query"),
        );
    }
    check(
        |_, t| t.past[0] = -1,
        "past_seqlens: sequence 0 has -1 past tokens",
    );
    check(
        |_, t| t.past[1] = i32::MAX,
        "cos_cache: has 512 positions, sequence 1 needs 2147483650",
    );
    check(
        |_, t| t.past[1] = 30,
        "block_table: has 2 blocks per sequence, sequence 1 needs 3",
    );
    check(
        |_, t| t.past[1] = 14,
        "block_table: sequence 1 has block -1, but the cache has 4 blocks",
    );
    check(
        |_, t| t.table[0] = 4,
        "block_table: sequence 0 has block 4, but the cache has 4 blocks",
    );
    check(
        |_, t| t.table[1] = i32::MIN,
        "block_table: sequence 0 has block -2147483648, but the cache has 4 blocks",
    );
    check(
        |_, t| t.blocks_per_sequence = 3,
        "block_table: does not have one row for each of 2 sequences",
    );
    check(
        |_, t| t.blocks_per_sequence = usize::MAX,
        "block_table: does not have one row for each of 2 sequences",
    );
    check(
        |_, t| {
            t.table = vec![2, 0, 0, -1];
            t.past[1] = 3;
            t.slots = None;
        },
        "block_table: two tokens of the batch are written to slot 4",
    );
    check(
        |_, t| t.slots.as_mut().unwrap()[1] = 9,
        "slot_mapping: maps token 1 to slot 9, which contradicts block_table",
    );
    check(
        |_, t| t.slots.as_mut().unwrap()[0] = -2,
        "slot_mapping: maps token 0 to slot -2, which contradicts block_table",
    );
    check(
        |_, t| t.slots.as_mut().unwrap().truncate(3),
        "slot_mapping: has 3 entries for 4 tokens",
    );
    check(
        |_, t| t.sines.truncate(8),
        "sin_cache: does not have the shape of cos_cache",
    );
    check(
        |_, t| t.cosines.truncate(9),
        "cos_cache: has 8 columns, which do not match the head size 16",
    );
    check(
        |_, t| (t.cosines.truncate(80), t.sines.truncate(80)).0,
        "cos_cache: has 10 positions, sequence 0 needs 21",
    );
}
