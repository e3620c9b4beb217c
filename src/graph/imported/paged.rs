//! Rewrites a graph with `GroupQueryAttention` on past/present tensors to use ortolan's `PagedAttention`. The inputs
//! for sequence lengths are replaced by the inputs of a ragged batch.
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
use super::nodes::{int, integer, node, typed_input};
use super::prune::{remove_unused, visit_inputs};

const OPERATOR: &str = "GroupQueryAttention";

/// The name of the constant 0, the index of the batch axis.
const BATCH_AXIS: &str = "ortolan.batch_axis";

/// Attributes with the same meaning in both operators.
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
/// Attributes about the storage of past keys and values, which paged attention does not need.
const PAST_ATTRIBUTES: [&str; 1] = ["sliding_window_cache"];

/// The inputs that ortolan provides, in addition to the key and value caches.
const PROVIDED_INPUTS: [&str; 7] = [
    names::INPUT_IDS,
    super::POSITION_IDS,
    names::CUMULATIVE_SEQUENCE_LENGTH,
    names::PAST_SEQLENS,
    names::BLOCK_TABLE,
    names::LOGIT_ROWS,
    names::HIDDEN_ROWS,
];

/// The minimum operator set version. Since this version, the axes of `Squeeze` are an input.
const MIN_OPSET: i64 = 13;

/// Indices of the inputs of `GroupQueryAttention`.
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
    /// Unsupported inputs: attention bias, attention sink, scales of a quantized cache, query lengths.
    pub(super) const UNSUPPORTED: [usize; 5] = [10, 11, 12, 13, 16];
}

/// Returns the rewritten graph. `pasts` contains the names of each layer's past key and past value inputs, in layer
/// order.
///
/// # Errors
/// If the graph cannot be rewritten, with the reason.
pub(super) fn to_paged(
    model: &Model,
    pasts: &[[String; 2]],
    element: ElementType,
) -> Result<Graph, String> {
    let opset = model.opset_import.iter().find(|set| set.domain.is_empty());
    if opset.is_none_or(|set| set.version < MIN_OPSET) {
        return Err(format!(
            "its operator set is older than version {MIN_OPSET}"
        ));
    }
    let mut graph = model.graph.clone().unwrap_or_default();
    let caches =
        (0..pasts.len()).flat_map(|layer| [names::key_cache(layer), names::value_cache(layer)]);
    let caches: HashSet<String> = caches.collect();
    check_names(&graph, &caches)?;
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut layers = vec![false; pasts.len()];
    for node in std::mem::take(&mut graph.node) {
        if node.op_type != OPERATOR || node.domain != MICROSOFT_DOMAIN {
            nodes.push(node);
            continue;
        }
        let past = input(&node, inputs::PAST_KEY);
        let layer = pasts.iter().position(|[key, _]| key == past);
        let Some(layer) = layer.filter(|layer| !std::mem::replace(&mut layers[*layer], true))
        else {
            return Err(format!(
                "the past input of \"{}\" is unknown or used twice",
                node.name
            ));
        };
        Attention::new(&node, layer, element)?.add_nodes(&mut nodes);
    }
    if let Some(layer) = layers.iter().position(|found| !found) {
        return Err(format!("layer {layer} has no GroupQueryAttention"));
    }
    graph.node = nodes;
    add_batch_inputs(&mut graph, pasts.len());
    let kept = [names::LOGITS, names::HIDDEN];
    graph
        .output
        .retain(|output| kept.contains(&output.name.as_str()));
    remove_unused(&mut graph);
    let mut inputs = graph.input.iter().map(|input| input.name.as_str());
    match inputs.find(|name| !PROVIDED_INPUTS.contains(name) && !caches.contains(*name)) {
        Some(name) => Err(format!("\"{name}\" is used outside of attention")),
        None => Ok(graph),
    }
}

/// Checks that the graph does not use the names of the caches that are added to it: attention writes to the caches, so
/// no other node may use them.
fn check_names(graph: &Graph, caches: &HashSet<String>) -> Result<(), String> {
    let mut used = None;
    let mut check = |name| {
        if caches.contains(name) {
            used = Some(name);
        }
    };
    for tensor in &graph.initializer {
        check(tensor.name.as_str());
    }
    for node in &graph.node {
        node.output.iter().for_each(|name| check(name));
        visit_inputs(node, &mut check);
    }
    match used {
        Some(name) => Err(format!("it uses the name of a cache, \"{name}\"")),
        None => Ok(()),
    }
}

/// Returns the operator set of ortolan's operators.
pub(super) fn operator_set() -> OperatorSet {
    OperatorSet {
        domain: ORTOLAN_DOMAIN.to_owned(),
        version: 1,
    }
}

/// Adds the inputs that describe the batch, and each layer's key and value caches.
fn add_batch_inputs(graph: &mut Graph, layers: usize) {
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

fn input(node: &Node, index: usize) -> &str {
    node.input.get(index).map_or("", String::as_str)
}

/// A `GroupQueryAttention` node to replace.
struct Attention<'a> {
    node: &'a Node,
    output: &'a str,
    layer: usize,
    /// The element type of queries, keys and values.
    element: ElementType,
    attributes: Vec<Attribute>,
}

impl<'a> Attention<'a> {
    fn new(node: &'a Node, layer: usize, element: ElementType) -> Result<Self, String> {
        let mut attributes = Vec::new();
        for attribute in &node.attribute {
            let name = attribute.name.as_str();
            if SHARED_ATTRIBUTES.contains(&name) {
                attributes.push(attribute.clone());
            } else if !PAST_ATTRIBUTES.contains(&name) && !is_default(attribute) {
                return Err(format!("attention with \"{name}\""));
            }
        }
        let is_given = |index: &usize| !input(node, *index).is_empty();
        if let Some(index) = inputs::UNSUPPORTED.iter().find(|index| is_given(index)) {
            return Err(format!("attention with input {index}"));
        }
        if is_given(&inputs::POSITIONS) && input(node, inputs::POSITIONS) != super::POSITION_IDS {
            return Err("attention with computed positions".to_owned());
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
        let mut attributes = self.attributes.iter();
        attributes.any(|attribute| {
            attribute.name == "do_rotary" && attribute.i.is_some_and(|flag| flag != 0)
        })
    }

    /// Adds a `PagedAttention` node. Nodes around it remove and restore the batch dimension, and cast to and from
    /// single precision.
    fn add_nodes(self, nodes: &mut Vec<Node>) {
        let part = |suffix: &str| format!("ortolan.attention.{}.{suffix}", self.layer);
        let to_f32 = |nodes: &mut Vec<Node>, name: &str, suffix: &str| {
            if name.is_empty() || self.element == ElementType::F32 {
                return name.to_owned();
            }
            let to = vec![int("to", ElementType::F32 as i64)];
            nodes.push(node("", "Cast", &[name], &part(suffix), to));
            part(suffix)
        };
        let [mut query, mut key, mut value] = [const { String::new() }; 3];
        for (index, operand, name) in [
            (inputs::QUERY, &mut query, "query"),
            (inputs::KEY, &mut key, "key"),
            (inputs::VALUE, &mut value, "value"),
        ] {
            let source = input(self.node, index);
            if !source.is_empty() {
                let rows = part(&format!("{name}.rows"));
                nodes.push(node(
                    "",
                    "Squeeze",
                    &[source, BATCH_AXIS],
                    &rows,
                    Vec::new(),
                ));
                *operand = to_f32(nodes, &rows, name);
            }
        }
        let mut table = |index, name| match self.rotates() {
            true => to_f32(nodes, input(self.node, index), name),
            false => String::new(),
        };
        let (cos, sin) = (table(inputs::COS, "cos"), table(inputs::SIN, "sin"));
        let query_norm = to_f32(nodes, input(self.node, inputs::QUERY_NORM), "query_norm");
        let key_norm = to_f32(nodes, input(self.node, inputs::KEY_NORM), "key_norm");
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

/// Whether an attribute of `GroupQueryAttention` has the default value.
fn is_default(attribute: &Attribute) -> bool {
    match attribute.name.as_str() {
        "k_quant_type" | "v_quant_type" => attribute.s.as_deref() == Some(b"NONE"),
        "causal" => attribute.i == Some(1),
        "smooth_softmax" => attribute.i.is_none_or(|value| value <= 0),
        "kv_cache_bit_width" | "qk_output" => attribute.i.is_none_or(|value| value == 0),
        _ => false,
    }
}

/// Returns the number of positions in the graph's smallest constant rotary table, if there is any.
pub(super) fn table_positions(graph: &Graph) -> Option<usize> {
    let constants = graph.initializer.iter();
    let constants: HashMap<&str, &Tensor> = constants
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let tables = graph.node.iter().filter_map(|node| {
        let index = match (node.op_type.as_str(), node.domain.as_str()) {
            (OPERATOR, MICROSOFT_DOMAIN) => inputs::COS,
            ("RotaryEmbedding", MICROSOFT_DOMAIN) => 2,
            ("RotaryEmbedding", _) => 1,
            _ => return None,
        };
        let table = constants.get(input(node, index))?;
        usize::try_from(*table.dims.first()?).ok()
    });
    tables.min()
}

/// Whether an attention node caches only the tokens in its sliding window.
pub(super) fn has_sliding_window_cache(graph: &Graph) -> bool {
    let mut attributes = graph.node.iter().flat_map(|node| &node.attribute);
    attributes.any(|attribute| attribute.name == "sliding_window_cache" && attribute.i == Some(1))
}

#[cfg(test)]
mod tests {
    use super::super::nodes::typed_output;
    use super::*;

    /// Rewrites a graph of one layer, whose attention output is added to the edge `other`, an initializer named
    /// `initializer`.
    fn rewrite(other: &str, initializer: &str) -> Result<Graph, String> {
        let past = ["past_key_values.0.key", "past_key_values.0.value"];
        let inputs = ["query", "key", "value", past[0], past[1]];
        let attention = node(MICROSOFT_DOMAIN, OPERATOR, &inputs, "attended", Vec::new());
        let add = node("", "Add", &["attended", other], names::LOGITS, Vec::new());
        let graph = Graph {
            node: vec![attention, add],
            initializer: vec![integer(initializer, 0)],
            output: vec![typed_output(names::LOGITS, ElementType::F32)],
            ..Graph::default()
        };
        let model = Model {
            graph: Some(graph),
            opset_import: vec![OperatorSet {
                domain: String::new(),
                version: MIN_OPSET,
            }],
            ..Model::default()
        };
        to_paged(&model, &[past.map(str::to_owned)], ElementType::F32)
    }

    #[test]
    fn no_node_but_attention_can_use_a_cache() {
        let rewritten = rewrite("bias", "bias").unwrap();
        let is_cache = |name: &String| name.contains("_cache.");
        let users = rewritten.node.iter();
        let users = users.filter(|node| node.input.iter().any(is_cache));
        let users: Vec<&str> = users.map(|node| node.op_type.as_str()).collect();
        assert_eq!(users, ["PagedAttention"]);
        for (other, initializer, name) in [
            ("key_cache.0", "bias", "key_cache.0"),
            ("bias", "value_cache.0", "value_cache.0"),
        ] {
            let error = rewrite(other, initializer).unwrap_err();
            assert_eq!(error, format!("it uses the name of a cache, \"{name}\""));
        }
    }
}
