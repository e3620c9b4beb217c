//! The encoder, on flattened tokens as the decoder: each sequence is there whole, and its tokens see all of it.
//!
//! ```text
//! inputs_embeds [tokens, hidden] + what positions say → norm
//!   └─ per layer: Q·K·V (one product) → PackedMultiHeadAttention → output product → norm of the sum
//!                 up product → GELU → down product → norm of the sum
//!   └─ rows of hidden_rows → hidden [hidden rows, hidden]
//! ```

use super::families::EncoderShape;
use super::families::bert::{EMBEDDING_NORM, POSITION_EMBEDDING, TOKEN_TYPES, part};
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{Fixed, Named},
    Edge, ElementType, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::products::Product;
use super::weighted::WeightedGraph;
use super::{ORTOLAN_DOMAIN, names};

/// The graph of an encoder.
pub(super) fn build<'a>(
    graph: WeightedGraph<'a>,
    shape: &'a EncoderShape,
    progress: &dyn Fn(f32),
) -> WeightedGraph<'a> {
    let mut encoder = Encoder::new(graph, shape);
    let mut state = encoder.embedded();
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
    let rows = encoder.graph.hidden_rows();
    let wanted = encoder.graph.rows(names::HIDDEN, &state, &rows);
    encoder.graph.hidden(&wanted, shape.hidden);
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

    /// The norm of what the tokens are and where they are.
    fn embedded(&mut self) -> Edge {
        let hidden = self.shape.hidden;
        let builder = &mut self.graph.builder;
        let embeds = builder.input(
            names::INPUTS_EMBEDS,
            ElementType::F32,
            &[Named("tokens"), Fixed(hidden)],
        );
        let positions = builder.input(names::POSITIONS, ElementType::I64, &[Named("tokens")]);
        let mut places = self.graph.tensor(POSITION_EMBEDDING).dequantised();
        let types = self.graph.tensor(TOKEN_TYPES).dequantised();
        for row in places.chunks_exact_mut(hidden) {
            // All tokens are in the first part of their text.
            row.iter_mut()
                .zip(&types)
                .for_each(|(value, of_type)| *value += of_type);
        }
        let table = self.graph.builder.initializer(Initializer {
            name: POSITION_EMBEDDING.to_owned(),
            shape: vec![self.shape.trained_context, hidden],
            values: TensorValues::F32(places),
        });
        let [places] = self.graph.builder.node(
            "",
            "Gather",
            &[Some(&table), Some(&positions)],
            ["places"],
            &[("axis", Int(0))],
        );
        self.norm_of_sum(EMBEDDING_NORM, &embeds, &places, None)
    }

    fn attention(&mut self, layer: usize, state: &Edge) -> Edge {
        let parts = ["attn_q", "attn_k", "attn_v"].map(|name| part(layer, name));
        let name = part(layer, "attn_qkv");
        let weights = parts.each_ref().map(|part| format!("{part}.weight"));
        let biases = parts.map(|part| format!("{part}.bias"));
        let qkv = self.graph.product(Product {
            biases: &biases,
            ..Product::plain(&name, &format!("{name}.product"), state, &weights)
        });
        let builder = &mut self.graph.builder;
        let hidden = self.shape.hidden as i64;
        let sizes = builder.integers(&format!("{name}.sizes"), &[hidden; 3]);
        let [query, key, value] = builder.node(
            "",
            "Split",
            &[Some(&qkv), Some(&sizes)],
            ["query", "key", "value"]
                .map(|what| format!("{name}.{what}"))
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
        self.weighted(layer, "attn_output", &attended)
    }

    fn feed_forward(&mut self, layer: usize, state: &Edge) -> Edge {
        let up = self.weighted(layer, "ffn_up", state);
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
        self.weighted(layer, "ffn_down", &activated)
    }

    /// A product without its bias.
    fn weighted(&mut self, layer: usize, name: &str, x: &Edge) -> Edge {
        let weight = format!("{}.weight", part(layer, name));
        let (result, parts) = (format!("{weight}.product"), std::slice::from_ref(&weight));
        let product = Product::plain(&weight, &result, x, parts);
        self.graph.product(product)
    }

    /// The norm of the state and what a product adds to it with its bias.
    fn add_and_norm(
        &mut self,
        layer: usize,
        [product, norm]: [&str; 2],
        state: &Edge,
        added: &Edge,
    ) -> Edge {
        let bias = self.graph.vector(&format!("{}.bias", part(layer, product)));
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
