//! Any model without engine or server, however it is computed.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::path::Path;

use ortolan::cache::BlockPool;
use ortolan::engine::{BlockId, Chunk, ModelRunner, Outputs, StepPlan};
use ortolan::file_bytes::FileAccess;
use ortolan::model::load::{self, BLOCK_TOKENS, ModelFiles, SessionOptions};
use ortolan::text::Tokenizer;
use ortolan::token::TokenId;

use crate::bare::{self, bits};
use crate::common;

const BLOCKS: usize = 40;

/// A runner, with the blocks that are its cache.
pub(crate) struct Imported {
    pub(crate) runner: Box<dyn ModelRunner>,
    pub(crate) outputs: Outputs,
    pub(crate) tokenizer: Tokenizer,
    pool: BlockPool,
}

impl Imported {
    pub(crate) fn open(path: &Path) -> Self {
        Self::try_open(path).unwrap()
    }

    pub(crate) fn try_open(path: &Path) -> anyhow::Result<Self> {
        let files = ModelFiles::open_any(path, FileAccess::Map)?;
        let options = SessionOptions::new(common::onnxruntime());
        let context = files.file.trained_context();
        let runner = load::runner(&files.file, &options, context, BLOCKS, &|_| ())?;
        Ok(Self {
            outputs: runner.outputs(),
            runner,
            tokenizer: Tokenizer::new(files.vocabulary)?,
            pool: BlockPool::new(BLOCKS, BLOCK_TOKENS),
        })
    }

    /// Blocks for so many tokens.
    pub(crate) fn take(&mut self, tokens: usize) -> Vec<BlockId> {
        let blocks = 0..tokens.div_ceil(BLOCK_TOKENS);
        blocks.map(|_| self.pool.take().unwrap()).collect()
    }

    pub(crate) fn run(&mut self, chunks: Vec<Chunk>) {
        let plan = StepPlan {
            copies: Vec::new(),
            chunks,
        };
        self.runner.run(&plan, &mut self.outputs).unwrap();
    }

    /// The bits of a step's logits.
    pub(crate) fn step(&mut self, chunks: Vec<Chunk>) -> Vec<Vec<u32>> {
        self.run(chunks);
        self.outputs.logits.rows().map(bits).collect()
    }

    /// The logits after every token of a sequence, as [`bare::logits`] gives them.
    pub(crate) fn logits(&mut self, tokens: &[TokenId], chunks: &[usize]) -> Vec<Vec<f32>> {
        bare::logits(&mut *self.runner, &mut self.pool, tokens, chunks)
    }
}

/// The most probable token.
pub(crate) fn best(logits: &[f32]) -> TokenId {
    let most = logits
        .iter()
        .enumerate()
        .max_by(|left, right| left.1.total_cmp(right.1));
    TokenId(most.unwrap().0 as u32)
}
