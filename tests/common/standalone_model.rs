//! A model of any supported format (GGUF, folder, ONNX graph) run directly, without engine and server.

#![allow(dead_code, reason = "every test crate uses some of these helpers")]

use std::path::Path;

use ortolan::cache::BlockPool;
use ortolan::engine::{BlockId, Chunk, ModelRunner, Outputs, StepPlan};
use ortolan::file_bytes::FileAccess;
use ortolan::model::BLOCK_TOKENS;
use ortolan::model::load::{self, OpenedModel};
use ortolan::runtime::SessionOptions;
use ortolan::text::Tokenizer;
use ortolan::token::TokenId;

use crate::common;
use crate::standalone_decoder::{self, bits};

const BLOCKS: usize = 40;

/// A model runner with its tokenizer and the block pool of its KV cache.
pub(crate) struct StandaloneModel {
    pub(crate) runner: Box<dyn ModelRunner>,
    pub(crate) outputs: Outputs,
    pub(crate) tokenizer: Tokenizer,
    pool: BlockPool,
}

impl StandaloneModel {
    pub(crate) fn open(path: &Path) -> Self {
        Self::try_open(path).unwrap()
    }

    pub(crate) fn try_open(path: &Path) -> anyhow::Result<Self> {
        let files = OpenedModel::open_any(path, FileAccess::Map)?;
        let options = SessionOptions::new(common::onnxruntime());
        let context = files.file.trained_context_tokens();
        let runner = load::runner(&files.file, &options, context, BLOCKS, &|_| ())?;
        Ok(Self {
            outputs: runner.outputs(),
            runner,
            tokenizer: Tokenizer::new(files.vocabulary)?,
            pool: BlockPool::new(BLOCKS, BLOCK_TOKENS),
        })
    }

    /// Allocates blocks for this number of tokens.
    pub(crate) fn allocate(&mut self, tokens: usize) -> Vec<BlockId> {
        let blocks = 0..tokens.div_ceil(BLOCK_TOKENS);
        blocks.map(|_| self.pool.allocate().unwrap()).collect()
    }

    pub(crate) fn run(&mut self, chunks: Vec<Chunk>) {
        let plan = StepPlan {
            copies: Vec::new(),
            chunks,
        };
        self.runner.run(&plan, &mut self.outputs).unwrap();
    }

    /// Runs one step; returns the bits of its logits.
    pub(crate) fn step(&mut self, chunks: Vec<Chunk>) -> Vec<Vec<u32>> {
        self.run(chunks);
        self.outputs.logits.rows().map(bits).collect()
    }

    /// See [`standalone_decoder::logits`].
    pub(crate) fn logits(&mut self, tokens: &[TokenId], chunks: &[usize]) -> Vec<Vec<f32>> {
        standalone_decoder::logits(&mut *self.runner, &mut self.pool, tokens, chunks)
    }
}

/// The most probable token.
pub(crate) fn best(logits: &[f32]) -> TokenId {
    let best = logits
        .iter()
        .enumerate()
        .max_by(|left, right| left.1.total_cmp(right.1));
    TokenId(best.unwrap().0 as u32)
}
