//! A GGUF model run directly by [`Decoder`], without engine and server, and helpers that compare logits.

#![allow(dead_code, reason = "every test crate uses some of these helpers")]

use std::path::Path;

use ortolan::cache::BlockPool;
use ortolan::engine::{
    AdapterScales, BlockId, Chunk, ModelRunner, SequenceId, StepPlan, WantedRows,
};
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::graph::{Adapter, MatmulOperator, ModelFile};
use ortolan::model::load;
use ortolan::runtime::{Decoder, SessionOptions};
use ortolan::text::{SpecialTokens, Tokenizer};
use ortolan::token::TokenId;

use crate::common;

pub(crate) const CONTEXT: usize = 512;
pub(crate) const BLOCK_TOKENS: usize = 32;
pub(crate) const BLOCKS: usize = 20;

/// A decoder with its tokenizer and the block pool of its KV cache.
pub(crate) struct StandaloneDecoder {
    pub(crate) decoder: Decoder,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) pool: BlockPool,
}

impl StandaloneDecoder {
    /// Loads the default model.
    pub(crate) fn load() -> Self {
        Self::load_from(&common::model())
    }

    pub(crate) fn load_from(path: &Path) -> Self {
        Self::with_adapters(path, &[])
    }

    /// Loads a model whose matrices are multiplied by ONNX Runtime's own operators.
    pub(crate) fn with_contrib_matmul(path: &Path) -> Self {
        Self::build(path, &[], Some(MatmulOperator::Contrib))
    }

    /// Loads a model with LoRA adapters.
    pub(crate) fn with_adapters(path: &Path, adapters: &[&Path]) -> Self {
        Self::build(path, adapters, None)
    }

    fn build(path: &Path, adapters: &[&Path], matmul: Option<MatmulOperator>) -> Self {
        let gguf = Gguf::open(path, FileAccess::Map).unwrap();
        let vocabulary = load::vocabulary(gguf.metadata()).unwrap();
        let file = ModelFile::new(path.to_owned(), gguf).unwrap();
        let adapter = |path: &&Path| {
            let gguf = Gguf::open(path, FileAccess::Map).unwrap();
            Adapter::from_gguf(&gguf, &file).unwrap()
        };
        let adapters = adapters.iter().map(adapter).collect();
        let file = file.with_adapters(adapters, None).unwrap();
        let options = SessionOptions {
            matmul_operator: matmul,
            ..SessionOptions::new(common::onnxruntime())
        };
        Self {
            decoder: Decoder::load(&file, &options, CONTEXT, BLOCKS, BLOCK_TOKENS, &|_| ())
                .unwrap(),
            tokenizer: Tokenizer::new(vocabulary).unwrap(),
            pool: BlockPool::new(BLOCKS, BLOCK_TOKENS),
        }
    }

    /// The tokens of a prompt, with the BOS token if the model adds one.
    pub(crate) fn prompt(&self, text: &str) -> Vec<TokenId> {
        let bos = self.tokenizer.bos();
        let bos = bos.filter(|_| self.tokenizer.adds_bos());
        let encoded = self.tokenizer.encode(text, SpecialTokens::Parse);
        bos.into_iter().chain(encoded).collect()
    }

    /// See [`logits`].
    pub(crate) fn logits(&mut self, tokens: &[TokenId], chunks: &[usize]) -> Vec<Vec<f32>> {
        logits(&mut self.decoder, &mut self.pool, tokens, chunks)
    }
}

/// The logits after every token of a sequence, `[tokens][vocabulary]`, computed in chunks of
/// these sizes; the last size is repeated.
pub(crate) fn logits(
    runner: &mut dyn ModelRunner,
    pool: &mut BlockPool,
    tokens: &[TokenId],
    chunks: &[usize],
) -> Vec<Vec<f32>> {
    logits_with(runner, pool, tokens, chunks, &AdapterScales::default())
}

/// Like [`logits`], with these adapter scales.
pub(crate) fn logits_with(
    runner: &mut dyn ModelRunner,
    pool: &mut BlockPool,
    tokens: &[TokenId],
    chunks: &[usize],
    adapters: &AdapterScales,
) -> Vec<Vec<f32>> {
    let blocks: Vec<_> = (0..tokens.len().div_ceil(BLOCK_TOKENS))
        .map(|_| pool.allocate().unwrap())
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

/// A chunk that outputs the logits of its last token.
pub(crate) fn chunk(number: usize, tokens: &[TokenId], past: usize, blocks: &[BlockId]) -> Chunk {
    Chunk {
        sequence: SequenceId(number as u64),
        tokens: tokens.to_vec(),
        draft_tokens: 0,
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

/// The largest difference between two rows of logits.
///
/// # Panics
/// If the rows differ in length or contain NaN or infinity, which [`f32::max`] would ignore.
pub(crate) fn max_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    let pairs = left.iter().zip(right);
    pairs.fold(0.0, |max, (left, right)| {
        assert!(left.is_finite() && right.is_finite(), "{left}, {right}");
        (left - right).abs().max(max)
    })
}

/// The most probable token, and a function that gives the log probability of any token.
pub(crate) fn distribution(logits: &[f32]) -> (usize, impl Fn(usize) -> f64) {
    let (best, max) = logits
        .iter()
        .enumerate()
        .max_by(|(_, left), (_, right)| left.total_cmp(right))
        .unwrap();
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - max).exp())
        .sum();
    let norm = f64::from(*max) + sum.ln();
    (best, move |token| f64::from(logits[token]) - norm)
}
