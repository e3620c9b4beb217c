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
use super::tensors::Tensors;
use super::weighted::WeightedGraph;
use super::{ORTOLAN_DOMAIN, names, rotary};

/// The graph of a decoder, for sequences of up to `context_tokens` tokens.
pub(super) fn build(
    tensors: &Tensors,
    shape: &DecoderShape,
    context_tokens: usize,
    progress: &dyn Fn(f32),
) -> GraphBuilder {
    let mut decoder = Decoder::new(tensors, shape, context_tokens);
    let mut residual = decoder.graph.builder.input(
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
    decoder.graph.hidden(&normed, shape.hidden);
    decoder.graph.builder
}

struct Decoder<'a> {
    graph: WeightedGraph<'a>,
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
    fn new(tensors: &'a Tensors, shape: &'a DecoderShape, context_tokens: usize) -> Self {
        let mut graph = WeightedGraph::new(tensors);
        let mut integers = |name, dimensions: &[Dimension]| {
            graph.builder.input(name, ElementType::I32, dimensions)
        };
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
            graph.builder.initializer(Initializer {
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
            shape,
            batch,
        }
    }

    fn norm(&mut self, weight: &str, x: &Edge) -> Edge {
        let gain = self.graph.vector(weight);
        let [normed] = self.graph.builder.node(
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
        let gain = self.graph.vector(weight);
        let [normed, _, _, sum] = self.graph.builder.node(
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
        let qkv = self
            .graph
            .product(&families::block(layer, "attn_qkv"), x, &parts);
        let cache = [
            Named("blocks"),
            Named("block_tokens"),
            Fixed(self.shape.kv_heads),
            Fixed(self.shape.head_size),
        ];
        let keys = self
            .graph
            .builder
            .input(&names::key_cache(layer), ElementType::F16, &cache);
        let values = self
            .graph
            .builder
            .input(&names::value_cache(layer), ElementType::F16, &cache);
        let batch = &self.batch;
        let [attended] = self.graph.builder.node(
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
        self.graph
            .product(&name, &attended, std::slice::from_ref(&name))
    }

    fn feed_forward(&mut self, layer: usize, x: &Edge) -> Edge {
        let parts = ["ffn_gate", "ffn_up"].map(|part| families::block(layer, part));
        let stacked = families::block(layer, "ffn_gate_up");
        let both = self.graph.product(&stacked, x, &parts);
        let half = self.shape.feed_forward as i64;
        let sizes = self
            .graph
            .builder
            .integers(&format!("{stacked}.sizes"), &[half, half]);
        let [gate, up] = self.graph.builder.node(
            "",
            "Split",
            &[Some(&both), Some(&sizes)],
            [&format!("{stacked}.gate"), &format!("{stacked}.up")],
            &[("axis", Int(-1))],
        );
        // x · sigmoid(x) is SiLU.
        let [activated] = self.graph.builder.node(
            MICROSOFT_DOMAIN,
            "QuickGelu",
            &[Some(&gate)],
            [&format!("{stacked}.silu")],
            &[("alpha", Float(1.0))],
        );
        let [gated] = self.graph.builder.node(
            "",
            "Mul",
            &[Some(&activated), Some(&up)],
            [&format!("{stacked}.gated")],
            &[],
        );
        let name = families::block(layer, "ffn_down");
        self.graph
            .product(&name, &gated, std::slice::from_ref(&name))
    }

    fn logits(&mut self, normed: &Edge) {
        let rows = self
            .graph
            .builder
            .input(names::LOGIT_ROWS, ElementType::I64, &[Named("rows")]);
        let [wanted] = self.graph.builder.node(
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
        let logits = self
            .graph
            .product(names::LOGITS, &wanted, &[matrix.to_owned()]);
        self.graph.builder.output(
            &logits,
            ElementType::F32,
            &[Named("rows"), Fixed(self.shape.vocabulary)],
        );
    }
}
