//! Builds the graph of an encoder. The tokens of all sequences form one dimension. A step contains whole sequences
//! only, because each token attends to all tokens of its sequence.
//!
//! ```text
//! inputs_embeds [tokens, hidden] + position embeddings → norm
//!   └─ per layer: Q·K·V (one matmul) → PackedMultiHeadAttention → output matmul → norm of the sum
//!                 up matmul → GELU → down matmul → norm of the sum
//!   └─ rows of hidden_rows → hidden [hidden rows, hidden]
//! ```

use super::families::EncoderShape;
use super::families::bert::{EMBEDDING_NORM, POSITION_EMBEDDING, TOKEN_TYPES, part};
use super::matmul::Matmul;
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{Fixed, Named},
    Edge, ElementType, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::weighted::WeightedGraph;
use super::{ORTOLAN_DOMAIN, names};

/// Builds the graph. `progress` receives the completed fraction, from 0 to 1.
pub(super) fn build<'a>(
    graph: WeightedGraph<'a>,
    shape: &'a EncoderShape,
    progress: &dyn Fn(f32),
) -> WeightedGraph<'a> {
    let mut encoder = Encoder::new(graph, shape);
    let mut state = encoder.embeddings();
    for layer in 0..shape.layers {
        let attended = encoder.attention(layer, &state);
        state = encoder.add_and_norm(
            layer,
            ["attn_output", "attn_output_norm"],
            &state,
            &attended,
        );
        let fed = encoder.feed_forward(layer, &state);
        state = encoder.add_and_norm(layer, ["ffn_down", "layer_output_norm"], &state, &fed);
        encoder.graph.release();
        progress((layer + 1) as f32 / shape.layers as f32);
    }
    let rows = encoder.graph.hidden_rows_input();
    let gathered = encoder.graph.gather_rows(names::HIDDEN, &state, &rows);
    encoder.graph.hidden_output(&gathered, shape.hidden);
    encoder.graph
}

struct Encoder<'a> {
    graph: WeightedGraph<'a>,
    shape: &'a EncoderShape,
    cumulative_sequence_length: Edge,
}

impl<'a> Encoder<'a> {
    fn new(mut graph: WeightedGraph<'a>, shape: &'a EncoderShape) -> Self {
        let cumulative_sequence_length = graph.builder.input(
            names::CUMULATIVE_SEQUENCE_LENGTH,
            ElementType::I32,
            &[Named("sequences_plus_1")],
        );
        Self {
            graph,
            shape,
            cumulative_sequence_length,
        }
    }

    /// Adds the norm of the sum of token, position and token type embeddings.
    fn embeddings(&mut self) -> Edge {
        let hidden = self.shape.hidden;
        let builder = &mut self.graph.builder;
        let embeds = builder.input(
            names::INPUTS_EMBEDS,
            ElementType::F32,
            &[Named("tokens"), Fixed(hidden)],
        );
        let positions = builder.input(names::POSITIONS, ElementType::I64, &[Named("tokens")]);
        let mut table = self.graph.tensor(POSITION_EMBEDDING).dequantized();
        let types = self.graph.tensor(TOKEN_TYPES).dequantized();
        for row in table.chunks_exact_mut(hidden) {
            // All tokens have token type 0.
            row.iter_mut()
                .zip(&types)
                .for_each(|(value, type_value)| *value += type_value);
        }
        let table = self.graph.builder.initializer(Initializer {
            name: POSITION_EMBEDDING.to_owned(),
            shape: vec![self.shape.trained_context, hidden],
            values: TensorValues::F32(table),
        });
        let [position_rows] = self.graph.builder.node(
            "",
            "Gather",
            &[Some(&table), Some(&positions)],
            ["places"],
            &[("axis", Int(0))],
        );
        self.norm_of_sum(EMBEDDING_NORM, &embeds, &position_rows, None)
    }

    fn attention(&mut self, layer: usize, state: &Edge) -> Edge {
        let parts = ["attn_q", "attn_k", "attn_v"].map(|name| part(layer, name));
        let name = part(layer, "attn_qkv");
        let weights = parts.each_ref().map(|part| format!("{part}.weight"));
        let biases = parts.map(|part| format!("{part}.bias"));
        let qkv = self.graph.matmul(Matmul {
            biases: &biases,
            ..Matmul::plain(&name, &format!("{name}.product"), state, &weights)
        });
        let builder = &mut self.graph.builder;
        let hidden = self.shape.hidden as i64;
        let sizes = builder.integers(&format!("{name}.sizes"), &[hidden; 3]);
        let [query, key, value] = builder.node(
            "",
            "Split",
            &[Some(&qkv), Some(&sizes)],
            ["query", "key", "value"]
                .map(|suffix| format!("{name}.{suffix}"))
                .each_ref()
                .map(String::as_str),
            &[("axis", Int(-1))],
        );
        let [attended] = builder.node(
            ORTOLAN_DOMAIN,
            "PackedMultiHeadAttention",
            &[
                Some(&query),
                Some(&key),
                Some(&value),
                None,
                None,
                Some(&self.cumulative_sequence_length),
            ],
            [&part(layer, "attended")],
            &[("num_heads", Int(self.shape.heads as i64))],
        );
        self.matmul_without_bias(layer, "attn_output", &attended)
    }

    fn feed_forward(&mut self, layer: usize, state: &Edge) -> Edge {
        let up = self.matmul_without_bias(layer, "ffn_up", state);
        let bias = self
            .graph
            .vector(&format!("{}.bias", part(layer, "ffn_up")));
        let [activated] = self.graph.builder.node(
            MICROSOFT_DOMAIN,
            "BiasGelu",
            &[Some(&up), Some(&bias)],
            [&part(layer, "ffn_gelu")],
            &[],
        );
        self.matmul_without_bias(layer, "ffn_down", &activated)
    }

    /// Adds the matmul of a projection without the projection's bias, which the next node adds.
    fn matmul_without_bias(&mut self, layer: usize, name: &str, x: &Edge) -> Edge {
        let weight = format!("{}.weight", part(layer, name));
        let (result, weights) = (format!("{weight}.product"), std::slice::from_ref(&weight));
        let matmul = Matmul::plain(&weight, &result, x, weights);
        self.graph.matmul(matmul)
    }

    /// Adds the norm of `state + added + bias`, with the bias of the projection that computed `added`.
    fn add_and_norm(
        &mut self,
        layer: usize,
        [projection, norm]: [&str; 2],
        state: &Edge,
        added: &Edge,
    ) -> Edge {
        let bias = self
            .graph
            .vector(&format!("{}.bias", part(layer, projection)));
        self.norm_of_sum(&part(layer, norm), state, added, Some(&bias))
    }

    fn norm_of_sum(&mut self, norm: &str, a: &Edge, b: &Edge, bias: Option<&Edge>) -> Edge {
        let gain = self.graph.vector(&format!("{norm}.weight"));
        let offset = self.graph.vector(&format!("{norm}.bias"));
        let [normed] = self.graph.builder.node(
            MICROSOFT_DOMAIN,
            "SkipLayerNormalization",
            &[Some(a), Some(b), Some(&gain), Some(&offset), bias],
            [&format!("{norm}.normed")],
            &[("epsilon", Float(self.shape.norm_epsilon))],
        );
        normed
    }
}
