//! Reading a `ModelProto` that others wrote: what of it is structure is bounded, and weights stay in their files, where the
//! runtime finds them by name, place and length.
//!
//! Source: `onnx/docs/ExternalData.md`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;

use super::super::GraphError;
use super::super::onnx::proto;
use super::wire::{check_single_fields, parts};
use crate::file_bytes::{FileAccess, FileBytes};

/// From this version on a weight is no input.
const LEAST_IR_VERSION: i64 = 4;
/// Most bytes of a graph without its weights; read, it takes a multiple of it. The largest known have a fifth.
const MOST_STRUCTURE_BYTES: usize = 32 << 20;
/// Weights of this size and more stay in the file; smaller ones may be shapes, which the runtime wants to see.
const LEAST_WEIGHT_BYTES: usize = 4096;

/// A graph and the files that it is in.
pub(super) struct Read {
    pub(super) model: proto::Model,
    /// The graph's own, then those with weights.
    pub(super) files: Vec<Bytes>,
}

/// Reads the file at `path` and opens the files of weights beside it.
///
/// # Errors
/// It cannot be read, is no model, or names weights that are not there.
pub(super) fn read(path: &Path, access: FileAccess) -> Result<Read, GraphError> {
    let bytes = open(path, access)?;
    let malformed = |reason: String| GraphError::Inconsistent(format!("no ONNX model: {reason}"));
    check_single_fields(&bytes).map_err(malformed)?;
    let structure = bytes.len() - weight_bytes(&bytes).map_err(malformed)?;
    if structure > MOST_STRUCTURE_BYTES {
        return Err(malformed(format!(
            "its graph has {structure} bytes beside the weights; {MOST_STRUCTURE_BYTES} are the most"
        )));
    }
    let model = proto::Model::decode(bytes.clone());
    let mut model = model.map_err(|error| malformed(error.to_string()))?;
    let Some(graph) = &mut model.graph else {
        return Err(malformed("it has no graph".to_owned()));
    };
    // Old graphs list their weights as inputs with a default.
    let weights = graph.initializer.iter();
    let weights: HashSet<&str> = weights.map(|tensor| tensor.name.as_str()).collect();
    graph
        .input
        .retain(|input| !weights.contains(input.name.as_str()));
    model.ir_version = model.ir_version.max(LEAST_IR_VERSION);
    let mut elsewhere = BTreeMap::new();
    for tensor in &mut graph.initializer {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name {
            leave_in_file(tensor, &bytes, name);
        }
        check_place(tensor, path, access, &bytes, &mut elsewhere)?;
    }
    let nodes = graph.node.iter();
    let mut nodes = nodes.chain(model.functions.iter().flat_map(|function| &function.node));
    nodes.try_for_each(check_inline)?;
    let defaults = model.functions.iter();
    let mut defaults = defaults.flat_map(|function| &function.attribute_proto);
    defaults.try_for_each(|attribute| check_attribute("", attribute))?;
    if !graph.sparse_initializer.is_empty() {
        return Err(sparse());
    }
    let files = std::iter::once(bytes).chain(elsewhere.into_values());
    Ok(Read {
        files: files.collect(),
        model,
    })
}

fn open(path: &Path, access: FileAccess) -> Result<Bytes, GraphError> {
    match FileBytes::open(path, access) {
        Ok(bytes) => Ok(Bytes::from_owner(bytes)),
        Err(error) => {
            let problem = format!("cannot open {}: {error}", path.display());
            Err(GraphError::Inconsistent(problem))
        }
    }
}

fn sparse() -> GraphError {
    GraphError::Unsupported("a sparse tensor in the graph".to_owned())
}

/// Bytes of a `ModelProto` that are initializers' values. They are looked for before anything is taken into memory.
fn weight_bytes(model: &[u8]) -> Result<usize, String> {
    const MODEL_GRAPH: u32 = 7;
    const GRAPH_INITIALIZER: u32 = 5;
    const TENSOR_FLOATS: u32 = 4;
    const TENSOR_RAW: u32 = 9;

    let mut sum = 0;
    parts(model, &mut |field, graph| match (field, graph) {
        (MODEL_GRAPH, Some(graph)) => parts(graph, &mut |field, tensor| match (field, tensor) {
            (GRAPH_INITIALIZER, Some(tensor)) => parts(tensor, &mut |field, values| {
                if let (TENSOR_FLOATS | TENSOR_RAW, Some(values)) = (field, values) {
                    sum += values.len();
                }
                Ok(())
            }),
            _ => Ok(()),
        }),
        _ => Ok(()),
    })?;
    Ok(sum)
}

/// Turns large values within the graph's own file into a place in it.
fn leave_in_file(tensor: &mut proto::Tensor, file: &Bytes, name: &str) {
    let large = |raw: &Bytes| raw.len() >= LEAST_WEIGHT_BYTES;
    let Some(raw) = tensor.raw_data.take_if(|raw| large(raw)) else {
        return;
    };
    let offset = raw.as_ptr().addr() - file.as_ptr().addr();
    let entry = |key: &str, value: String| proto::StringStringEntry {
        key: key.to_owned(),
        value,
    };
    tensor.data_location = Some(proto::EXTERNAL);
    tensor.external_data = vec![
        entry("location", name.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", raw.len().to_string()),
    ];
}

/// Where a tensor's values are, if not in the graph.
///
/// # Errors
/// Two entries say it: this program would look at the first, a runtime at the last.
fn external<'a>(tensor: &'a proto::Tensor, key: &str) -> Result<Option<&'a str>, GraphError> {
    let mut entries = tensor.external_data.iter();
    let mut values = entries
        .by_ref()
        .filter(|entry| entry.key == key)
        .map(|entry| &*entry.value);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(GraphError::Inconsistent(format!(
            "the weights of \"{}\" have two entries named {key}",
            tensor.name
        ))),
    }
}

/// The values of a tensor are in the graph, or in a file beside it that is as long as they need.
fn check_place(
    tensor: &proto::Tensor,
    path: &Path,
    access: FileAccess,
    own: &Bytes,
    elsewhere: &mut BTreeMap<String, Bytes>,
) -> Result<(), GraphError> {
    if tensor.data_location != Some(proto::EXTERNAL) {
        return Ok(());
    }
    let problem = |what: String| {
        let name = &tensor.name;
        GraphError::Inconsistent(format!("the weights of \"{name}\" {what}"))
    };
    let location = external(tensor, "location")?.unwrap_or_default();
    // The runtime would follow it anywhere, even into memory.
    if Path::new(location).file_name() != Some(location.as_ref()) {
        return Err(problem(format!(
            "are to be in \"{location}\", which is no file beside the graph"
        )));
    }
    let number = |key| match external(tensor, key)? {
        None => Ok(None),
        Some(digits) => match digits.parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(problem(format!("have the {key} \"{digits}\""))),
        },
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let beside = path.with_file_name(location);
    let bytes = match elsewhere.get(location) {
        _ if beside == path => own.len(),
        Some(bytes) => bytes.len(),
        None => {
            let bytes = open(&beside, access)?;
            let length = bytes.len();
            elsewhere.insert(location.to_owned(), bytes);
            length
        }
    };
    let length = length.unwrap_or(bytes.saturating_sub(offset));
    match offset.checked_add(length) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err(problem(format!(
            "are to be {length} bytes from {offset} on in {}, which has {bytes}",
            beside.display()
        ))),
    }
}

/// What a node says of itself has its values in the graph.
fn check_inline(node: &proto::Node) -> Result<(), GraphError> {
    let mut attributes = node.attribute.iter();
    attributes.try_for_each(|attribute| check_attribute(&node.name, attribute))
}

/// An attribute of a node, or the default of a function's attribute, has its values in the graph.
fn check_attribute(node: &str, attribute: &proto::Attribute) -> Result<(), GraphError> {
    if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
        return Err(sparse());
    }
    let graphs = || attribute.g.iter().chain(&attribute.graphs);
    let tensors = attribute.t.iter().chain(&attribute.tensors);
    let within = graphs().flat_map(|graph| &graph.initializer);
    let mut tensors = tensors.chain(within);
    if tensors.any(|tensor| tensor.data_location == Some(proto::EXTERNAL)) {
        let problem = format!("a constant in another file, in the node \"{node}\",");
        return Err(GraphError::Unsupported(problem));
    }
    if graphs().any(|graph| !graph.sparse_initializer.is_empty()) {
        return Err(sparse());
    }
    let mut nodes = graphs().flat_map(|graph| &graph.node);
    nodes.try_for_each(check_inline)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external_tensor(entries: &[(&str, &str)]) -> proto::Tensor {
        let entries = entries.iter().map(|(key, value)| proto::StringStringEntry {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        });
        proto::Tensor {
            name: "w".to_owned(),
            data_location: Some(proto::EXTERNAL),
            external_data: entries.collect(),
            ..proto::Tensor::default()
        }
    }

    #[test]
    fn two_entries_that_say_where_a_tensor_is_are_refused() {
        let path = Path::new("graph.onnx");
        let check = |entries: &[(&str, &str)]| {
            let tensor = external_tensor(entries);
            let own = Bytes::from_static(&[0; 8]);
            check_place(&tensor, path, FileAccess::Read, &own, &mut BTreeMap::new())
        };
        let here = ("location", "graph.onnx");
        assert!(check(&[here, ("length", "8")]).is_ok());
        for (second, key) in [
            (("location", "/etc/passwd"), "location"),
            (("length", "9"), "length"),
        ] {
            let error = check(&[here, ("length", "8"), second]).unwrap_err();
            let words = format!("two entries named {key}");
            assert!(error.to_string().contains(&words), "{error}");
        }
    }

    #[test]
    fn no_attribute_has_its_values_in_another_file() {
        let attribute = proto::Attribute {
            t: Some(external_tensor(&[("location", "/etc/passwd")])),
            ..proto::Attribute::default()
        };
        assert!(check_attribute("", &proto::Attribute::default()).is_ok());
        assert!(check_attribute("", &attribute).is_err());
        let node = proto::Node {
            attribute: vec![attribute],
            ..proto::Node::default()
        };
        assert!(check_inline(&node).is_err());
    }
}
