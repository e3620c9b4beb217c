//! Reads LoRA adapters (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>) in the formats of llama.cpp (GGUF) and
//! PEFT. Converts weight names to GGUF's and the order of rows to the model's.
//!
//! Source: llama.cpp's `convert_lora_to_gguf.py` and `llama-adapter.cpp`; PEFT's `LoraConfig` and checkpoint format.

mod peft;

use std::collections::BTreeMap;

use super::{Architecture, GraphError, ModelFile, Tensor, families};
use crate::gguf::{Gguf, Optional};
use crate::safetensors::Safetensors;

/// The weights of a layer that an adapter may change, in addition to the output matrix.
const ADAPTABLE_WEIGHTS: [&str; 8] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

/// A LoRA adapter, validated for a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// GGUF name of a weight → the low-rank matrices that change the weight.
    matrices: BTreeMap<String, LoraMatrices>,
}

/// The low-rank matrices `A` and `B` of a weight `W`: the adapter adds `B·A·x` to `W·x`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoraMatrices {
    /// The rank: number of rows of `A`.
    pub(super) rank: usize,
    /// `A`, `[rank, columns of W]`.
    pub(super) a: Vec<f32>,
    /// `B` transposed, `[rank, rows of W]`, multiplied by the LoRA scaling factor (usually `alpha / rank`).
    pub(super) b_transposed: Vec<f32>,
}

/// The order of the rows of query and key weights in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOrder {
    /// RoPE rotates adjacent rows together: GGUF files of the architecture `llama`.
    Interleaved,
    /// RoPE rotates rows together that are half a head apart: all other files.
    Halves,
}

/// The tensors `A` and `B` of a weight in the adapter's file.
#[derive(Default)]
struct LoraPair<'a> {
    a: Option<Tensor<'a>>,
    b: Option<Tensor<'a>>,
}

impl Adapter {
    /// Reads an adapter for `model` from a GGUF file.
    ///
    /// # Errors
    /// If the file is not an adapter or is for another architecture, or if a tensor does not fit the model or is not
    /// supported.
    pub fn from_gguf(gguf: &Gguf, model: &ModelFile) -> Result<Self, GraphError> {
        let metadata = gguf.metadata();
        for (key, expected) in [
            ("general.type", "adapter"),
            ("adapter.type", "lora"),
            ("general.architecture", model.architecture.name()),
        ] {
            let found = metadata.string(key)?;
            if found != expected {
                let found: String = found.chars().take(64).collect();
                let problem = format!("\"{key}\" is \"{found}\", not \"{expected}\"");
                return Err(GraphError::Inconsistent(problem));
            }
        }
        if metadata.get("adapter.alora.invocation_tokens").is_some() {
            let feature = "an adapter that is activated by invocation tokens (aLoRA)".to_owned();
            return Err(GraphError::Unsupported(feature));
        }
        let alpha = metadata.number("adapter.lora.alpha").optional()?;
        let mut pairs: BTreeMap<String, LoraPair<'_>> = BTreeMap::new();
        for (name, tensor) in gguf.tensors() {
            let tensor = Tensor {
                kind: tensor.kind,
                quantize_to: None,
                shape: tensor.shape.clone(),
                bytes: gguf.bytes(tensor),
                value_offset: 0.0,
            };
            if let Some(weight) = name.strip_suffix(".lora_a") {
                pairs.entry(weight.to_owned()).or_default().a = Some(tensor);
            } else if let Some(weight) = name.strip_suffix(".lora_b") {
                pairs.entry(weight.to_owned()).or_default().b = Some(tensor);
            } else {
                return Err(unsupported_tensor(name));
            }
        }
        let order = match model.architecture.name() {
            "llama" => RowOrder::Interleaved,
            _ => RowOrder::Halves,
        };
        // As in llama.cpp, a missing alpha or an alpha of 0 means no scaling.
        let scaling = |_: &str, rank| match alpha {
            None | Some(0.0) => 1.0,
            Some(alpha) => alpha / rank as f32,
        };
        Self::from_pairs(pairs, order, scaling, model)
    }

    /// Reads an adapter for `model` from the contents of PEFT's `adapter_config.json` and the adapter's safetensors
    /// file.
    ///
    /// # Errors
    /// If the configuration is malformed or needs an unsupported feature, or if a tensor does not fit the model or is
    /// not supported.
    pub fn from_peft(
        config: &[u8],
        weights: &Safetensors,
        model: &ModelFile,
    ) -> Result<Self, GraphError> {
        let config = peft::Config::read(config)?;
        let mut modules = BTreeMap::new();
        let pairs = peft::pairs(weights, &model.architecture, &mut modules)?;
        let scaling = |weight: &str, rank| config.scaling(&modules[weight], rank);
        Self::from_pairs(pairs, RowOrder::Halves, scaling, model)
    }

    /// Checks the pairs against the model and converts them. `scaling` returns the LoRA scaling factor for a weight
    /// name and a rank.
    fn from_pairs(
        pairs: BTreeMap<String, LoraPair<'_>>,
        order: RowOrder,
        scaling: impl Fn(&str, usize) -> f32,
        model: &ModelFile,
    ) -> Result<Self, GraphError> {
        if pairs.is_empty() {
            let problem = "the adapter has no tensors".to_owned();
            return Err(GraphError::Inconsistent(problem));
        }
        let mut matrices = BTreeMap::new();
        for (weight, pair) in pairs {
            let scaling = |rank| scaling(&weight, rank);
            let checked = pair.check(&weight, order, scaling, model)?;
            matrices.insert(weight, checked);
        }
        Ok(Self { matrices })
    }

    /// Returns the low-rank matrices for `weight`; `None` if the adapter does not change the weight.
    pub(super) fn lora(&self, weight: &str) -> Option<&LoraMatrices> {
        self.matrices.get(weight)
    }

    /// The GGUF names of the weights that the adapter changes.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.matrices.keys().map(String::as_str)
    }
}

impl LoraPair<'_> {
    fn check(
        self,
        weight: &str,
        order: RowOrder,
        scaling: impl Fn(usize) -> f32,
        model: &ModelFile,
    ) -> Result<LoraMatrices, GraphError> {
        let [columns, rows] = weight_shape(weight, model)?;
        let missing = |which| GraphError::MissingTensor(format!("{weight}.lora_{which}"));
        let a = self.a.ok_or_else(|| missing("a"))?;
        let b = self.b.ok_or_else(|| missing("b"))?;
        let rank = a.rows();
        for (which, tensor, expected) in
            [("a", &a, vec![columns, rank]), ("b", &b, vec![rank, rows])]
        {
            if tensor.shape != expected || rank == 0 {
                return Err(GraphError::Shape {
                    name: format!("{weight}.lora_{which}"),
                    found: tensor.shape.clone(),
                    expected,
                });
            }
        }
        let b = b.dequantized();
        let scaling = scaling(rank);
        let mut transposed = vec![0.0; b.len()];
        for row in 0..rows {
            let source_row = file_row(row, weight, order, &model.architecture);
            for component in 0..rank {
                transposed[component * rows + row] = b[source_row * rank + component] * scaling;
            }
        }
        Ok(LoraMatrices {
            rank,
            a: a.dequantized(),
            b_transposed: transposed,
        })
    }
}

/// Returns the shape of a weight that an adapter may change, contiguous dimension first.
fn weight_shape(weight: &str, model: &ModelFile) -> Result<[usize; 2], GraphError> {
    let part = || {
        weight
            .strip_prefix("blk.")?
            .split_once('.')?
            .1
            .strip_suffix(".weight")
    };
    let is_adaptable =
        weight == families::OUTPUT || part().is_some_and(|part| ADAPTABLE_WEIGHTS.contains(&part));
    let stored = match model.architecture.decoder() {
        Some(shape) if shape.tied_output && weight == families::OUTPUT => families::TOKEN_EMBEDDING,
        _ => weight,
    };
    let tensor = model.tensors.get(stored).filter(|_| is_adaptable);
    let shape = tensor.and_then(|tensor| <[usize; 2]>::try_from(tensor.shape).ok());
    shape.ok_or_else(|| {
        let exists = model.tensors.get(weight).is_some();
        GraphError::Unsupported(match exists {
            true => format!("an adapter of \"{weight}\""),
            false => format!("an adapter of \"{weight}\", which the model does not have,"),
        })
    })
}

/// Returns the index in the adapter's file of the model's row `row`.
fn file_row(row: usize, weight: &str, order: RowOrder, architecture: &Architecture) -> usize {
    let is_rotated = weight.ends_with(".attn_q.weight") || weight.ends_with(".attn_k.weight");
    let Some(shape) = architecture.decoder().filter(|_| is_rotated) else {
        return row;
    };
    let half = shape.head_size / 2;
    let (head, within) = (row / shape.head_size, row % shape.head_size);
    let within = match (order, shape.rotary.interleaved) {
        (RowOrder::Halves, true) => within % 2 * half + within / 2,
        (RowOrder::Interleaved, false) => within % half * 2 + within / half,
        (RowOrder::Interleaved, true) | (RowOrder::Halves, false) => within,
    };
    head * shape.head_size + within
}

/// The error for a tensor that is not supported in an adapter.
fn unsupported_tensor(name: &str) -> GraphError {
    GraphError::Unsupported(format!("the tensor \"{name}\" of an adapter"))
}
