//! The end of a graph: of all rows those become logits that are wanted, and their hidden states can be had.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::names;
use super::super::onnx::ElementType;
use super::super::onnx::proto::{Graph, ValueInfo};
use super::nodes::{int, node, typed_input, typed_output};

/// The operators beside the product with the vocabulary's matrix: bias, scale, cap, quantisation. Each keeps rows apart, or
/// finds one scale for all, where a run has a single row.
const BESIDE_PRODUCT: [&str; 7] = [
    "Cast",
    "Add",
    "Mul",
    "Div",
    "Tanh",
    "Identity",
    "DynamicQuantizeLinear",
];
/// That product, of rows and a matrix.
const PRODUCTS: [&str; 4] = ["MatMul", "MatMulNBits", "FusedMatMul", "MatMulInteger"];
/// Its input that is the matrix.
const MATRIX: usize = 1;

/// Axis of the rows in `[batch, rows, values]`.
const ROWS_AXIS: i64 = 1;

const ALL_LOGITS: &str = "ortolan.all_logits";
const FOUND_LOGITS: &str = "ortolan.found_logits";
const WANTED_STATES: &str = "ortolan.wanted_states";
const FOUND_STATES: &str = "ortolan.found_states";

/// Makes the output `logits`, which is to be there, `f32 [1, rows, vocabulary]` of the rows in the input
/// [`names::LOGIT_ROWS`], and where the last product is found, adds [`names::HIDDEN`]. Answers whether it was.
pub(super) fn want_rows(graph: &mut Graph) -> bool {
    let product = last_product(graph);
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
    let single = |from, to| {
        node(
            "",
            "Cast",
            &[from],
            to,
            vec![int("to", ElementType::F32 as i64)],
        )
    };
    let Some(product) = product else {
        let rows = gather(ALL_LOGITS, names::LOGIT_ROWS, FOUND_LOGITS);
        graph
            .node
            .extend([rows, single(FOUND_LOGITS, names::LOGITS)]);
        return false;
    };
    let Product { states, nodes } = product;
    for place in &nodes {
        for input in &mut graph.node[*place].input {
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
        single(FOUND_STATES, names::HIDDEN),
        single(ALL_LOGITS, names::LOGITS),
    ]);
    // Before those that read it, as the format has it.
    let rows = gather(&states, names::LOGIT_ROWS, WANTED_STATES);
    let first = nodes.into_iter().min().unwrap_or(0);
    graph.node.insert(first, rows);
    true
}

fn rows_input(name: &str) -> ValueInfo {
    typed_input(name, ElementType::I64, 1)
}

/// Gives an edge another name.
fn rename(graph: &mut Graph, from: &str, to: &str) {
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if name == from {
                to.clone_into(name);
            }
        }
    }
}

/// What makes logits of hidden states.
struct Product {
    /// The states' name: logits depend on nothing else.
    states: String,
    /// The places of the nodes that compute logits of them.
    nodes: Vec<usize>,
}

/// The product that gives the logits, if nothing but [`BESIDE_PRODUCT`] is around it: from the logits on towards the inputs,
/// until all ways have met in one edge.
fn last_product(graph: &Graph) -> Option<Product> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (place, node) in graph.node.iter().enumerate() {
        if node.op_type != "Constant" {
            producers.extend(node.output.iter().map(|output| (output.as_str(), place)));
        }
    }
    // The edges that are still to be followed, by the nodes that they come from.
    let mut edges: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    edges.insert(*producers.get(names::LOGITS)?, [names::LOGITS].into());
    let (mut nodes, mut multiplied) = (Vec::new(), false);
    while let Some((place, _)) = edges.pop_last() {
        let node = &graph.node[place];
        let is_product = PRODUCTS.contains(&node.op_type.as_str());
        if !is_product && !BESIDE_PRODUCT.contains(&node.op_type.as_str()) {
            return None;
        }
        multiplied |= is_product;
        nodes.push(place);
        for (input, name) in node.input.iter().enumerate() {
            let producer = producers.get(name.as_str());
            // Nodes stand behind those that they read from; one that does not is no end of a graph.
            if let Some(producer) = producer.filter(|_| !is_product || input != MATRIX) {
                if *producer >= place {
                    return None;
                }
                edges.entry(*producer).or_default().insert(name);
            }
        }
        let mut names = edges.values().flatten();
        if let (true, Some(states), None) = (multiplied, names.next(), names.next()) {
            let states = (*states).to_owned();
            return Some(Product { states, nodes });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of operators, with the names of their inputs and outputs.
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
    fn states_are_what_all_of_the_logits_depends_on() {
        let plain = graph(&[
            ("Gather", &["table", "input_ids"], &["rows"]),
            ("Transpose", &["table"], &["matrix"]),
            ("MatMul", &["rows", "matrix"], &["product"]),
            ("Constant", &[], &["cap"]),
            ("Div", &["product", "cap"], &["logits"]),
        ]);
        let product = last_product(&plain).unwrap();
        assert_eq!(
            (product.states.as_str(), product.nodes),
            ("rows", vec![4, 2])
        );
        let quantised = graph(&[
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
        let product = last_product(&quantised).unwrap();
        assert_eq!(product.states, "rows");
        assert_eq!(product.nodes.len(), 5);
    }

    #[test]
    fn an_end_that_is_not_known_gives_no_states() {
        let mut changed = graph(&[
            ("Gather", &["table", "input_ids"], &["rows"]),
            ("MatMul", &["rows", "matrix"], &["product"]),
            ("Softmax", &["product"], &["logits"]),
        ]);
        assert!(!want_rows(&mut changed));
        assert!(
            !changed
                .output
                .iter()
                .any(|output| output.name == names::HIDDEN)
        );
        let circle = graph(&[
            ("Cast", &["there"], &["logits"]),
            ("Cast", &["logits"], &["there"]),
        ]);
        assert!(last_product(&circle).is_none());
    }
}
