//! The decoder that all families share, on flattened tokens: every operator but attention is
//! indifferent to which sequence a row belongs to, so a ragged batch needs no padding.
//!
//! ```text
//! inputs_embeds [tokens, hidden] (· scale)
//!   └─ per layer: norm → Q·K·V (one product) → PagedAttention → output product (→ norm) ─┐ + residual
//!                 norm → gate·up (one product) → act(gate) · up → down product (→ norm) ─┘ + residual
//!   └─ norm ─┬─ rows of logit_rows → output product → logits [rows, vocabulary]
//!            └─ rows of hidden_rows → hidden [hidden rows, hidden]
//! ```

use super::families::{self, Activation, DecoderShape, Experts, Rotary};
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{self, Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::weighted::WeightedGraph;
use super::{ORTOLAN_DOMAIN, names, rotary};

/// The graph of a decoder, for sequences of up to `context_tokens` tokens.
pub(super) fn build(
    graph: WeightedGraph<'_>,
    shape: &DecoderShape,
    context_tokens: usize,
    progress: &dyn Fn(f32),
) -> GraphBuilder {
    let mut decoder = Decoder::new(graph, shape, context_tokens);
    let mut residual = decoder.graph.builder.input(
        names::INPUTS_EMBEDS,
        ElementType::F32,
        &[Named("tokens"), Fixed(shape.hidden)],
    );
    if let Some(scale) = shape.embedding_scale {
        residual = decoder.scaled(&residual, scale, "scaled_embeddings");
    }
    let mut normed = decoder.norm(&families::block(0, "attn_norm"), &residual);
    for layer in 0..shape.layers {
        let mut attended = decoder.attention(layer, &normed);
        if shape.post_norms {
            let weight = families::block(layer, "post_attention_norm");
            attended = decoder.norm(&weight, &attended);
        }
        [normed, residual] =
            decoder.add_and_norm(&families::block(layer, "ffn_norm"), &residual, &attended);
        let mut fed = match &shape.experts {
            None => decoder.feed_forward(layer, &normed),
            Some(experts) => decoder.mixture_of_experts(layer, &normed, experts),
        };
        if shape.post_norms {
            fed = decoder.norm(&families::block(layer, "post_ffw_norm"), &fed);
        }
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

/// Numbers of the tables that say how positions turn queries and keys.
pub(super) fn rotary_numbers(shape: &DecoderShape, context_tokens: usize) -> usize {
    let tables = [Some(&shape.rotary), local_rotary(shape)];
    let numbers = |rotary: &Rotary| 2 * context_tokens * (rotary.rotated / 2);
    tables.into_iter().flatten().map(numbers).sum()
}

/// How positions turn queries and keys where a layer sees only what is near, if otherwise than elsewhere.
fn local_rotary(shape: &DecoderShape) -> Option<&Rotary> {
    let local = shape.local.as_ref().map(|local| &local.rotary);
    local.filter(|rotary| **rotary != shape.rotary)
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
    rotary: RotaryEdges,
    /// Of the layers that see only what is near, where they have tables of their own.
    local_rotary: Option<RotaryEdges>,
}

struct RotaryEdges {
    cos: Edge,
    sin: Edge,
}

impl<'a> Decoder<'a> {
    fn new(mut graph: WeightedGraph<'a>, shape: &'a DecoderShape, context_tokens: usize) -> Self {
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
        let mut tables = |name: &str, rotary: &Rotary| {
            let tables = rotary::tables(rotary, context_tokens);
            let mut table = |part: &str, values| {
                graph.builder.initializer(Initializer {
                    name: format!("{name}{part}"),
                    shape: vec![context_tokens, rotary.rotated / 2],
                    values: TensorValues::F32(values),
                })
            };
            RotaryEdges {
                cos: table("cos_cache", tables.cos),
                sin: table("sin_cache", tables.sin),
            }
        };
        let batch = Batch {
            cumulative_sequence_length,
            past_seqlens,
            block_table,
            rotary: tables("", &shape.rotary),
            local_rotary: local_rotary(shape).map(|rotary| tables("local.", rotary)),
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

    /// `x · scale`, by the name `result`.
    fn scaled(&mut self, x: &Edge, scale: f32, result: &str) -> Edge {
        let factor = self.graph.builder.initializer(Initializer {
            name: format!("{result}.factor"),
            shape: vec![1],
            values: TensorValues::F32(vec![scale]),
        });
        let inputs = [Some(x), Some(&factor)];
        let [scaled] = self.graph.builder.node("", "Mul", &inputs, [result], &[]);
        scaled
    }

    /// Queries, keys and values of every token, one after the other.
    fn queries_keys_values(&mut self, layer: usize, x: &Edge) -> Edge {
        let parts: &[&str] = match self.shape.fused {
            true => &["attn_qkv"],
            false => &["attn_q", "attn_k", "attn_v"],
        };
        let weights: Vec<String> = parts
            .iter()
            .map(|part| families::block(layer, part))
            .collect();
        let name = families::block(layer, "attn_qkv");
        let product = self.graph.product(&name, x, &weights);
        if !self.shape.biases {
            return product;
        }
        let biases: Vec<String> = parts
            .iter()
            .map(|part| families::bias(layer, part))
            .collect();
        let name = families::bias(layer, "attn_qkv");
        let bias = self.graph.vectors(&name, &biases);
        let inputs = [Some(&product), Some(&bias)];
        let result = format!("{name}.added");
        let [sum] = self.graph.builder.node("", "Add", &inputs, [&result], &[]);
        sum
    }

    fn attention(&mut self, layer: usize, x: &Edge) -> Edge {
        let qkv = self.queries_keys_values(layer, x);
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
        let norms = self.shape.query_key_norms.then(|| {
            ["attn_q_norm", "attn_k_norm"]
                .map(|part| self.graph.vector(&families::block(layer, part)))
        });
        let [query_norm, key_norm] = norms
            .as_ref()
            .map_or([None, None], |norms| norms.each_ref().map(Some));
        let (batch, local) = (&self.batch, self.shape.local(layer));
        let rotary = match (local, &batch.local_rotary) {
            (Some(_), Some(rotary)) => rotary,
            _ => &batch.rotary,
        };
        let window = local.map_or(-1, |local| local.window as i64);
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
                Some(&rotary.cos),
                Some(&rotary.sin),
                None,
                None,
                query_norm,
                key_norm,
            ],
            [&format!("blk.{layer}.attended")],
            &[
                ("num_heads", Int(self.shape.heads as i64)),
                ("kv_num_heads", Int(self.shape.kv_heads as i64)),
                ("do_rotary", Int(1)),
                (
                    "rotary_interleaved",
                    Int(self.shape.rotary.interleaved.into()),
                ),
                ("scale", Float(self.shape.score_scale)),
                ("softcap", Float(self.shape.score_cap.unwrap_or(0.0))),
                ("local_window_size", Int(window)),
                ("qk_norm_epsilon", Float(self.shape.norm_epsilon)),
            ],
        );
        let name = families::block(layer, "attn_output");
        self.graph
            .product(&name, &attended, std::slice::from_ref(&name))
    }

    fn feed_forward(&mut self, layer: usize, x: &Edge) -> Edge {
        let parts = match self.shape.fused {
            true => vec![families::block(layer, "ffn_up")],
            false => ["ffn_gate", "ffn_up"]
                .map(|part| families::block(layer, part))
                .to_vec(),
        };
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
        let (operator, attributes): (_, &[_]) = match self.shape.activation {
            // x · sigmoid(x).
            Activation::Silu => ("QuickGelu", &[("alpha", Float(1.0))]),
            Activation::GeluTanh => ("FastGelu", &[]),
        };
        let [activated] = self.graph.builder.node(
            MICROSOFT_DOMAIN,
            operator,
            &[Some(&gate)],
            [&format!("{stacked}.activated")],
            attributes,
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

    /// Each row through the experts that the router's scores choose.
    fn mixture_of_experts(&mut self, layer: usize, x: &Edge, experts: &Experts) -> Edge {
        let router = families::block(layer, families::ROUTER);
        let scores = self
            .graph
            .product(&router, x, std::slice::from_ref(&router));
        let [mixed] = self.graph.builder.node(
            ORTOLAN_DOMAIN,
            "MixtureOfExperts",
            &[Some(x), Some(&scores)],
            [&format!("blk.{layer}.mixed")],
            &[
                ("layer", Int(layer as i64)),
                ("k", Int(experts.used as i64)),
                ("normalize_routing_weights", Int(experts.normalised.into())),
                ("routing_weights_scale", Float(experts.scale)),
            ],
        );
        mixed
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
        let result = match self.shape.logit_cap {
            None => names::LOGITS,
            Some(_) => "uncapped_logits",
        };
        let mut logits = self.graph.product_of_rows(result, &wanted, &rows, matrix);
        if let Some(cap) = self.shape.logit_cap {
            let small = self.scaled(&logits, 1.0 / cap, "divided_logits");
            let [bounded] =
                self.graph
                    .builder
                    .node("", "Tanh", &[Some(&small)], ["bounded_logits"], &[]);
            logits = self.scaled(&bounded, cap, names::LOGITS);
        }
        self.graph.builder.output(
            &logits,
            ElementType::F32,
            &[Named("rows"), Fixed(self.shape.vocabulary)],
        );
    }
}
