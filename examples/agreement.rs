//! Compares the token probabilities of a model with those that an independent implementation computed for the default
//! model (`tests/golden/`). Use it for exports of the default model's weights, which are too large for the repository.
//!
//!     python tests/golden/exports.py model .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf exports
//!     cargo run --release --example agreement -- exports/genai

#![expect(clippy::print_stdout, reason = "the example prints its result")]

use std::env::consts::DLL_EXTENSION;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ortolan::cache::BlockPool;
use ortolan::engine::{AdapterScales, BlockId, Chunk, SequenceId, StepPlan, WantedRows};
use ortolan::file_bytes::FileAccess;
use ortolan::model::BLOCK_TOKENS;
use ortolan::model::load::{self, OpenedModel};
use ortolan::runtime::SessionOptions;
use ortolan::text::{SpecialTokens, Tokenizer};
use ortolan::token::TokenId;
use serde_json::Value;

const BLOCKS: usize = 32;
const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/golden/smollm2-135m-instruct-q4_1.json"
);
const LIBRARY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/.cache/onnxruntime/libonnxruntime"
);

fn main() -> anyhow::Result<()> {
    let path = PathBuf::from(std::env::args().nth(1).context("usage: agreement MODEL")?);
    let golden: Value = serde_json::from_slice(&std::fs::read(GOLDEN)?)?;
    let files = OpenedModel::open_any(&path, FileAccess::Map)?;
    let attention = files.file.attention();
    let options = SessionOptions::new(Path::new(LIBRARY).with_extension(DLL_EXTENSION));
    let context = BLOCKS * BLOCK_TOKENS;
    let mut runner = load::runner(&files.file, &options, context, BLOCKS, &|_| ())?;
    let mut outputs = runner.outputs();
    let tokenizer = Tokenizer::new(files.vocabulary)?;
    let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
    let allocate = |pool: &mut BlockPool| pool.allocate().context("no free block");
    let blocks: Vec<BlockId> = (0..BLOCKS)
        .map(|_| allocate(&mut pool))
        .collect::<anyhow::Result<_>>()?;
    let (mut positions, mut agreements, mut difference) = (0, 0, 0.0);
    for entry in golden["greedy"]
        .as_array()
        .context("the recorded data has no \"greedy\"")?
    {
        let prompt = entry["prompt"].as_str().context("no prompt")?;
        let prompt = tokenizer.encode(prompt, SpecialTokens::Parse);
        let generated: Vec<TokenId> = serde_json::from_value(entry["tokens"].clone())?;
        let chunk = Chunk {
            sequence: SequenceId(0),
            tokens: [&prompt[..], &generated].concat(),
            draft_tokens: 0,
            past: 0,
            blocks: blocks.clone(),
            logits: WantedRows::All,
            hidden: WantedRows::None,
            adapters: AdapterScales::default(),
        };
        let plan = StepPlan {
            copies: Vec::new(),
            chunks: vec![chunk],
        };
        runner.run(&plan, &mut outputs)?;
        let rows = outputs.logits.rows().skip(prompt.len() - 1);
        let recorded = entry["top_logprobs"]
            .as_array()
            .context("the recorded entry has no \"top_logprobs\"")?;
        for (index, (row, recorded)) in rows.zip(recorded).enumerate() {
            let expected = recorded[0]["id"].as_u64().context("no token")? as usize;
            let expected_logprob = recorded[0]["logprob"].as_f64().context("no number")?;
            let best = (0..row.len()).max_by(|left, right| row[*left].total_cmp(&row[*right]));
            let best = best.context("no logits")?;
            let exponents = row.iter().map(|logit| f64::from(logit - row[best]).exp());
            let norm = f64::from(row[best]) + exponents.sum::<f64>().ln();
            positions += 1;
            difference += (f64::from(row[expected]) - norm - expected_logprob).abs();
            agreements += usize::from(best == expected);
            if best != expected {
                let next = recorded[1]["logprob"].as_f64().context("no second")?;
                println!(
                    "{}, token {index}: the recorded token led by {:.3}",
                    entry["prompt"],
                    expected_logprob - next
                );
            }
        }
    }
    println!(
        "{attention:?}: {agreements} of {positions} agree ({:.4}), mean difference {:.4} nats",
        agreements as f64 / positions as f64,
        difference / positions as f64
    );
    Ok(())
}
