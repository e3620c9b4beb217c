//! The decoder that all families share, on flattened tokens: every operator but attention is
//! indifferent to which sequence a row belongs to, so a ragged batch needs no padding.
//!
//! ```text
//! inputs_embeds [tokens, hidden] (· scale) = residual
//!   └─ per layer: norm → Q·K·V (one product) → PagedAttention → output product (→ norm) ─┐ + residual
//!                 norm → gate·up (one product) → act(gate) · up → down product (→ norm) ─┘ + residual
//!   ├─ rows of logit_rows → norm → output product → logits [rows, vocabulary]
//!   └─ rows of hidden_rows → norm → hidden [hidden rows, hidden]
//! ```
//!
//! A graph may have some of the layers only: what its last hands over, the next graph's first takes.

use std::ops::Range;

use super::families::{self, DecoderShape, Experts, Rotary};
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{self, Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::products::{Product, ProductOperator};
use super::weighted::{RmsNorm, WeightedGraph};
use super::{ORTOLAN_DOMAIN, names, rotary};

/// What of a decoder a graph has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderPart {
    /// Its layers. Before the first come the embeddings, behind the last the logits.
    pub layers: Range<usize>,
    /// Whose attention.
    pub attention: AttentionOperator,
    /// Whose products.
    pub products: ProductOperator,
}

/// Whose `PagedAttention` a graph has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionOperator {
    /// Ours, for the CPU: in single precision, over caches in its memory.
    Ortolan,
    /// ONNX Runtime's: in half precision, over caches in the memory of a GPU.
    Contrib,
}

impl AttentionOperator {
    fn domain(self) -> &'static str {
        match self {
            Self::Ortolan => ORTOLAN_DOMAIN,
            Self::Contrib => MICROSOFT_DOMAIN,
        }
    }
}

/// `f32 [tokens, hidden]`: what is handed over to a graph that begins with this layer.
pub fn handed_over(layer: usize) -> String {
    format!("blk.{layer}.residual")
}

/// The graph of a part of a decoder, for sequences of up to `context_tokens` tokens.
pub(super) fn build<'a>(
    graph: WeightedGraph<'a>,
    shape: &'a DecoderShape,
    part: &DecoderPart,
    context_tokens: usize,
    progress: &dyn Fn(f32),
) -> WeightedGraph<'a> {
    let mut decoder = Decoder::new(graph, shape, part.attention, context_tokens);
    let mut residual = match part.layers.start {
        0 => decoder.embedded(),
        first => decoder.taken_over(first),
    };
    for layer in part.layers.clone() {
        residual = decoder.attention(layer, &residual);
        residual = match &shape.experts {
            None => decoder.feed_forward(layer, &residual),
            Some(experts) => decoder.mixture_of_experts(layer, &residual, experts),
        };
        decoder.graph.release();
        progress((layer + 1 - part.layers.start) as f32 / part.layers.len() as f32);
    }
    if part.layers.end == shape.layers {
        decoder.logits(&residual);
        decoder.hidden(&residual);
    } else {
        let rows = decoder.rows();
        let builder = &mut decoder.graph.builder;
        builder.output(&residual, ElementType::F32, &rows);
    }
    decoder.graph
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
    operator: AttentionOperator,
    context_tokens: usize,
    batch: Batch,
}

/// The edges that every attention node reads.
struct Batch {
    cumulative_sequence_length: Edge,
    past_seqlens: Edge,
    block_table: Edge,
    /// Cosines and sines, once a layer has asked for them.
    rotary: Option<[Edge; 2]>,
    /// Of the layers that see only what is near, where they have tables of their own.
    local_rotary: Option<[Edge; 2]>,
}

impl<'a> Decoder<'a> {
    fn new(
        mut graph: WeightedGraph<'a>,
        shape: &'a DecoderShape,
        operator: AttentionOperator,
        context_tokens: usize,
    ) -> Self {
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
        let batch = Batch {
            cumulative_sequence_length,
            past_seqlens,
            block_table,
            rotary: None,
            local_rotary: None,
        };
        Self {
            graph,
            shape,
            operator,
            context_tokens,
            batch,
        }
    }

    fn rows(&self) -> [Dimension; 2] {
        [Named("tokens"), Fixed(self.shape.hidden)]
    }

    /// What the first layer takes: the embeddings.
    fn embedded(&mut self) -> Edge {
        let rows = self.rows();
        let builder = &mut self.graph.builder;
        let embeds = builder.input(names::INPUTS_EMBEDS, ElementType::F32, &rows);
        match self.shape.embedding_scale {
            None => embeds,
            Some(scale) => self.scaled(&embeds, scale, &handed_over(0)),
        }
    }

    /// The same of a later layer, which another graph hands over.
    fn taken_over(&mut self, layer: usize) -> Edge {
        let rows = self.rows();
        let builder = &mut self.graph.builder;
        builder.input(&handed_over(layer), ElementType::F32, &rows)
    }

    fn norm<'g>(&self, gain: &'g str) -> RmsNorm<'g> {
        RmsNorm {
            gain,
            epsilon: self.shape.norm_epsilon,
        }
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
    fn queries_keys_values(&mut self, layer: usize, residual: &Edge) -> Edge {
        let parts: &[&str] = match self.shape.fused {
            true => &["attn_qkv"],
            false => &["attn_q", "attn_k", "attn_v"],
        };
        let weights: Vec<String> = parts
            .iter()
            .map(|part| families::block(layer, part))
            .collect();
        let biases: Vec<String> = parts
            .iter()
            .filter(|_| self.shape.biases)
            .map(|part| families::bias(layer, part))
            .collect();
        let name = families::block(layer, "attn_qkv");
        let gain = families::block(layer, "attn_norm");
        let norm = self.norm(&gain);
        self.graph.product(Product {
            norm: Some(norm),
            biases: &biases,
            ..Product::plain(&name, &format!("{name}.product"), residual, &weights)
        })
    }

    /// A product by the name `part` of a layer, which is added to the residual stream.
    fn added(
        &mut self,
        [part, post_norm]: [&str; 2],
        layer: usize,
        x: &Edge,
        residual: &Edge,
        result: &str,
    ) -> Edge {
        let name = families::block(layer, part);
        let parts = std::slice::from_ref(&name);
        match self.shape.post_norms {
            false => self.graph.product(Product {
                residual: Some(residual),
                ..Product::plain(&name, result, x, parts)
            }),
            true => {
                let of_product = format!("{name}.product");
                let product = Product::plain(&name, &of_product, x, parts);
                let product = self.graph.product(product);
                self.normed_and_added(layer, post_norm, &product, residual, result)
            }
        }
    }

    /// What a layer comes to, added to the residual stream: after a norm, if the family has such.
    fn normed_and_added(
        &mut self,
        layer: usize,
        post_norm: &str,
        x: &Edge,
        residual: &Edge,
        result: &str,
    ) -> Edge {
        let mut added = x.clone();
        if self.shape.post_norms {
            let gain = families::block(layer, post_norm);
            let norm = self.norm(&gain);
            added = self.graph.rms_norm(&format!("{gain}.normed"), norm, x);
        }
        self.graph.sum(result, residual, &added)
    }

    fn attention(&mut self, layer: usize, residual: &Edge) -> Edge {
        let qkv = self.queries_keys_values(layer, residual);
        let qkv = operand(&mut self.graph.builder, self.operator, qkv);
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
            ["attn_q_norm", "attn_k_norm"].map(|part| {
                let gain = self.graph.vector(&families::block(layer, part));
                operand(&mut self.graph.builder, self.operator, gain)
            })
        });
        let [query_norm, key_norm] = norms
            .as_ref()
            .map_or([None, None], |norms| norms.each_ref().map(Some));
        let [cos, sin] = self.rotary(layer);
        let batch = &self.batch;
        let local = self.shape.local(layer);
        let window = local.map_or(-1, |local| local.window as i64);
        let result = format!("blk.{layer}.attended");
        let in_half = format!("{result}.f16");
        let [mut attended] = self.graph.builder.node(
            self.operator.domain(),
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
                Some(&cos),
                Some(&sin),
                None,
                None,
                query_norm,
                key_norm,
            ],
            [match self.operator {
                AttentionOperator::Ortolan => &result,
                AttentionOperator::Contrib => &in_half,
            }],
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
        if self.operator == AttentionOperator::Contrib {
            attended = cast(
                &mut self.graph.builder,
                &attended,
                ElementType::F32,
                &result,
            );
        }
        let parts = ["attn_output", "post_attention_norm"];
        let result = format!("blk.{layer}.attention_added");
        self.added(parts, layer, &attended, residual, &result)
    }

    /// The tables that turn a layer's queries and keys.
    fn rotary(&mut self, layer: usize) -> [Edge; 2] {
        let (made, prefix, rotary) = match (self.shape.local(layer), local_rotary(self.shape)) {
            (Some(_), Some(rotary)) => (&mut self.batch.local_rotary, "local.", rotary),
            _ => (&mut self.batch.rotary, "", &self.shape.rotary),
        };
        let builder = &mut self.graph.builder;
        let (tokens, operator) = (self.context_tokens, self.operator);
        let make = || {
            let tables = rotary::tables(rotary, tokens);
            [("cos_cache", tables.cos), ("sin_cache", tables.sin)].map(|(name, values)| {
                let table = builder.initializer(Initializer {
                    name: format!("{prefix}{name}"),
                    shape: vec![tokens, rotary.rotated / 2],
                    values: TensorValues::F32(values),
                });
                operand(builder, operator, table)
            })
        };
        made.get_or_insert_with(make).clone()
    }

    fn feed_forward(&mut self, layer: usize, residual: &Edge) -> Edge {
        let parts = match self.shape.fused {
            true => vec![families::block(layer, "ffn_up")],
            false => ["ffn_gate", "ffn_up"]
                .map(|part| families::block(layer, part))
                .to_vec(),
        };
        let stacked = families::block(layer, "ffn_gate_up");
        let gain = families::block(layer, "ffn_norm");
        let norm = self.norm(&gain);
        let gated = self.graph.product(Product {
            norm: Some(norm),
            gated: Some(self.shape.activation),
            ..Product::plain(&stacked, &format!("{stacked}.gated"), residual, &parts)
        });
        let parts = ["ffn_down", "post_ffw_norm"];
        self.added(parts, layer, &gated, residual, &handed_over(layer + 1))
    }

    /// Each row through the experts that the router's scores choose.
    fn mixture_of_experts(&mut self, layer: usize, residual: &Edge, experts: &Experts) -> Edge {
        let gain = families::block(layer, "ffn_norm");
        let norm = self.norm(&gain);
        let x = self
            .graph
            .rms_norm(&format!("{gain}.normed"), norm, residual);
        let x = &x;
        let router = families::block(layer, families::ROUTER);
        let parts = std::slice::from_ref(&router);
        let scores = format!("{router}.product");
        let scores = self
            .graph
            .product(Product::plain(&router, &scores, x, parts));
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
        let result = handed_over(layer + 1);
        self.normed_and_added(layer, "post_ffw_norm", &mixed, residual, &result)
    }

    fn logits(&mut self, residual: &Edge) {
        let rows = self
            .graph
            .builder
            .input(names::LOGIT_ROWS, ElementType::I64, &[Named("rows")]);
        let wanted = self.graph.rows("wanted_rows", residual, &rows);
        let matrix = match self.shape.tied_output {
            true => families::TOKEN_EMBEDDING,
            false => families::OUTPUT,
        };
        let result = match self.shape.logit_cap {
            None => names::LOGITS,
            Some(_) => "uncapped_logits",
        };
        let norm = self.norm(families::OUTPUT_NORM);
        let mut logits = self.graph.product(Product {
            rows: Some(&rows),
            norm: Some(norm),
            ..Product::plain(matrix, result, &wanted, &[matrix.to_owned()])
        });
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

    fn hidden(&mut self, residual: &Edge) {
        let rows = self.graph.hidden_rows();
        let wanted = self.graph.rows("wanted_states", residual, &rows);
        let norm = self.norm(families::OUTPUT_NORM);
        let states = self.graph.rms_norm(names::HIDDEN, norm, &wanted);
        self.graph.hidden(&states, self.shape.hidden);
    }
}

/// An operand of attention as the operator takes it.
fn operand(builder: &mut GraphBuilder, operator: AttentionOperator, edge: Edge) -> Edge {
    match operator {
        AttentionOperator::Ortolan => edge,
        AttentionOperator::Contrib => {
            let name = format!("{}.f16", edge.name());
            cast(builder, &edge, ElementType::F16, &name)
        }
    }
}

fn cast(builder: &mut GraphBuilder, edge: &Edge, to: ElementType, result: &str) -> Edge {
    let to = [("to", Int(to as i64))];
    let [cast] = builder.node("", "Cast", &[Some(edge)], [result], &to);
    cast
}
