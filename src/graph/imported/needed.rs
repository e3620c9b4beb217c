//! What of a graph its outputs need.

use std::collections::{HashMap, HashSet};

use super::super::onnx::proto::{Graph, Node};

/// Removes the nodes, inputs and initializers that no output needs.
pub(super) fn keep_needed(graph: &mut Graph) {
    let mut producers: HashMap<&str, &Node> = HashMap::new();
    for node in &graph.node {
        producers.extend(node.output.iter().map(|output| (output.as_str(), node)));
    }
    let outputs = graph.output.iter().map(|output| output.name.as_str());
    let mut found: HashSet<&str> = outputs.collect();
    let mut to_visit: Vec<&str> = found.iter().copied().collect();
    while let Some(name) = to_visit.pop() {
        if let Some(node) = producers.get(name) {
            reads(node, &mut |name| {
                if found.insert(name) {
                    to_visit.push(name);
                }
            });
        }
    }
    let found: HashSet<String> = found.into_iter().map(str::to_owned).collect();
    graph
        .node
        .retain(|node| node.output.iter().any(|output| found.contains(output)));
    graph
        .initializer
        .retain(|tensor| found.contains(&tensor.name));
    graph.input.retain(|input| found.contains(&input.name));
}

/// Shows the names that a node reads, those among its own graphs' included: they may be from outside.
fn reads<'a>(node: &'a Node, show: &mut dyn FnMut(&'a str)) {
    let named = node.input.iter().filter(|input| !input.is_empty());
    named.for_each(|input| show(input));
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            graph.output.iter().for_each(|output| show(&output.name));
            graph.node.iter().for_each(|node| reads(node, show));
        }
    }
}
