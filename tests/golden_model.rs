//! Token probabilities and perplexity of two models against results recorded from llama.cpp, and batch invariance:
//! chunks, batch composition and copied blocks change no bit.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/split.rs"]
mod split;
#[path = "common/standalone_decoder.rs"]
mod standalone_decoder;

use ortolan::engine::{AdapterScales, BlockCopy, BlockId, Chunk, ModelRunner, StepPlan};
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::text::SpecialTokens;
use ortolan::token::TokenId;
use serde_json::Value;
use standalone_decoder::{BLOCK_TOKENS, CONTEXT, StandaloneDecoder, bits, chunk, distribution};

/// Required agreement with the recorded results.
struct Tolerance {
    /// Smallest allowed share of positions where the most probable token is the recorded one.
    min_share: f64,
    /// At the other positions: largest allowed difference between the recorded log probabilities of the two most
    /// probable tokens, in nats. A small difference is a near tie.
    max_lead: f64,
    /// Largest allowed mean difference of log probabilities, in nats.
    max_mean_difference: f64,
}

/// Feeds the recorded tokens as context and compares the distribution at each position with the recorded one.
#[expect(clippy::print_stdout, reason = "the measured agreement is informative")]
fn check_agreement(mut model: StandaloneDecoder, golden: &Value, tolerance: &Tolerance) {
    let (mut positions, mut agreements, mut difference) = (0, 0, 0.0);
    let mut disagreements = Vec::new();
    for entry in golden["greedy"].as_array().unwrap() {
        let prompt = model.prompt(entry["prompt"].as_str().unwrap());
        assert_eq!(
            prompt.len() as u64,
            entry["tokens_evaluated"].as_u64().unwrap()
        );
        let generated: Vec<TokenId> = serde_json::from_value(entry["tokens"].clone()).unwrap();
        let tokens = [&prompt[..], &generated].concat();
        let rows = model.logits(&tokens, &[CONTEXT]);
        for (index, recorded) in entry["top_logprobs"].as_array().unwrap().iter().enumerate() {
            let token = |rank: usize| recorded[rank]["id"].as_u64().unwrap() as usize;
            let logprob = |rank: usize| recorded[rank]["logprob"].as_f64().unwrap();
            let (best, model_logprob) = distribution(&rows[prompt.len() - 1 + index]);
            let lead = logprob(0) - logprob(1);
            positions += 1;
            difference += (model_logprob(token(0)) - logprob(0)).abs();
            if best == token(0) {
                agreements += 1;
            } else {
                disagreements.push((entry["prompt"].as_str().unwrap().to_owned(), index, lead));
            }
        }
    }
    let share = f64::from(agreements) / f64::from(positions);
    let mean = difference / f64::from(positions);
    println!(
        "{agreements} of {positions} agree ({share:.4}), mean difference {mean:.4} nats: {disagreements:?}"
    );
    assert!(positions > 200, "only {positions} recorded positions");
    let is_near_tie = |(_, _, lead): &(_, _, f64)| *lead < tolerance.max_lead;
    assert!(disagreements.iter().all(is_near_tie), "{disagreements:?}");
    assert!(share >= tolerance.min_share, "{share}");
    assert!(mean <= tolerance.max_mean_difference, "{mean}");
}

#[test]
fn most_probable_tokens_match_llama_cpp() {
    let tolerance = Tolerance {
        min_share: 0.93,
        max_lead: 0.4,
        max_mean_difference: 0.05,
    };
    check_agreement(StandaloneDecoder::load(), &common::golden(), &tolerance);
    let model = StandaloneDecoder::with_contrib_matmul(&common::model());
    check_agreement(model, &common::golden(), &tolerance);
}

#[test]
fn most_probable_tokens_of_gemma_match_llama_cpp() {
    // Even with weights in single precision, the share is only 0.965.
    let tolerance = Tolerance {
        min_share: 0.945,
        max_lead: 0.6,
        max_mean_difference: 0.05,
    };
    let model = StandaloneDecoder::load_from(&common::gemma());
    check_agreement(model, &common::golden_gemma(), &tolerance);
}

/// Perplexity as llama-perplexity computes it; `perplexity.json` records the exact procedure.
fn perplexity(mut model: StandaloneDecoder, recorded: &Value) -> f64 {
    let text = include_str!("golden/perplexity.txt");
    let text = text.strip_suffix('\n').unwrap();
    let bos = recorded["bos"].as_u64().map(|id| TokenId(id as u32));
    let encoded = model.tokenizer.encode(text, SpecialTokens::Literal);
    let tokens: Vec<TokenId> = bos.into_iter().chain(encoded).collect();
    assert_eq!(tokens.len() as u64, recorded["tokens"].as_u64().unwrap());
    let (mut sum, mut counted) = (0.0, 0);
    for chunk in tokens.chunks_exact(CONTEXT) {
        let mut computed = chunk.to_vec();
        computed[0] = bos.unwrap_or(computed[0]);
        let rows = model.logits(&computed, &[CONTEXT]);
        for position in CONTEXT / 2..CONTEXT - 1 {
            let (_, logprob) = distribution(&rows[position]);
            sum -= logprob(chunk[position + 1].row());
            counted += 1;
        }
    }
    assert_eq!(counted, recorded["tokens_evaluated"].as_u64().unwrap());
    (sum / counted as f64).exp()
}

#[test]
fn the_perplexity_of_a_text_matches_llama_cpp() {
    let models = [common::model(), common::gemma()];
    let recorded = common::recorded("perplexity.json");
    for (path, recorded) in models.iter().zip(recorded["models"].as_array().unwrap()) {
        assert!(path.ends_with(recorded["file"].as_str().unwrap()));
        let ours = perplexity(StandaloneDecoder::load_from(path), recorded);
        let theirs = recorded["llama.cpp"]["perplexity"].as_f64().unwrap();
        let relative_difference = ours / theirs - 1.0;
        println!(
            "{}: {ours:.4}, llama.cpp {theirs:.4}: {:+.2} %",
            path.display(),
            100.0 * relative_difference
        );
        assert!(relative_difference.abs() <= 0.005, "{relative_difference}");
    }
}

/// A pseudorandom text with this number of tokens.
fn long_text(tokens: usize) -> Vec<TokenId> {
    (0..tokens as u32)
        .map(|index| TokenId(1000 + index * 7919 % 40_000))
        .collect()
}

#[test]
fn chunk_sizes_change_no_bit() {
    let mut model = StandaloneDecoder::load();
    let tokens = long_text(300);
    let whole = model.logits(&tokens, &[CONTEXT]);
    let chunkings: [&[usize]; 7] = [
        &[1],
        &[2],
        &[3, 1, 7, 5],
        &[17, 1],
        &[31, 64, 33],
        &[255, 1],
        &[299, 1],
    ];
    for chunks in chunkings {
        let chunked = model.logits(&tokens, chunks);
        for (row, (left, right)) in whole.iter().zip(&chunked).enumerate() {
            assert!(
                bits(left) == bits(right),
                "row {row} in chunks of {chunks:?}"
            );
        }
    }
}

/// Runs a step; returns the bits of its logits.
fn step(
    model: &mut StandaloneDecoder,
    copies: Vec<BlockCopy>,
    chunks: Vec<Chunk>,
) -> Vec<Vec<u32>> {
    let mut outputs = model.decoder.outputs();
    let plan = StepPlan { copies, chunks };
    model.decoder.run(&plan, &mut outputs).unwrap();
    outputs.logits.rows().map(bits).collect()
}

#[test]
fn batch_composition_changes_no_bit() {
    check_batch_composition(StandaloneDecoder::load());
    check_batch_composition(StandaloneDecoder::with_contrib_matmul(&common::model()));
}

fn check_batch_composition(mut model: StandaloneDecoder) {
    let tokens = long_text(90);
    let (last, before) = tokens.split_last().unwrap();
    let mut rows = Vec::new();
    // Token counts of the other chunks in the step: none, one, sixteen, and a long prompt.
    for other_tokens in [&[][..], &[1], &[1; 16], &[200, 1, 3]] {
        let mut allocate = |tokens: usize| -> Vec<BlockId> {
            let blocks = 0..tokens.div_ceil(BLOCK_TOKENS);
            blocks.map(|_| model.pool.allocate().unwrap()).collect()
        };
        let own = allocate(tokens.len());
        let other_blocks: Vec<Vec<BlockId>> = other_tokens
            .iter()
            .map(|tokens| allocate(*tokens))
            .collect();
        step(&mut model, Vec::new(), vec![chunk(0, before, 0, &own)]);
        let mut chunks: Vec<Chunk> = other_tokens
            .iter()
            .zip(&other_blocks)
            .enumerate()
            .map(|(number, (tokens, blocks))| chunk(number + 1, &long_text(*tokens), 0, blocks))
            .collect();
        let index = other_tokens.len() / 2;
        chunks.insert(index, chunk(0, &[*last], before.len(), &own));
        rows.push(step(&mut model, Vec::new(), chunks).swap_remove(index));
        for block in own.into_iter().chain(other_blocks.into_iter().flatten()) {
            model.pool.release(block);
        }
    }
    for (number, row) in rows.iter().enumerate() {
        assert!(*row == rows[0], "batch {number}");
    }
}

#[test]
fn a_copied_block_gives_the_same_bits_as_a_computed_one() {
    let mut model = StandaloneDecoder::load();
    let tokens = long_text(50);
    let blocks: Vec<BlockId> = (0..4).map(|_| model.pool.allocate().unwrap()).collect();
    let whole = chunk(0, &tokens, 0, &blocks[..2]);
    let computed = step(&mut model, Vec::new(), vec![whole]);
    // The first 17 tokens of the second block are copied to a third block, where the last token is computed.
    let copies = vec![BlockCopy {
        from: blocks[1],
        to: blocks[2],
    }];
    let last = chunk(1, &tokens[49..], 49, &[blocks[0], blocks[2]]);
    assert!(step(&mut model, copies, vec![last]) == computed);
    let last = chunk(2, &tokens[49..], 49, &[blocks[0], blocks[3]]);
    assert!(step(&mut model, Vec::new(), vec![last]) != computed);
}

#[test]
fn a_model_in_three_shards_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let files = split::split(&common::model(), folder.path(), 3);
    let (whole, set) = (
        Gguf::open(&common::model(), FileAccess::Map).unwrap(),
        Gguf::open(&files[0], FileAccess::Map).unwrap(),
    );
    assert_eq!(set.tensors().count(), whole.tensors().count());
    for (name, tensor) in whole.tensors() {
        let other = set.tensor(name).unwrap();
        assert!(whole.bytes(tensor) == set.bytes(other), "{name}");
    }
    let (mut whole, mut set) = (
        StandaloneDecoder::load(),
        StandaloneDecoder::load_from(&files[0]),
    );
    let tokens = whole
        .tokenizer
        .encode("The wren is a small bird", SpecialTokens::Parse);
    assert_eq!(
        tokens,
        set.tokenizer
            .encode("The wren is a small bird", SpecialTokens::Parse)
    );
    assert!(whole.logits(&tokens, &[CONTEXT]) == set.logits(&tokens, &[CONTEXT]));
}

#[test]
fn an_inactive_adapter_changes_no_bit_with_quantized_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let mut weights = Vec::new();
    for layer in 0..30 {
        for (part, sizes) in [
            ("attn_q", [576, 576]),
            ("attn_v", [576, 192]),
            ("attn_output", [576, 576]),
            ("ffn_gate", [576, 1536]),
            ("ffn_down", [1536, 576]),
        ] {
            weights.push((format!("blk.{layer}.{part}.weight"), sizes));
        }
    }
    common::lora::write(&path, "llama", 8, &weights, 1);
    let mut adapted = StandaloneDecoder::with_adapters(&common::model(), &[&path]);
    let mut plain = StandaloneDecoder::load();
    let tokens = long_text(40);
    let expected = plain.logits(&tokens, &[17, 1]);
    assert!(adapted.logits(&tokens, &[17, 1]) == expected);
    let scales = AdapterScales::new([(0, 0.01)]);
    let StandaloneDecoder { decoder, pool, .. } = &mut adapted;
    let active = standalone_decoder::logits_with(decoder, pool, &tokens, &[17, 1], &scales);
    assert!(active != expected);
    assert!(adapted.logits(&tokens, &[40]) == expected);
}
