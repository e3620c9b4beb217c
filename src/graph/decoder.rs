//! Builds the graph of a decoder, which all model families share. The tokens of all sequences form one dimension. Every
//! operator except attention treats rows (tokens) independently, so a ragged batch needs no padding.
//!
//! ```text
//! inputs_embeds [tokens, hidden] (· scale) = residual
//!   └─ per layer: norm → Q·K·V (one matmul) → PagedAttention → output matmul (→ norm) ─┐ + residual
//!                 norm → gate·up (one matmul) → act(gate) · up → down matmul (→ norm) ─┘ + residual
//!   ├─ rows of logit_rows → norm → output matmul → logits [rows, vocabulary]
//!   └─ rows of hidden_rows → norm → hidden [hidden rows, hidden]
//! ```
//!
//! A graph may contain only a stage of the decoder, a range of layers. A stage outputs the residual stream after its
//! last layer, which is the input of the next stage.

use std::ops::Range;

use super::families::{self, DecoderShape, Experts, Rotary};
use super::matmul::Matmul;
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{self, Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::weighted::{MatmulOperator, RmsNorm, WeightedGraph};
use super::{ORTOLAN_DOMAIN, names, rotary};

/// A stage of a decoder: the layers that a graph contains, and the operators that compute them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderStage {
    /// The range of layers. The stage with the first layer takes embeddings; the stage with the last layer computes
    /// logits.
    pub layers: Range<usize>,
    /// The attention operator.
    pub attention: AttentionOperator,
    /// The operator for quantized matmuls.
    pub matmul: MatmulOperator,
}

/// The implementation of `PagedAttention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionOperator {
    /// ortolan's operator for the CPU: computes in single precision, with the KV cache in main memory.
    Ortolan,
    /// ONNX Runtime's operator: computes in half precision, with the KV cache in GPU memory.
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

/// Returns the name of the residual stream before layer `layer`, `f32 [tokens, hidden]`. A stage that starts with this
/// layer has it as an input.
pub fn residual_name(layer: usize) -> String {
    format!("blk.{layer}.residual")
}

/// Builds the graph of a decoder stage, for sequences of up to `context_tokens` tokens. `progress` receives the
/// completed fraction, from 0 to 1.
pub(super) fn build<'a>(
    graph: WeightedGraph<'a>,
    shape: &'a DecoderShape,
    stage: &DecoderStage,
    context_tokens: usize,
    progress: &dyn Fn(f32),
) -> WeightedGraph<'a> {
    let mut decoder = Decoder::new(graph, shape, stage.attention, context_tokens);
    let mut residual = match stage.layers.start {
        0 => decoder.embeddings_input(),
        first => decoder.stage_input(first),
    };
    for layer in stage.layers.clone() {
        residual = decoder.attention(layer, &residual);
        residual = match &shape.experts {
            None => decoder.feed_forward(layer, &residual),
            Some(experts) => decoder.mixture_of_experts(layer, &residual, experts),
        };
        decoder.graph.release();
        progress((layer + 1 - stage.layers.start) as f32 / stage.layers.len() as f32);
    }
    if stage.layers.end == shape.layers {
        decoder.logits(&residual);
        decoder.hidden(&residual);
    } else {
        let shape = decoder.residual_shape();
        let builder = &mut decoder.graph.builder;
        builder.output(&residual, ElementType::F32, &shape);
    }
    decoder.graph
}

/// Returns the number of values in all cosine and sine tables.
pub(super) fn rotary_table_values(shape: &DecoderShape, context_tokens: usize) -> usize {
    let tables = [Some(&shape.rotary), sliding_window_rotary(shape)];
    let values = |rotary: &Rotary| 2 * context_tokens * (rotary.rotated_dims / 2);
    tables.into_iter().flatten().map(values).sum()
}

/// Returns the rotary embedding of sliding-window layers, if it differs from the rotary embedding of global layers.
fn sliding_window_rotary(shape: &DecoderShape) -> Option<&Rotary> {
    let rotary = shape.sliding_window.as_ref().map(|layers| &layers.rotary);
    rotary.filter(|rotary| **rotary != shape.rotary)
}

struct Decoder<'a> {
    graph: WeightedGraph<'a>,
    shape: &'a DecoderShape,
    operator: AttentionOperator,
    context_tokens: usize,
    shared: SharedInputs,
}

/// Inputs that all attention nodes share.
struct SharedInputs {
    cumulative_sequence_length: Edge,
    past_seqlens: Edge,
    block_table: Edge,
    /// Cosine and sine tables, created for the first layer that needs them.
    rotary: Option<[Edge; 2]>,
    /// The tables of sliding-window layers, if these layers have another rotary embedding.
    sliding_window_rotary: Option<[Edge; 2]>,
}

impl<'a> Decoder<'a> {
    fn new(
        mut graph: WeightedGraph<'a>,
        shape: &'a DecoderShape,
        operator: AttentionOperator,
        context_tokens: usize,
    ) -> Self {
        let mut integer_input = |name, dimensions: &[Dimension]| {
            graph.builder.input(name, ElementType::I32, dimensions)
        };
        let cumulative_sequence_length = integer_input(
            names::CUMULATIVE_SEQUENCE_LENGTH,
            &[Named("sequences_plus_1")],
        );
        let past_seqlens = integer_input(names::PAST_SEQLENS, &[Named("sequences")]);
        let block_table = integer_input(
            names::BLOCK_TABLE,
            &[Named("sequences"), Named("blocks_of_a_sequence")],
        );
        let shared = SharedInputs {
            cumulative_sequence_length,
            past_seqlens,
            block_table,
            rotary: None,
            sliding_window_rotary: None,
        };
        Self {
            graph,
            shape,
            operator,
            context_tokens,
            shared,
        }
    }

    fn residual_shape(&self) -> [Dimension; 2] {
        [Named("tokens"), Fixed(self.shape.hidden)]
    }

    /// Adds the input of the first layer: the token embeddings, scaled if the family scales embeddings.
    fn embeddings_input(&mut self) -> Edge {
        let shape = self.residual_shape();
        let builder = &mut self.graph.builder;
        let embeds = builder.input(names::INPUTS_EMBEDS, ElementType::F32, &shape);
        match self.shape.embedding_scale {
            None => embeds,
            Some(scale) => self.scaled(&embeds, scale, &residual_name(0)),
        }
    }

    /// Adds the input of a later stage: the residual stream from the previous stage.
    fn stage_input(&mut self, layer: usize) -> Edge {
        let shape = self.residual_shape();
        let builder = &mut self.graph.builder;
        builder.input(&residual_name(layer), ElementType::F32, &shape)
    }

    fn norm<'g>(&self, gain: &'g str) -> RmsNorm<'g> {
        RmsNorm {
            gain,
            epsilon: self.shape.norm_epsilon,
        }
    }

    /// Adds a node that computes `x · scale`, with the output name `result`.
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

    /// Adds the matmul that computes the concatenated queries, keys and values of every token.
    fn queries_keys_values(&mut self, layer: usize, residual: &Edge) -> Edge {
        let projections: &[&str] = match self.shape.fused_projections {
            true => &["attn_qkv"],
            false => &["attn_q", "attn_k", "attn_v"],
        };
        let weights: Vec<String> = projections
            .iter()
            .map(|part| families::block(layer, part))
            .collect();
        let biases: Vec<String> = projections
            .iter()
            .filter(|_| self.shape.qkv_biases)
            .map(|part| families::bias(layer, part))
            .collect();
        let name = families::block(layer, "attn_qkv");
        let gain = families::block(layer, "attn_norm");
        let norm = self.norm(&gain);
        self.graph.matmul(Matmul {
            norm: Some(norm),
            biases: &biases,
            ..Matmul::plain(&name, &format!("{name}.product"), residual, &weights)
        })
    }

    /// Adds a matmul of `x` and the weight `part` of a layer, and adds the product to the residual stream.
    fn add_to_residual(
        &mut self,
        [part, post_norm]: [&str; 2],
        layer: usize,
        x: &Edge,
        residual: &Edge,
        result: &str,
    ) -> Edge {
        let name = families::block(layer, part);
        let weights = std::slice::from_ref(&name);
        match self.shape.post_norms {
            false => self.graph.matmul(Matmul {
                residual: Some(residual),
                ..Matmul::plain(&name, result, x, weights)
            }),
            true => {
                let matmul_output = format!("{name}.product");
                let matmul = Matmul::plain(&name, &matmul_output, x, weights);
                let output = self.graph.matmul(matmul);
                self.norm_and_add(layer, post_norm, &output, residual, result)
            }
        }
    }

    /// Adds `x` to the residual stream, after the norm `post_norm` if the family has post-norms.
    fn norm_and_add(
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
        let qkv = cast_operand(&mut self.graph.builder, self.operator, qkv);
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
                cast_operand(&mut self.graph.builder, self.operator, gain)
            })
        });
        let [query_norm, key_norm] = norms
            .as_ref()
            .map_or([None, None], |norms| norms.each_ref().map(Some));
        let [cos, sin] = self.rotary(layer);
        let shared = &self.shared;
        let window_layers = self.shape.sliding_window_of(layer);
        let window = window_layers.map_or(-1, |layers| layers.window_tokens as i64);
        let result = format!("blk.{layer}.attended");
        let half_result = format!("{result}.f16");
        let [mut attended] = self.graph.builder.node(
            self.operator.domain(),
            "PagedAttention",
            &[
                Some(&qkv),
                None,
                None,
                Some(&keys),
                Some(&values),
                Some(&shared.cumulative_sequence_length),
                Some(&shared.past_seqlens),
                Some(&shared.block_table),
                Some(&cos),
                Some(&sin),
                None,
                None,
                query_norm,
                key_norm,
            ],
            [match self.operator {
                AttentionOperator::Ortolan => &result,
                AttentionOperator::Contrib => &half_result,
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
                ("softcap", Float(self.shape.score_softcap.unwrap_or(0.0))),
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
        self.add_to_residual(parts, layer, &attended, residual, &result)
    }

    /// Returns the cosine and sine tables of a layer, after creating them if necessary.
    fn rotary(&mut self, layer: usize) -> [Edge; 2] {
        let (existing, prefix, rotary) = match (
            self.shape.sliding_window_of(layer),
            sliding_window_rotary(self.shape),
        ) {
            (Some(_), Some(rotary)) => (&mut self.shared.sliding_window_rotary, "local.", rotary),
            _ => (&mut self.shared.rotary, "", &self.shape.rotary),
        };
        let builder = &mut self.graph.builder;
        let (tokens, operator) = (self.context_tokens, self.operator);
        let create = || {
            let tables = rotary::tables(rotary, tokens);
            [("cos_cache", tables.cos), ("sin_cache", tables.sin)].map(|(name, values)| {
                let table = builder.initializer(Initializer {
                    name: format!("{prefix}{name}"),
                    shape: vec![tokens, rotary.rotated_dims / 2],
                    values: TensorValues::F32(values),
                });
                cast_operand(builder, operator, table)
            })
        };
        existing.get_or_insert_with(create).clone()
    }

    fn feed_forward(&mut self, layer: usize, residual: &Edge) -> Edge {
        let weights = match self.shape.fused_projections {
            true => vec![families::block(layer, "ffn_up")],
            false => ["ffn_gate", "ffn_up"]
                .map(|part| families::block(layer, part))
                .to_vec(),
        };
        let stacked = families::block(layer, "ffn_gate_up");
        let gain = families::block(layer, "ffn_norm");
        let norm = self.norm(&gain);
        let gated = self.graph.matmul(Matmul {
            norm: Some(norm),
            gate: Some(self.shape.activation),
            ..Matmul::plain(&stacked, &format!("{stacked}.gated"), residual, &weights)
        });
        let parts = ["ffn_down", "post_ffw_norm"];
        self.add_to_residual(parts, layer, &gated, residual, &residual_name(layer + 1))
    }

    /// Adds a mixture of experts: the top-k experts by router score compute each row.
    fn mixture_of_experts(&mut self, layer: usize, residual: &Edge, experts: &Experts) -> Edge {
        let gain = families::block(layer, "ffn_norm");
        let norm = self.norm(&gain);
        let x = self
            .graph
            .rms_norm(&format!("{gain}.normed"), norm, residual);
        let x = &x;
        let router = families::block(layer, families::ROUTER);
        let weights = std::slice::from_ref(&router);
        let scores = format!("{router}.product");
        let scores = self
            .graph
            .matmul(Matmul::plain(&router, &scores, x, weights));
        let [mixed] = self.graph.builder.node(
            ORTOLAN_DOMAIN,
            "MixtureOfExperts",
            &[Some(x), Some(&scores)],
            [&format!("blk.{layer}.mixed")],
            &[
                ("layer", Int(layer as i64)),
                ("k", Int(experts.top_k as i64)),
                ("normalize_routing_weights", Int(experts.normalized.into())),
                ("routing_weights_scale", Float(experts.scale)),
            ],
        );
        let result = residual_name(layer + 1);
        self.norm_and_add(layer, "post_ffw_norm", &mixed, residual, &result)
    }

    fn logits(&mut self, residual: &Edge) {
        let rows = self
            .graph
            .builder
            .input(names::LOGIT_ROWS, ElementType::I64, &[Named("rows")]);
        let gathered = self.graph.gather_rows("wanted_rows", residual, &rows);
        let matrix = match self.shape.tied_output {
            true => families::TOKEN_EMBEDDING,
            false => families::OUTPUT,
        };
        let result = match self.shape.logit_softcap {
            None => names::LOGITS,
            Some(_) => "uncapped_logits",
        };
        let norm = self.norm(families::OUTPUT_NORM);
        let mut logits = self.graph.matmul(Matmul {
            token_rows: Some(&rows),
            norm: Some(norm),
            ..Matmul::plain(matrix, result, &gathered, &[matrix.to_owned()])
        });
        if let Some(cap) = self.shape.logit_softcap {
            let divided = self.scaled(&logits, 1.0 / cap, "divided_logits");
            let [bounded] =
                self.graph
                    .builder
                    .node("", "Tanh", &[Some(&divided)], ["bounded_logits"], &[]);
            logits = self.scaled(&bounded, cap, names::LOGITS);
        }
        self.graph.builder.output(
            &logits,
            ElementType::F32,
            &[Named("rows"), Fixed(self.shape.vocabulary)],
        );
    }

    fn hidden(&mut self, residual: &Edge) {
        let rows = self.graph.hidden_rows_input();
        let gathered = self.graph.gather_rows("wanted_states", residual, &rows);
        let norm = self.norm(families::OUTPUT_NORM);
        let states = self.graph.rms_norm(names::HIDDEN, norm, &gathered);
        self.graph.hidden_output(&states, self.shape.hidden);
    }
}

/// Casts an attention operand to the precision of the attention operator.
fn cast_operand(builder: &mut GraphBuilder, operator: AttentionOperator, edge: Edge) -> Edge {
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
