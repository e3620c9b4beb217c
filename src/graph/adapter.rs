//! LoRA adapters (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>): what a file says that is to be added to a model's
//! products, by GGUF's names and in the order of the model's rows, from llama.cpp's files and from PEFT's.
//!
//! Source: llama.cpp's `convert_lora_to_gguf.py` and `llama-adapter.cpp`; PEFT's `LoraConfig` and its checkpoint format.

mod peft;

use std::collections::BTreeMap;

use super::{Architecture, GraphError, ModelFile, Tensor, families};
use crate::gguf::{Gguf, Optional};
use crate::safetensors::Safetensors;

/// The parts of a layer whose products an adapter may change; the output matrix is the other.
const PARTS: [&str; 8] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

/// An adapter that fits a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// By the weight whose product they change.
    branches: BTreeMap<String, LowRank>,
}

/// What is added to `W·x`: `up · (down · x)`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LowRank {
    /// Rows of both.
    pub(super) rank: usize,
    /// `A`, `[rank, columns of W]`.
    pub(super) down: Vec<f32>,
    /// `B` transposed, `[rank, rows of W]`, times what `alpha` says.
    pub(super) up: Vec<f32>,
}

/// In which order a file has the rows of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOrder {
    /// Pairs that are rotated together are neighbours: llama's GGUF files.
    Neighbours,
    /// They are half a head apart: all others.
    Halves,
}

/// A matrix and its transposed counterpart, as they were read.
#[derive(Default)]
struct Pair<'a> {
    down: Option<Tensor<'a>>,
    up: Option<Tensor<'a>>,
}

impl Adapter {
    /// The adapter in a GGUF file, if it is one for `model`.
    ///
    /// # Errors
    /// It is none, it is for another architecture, or something in it does not fit the model or is not computed.
    pub fn of_gguf(gguf: &Gguf, model: &ModelFile) -> Result<Self, GraphError> {
        let metadata = gguf.metadata();
        for (key, wanted) in [
            ("general.type", "adapter"),
            ("adapter.type", "lora"),
            ("general.architecture", model.architecture.name()),
        ] {
            let found = metadata.string(key)?;
            if found != wanted {
                let found: String = found.chars().take(64).collect();
                let problem = format!("\"{key}\" is \"{found}\", not \"{wanted}\"");
                return Err(GraphError::Inconsistent(problem));
            }
        }
        if metadata.get("adapter.alora.invocation_tokens").is_some() {
            let what = "an adapter that begins to count at its invocation (aLoRA)".to_owned();
            return Err(GraphError::Unsupported(what));
        }
        let alpha = metadata.number("adapter.lora.alpha").optional()?;
        let mut pairs: BTreeMap<String, Pair<'_>> = BTreeMap::new();
        for (name, tensor) in gguf.tensors() {
            let tensor = Tensor {
                kind: tensor.kind,
                quantised: None,
                shape: tensor.shape.clone(),
                bytes: gguf.bytes(tensor),
                added: 0.0,
            };
            if let Some(weight) = name.strip_suffix(".lora_a") {
                pairs.entry(weight.to_owned()).or_default().down = Some(tensor);
            } else if let Some(weight) = name.strip_suffix(".lora_b") {
                pairs.entry(weight.to_owned()).or_default().up = Some(tensor);
            } else {
                return Err(unknown(name));
            }
        }
        let order = match model.architecture.name() {
            "llama" => RowOrder::Neighbours,
            _ => RowOrder::Halves,
        };
        // As llama.cpp has it, no alpha is that nothing is scaled.
        let factor = |_: &str, rank| match alpha {
            None | Some(0.0) => 1.0,
            Some(alpha) => alpha / rank as f32,
        };
        Self::checked(pairs, order, factor, model)
    }

    /// The adapter in PEFT's `adapter_config.json` and the safetensors file beside it, if it is one for `model`.
    ///
    /// # Errors
    /// As of [`Adapter::of_gguf`].
    pub fn of_peft(
        config: &[u8],
        weights: &Safetensors,
        model: &ModelFile,
    ) -> Result<Self, GraphError> {
        let config = peft::Config::read(config)?;
        let mut modules = BTreeMap::new();
        let pairs = peft::pairs(weights, &model.architecture, &mut modules)?;
        let factor = |weight: &str, rank| config.factor(&modules[weight], rank);
        Self::checked(pairs, RowOrder::Halves, factor, model)
    }

    /// The pairs that were read, if they fit the model. `factor` is what a weight's branch of a rank is multiplied with.
    fn checked(
        pairs: BTreeMap<String, Pair<'_>>,
        order: RowOrder,
        factor: impl Fn(&str, usize) -> f32,
        model: &ModelFile,
    ) -> Result<Self, GraphError> {
        if pairs.is_empty() {
            let problem = "it has no tensors: it changes nothing".to_owned();
            return Err(GraphError::Inconsistent(problem));
        }
        let mut branches = BTreeMap::new();
        for (weight, pair) in pairs {
            let factor = |rank| factor(&weight, rank);
            let branch = pair.checked(&weight, order, factor, model)?;
            branches.insert(weight, branch);
        }
        Ok(Self { branches })
    }

    /// What it adds to the product with that weight.
    pub(super) fn branch(&self, weight: &str) -> Option<&LowRank> {
        self.branches.get(weight)
    }

    /// The weights whose products it changes.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.branches.keys().map(String::as_str)
    }
}

impl Pair<'_> {
    fn checked(
        self,
        weight: &str,
        order: RowOrder,
        factor: impl Fn(usize) -> f32,
        model: &ModelFile,
    ) -> Result<LowRank, GraphError> {
        let [columns, rows] = matrix(weight, model)?;
        let missing = |which| GraphError::MissingTensor(format!("{weight}.lora_{which}"));
        let down = self.down.ok_or_else(|| missing("a"))?;
        let up = self.up.ok_or_else(|| missing("b"))?;
        let rank = down.rows();
        for (which, tensor, wanted) in [
            ("a", &down, vec![columns, rank]),
            ("b", &up, vec![rank, rows]),
        ] {
            if tensor.shape != wanted || rank == 0 {
                return Err(GraphError::Shape {
                    name: format!("{weight}.lora_{which}"),
                    found: tensor.shape.clone(),
                    wanted,
                });
            }
        }
        let up = up.dequantised();
        let factor = factor(rank);
        let mut transposed = vec![0.0; up.len()];
        for row in 0..rows {
            let from = stored_row(row, weight, order, &model.architecture);
            for place in 0..rank {
                transposed[place * rows + row] = up[from * rank + place] * factor;
            }
        }
        Ok(LowRank {
            rank,
            down: down.dequantised(),
            up: transposed,
        })
    }
}

/// The sizes of a weight that an adapter may change, contiguous dimension first.
fn matrix(weight: &str, model: &ModelFile) -> Result<[usize; 2], GraphError> {
    let part = || {
        weight
            .strip_prefix("blk.")?
            .split_once('.')?
            .1
            .strip_suffix(".weight")
    };
    let known = weight == families::OUTPUT || part().is_some_and(|part| PARTS.contains(&part));
    let stored = match model.architecture.decoder() {
        Some(shape) if shape.tied_output && weight == families::OUTPUT => families::TOKEN_EMBEDDING,
        _ => weight,
    };
    let tensor = model.tensors.get(stored).filter(|_| known);
    let shape = tensor.and_then(|tensor| <[usize; 2]>::try_from(tensor.shape).ok());
    shape.ok_or_else(|| {
        let whole = model.tensors.get(weight).is_some();
        GraphError::Unsupported(match whole {
            true => format!("an adapter of \"{weight}\""),
            false => format!("an adapter of \"{weight}\", which the model does not have,"),
        })
    })
}

/// Where in the file the row is that is number `row` of the model's.
fn stored_row(row: usize, weight: &str, order: RowOrder, architecture: &Architecture) -> usize {
    let rotated = weight.ends_with(".attn_q.weight") || weight.ends_with(".attn_k.weight");
    let Some(shape) = architecture.decoder().filter(|_| rotated) else {
        return row;
    };
    let half = shape.head_size / 2;
    let (head, within) = (row / shape.head_size, row % shape.head_size);
    let within = match (order, shape.rotary.interleaved) {
        (RowOrder::Halves, true) => within % 2 * half + within / 2,
        (RowOrder::Neighbours, false) => within % half * 2 + within / half,
        (RowOrder::Neighbours, true) | (RowOrder::Halves, false) => within,
    };
    head * shape.head_size + within
}

/// What to say of a tensor that is no part of an adapter here.
fn unknown(name: &str) -> GraphError {
    GraphError::Unsupported(format!("the tensor \"{name}\" of an adapter"))
}
