//! A graph whose attention is `GroupQueryAttention`, over a past in tensors of its own, becomes one whose attention reads
//! and writes the blocks of the cache: the operator's place is taken by ours, and what it was told of lengths by what
//! a ragged batch says.
//!
//! ```text
//! input_ids [1, tokens] → … → query, key, value [1, tokens, ·] → Squeeze → PagedAttention → Unsqueeze → …
//! ```
//!
//! Source: `ContribOperators.md`, `GroupQueryAttention` (onnxruntime repository).

use std::collections::{HashMap, HashSet};

use super::super::onnx::proto::{Attribute, Graph, Model, Node, OperatorSet, Tensor};
use super::super::onnx::{ElementType, MICROSOFT_DOMAIN};
use super::super::{ORTOLAN_DOMAIN, names};
use super::needed::keep_needed;
use super::nodes::{int, integer, node, typed_input};

const OPERATOR: &str = "GroupQueryAttention";

/// The constant 0: the axis of the batch.
const BATCH_AXIS: &str = "ortolan.batch_axis";

/// What both operators mean the same with.
const SHARED_ATTRIBUTES: [&str; 8] = [
    "num_heads",
    "kv_num_heads",
    "scale",
    "softcap",
    "local_window_size",
    "do_rotary",
    "rotary_interleaved",
    "qk_norm_epsilon",
];
/// How the past is kept, which is another way here.
const ABOUT_PAST: [&str; 1] = ["sliding_window_cache"];

/// What is fed beside the caches.
const FED: [&str; 7] = [
    names::INPUT_IDS,
    super::POSITION_IDS,
    names::CUMULATIVE_SEQUENCE_LENGTH,
    names::PAST_SEQLENS,
    names::BLOCK_TABLE,
    names::LOGIT_ROWS,
    names::HIDDEN_ROWS,
];

/// `Squeeze` takes its axes as an input from here on.
const LEAST_OPSET: i64 = 13;

/// The inputs of `GroupQueryAttention` by their places.
mod inputs {
    pub(super) const QUERY: usize = 0;
    pub(super) const KEY: usize = 1;
    pub(super) const VALUE: usize = 2;
    pub(super) const PAST_KEY: usize = 3;
    pub(super) const COS: usize = 7;
    pub(super) const SIN: usize = 8;
    pub(super) const POSITIONS: usize = 9;
    pub(super) const QUERY_NORM: usize = 14;
    pub(super) const KEY_NORM: usize = 15;
    /// Bias, sink, scales of a quantised cache, lengths of queries.
    pub(super) const OTHERS: [usize; 5] = [10, 11, 12, 13, 16];
}

/// The graph in the paged form, whose caches are in the order of `pasts` (the names of the layers' past keys and values).
///
/// # Errors
/// What of it has no such form, in words.
pub(super) fn paged(
    model: &Model,
    pasts: &[[String; 2]],
    element: ElementType,
) -> Result<Graph, String> {
    let opset = model.opset_import.iter().find(|set| set.domain.is_empty());
    if opset.is_none_or(|set| set.version < LEAST_OPSET) {
        return Err(format!(
            "its operators are older than version {LEAST_OPSET}"
        ));
    }
    let mut graph = model.graph.clone().unwrap_or_default();
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut layers = vec![false; pasts.len()];
    for found in std::mem::take(&mut graph.node) {
        if found.op_type != OPERATOR || found.domain != MICROSOFT_DOMAIN {
            nodes.push(found);
            continue;
        }
        let past = input(&found, inputs::PAST_KEY);
        let layer = pasts.iter().position(|[key, _]| key == past);
        let Some(layer) = layer.filter(|layer| !std::mem::replace(&mut layers[*layer], true))
        else {
            return Err(format!("the past of \"{}\" is no layer's", found.name));
        };
        Attention::new(&found, layer, element)?.write(&mut nodes);
    }
    if let Some(layer) = layers.iter().position(|found| !found) {
        return Err(format!("layer {layer} has another attention"));
    }
    graph.node = nodes;
    add_batch(&mut graph, pasts.len());
    let kept = [names::LOGITS, names::HIDDEN];
    graph
        .output
        .retain(|output| kept.contains(&output.name.as_str()));
    keep_needed(&mut graph);
    let mut inputs = graph.input.iter().map(|input| input.name.as_str());
    let caches =
        (0..pasts.len()).flat_map(|layer| [names::key_cache(layer), names::value_cache(layer)]);
    let caches: HashSet<String> = caches.collect();
    match inputs.find(|name| !FED.contains(name) && !caches.contains(*name)) {
        Some(name) => Err(format!("\"{name}\" is used beside attention")),
        None => Ok(graph),
    }
}

/// The operators' version.
pub(super) fn opset() -> OperatorSet {
    OperatorSet {
        domain: ORTOLAN_DOMAIN.to_owned(),
        version: 1,
    }
}

/// The inputs that tell of the batch, and each layer's blocks.
fn add_batch(graph: &mut Graph, layers: usize) {
    let mut add = |name: &str, element, dimensions| {
        graph.input.push(typed_input(name, element, dimensions));
    };
    add(names::CUMULATIVE_SEQUENCE_LENGTH, ElementType::I32, 1);
    add(names::PAST_SEQLENS, ElementType::I32, 1);
    add(names::BLOCK_TABLE, ElementType::I32, 2);
    for layer in 0..layers {
        add(&names::key_cache(layer), ElementType::F16, 4);
        add(&names::value_cache(layer), ElementType::F16, 4);
    }
    graph.initializer.push(integer(BATCH_AXIS, 0));
}

fn input(node: &Node, place: usize) -> &str {
    node.input.get(place).map_or("", String::as_str)
}

/// An operator that is to be replaced.
struct Attention<'a> {
    node: &'a Node,
    output: &'a str,
    layer: usize,
    /// Of queries, keys and values.
    element: ElementType,
    attributes: Vec<Attribute>,
}

impl<'a> Attention<'a> {
    fn new(node: &'a Node, layer: usize, element: ElementType) -> Result<Self, String> {
        let mut attributes = Vec::new();
        for said in &node.attribute {
            let name = said.name.as_str();
            if SHARED_ATTRIBUTES.contains(&name) {
                attributes.push(said.clone());
            } else if !ABOUT_PAST.contains(&name) && !says_nothing(said) {
                return Err(format!("attention with \"{name}\""));
            }
        }
        let given = |place: &usize| !input(node, *place).is_empty();
        if let Some(place) = inputs::OTHERS.iter().find(|place| given(place)) {
            return Err(format!("attention with the input {place}"));
        }
        if given(&inputs::POSITIONS) && input(node, inputs::POSITIONS) != super::POSITION_IDS {
            return Err("attention with positions that are computed".to_owned());
        }
        let output = node.output.first().filter(|name| !name.is_empty());
        let output = output.ok_or("attention without an output")?;
        Ok(Self {
            node,
            output,
            layer,
            element,
            attributes,
        })
    }

    fn rotates(&self) -> bool {
        let mut said = self.attributes.iter();
        said.any(|said| said.name == "do_rotary" && said.i.is_some_and(|flag| flag != 0))
    }

    /// Writes our operator and what is around it. It takes single precision without a batch.
    fn write(self, nodes: &mut Vec<Node>) {
        let part = |what: &str| format!("ortolan.attention.{}.{what}", self.layer);
        let single = |nodes: &mut Vec<Node>, name: &str, what: &str| {
            if name.is_empty() || self.element == ElementType::F32 {
                return name.to_owned();
            }
            let to = vec![int("to", ElementType::F32 as i64)];
            nodes.push(node("", "Cast", &[name], &part(what), to));
            part(what)
        };
        let [mut query, mut key, mut value] = [const { String::new() }; 3];
        for (place, operand, what) in [
            (inputs::QUERY, &mut query, "query"),
            (inputs::KEY, &mut key, "key"),
            (inputs::VALUE, &mut value, "value"),
        ] {
            let name = input(self.node, place);
            if !name.is_empty() {
                let rows = part(&format!("{what}.rows"));
                nodes.push(node("", "Squeeze", &[name, BATCH_AXIS], &rows, Vec::new()));
                *operand = single(nodes, &rows, what);
            }
        }
        let mut table = |place, what| match self.rotates() {
            true => single(nodes, input(self.node, place), what),
            false => String::new(),
        };
        let (cos, sin) = (table(inputs::COS, "cos"), table(inputs::SIN, "sin"));
        let query_norm = single(nodes, input(self.node, inputs::QUERY_NORM), "query_norm");
        let key_norm = single(nodes, input(self.node, inputs::KEY_NORM), "key_norm");
        let (keys, values) = (names::key_cache(self.layer), names::value_cache(self.layer));
        let operands = [
            &query,
            &key,
            &value,
            &keys,
            &values,
            names::CUMULATIVE_SEQUENCE_LENGTH,
            names::PAST_SEQLENS,
            names::BLOCK_TABLE,
            &cos,
            &sin,
            "",
            "",
            &query_norm,
            &key_norm,
        ];
        let attended = part("attended");
        nodes.push(node(
            ORTOLAN_DOMAIN,
            "PagedAttention",
            &operands,
            &attended,
            self.attributes.clone(),
        ));
        let mut result = attended;
        if self.element != ElementType::F32 {
            let to = vec![int("to", self.element as i64)];
            nodes.push(node("", "Cast", &[&result], &part("cast"), to));
            result = part("cast");
        }
        let inputs = [result.as_str(), BATCH_AXIS];
        nodes.push(node("", "Unsqueeze", &inputs, self.output, Vec::new()));
    }
}

/// Whether an attribute asks for nothing that its absence would not.
fn says_nothing(said: &Attribute) -> bool {
    match said.name.as_str() {
        "k_quant_type" | "v_quant_type" => said.s.as_deref() == Some(b"NONE"),
        "causal" => said.i == Some(1),
        "smooth_softmax" => said.i.is_none_or(|value| value <= 0),
        "kv_cache_bit_width" | "qk_output" => said.i.is_none_or(|value| value == 0),
        _ => false,
    }
}

/// The positions that a graph's tables of rotations have, by the shortest that is a constant.
pub(super) fn table_positions(graph: &Graph) -> Option<usize> {
    let constants = graph.initializer.iter();
    let constants: HashMap<&str, &Tensor> = constants
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let tables = graph.node.iter().filter_map(|node| {
        let place = match (node.op_type.as_str(), node.domain.as_str()) {
            (OPERATOR, MICROSOFT_DOMAIN) => inputs::COS,
            ("RotaryEmbedding", MICROSOFT_DOMAIN) => 2,
            ("RotaryEmbedding", _) => 1,
            _ => return None,
        };
        let table = constants.get(input(node, place))?;
        usize::try_from(*table.dims.first()?).ok()
    });
    tables.min()
}

/// Whether an attention keeps no more of the past than it sees.
pub(super) fn keeps_windows(graph: &Graph) -> bool {
    let mut said = graph.node.iter().flat_map(|node| &node.attribute);
    said.any(|said| said.name == "sliding_window_cache" && said.i == Some(1))
}
