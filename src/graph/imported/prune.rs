//! Removes the parts of a graph that no output depends on.

use std::collections::{HashMap, HashSet};

use super::super::onnx::proto::{Graph, Node};

/// Removes nodes, inputs and initializers that no output depends on.
pub(super) fn remove_unused(graph: &mut Graph) {
    let mut producers: HashMap<&str, &Node> = HashMap::new();
    for node in &graph.node {
        producers.extend(node.output.iter().map(|output| (output.as_str(), node)));
    }
    let outputs = graph.output.iter().map(|output| output.name.as_str());
    let mut needed: HashSet<&str> = outputs.collect();
    let mut to_visit: Vec<&str> = needed.iter().copied().collect();
    while let Some(name) = to_visit.pop() {
        if let Some(node) = producers.get(name) {
            visit_inputs(node, &mut |name| {
                if needed.insert(name) {
                    to_visit.push(name);
                }
            });
        }
    }
    let needed: HashSet<String> = needed.into_iter().map(str::to_owned).collect();
    graph
        .node
        .retain(|node| node.output.iter().any(|output| needed.contains(output)));
    graph
        .initializer
        .retain(|tensor| needed.contains(&tensor.name));
    graph.input.retain(|input| needed.contains(&input.name));
}

/// Calls `visit` with the name of each edge that a node reads, including the edges in subgraphs, which may read edges
/// of the outer graph.
pub(super) fn visit_inputs<'a>(node: &'a Node, visit: &mut dyn FnMut(&'a str)) {
    let inputs = node.input.iter().filter(|input| !input.is_empty());
    inputs.for_each(|input| visit(input));
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            graph.output.iter().for_each(|output| visit(&output.name));
            graph.node.iter().for_each(|node| visit_inputs(node, visit));
        }
    }
}
