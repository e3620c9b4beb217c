//! Any model without engine or server, however it is computed.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::path::Path;

use ortolan::cache::BlockPool;
use ortolan::engine::{
    AdapterScales, BlockId, Chunk, ModelRunner, Outputs, SequenceId, StepPlan, WantedRows,
};
use ortolan::file_bytes::FileAccess;
use ortolan::model::load::{self, BLOCK_TOKENS, ModelFiles, SessionOptions};
use ortolan::text::Tokenizer;
use ortolan::token::TokenId;

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

    /// The logits after every token of a sequence, computed in chunks of these sizes, the last one as often as needed.
    pub(crate) fn logits(&mut self, tokens: &[TokenId], chunks: &[usize]) -> Vec<Vec<f32>> {
        let blocks = self.take(tokens.len());
        let mut sizes = chunks
            .iter()
            .chain(std::iter::repeat(chunks.last().unwrap()));
        let mut rows = Vec::new();
        while rows.len() < tokens.len() {
            let past = rows.len();
            let end = tokens.len().min(past + sizes.next().unwrap());
            let mut chunk = chunk(0, &tokens[past..end], past, &blocks);
            chunk.logits = WantedRows::All;
            self.run(vec![chunk]);
            rows.extend(self.outputs.logits.rows().map(<[f32]>::to_vec));
        }
        blocks
            .into_iter()
            .for_each(|block| self.pool.release(block));
        rows
    }
}

/// A chunk whose last token's logits are wanted.
pub(crate) fn chunk(number: usize, tokens: &[TokenId], past: usize, blocks: &[BlockId]) -> Chunk {
    Chunk {
        sequence: SequenceId(number as u64),
        tokens: tokens.to_vec(),
        past,
        blocks: blocks.to_vec(),
        logits: WantedRows::Last,
        hidden: WantedRows::None,
        adapters: AdapterScales::default(),
    }
}

pub(crate) fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The most probable token.
pub(crate) fn best(logits: &[f32]) -> TokenId {
    let most = logits
        .iter()
        .enumerate()
        .max_by(|left, right| left.1.total_cmp(right.1));
    TokenId(most.unwrap().0 as u32)
}
