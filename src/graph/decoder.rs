//! The decoder that all families share, on flattened tokens: every operator but attention is
//! indifferent to which sequence a row belongs to, so a ragged batch needs no padding.
//!
//! ```text
//! inputs_embeds [tokens, hidden]
//!   └─ per layer: norm → Q·K·V (one product) → PagedAttention → output product ─┐ + residual
//!                 norm → gate·up (one product) → SiLU(gate) · up → down product ─┘ + residual
//!   └─ norm ─┬─ rows of logit_rows → output product → logits [rows, vocabulary]
//!            └─ rows of hidden_rows → hidden [hidden rows, hidden]
//! ```

use super::families::{self, DecoderShape};
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{self, Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::weights::{self, Product};
use super::{ModelFile, ORTOLAN_DOMAIN, rotary};
use crate::gguf::quant::BLOCK;
use crate::gguf::{Gguf, Tensor};

/// Names of the graph's inputs and outputs.
pub mod names {
    /// `f32 [tokens, hidden]`: rows of the embedding matrix.
    pub const INPUTS_EMBEDS: &str = "inputs_embeds";
    /// `i32 [sequences + 1]`: where each sequence's chunk begins among the tokens, and where the last ends.
    pub const CUMULATIVE_SEQUENCE_LENGTH: &str = "cumulative_sequence_length";
    /// `i32 [sequences]`: tokens of each sequence that are in the cache already.
    pub const PAST_SEQLENS: &str = "past_seqlens";
    /// `i32 [sequences, blocks]`: each sequence's blocks, in order; rows are filled up with 0.
    pub const BLOCK_TABLE: &str = "block_table";
    /// `i64 [rows]`: the tokens whose logits are wanted.
    pub const LOGIT_ROWS: &str = "logit_rows";
    /// `f32 [rows, vocabulary]`.
    pub const LOGITS: &str = "logits";
    /// `i64 [hidden rows]`: the tokens whose hidden states are wanted.
    pub const HIDDEN_ROWS: &str = "hidden_rows";
    /// `f32 [hidden rows, hidden]`: after the last norm.
    pub const HIDDEN: &str = "hidden";

    /// `f16 [blocks, block tokens, kv heads, head size]`: a layer's keys, written in place.
    pub fn key_cache(layer: usize) -> String {
        format!("key_cache.{layer}")
    }

    /// As [`key_cache`], for values.
    pub fn value_cache(layer: usize) -> String {
        format!("value_cache.{layer}")
    }
}

/// What a session is made of.
#[derive(Debug)]
pub struct DecoderGraph {
    /// The `ModelProto`.
    pub model: Vec<u8>,
    /// The weights, to be handed over by name.
    pub initializers: Vec<Initializer>,
}

pub(super) fn build(
    file: &ModelFile,
    context_tokens: usize,
    progress: &dyn Fn(f32),
) -> DecoderGraph {
    let shape = file.architecture.shape();
    let mut decoder = Decoder::new(&file.gguf, shape, context_tokens);
    let mut residual = decoder.graph.input(
        names::INPUTS_EMBEDS,
        ElementType::F32,
        &[Named("tokens"), Fixed(shape.hidden)],
    );
    let mut normed = decoder.norm(&families::block(0, "attn_norm"), &residual);
    for layer in 0..shape.layers {
        let attended = decoder.attention(layer, &normed);
        [normed, residual] =
            decoder.add_and_norm(&families::block(layer, "ffn_norm"), &residual, &attended);
        let fed = decoder.feed_forward(layer, &normed);
        let next = match layer + 1 {
            last if last == shape.layers => families::OUTPUT_NORM.to_owned(),
            next => families::block(next, "attn_norm"),
        };
        [normed, residual] = decoder.add_and_norm(&next, &residual, &fed);
        progress((layer + 1) as f32 / shape.layers as f32);
    }
    decoder.logits(&normed);
    decoder.hidden(&normed);
    let (model, initializers) = decoder.graph.finish(file.architecture.name());
    DecoderGraph {
        model,
        initializers,
    }
}

struct Decoder<'a> {
    graph: GraphBuilder,
    gguf: &'a Gguf,
    shape: &'a DecoderShape,
    batch: Batch,
}

/// The edges that every attention node reads.
struct Batch {
    cumulative_sequence_length: Edge,
    past_seqlens: Edge,
    block_table: Edge,
    cos: Edge,
    sin: Edge,
}

impl<'a> Decoder<'a> {
    fn new(gguf: &'a Gguf, shape: &'a DecoderShape, context_tokens: usize) -> Self {
        let mut graph = GraphBuilder::default();
        let mut integers =
            |name, dimensions: &[Dimension]| graph.input(name, ElementType::I32, dimensions);
        let cumulative_sequence_length = integers(
            names::CUMULATIVE_SEQUENCE_LENGTH,
            &[Named("sequences_plus_1")],
        );
        let past_seqlens = integers(names::PAST_SEQLENS, &[Named("sequences")]);
        let block_table = integers(
            names::BLOCK_TABLE,
            &[Named("sequences"), Named("blocks_of_a_sequence")],
        );
        let tables = rotary::tables(shape, context_tokens);
        let mut table = |name: &str, values| {
            graph.initializer(Initializer {
                name: name.to_owned(),
                shape: vec![context_tokens, shape.rotary / 2],
                values: TensorValues::F32(values),
            })
        };
        let batch = Batch {
            cumulative_sequence_length,
            past_seqlens,
            block_table,
            cos: table("cos_cache", tables.cos),
            sin: table("sin_cache", tables.sin),
        };
        Self {
            graph,
            gguf,
            shape,
            batch,
        }
    }

    fn tensor(&self, name: &str) -> &'a Tensor {
        self.gguf
            .tensor(name)
            .expect("every tensor's presence was checked with the architecture")
    }

    fn gain(&mut self, name: &str) -> Edge {
        let tensor = self.tensor(name);
        let mut values = vec![0.0; tensor.values()];
        tensor.kind.dequantise(self.gguf.bytes(tensor), &mut values);
        self.graph.initializer(Initializer {
            name: name.to_owned(),
            shape: vec![values.len()],
            values: TensorValues::F32(values),
        })
    }

    fn norm(&mut self, weight: &str, x: &Edge) -> Edge {
        let gain = self.gain(weight);
        let [normed] = self.graph.node(
            "",
            "SimplifiedLayerNormalization",
            &[Some(x), Some(&gain)],
            [&format!("{weight}.normed")],
            &[
                ("epsilon", Float(self.shape.norm_epsilon)),
                ("axis", Int(-1)),
            ],
        );
        normed
    }

    /// The norm of `residual + x`, and that sum.
    fn add_and_norm(&mut self, weight: &str, residual: &Edge, x: &Edge) -> [Edge; 2] {
        let gain = self.gain(weight);
        let [normed, _, _, sum] = self.graph.node(
            MICROSOFT_DOMAIN,
            "SkipSimplifiedLayerNormalization",
            &[Some(residual), Some(x), Some(&gain)],
            [
                &format!("{weight}.normed"),
                "",
                "",
                &format!("{weight}.residual"),
            ],
            &[("epsilon", Float(self.shape.norm_epsilon))],
        );
        [normed, sum]
    }

    fn attention(&mut self, layer: usize, x: &Edge) -> Edge {
        let parts = ["attn_q", "attn_k", "attn_v"].map(|part| families::block(layer, part));
        let qkv = self.product(&families::block(layer, "attn_qkv"), x, &parts);
        let cache = [
            Named("blocks"),
            Named("block_tokens"),
            Fixed(self.shape.kv_heads),
            Fixed(self.shape.head_size),
        ];
        let keys = self
            .graph
            .input(&names::key_cache(layer), ElementType::F16, &cache);
        let values = self
            .graph
            .input(&names::value_cache(layer), ElementType::F16, &cache);
        let batch = &self.batch;
        let [attended] = self.graph.node(
            ORTOLAN_DOMAIN,
            "PagedAttention",
            &[
                Some(&qkv),
                None,
                None,
                Some(&keys),
                Some(&values),
                Some(&batch.cumulative_sequence_length),
                Some(&batch.past_seqlens),
                Some(&batch.block_table),
                Some(&batch.cos),
                Some(&batch.sin),
            ],
            [&format!("blk.{layer}.attended")],
            &[
                ("num_heads", Int(self.shape.heads as i64)),
                ("kv_num_heads", Int(self.shape.kv_heads as i64)),
                ("do_rotary", Int(1)),
                (
                    "rotary_interleaved",
                    Int(self.shape.rotary_interleaved.into()),
                ),
            ],
        );
        let name = families::block(layer, "attn_output");
        self.product(&name, &attended, std::slice::from_ref(&name))
    }

    fn feed_forward(&mut self, layer: usize, x: &Edge) -> Edge {
        let parts = ["ffn_gate", "ffn_up"].map(|part| families::block(layer, part));
        let stacked = families::block(layer, "ffn_gate_up");
        let both = self.product(&stacked, x, &parts);
        let half = self.shape.feed_forward as i64;
        let sizes = self
            .graph
            .integers(&format!("{stacked}.sizes"), &[half, half]);
        let [gate, up] = self.graph.node(
            "",
            "Split",
            &[Some(&both), Some(&sizes)],
            [&format!("{stacked}.gate"), &format!("{stacked}.up")],
            &[("axis", Int(-1))],
        );
        // x · sigmoid(x) is SiLU.
        let [activated] = self.graph.node(
            MICROSOFT_DOMAIN,
            "QuickGelu",
            &[Some(&gate)],
            [&format!("{stacked}.silu")],
            &[("alpha", Float(1.0))],
        );
        let [gated] = self.graph.node(
            "",
            "Mul",
            &[Some(&activated), Some(&up)],
            [&format!("{stacked}.gated")],
            &[],
        );
        let name = families::block(layer, "ffn_down");
        self.product(&name, &gated, std::slice::from_ref(&name))
    }

    fn logits(&mut self, normed: &Edge) {
        let rows = self
            .graph
            .input(names::LOGIT_ROWS, ElementType::I64, &[Named("rows")]);
        let [wanted] = self.graph.node(
            "",
            "Gather",
            &[Some(normed), Some(&rows)],
            ["wanted_rows"],
            &[("axis", Int(0))],
        );
        let matrix = match self.shape.tied_output {
            true => families::TOKEN_EMBEDDING,
            false => families::OUTPUT,
        };
        let logits = self.product(names::LOGITS, &wanted, &[matrix.to_owned()]);
        self.graph.output(
            &logits,
            ElementType::F32,
            &[Named("rows"), Fixed(self.shape.vocabulary)],
        );
    }

    fn hidden(&mut self, normed: &Edge) {
        let rows = [Named("hidden_rows")];
        let rows = self
            .graph
            .input(names::HIDDEN_ROWS, ElementType::I64, &rows);
        let [wanted] = self.graph.node(
            "",
            "Gather",
            &[Some(normed), Some(&rows)],
            [names::HIDDEN],
            &[("axis", Int(0))],
        );
        let shape = [Named("hidden_rows"), Fixed(self.shape.hidden)];
        self.graph.output(&wanted, ElementType::F32, &shape);
    }

    /// `x · Wᵀ` with the rows of the tensors `parts` stacked to `W`. The result's name is `name`, or
    /// that of its weights with a suffix where it stands for a single tensor.
    fn product(&mut self, name: &str, x: &Edge, parts: &[String]) -> Edge {
        let result = match name {
            names::LOGITS => name.to_owned(),
            weight => format!("{weight}.product"),
        };
        let tensors: Vec<&Tensor> = parts.iter().map(|part| self.tensor(part)).collect();
        if tensors.iter().all(|tensor| tensor.kind == tensors[0].kind) {
            return self.stacked_product(name, &result, x, &tensors);
        }
        // Parts of different types cannot share one product: one each, side by side.
        let products: Vec<Edge> = parts
            .iter()
            .zip(&tensors)
            .map(|(part, tensor)| {
                self.stacked_product(part, &format!("{part}.product"), x, &[*tensor])
            })
            .collect();
        let inputs: Vec<Option<&Edge>> = products.iter().map(Some).collect();
        let [joined] = self
            .graph
            .node("", "Concat", &inputs, [&result], &[("axis", Int(-1))]);
        joined
    }

    fn stacked_product(
        &mut self,
        weight: &str,
        result: &str,
        x: &Edge,
        tensors: &[&Tensor],
    ) -> Edge {
        let columns = tensors[0].columns();
        let rows: usize = tensors.iter().map(|tensor| tensor.rows()).sum();
        let blocks = match weights::stack(self.gguf, tensors) {
            Product::Blocks(blocks) => blocks,
            Product::Dense(values) => {
                let matrix = self.graph.initializer(Initializer {
                    name: format!("{weight}.matrix"),
                    shape: vec![columns, rows],
                    values: TensorValues::F32(values),
                });
                let [product] =
                    self.graph
                        .node("", "MatMul", &[Some(x), Some(&matrix)], [result], &[]);
                return product;
            }
        };
        let per_row = columns / BLOCK;
        let quants = self.graph.initializer(Initializer {
            name: format!("{weight}.quants"),
            shape: vec![rows, per_row, BLOCK * blocks.bits / 8],
            values: TensorValues::U8(blocks.quants),
        });
        let scales = self.graph.initializer(Initializer {
            name: format!("{weight}.scales"),
            shape: vec![rows, per_row],
            values: TensorValues::F32(blocks.scales),
        });
        let symmetric = match blocks.offsets {
            None => result.to_owned(),
            Some(_) => format!("{result}.symmetric"),
        };
        let [product] = self.graph.node(
            MICROSOFT_DOMAIN,
            "MatMulNBits",
            &[Some(x), Some(&quants), Some(&scales)],
            [&symmetric],
            &[
                ("K", Int(columns as i64)),
                ("N", Int(rows as i64)),
                ("bits", Int(blocks.bits as i64)),
                ("block_size", Int(BLOCK as i64)),
                // Activations as int8, one scale per block: what llama.cpp computes with, too.
                ("accuracy_level", Int(4)),
            ],
        );
        let Some(offsets) = blocks.offsets else {
            return product;
        };
        let offsets = self.graph.initializer(Initializer {
            name: format!("{weight}.offsets"),
            shape: vec![per_row, rows],
            values: TensorValues::F32(offsets),
        });
        let sums = self.block_sums(result, x, per_row);
        let [corrected] = self.graph.node(
            "",
            "Gemm",
            &[Some(&sums), Some(&offsets), Some(&product)],
            [result],
            &[],
        );
        corrected
    }

    /// `[tokens, blocks]`: the sums of each block of 32 values of a row.
    fn block_sums(&mut self, result: &str, x: &Edge, blocks: usize) -> Edge {
        let name = |what: &str| format!("{result}.{what}");
        let shape = self
            .graph
            .integers(&name("block_shape"), &[0, blocks as i64, BLOCK as i64]);
        let [split] = self.graph.node(
            "",
            "Reshape",
            &[Some(x), Some(&shape)],
            [&name("blocks")],
            &[],
        );
        let axes = self.graph.integers(&name("block_axis"), &[2]);
        let [sums] = self.graph.node(
            "",
            "ReduceSum",
            &[Some(&split), Some(&axes)],
            [&name("block_sums")],
            &[("keepdims", Int(0))],
        );
        sums
    }
}
