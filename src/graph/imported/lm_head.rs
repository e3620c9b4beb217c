//! Changes the outputs of an imported graph: computes logits for selected rows only, and makes hidden states an output
//! if the LM head is found.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::names;
use super::super::onnx::ElementType;
use super::super::onnx::proto::{Graph, ValueInfo};
use super::nodes::{int, node, typed_input, typed_output};

/// Operators that may surround the LM head's matmul: bias, scale, soft cap, quantization. They treat rows
/// independently, except `DynamicQuantizeLinear`, which uses one scale for all rows; graphs with this operator run one
/// token at a time.
const SURROUNDING_OPERATORS: [&str; 7] = [
    "Cast",
    "Add",
    "Mul",
    "Div",
    "Tanh",
    "Identity",
    "DynamicQuantizeLinear",
];
const MATMUL_OPERATORS: [&str; 4] = ["MatMul", "MatMulNBits", "FusedMatMul", "MatMulInteger"];
/// The index of the weight input of [`MATMUL_OPERATORS`].
const WEIGHT_INPUT: usize = 1;

/// The axis of rows in `[batch, rows, values]`.
const ROWS_AXIS: i64 = 1;

const ALL_LOGITS: &str = "ortolan.all_logits";
const FOUND_LOGITS: &str = "ortolan.found_logits";
const WANTED_STATES: &str = "ortolan.wanted_states";
const FOUND_STATES: &str = "ortolan.found_states";

/// Changes the output `logits` to `f32 [1, rows, vocabulary]`, the logits of the rows in the new input
/// [`names::LOGIT_ROWS`]. If the LM head is found, also adds the input [`names::HIDDEN_ROWS`] and the output
/// [`names::HIDDEN`]. Returns whether the LM head was found.
pub(super) fn select_output_rows(graph: &mut Graph) -> bool {
    let lm_head = find_lm_head(graph);
    let output = graph
        .output
        .iter_mut()
        .find(|output| output.name == names::LOGITS);
    if let Some(output) = output {
        *output = typed_output(names::LOGITS, ElementType::F32);
    }
    rename(graph, names::LOGITS, ALL_LOGITS);
    graph.input.push(rows_input(names::LOGIT_ROWS));
    let gather = |from: &str, rows, to| {
        let axis = [int("axis", ROWS_AXIS)];
        node("", "Gather", &[from, rows], to, axis.into())
    };
    let cast_to_f32 = |from, to| {
        node(
            "",
            "Cast",
            &[from],
            to,
            vec![int("to", ElementType::F32 as i64)],
        )
    };
    let Some(lm_head) = lm_head else {
        let rows = gather(ALL_LOGITS, names::LOGIT_ROWS, FOUND_LOGITS);
        graph
            .node
            .extend([rows, cast_to_f32(FOUND_LOGITS, names::LOGITS)]);
        return false;
    };
    let LmHead { states, nodes } = lm_head;
    for index in &nodes {
        for input in &mut graph.node[*index].input {
            if *input == states {
                WANTED_STATES.clone_into(input);
            }
        }
    }
    graph.input.push(rows_input(names::HIDDEN_ROWS));
    graph
        .output
        .push(typed_output(names::HIDDEN, ElementType::F32));
    graph.node.extend([
        gather(&states, names::HIDDEN_ROWS, FOUND_STATES),
        cast_to_f32(FOUND_STATES, names::HIDDEN),
        cast_to_f32(ALL_LOGITS, names::LOGITS),
    ]);
    // ONNX requires that a node precedes the nodes that read its output.
    let rows = gather(&states, names::LOGIT_ROWS, WANTED_STATES);
    let first = nodes.into_iter().min().unwrap_or(0);
    graph.node.insert(first, rows);
    true
}

fn rows_input(name: &str) -> ValueInfo {
    typed_input(name, ElementType::I64, 1)
}

/// Renames the edge `from` in the inputs and outputs of all nodes.
fn rename(graph: &mut Graph, from: &str, to: &str) {
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if name == from {
                to.clone_into(name);
            }
        }
    }
}

/// The part of a graph that computes logits from hidden states.
struct LmHead {
    /// The name of the edge with the hidden states, the head's only input other than constants.
    states: String,
    /// Indices of the nodes that compute logits from the hidden states.
    nodes: Vec<usize>,
}

/// Finds the LM head: follows the graph backward from the logits, through a matmul, until all paths meet in one edge.
/// Returns `None` if a path has an operator other than matmuls and [`SURROUNDING_OPERATORS`].
fn find_lm_head(graph: &Graph) -> Option<LmHead> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        if node.op_type != "Constant" {
            producers.extend(node.output.iter().map(|output| (output.as_str(), index)));
        }
    }
    // The edges still to follow, by the index of the node that produces them.
    let mut edges: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    edges.insert(*producers.get(names::LOGITS)?, [names::LOGITS].into());
    let (mut nodes, mut found_matmul) = (Vec::new(), false);
    while let Some((node_index, _)) = edges.pop_last() {
        let node = &graph.node[node_index];
        let is_matmul = MATMUL_OPERATORS.contains(&node.op_type.as_str());
        if !is_matmul && !SURROUNDING_OPERATORS.contains(&node.op_type.as_str()) {
            return None;
        }
        found_matmul |= is_matmul;
        nodes.push(node_index);
        for (input, name) in node.input.iter().enumerate() {
            let producer = producers.get(name.as_str());
            // If a node precedes the producer of one of its inputs, the graph is cyclic or invalid.
            if let Some(producer) = producer.filter(|_| !is_matmul || input != WEIGHT_INPUT) {
                if *producer >= node_index {
                    return None;
                }
                edges.entry(*producer).or_default().insert(name);
            }
        }
        let mut names = edges.values().flatten();
        if let (true, Some(states), None) = (found_matmul, names.next(), names.next()) {
            let states = (*states).to_owned();
            return Some(LmHead { states, nodes });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a graph from nodes: operator, names of inputs, names of outputs.
    fn graph(nodes: &[(&str, &[&str], &[&str])]) -> Graph {
        let nodes = nodes.iter().map(|(operator, inputs, outputs)| {
            let mut node = node("", operator, inputs, outputs[0], Vec::new());
            node.output = outputs.iter().map(|name| (*name).to_owned()).collect();
            node
        });
        Graph {
            node: nodes.collect(),
            output: vec![typed_output(names::LOGITS, ElementType::F32)],
            ..Graph::default()
        }
    }

    #[test]
    fn finds_the_hidden_states_of_the_lm_head() {
        let plain = graph(&[
            ("Gather", &["table", "input_ids"], &["rows"]),
            ("Transpose", &["table"], &["matrix"]),
            ("MatMul", &["rows", "matrix"], &["product"]),
            ("Constant", &[], &["cap"]),
            ("Div", &["product", "cap"], &["logits"]),
        ]);
        let lm_head = find_lm_head(&plain).unwrap();
        assert_eq!(
            (lm_head.states.as_str(), lm_head.nodes),
            ("rows", vec![4, 2])
        );
        let quantized = graph(&[
            ("Gather", &["table", "input_ids"], &["rows"]),
            (
                "DynamicQuantizeLinear",
                &["rows"],
                &["bytes", "scale", "zero"],
            ),
            ("Mul", &["scale", "weight_scale"], &["scales"]),
            ("MatMulInteger", &["bytes", "weight", "zero"], &["integers"]),
            ("Cast", &["integers"], &["unscaled"]),
            ("Mul", &["unscaled", "scales"], &["logits"]),
        ]);
        let lm_head = find_lm_head(&quantized).unwrap();
        assert_eq!(lm_head.states, "rows");
        assert_eq!(lm_head.nodes.len(), 5);
    }

    #[test]
    fn an_unknown_lm_head_gives_no_hidden_output() {
        let mut changed = graph(&[
            ("Gather", &["table", "input_ids"], &["rows"]),
            ("MatMul", &["rows", "matrix"], &["product"]),
            ("Softmax", &["product"], &["logits"]),
        ]);
        assert!(!select_output_rows(&mut changed));
        assert!(
            !changed
                .output
                .iter()
                .any(|output| output.name == names::HIDDEN)
        );
        let cycle = graph(&[
            ("Cast", &["there"], &["logits"]),
            ("Cast", &["logits"], &["there"]),
        ]);
        assert!(find_lm_head(&cycle).is_none());
    }
}
