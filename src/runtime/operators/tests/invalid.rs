//! Inputs that do not fit each other: the error names the one to mend.

use super::*;

/// Spoils a good step and compares the error; nothing may have been written.
fn check(spoil: impl FnOnce(&mut AttentionShape, &mut Tensors), expected: &str) {
    let (node, chunks) = small();
    let mut memory = node.memory(&chunks);
    let before = memory.bits();
    let mut tensors = node.tensors(&chunks);
    let mut shape = node.shape;
    spoil(&mut shape, &mut tensors);
    let mut output = vec![0.0; 4 * 64];
    let caches = AttentionCaches {
        keys: &mut memory.keys,
        values: &mut memory.values,
    };
    let answer = attend(
        shape,
        &node.inputs(&tensors),
        caches,
        &mut output,
        Instructions::detect(),
        &one_thread,
    );
    assert_eq!(answer.unwrap_err().to_string(), expected);
    assert_eq!(memory.bits(), before);
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    check(
        |shape, _| shape.heads = 3,
        "query: has 3 heads for 2 of keys (at most 1024)",
    );
    check(
        |shape, _| shape.head_size = 12,
        "key_cache: head size 12 is no multiple of 8 up to 1024",
    );
    check(
        |shape, _| shape.blocks = usize::MAX,
        "key_cache: has 2048 elements, not those of its shape",
    );
    check(
        |shape, _| shape.block_tokens = 0,
        "key_cache: has 2048 elements, not those of its shape",
    );
    check(
        |_, t| t.query.truncate(100),
        "query: its 100 elements are not rows of 64",
    );
    check(
        |_, t| t.query.truncate(64),
        "output: has 256 elements for 1 tokens",
    );
    check(
        |_, t| t.key_value.as_mut().unwrap().0.truncate(32),
        "key: is not 4 rows of 32 elements",
    );
    check(
        |_, t| t.key_value.as_mut().unwrap().1.clear(),
        "value: is not 4 rows of 32 elements",
    );

    let cumulative = "cumulative_sequence_length";
    check(
        |_, t| t.cumulative.truncate(2),
        &format!("{cumulative}: has 2 entries for 2 past_seqlens, not one more"),
    );
    check(
        |_, t| t.cumulative.clear(),
        &format!("{cumulative}: has 0 entries for 2 past_seqlens, not one more"),
    );
    for wrong in [
        [1, 1, 4],
        [0, 1, 5],
        [0, -1, 4],
        [0, 5, 4],
        [0, 4, i32::MIN],
    ] {
        check(
            |_, t| t.cumulative = wrong.to_vec(),
            &format!("{cumulative}: does not rise from 0 to the 4 tokens of query"),
        );
    }
    check(
        |_, t| t.past[0] = -1,
        "past_seqlens: sequence 0 has -1 tokens",
    );
    check(
        |_, t| t.past[1] = i32::MAX,
        "cos_cache: has 512 positions, sequence 1 needs 2147483650",
    );
    check(
        |_, t| t.past[1] = 30,
        "block_table: has 2 blocks for each sequence, sequence 1 needs 3",
    );
    check(
        |_, t| t.past[1] = 14,
        "block_table: sequence 1 names block -1 of 4",
    );
    check(
        |_, t| t.table[0] = 4,
        "block_table: sequence 0 names block 4 of 4",
    );
    check(
        |_, t| t.table[1] = i32::MIN,
        "block_table: sequence 0 names block -2147483648 of 4",
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
        "slot_mapping: sends token 1 to slot 9, against the block table",
    );
    check(
        |_, t| t.slots.as_mut().unwrap()[0] = -2,
        "slot_mapping: sends token 0 to slot -2, against the block table",
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
        "cos_cache: has 8 columns for a head of 16 elements",
    );
    check(
        |_, t| (t.cosines.truncate(80), t.sines.truncate(80)).0,
        "cos_cache: has 10 positions, sequence 0 needs 21",
    );
}
