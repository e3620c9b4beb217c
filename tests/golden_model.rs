//! The default model's numbers against an independent implementation's (llama.cpp, recorded): the
//! recorded tokens are fed as context, and at each position the distributions are compared.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bare.rs"]
mod bare;
mod common;
#[path = "common/split.rs"]
mod split;

use bare::{BLOCK_TOKENS, Bare, CONTEXT, bits, chunk, distribution};
use ortolan::engine::{AdapterScales, BlockCopy, BlockId, Chunk, ModelRunner, StepPlan};
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::text::SpecialTokens;
use ortolan::token::TokenId;
use serde_json::Value;

/// How near the recorded answers are to be.
struct Nearness {
    /// Share of the tokens that are to be the recorded ones.
    share: f64,
    /// Where one is not, the recorded one's most lead over the next, in nats.
    lead: f64,
    /// How far log-probabilities may be from the recorded ones on average, in nats.
    difference: f64,
}

/// Holds the recorded answers against the model.
#[expect(clippy::print_stdout, reason = "how near they are is of interest, too")]
fn check_agreement(mut model: Bare, golden: &Value, wanted: &Nearness) {
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
        for (place, recorded) in entry["top_logprobs"].as_array().unwrap().iter().enumerate() {
            let token = |rank: usize| recorded[rank]["id"].as_u64().unwrap() as usize;
            let logprob = |rank: usize| recorded[rank]["logprob"].as_f64().unwrap();
            let (best, of) = distribution(&rows[prompt.len() - 1 + place]);
            let lead = logprob(0) - logprob(1);
            positions += 1;
            difference += (of(token(0)) - logprob(0)).abs();
            if best == token(0) {
                agreements += 1;
            } else {
                disagreements.push((entry["prompt"].as_str().unwrap().to_owned(), place, lead));
            }
        }
    }
    let share = f64::from(agreements) / f64::from(positions);
    let mean = difference / f64::from(positions);
    println!(
        "{agreements} of {positions} agree ({share:.4}), mean difference {mean:.4} nats: {disagreements:?}"
    );
    assert!(positions > 200, "the recorded answers were read");
    let led = |(_, _, lead): &(_, _, f64)| *lead < wanted.lead;
    assert!(disagreements.iter().all(led), "{disagreements:?}");
    assert!(share >= wanted.share, "{share}");
    assert!(mean <= wanted.difference, "{mean}");
}

#[test]
fn the_most_probable_tokens_are_those_of_an_independent_implementation() {
    let wanted = Nearness {
        share: 0.93,
        lead: 0.4,
        difference: 0.05,
    };
    check_agreement(Bare::load(), &common::golden(), &wanted);
    let model = Bare::with_contrib_products(&common::model());
    check_agreement(model, &common::golden(), &wanted);
}

#[test]
fn gemmas_most_probable_tokens_are_those_of_an_independent_implementation() {
    // With the same weights in single precision it is 0.965.
    let wanted = Nearness {
        share: 0.945,
        lead: 0.6,
        difference: 0.05,
    };
    let model = Bare::load_from(&common::gemma());
    check_agreement(model, &common::golden_gemma(), &wanted);
}

/// As llama-perplexity does it; `perplexity.json` says how in every detail.
fn perplexity(mut model: Bare, recorded: &Value) -> f64 {
    let text = include_str!("golden/perplexity.txt");
    let text = text.strip_suffix('\n').unwrap();
    let beginning = recorded["bos"].as_u64().map(|id| TokenId(id as u32));
    let spelt = model.tokenizer.encode(text, SpecialTokens::Literal);
    let tokens: Vec<TokenId> = beginning.into_iter().chain(spelt).collect();
    assert_eq!(tokens.len() as u64, recorded["tokens"].as_u64().unwrap());
    let (mut sum, mut counted) = (0.0, 0);
    for chunk in tokens.chunks_exact(CONTEXT) {
        let mut computed = chunk.to_vec();
        computed[0] = beginning.unwrap_or(computed[0]);
        let rows = model.logits(&computed, &[CONTEXT]);
        for place in CONTEXT / 2..CONTEXT - 1 {
            let (_, of) = distribution(&rows[place]);
            sum -= of(chunk[place + 1].row());
            counted += 1;
        }
    }
    assert_eq!(counted, recorded["tokens_evaluated"].as_u64().unwrap());
    (sum / counted as f64).exp()
}

#[test]
fn the_perplexity_of_a_text_is_llama_cpps() {
    let models = [common::model(), common::gemma()];
    let recorded = common::recorded("perplexity.json");
    for (path, recorded) in models.iter().zip(recorded["models"].as_array().unwrap()) {
        assert!(path.ends_with(recorded["file"].as_str().unwrap()));
        let found = perplexity(Bare::load_from(path), recorded);
        let theirs = recorded["llama.cpp"]["perplexity"].as_f64().unwrap();
        let share = found / theirs - 1.0;
        println!(
            "{}: {found:.4}, llama.cpp {theirs:.4}: {:+.2} %",
            path.display(),
            100.0 * share
        );
        assert!(share.abs() <= 0.005, "{share}");
    }
}

/// Some text of so many tokens.
fn long_text(tokens: usize) -> Vec<TokenId> {
    (0..tokens as u32)
        .map(|place| TokenId(1000 + place * 7919 % 40_000))
        .collect()
}

#[test]
fn chunks_do_not_change_a_bit() {
    let mut model = Bare::load();
    let tokens = long_text(300);
    let whole = model.logits(&tokens, &[CONTEXT]);
    let cuts: [&[usize]; 7] = [
        &[1],
        &[2],
        &[3, 1, 7, 5],
        &[17, 1],
        &[31, 64, 33],
        &[255, 1],
        &[299, 1],
    ];
    for chunks in cuts {
        let cut = model.logits(&tokens, chunks);
        for (row, (left, right)) in whole.iter().zip(&cut).enumerate() {
            assert!(
                bits(left) == bits(right),
                "row {row} in chunks of {chunks:?}"
            );
        }
    }
}

/// A step of these sequences' chunks.
fn step(model: &mut Bare, copies: Vec<BlockCopy>, chunks: Vec<Chunk>) -> Vec<Vec<u32>> {
    let mut outputs = model.decoder.outputs();
    let plan = StepPlan { copies, chunks };
    model.decoder.run(&plan, &mut outputs).unwrap();
    outputs.logits.rows().map(bits).collect()
}

#[test]
fn neighbours_do_not_change_a_bit() {
    check_neighbours(Bare::load());
    check_neighbours(Bare::with_contrib_products(&common::model()));
}

fn check_neighbours(mut model: Bare) {
    let tokens = long_text(90);
    let (last, before) = tokens.split_last().unwrap();
    let mut rows = Vec::new();
    // Alone, beside another one, beside sixteen, beside a long prompt.
    for neighbours in [&[][..], &[1], &[1; 16], &[200, 1, 3]] {
        let mut take = |tokens: usize| -> Vec<BlockId> {
            let blocks = 0..tokens.div_ceil(BLOCK_TOKENS);
            blocks.map(|_| model.pool.take().unwrap()).collect()
        };
        let own = take(tokens.len());
        let others: Vec<Vec<BlockId>> = neighbours.iter().map(|tokens| take(*tokens)).collect();
        step(&mut model, Vec::new(), vec![chunk(0, before, 0, &own)]);
        let mut chunks: Vec<Chunk> = neighbours
            .iter()
            .zip(&others)
            .enumerate()
            .map(|(number, (tokens, blocks))| chunk(number + 1, &long_text(*tokens), 0, blocks))
            .collect();
        let place = neighbours.len() / 2;
        chunks.insert(place, chunk(0, &[*last], before.len(), &own));
        rows.push(step(&mut model, Vec::new(), chunks).swap_remove(place));
        for block in own.into_iter().chain(others.into_iter().flatten()) {
            model.pool.release(block);
        }
    }
    for (number, row) in rows.iter().enumerate() {
        assert!(*row == rows[0], "neighbours {number}");
    }
}

#[test]
fn a_copied_block_is_as_good_as_a_computed_one() {
    let mut model = Bare::load();
    let tokens = long_text(50);
    let blocks: Vec<BlockId> = (0..4).map(|_| model.pool.take().unwrap()).collect();
    let whole = chunk(0, &tokens, 0, &blocks[..2]);
    let computed = step(&mut model, Vec::new(), vec![whole]);
    // The second block's first 17 tokens are copied to a third one, the last is computed there.
    let copies = vec![BlockCopy {
        from: blocks[1],
        to: blocks[2],
    }];
    let last = chunk(1, &tokens[49..], 49, &[blocks[0], blocks[2]]);
    assert!(step(&mut model, copies, vec![last]) == computed);
    let last = chunk(2, &tokens[49..], 49, &[blocks[0], blocks[3]]);
    assert!(step(&mut model, Vec::new(), vec![last]) != computed);
}

/// The same weights, wherever they lie.
#[test]
fn a_model_in_three_files_computes_the_same() {
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
    let (mut whole, mut set) = (Bare::load(), Bare::load_from(&files[0]));
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
fn an_adapter_that_does_not_count_leaves_quantised_weights_as_they_are_to_the_bit() {
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
    let mut adapted = Bare::adapted(&common::model(), &[&path]);
    let mut plain = Bare::load();
    let tokens = long_text(40);
    let wanted = plain.logits(&tokens, &[17, 1]);
    assert!(adapted.logits(&tokens, &[17, 1]) == wanted);
    let scales = AdapterScales::new([(0, 0.01)]);
    let Bare { decoder, pool, .. } = &mut adapted;
    let counting = bare::logits_with(decoder, pool, &tokens, &[17, 1], &scales);
    assert!(counting != wanted);
    assert!(adapted.logits(&tokens, &[40]) == wanted);
}
