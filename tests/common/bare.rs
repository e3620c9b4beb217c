//! A model without engine or server: what a runner gives, and what it says of the next token.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::path::Path;

use ortolan::cache::BlockPool;
use ortolan::engine::{
    AdapterScales, BlockId, Chunk, ModelRunner, SequenceId, StepPlan, WantedRows,
};
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::graph::{Adapter, ModelFile, ProductOperator};
use ortolan::model::load;
use ortolan::runtime::{Decoder, SessionOptions};
use ortolan::text::{SpecialTokens, Tokenizer};
use ortolan::token::TokenId;

use crate::common;

pub(crate) const CONTEXT: usize = 512;
pub(crate) const BLOCK_TOKENS: usize = 32;
pub(crate) const BLOCKS: usize = 20;

/// The real model, without engine or server.
pub(crate) struct Bare {
    pub(crate) decoder: Decoder,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) pool: BlockPool,
}

impl Bare {
    pub(crate) fn load() -> Self {
        Self::load_from(&common::model())
    }

    pub(crate) fn load_from(path: &Path) -> Self {
        Self::adapted(path, &[])
    }

    /// The same with the runtime's products.
    pub(crate) fn with_contrib_products(path: &Path) -> Self {
        Self::of(path, &[], Some(ProductOperator::Contrib))
    }

    /// The same with adapters.
    pub(crate) fn adapted(path: &Path, adapters: &[&Path]) -> Self {
        Self::of(path, adapters, None)
    }

    fn of(path: &Path, adapters: &[&Path], products: Option<ProductOperator>) -> Self {
        let gguf = Gguf::open(path, FileAccess::Map).unwrap();
        let vocabulary = load::vocabulary(gguf.metadata()).unwrap();
        let file = ModelFile::new(path.to_owned(), gguf).unwrap();
        let adapter = |path: &&Path| {
            let gguf = Gguf::open(path, FileAccess::Map).unwrap();
            Adapter::of_gguf(&gguf, &file).unwrap()
        };
        let adapters = adapters.iter().map(adapter).collect();
        let file = file.with_adapters(adapters, None).unwrap();
        let options = SessionOptions {
            products,
            ..SessionOptions::new(common::onnxruntime())
        };
        Self {
            decoder: Decoder::load(&file, &options, CONTEXT, BLOCKS, BLOCK_TOKENS, &|_| ())
                .unwrap(),
            tokenizer: Tokenizer::new(vocabulary).unwrap(),
            pool: BlockPool::new(BLOCKS, BLOCK_TOKENS),
        }
    }

    /// The tokens of a prompt.
    pub(crate) fn prompt(&self, text: &str) -> Vec<TokenId> {
        let beginning = self.tokenizer.beginning();
        let beginning = beginning.filter(|_| self.tokenizer.adds_beginning());
        let spelt = self.tokenizer.encode(text, SpecialTokens::Parse);
        beginning.into_iter().chain(spelt).collect()
    }

    /// The logits after every token of a sequence, as [`logits`] gives them.
    pub(crate) fn logits(&mut self, tokens: &[TokenId], chunks: &[usize]) -> Vec<Vec<f32>> {
        logits(&mut self.decoder, &mut self.pool, tokens, chunks)
    }
}

/// The logits after every token of a sequence, `[tokens][vocabulary]`, computed in chunks of
/// these sizes (the last one as often as needed).
pub(crate) fn logits(
    runner: &mut dyn ModelRunner,
    pool: &mut BlockPool,
    tokens: &[TokenId],
    chunks: &[usize],
) -> Vec<Vec<f32>> {
    logits_with(runner, pool, tokens, chunks, &AdapterScales::default())
}

/// The same with adapters.
pub(crate) fn logits_with(
    runner: &mut dyn ModelRunner,
    pool: &mut BlockPool,
    tokens: &[TokenId],
    chunks: &[usize],
    adapters: &AdapterScales,
) -> Vec<Vec<f32>> {
    let blocks: Vec<_> = (0..tokens.len().div_ceil(BLOCK_TOKENS))
        .map(|_| pool.take().unwrap())
        .collect();
    let mut sizes = chunks
        .iter()
        .chain(std::iter::repeat(chunks.last().unwrap()));
    let mut rows = Vec::new();
    while rows.len() < tokens.len() {
        let past = rows.len();
        let size = (*sizes.next().unwrap()).min(tokens.len() - past);
        let plan = StepPlan {
            copies: Vec::new(),
            chunks: vec![Chunk {
                logits: WantedRows::All,
                adapters: adapters.clone(),
                ..chunk(0, &tokens[past..past + size], past, &blocks)
            }],
        };
        let mut outputs = runner.outputs();
        runner.run(&plan, &mut outputs).unwrap();
        rows.extend(outputs.logits.rows().map(<[f32]>::to_vec));
    }
    blocks.into_iter().for_each(|block| pool.release(block));
    rows
}

/// A chunk whose last token's logits are wanted.
pub(crate) fn chunk(number: usize, tokens: &[TokenId], past: usize, blocks: &[BlockId]) -> Chunk {
    Chunk {
        sequence: SequenceId(number as u64),
        tokens: tokens.to_vec(),
        guessed: 0,
        past,
        blocks: blocks.to_vec(),
        logits: WantedRows::Last(1),
        hidden: WantedRows::None,
        adapters: AdapterScales::default(),
    }
}

pub(crate) fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The most probable token, and every token's log-probability.
pub(crate) fn distribution(logits: &[f32]) -> (usize, impl Fn(usize) -> f64) {
    let (best, most) = logits
        .iter()
        .enumerate()
        .max_by(|(_, left), (_, right)| left.total_cmp(right))
        .unwrap();
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - most).exp())
        .sum();
    let norm = f64::from(*most) + sum.ln();
    (best, move |token| f64::from(logits[token]) - norm)
}
