//! Reads the `ModelProto` of an imported graph. The size of the `ModelProto` without weights is limited. Weights stay
//! in their files; ONNX Runtime finds them by file name, offset and length.
//!
//! Source: `onnx/docs/ExternalData.md`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;

use super::super::onnx::proto;
use super::super::{GraphError, ORTOLAN_DOMAIN};
use super::wire::{check_single_fields, visit_fields};
use crate::file_bytes::{FileAccess, FileBytes};

/// The first IR version in which initializers need not be graph inputs.
const MIN_IR_VERSION: i64 = 4;
/// Maximum size of a graph without weights, in bytes. Decoding takes a multiple of this memory. The largest known
/// graphs have a fifth of this size.
const MAX_STRUCTURE_BYTES: usize = 32 << 20;
/// Minimum size of initializers that stay in the file, in bytes. Smaller initializers may be shapes, whose values ONNX
/// Runtime needs in the graph.
const MIN_EXTERNAL_WEIGHT_BYTES: usize = 4096;

/// A decoded graph and the contents of its files.
pub(super) struct GraphFiles {
    pub(super) model: proto::Model,
    /// The graph's file, then the weight files.
    pub(super) files: Vec<Bytes>,
}

/// Reads the graph at `path` and opens the weight files in the same folder.
///
/// # Errors
/// If a file cannot be read, the graph is malformed or uses ortolan's operator domain, or a weight file is missing or
/// too short.
pub(super) fn read(path: &Path, access: FileAccess) -> Result<GraphFiles, GraphError> {
    let bytes = open(path, access)?;
    let malformed =
        |reason: String| GraphError::Inconsistent(format!("not a valid ONNX model: {reason}"));
    check_single_fields(&bytes).map_err(malformed)?;
    let structure = bytes.len() - weight_bytes(&bytes).map_err(malformed)?;
    if structure > MAX_STRUCTURE_BYTES {
        return Err(malformed(format!(
            "the graph has {structure} bytes without weights; the maximum is {MAX_STRUCTURE_BYTES}"
        )));
    }
    let model = proto::Model::decode(bytes.clone());
    let mut model = model.map_err(|error| malformed(error.to_string()))?;
    let Some(graph) = &mut model.graph else {
        return Err(malformed("it has no graph".to_owned()));
    };
    // Graphs of earlier IR versions also list initializers as inputs.
    let weights = graph.initializer.iter();
    let weights: HashSet<&str> = weights.map(|tensor| tensor.name.as_str()).collect();
    graph
        .input
        .retain(|input| !weights.contains(input.name.as_str()));
    model.ir_version = model.ir_version.max(MIN_IR_VERSION);
    let mut weight_files = BTreeMap::new();
    for tensor in &mut graph.initializer {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name {
            externalize(tensor, &bytes, name);
        }
        check_location(tensor, path, access, &bytes, &mut weight_files)?;
    }
    graph.node.iter().try_for_each(check_node)?;
    check_operator_sets(&model.opset_import)?;
    model.functions.iter().try_for_each(check_function)?;
    if !graph.sparse_initializer.is_empty() {
        return Err(sparse_tensor());
    }
    let files = std::iter::once(bytes).chain(weight_files.into_values());
    Ok(GraphFiles {
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

fn sparse_tensor() -> GraphError {
    GraphError::Unsupported("a graph with sparse tensors".to_owned())
}

/// Returns the number of bytes of initializer values in an encoded `ModelProto`, without decoding it.
fn weight_bytes(model: &[u8]) -> Result<usize, String> {
    const MODEL_GRAPH: u32 = 7;
    const GRAPH_INITIALIZER: u32 = 5;
    const TENSOR_FLOATS: u32 = 4;
    const TENSOR_RAW: u32 = 9;

    let mut sum = 0;
    visit_fields(model, &mut |field, graph| match (field, graph) {
        (MODEL_GRAPH, Some(graph)) => {
            visit_fields(graph, &mut |field, tensor| match (field, tensor) {
                (GRAPH_INITIALIZER, Some(tensor)) => visit_fields(tensor, &mut |field, values| {
                    if let (TENSOR_FLOATS | TENSOR_RAW, Some(values)) = (field, values) {
                        sum += values.len();
                    }
                    Ok(())
                }),
                _ => Ok(()),
            })
        }
        _ => Ok(()),
    })?;
    Ok(sum)
}

/// Turns a large initializer into external data: a reference to the offset of its values in the graph's own file,
/// `name`.
fn externalize(tensor: &mut proto::Tensor, file: &Bytes, name: &str) {
    let is_large = |raw: &Bytes| raw.len() >= MIN_EXTERNAL_WEIGHT_BYTES;
    let Some(raw) = tensor.raw_data.take_if(|raw| is_large(raw)) else {
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

/// Returns the value of `key` in a tensor's external data entries.
///
/// # Errors
/// If there are two entries for the key: ortolan would use the first, ONNX Runtime the last.
fn external_data_value<'a>(
    tensor: &'a proto::Tensor,
    key: &str,
) -> Result<Option<&'a str>, GraphError> {
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

/// Checks that a tensor's values are in the graph, or in a file of the same folder that is long enough. Adds newly
/// opened files to `weight_files`.
fn check_location(
    tensor: &proto::Tensor,
    path: &Path,
    access: FileAccess,
    own: &Bytes,
    weight_files: &mut BTreeMap<String, Bytes>,
) -> Result<(), GraphError> {
    if tensor.data_location != Some(proto::EXTERNAL) {
        return Ok(());
    }
    let invalid = |problem: String| {
        let name = &tensor.name;
        GraphError::Inconsistent(format!("the weights of \"{name}\" {problem}"))
    };
    let location = external_data_value(tensor, "location")?.unwrap_or_default();
    // Allow only file names: ONNX Runtime opens any path, and even treats some names as memory addresses.
    if Path::new(location).file_name() != Some(location.as_ref()) {
        return Err(invalid(format!(
            "have the location \"{location}\", which is not a file name beside the graph"
        )));
    }
    let number = |key| match external_data_value(tensor, key)? {
        None => Ok(None),
        Some(digits) => match digits.parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(format!("have the invalid {key} \"{digits}\""))),
        },
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let weight_path = path.with_file_name(location);
    let bytes = match weight_files.get(location) {
        _ if weight_path == path => own.len(),
        Some(bytes) => bytes.len(),
        None => {
            let bytes = open(&weight_path, access)?;
            let length = bytes.len();
            weight_files.insert(location.to_owned(), bytes);
            length
        }
    };
    let length = length.unwrap_or(bytes.saturating_sub(offset));
    match offset.checked_add(length) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err(invalid(format!(
            "take {length} bytes from offset {offset} of {}, which has only {bytes} bytes",
            weight_path.display()
        ))),
    }
}

/// Checks that a node is not one of ortolan's operators, and that its attributes have no external or sparse data.
/// `PagedAttention` writes to its inputs, so such a node of an imported graph could write to any tensor.
fn check_node(node: &proto::Node) -> Result<(), GraphError> {
    if node.domain == ORTOLAN_DOMAIN {
        let proto::Node { name, op_type, .. } = node;
        let problem = format!(
            "the operator \"{ORTOLAN_DOMAIN}.{op_type}\" in an imported graph (node \"{name}\")"
        );
        return Err(GraphError::Unsupported(problem));
    }
    let mut attributes = node.attribute.iter();
    attributes.try_for_each(|attribute| check_attribute(&node.name, attribute))
}

/// Checks that an attribute, or the default value of a function's attribute, has no external or sparse data.
fn check_attribute(node: &str, attribute: &proto::Attribute) -> Result<(), GraphError> {
    if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
        return Err(sparse_tensor());
    }
    let graphs = || attribute.g.iter().chain(&attribute.graphs);
    let tensors = attribute.t.iter().chain(&attribute.tensors);
    let within = graphs().flat_map(|graph| &graph.initializer);
    let mut tensors = tensors.chain(within);
    if tensors.any(|tensor| tensor.data_location == Some(proto::EXTERNAL)) {
        let problem = format!("a constant in an external file (node \"{node}\")");
        return Err(GraphError::Unsupported(problem));
    }
    if graphs().any(|graph| !graph.sparse_initializer.is_empty()) {
        return Err(sparse_tensor());
    }
    let mut nodes = graphs().flat_map(|graph| &graph.node);
    nodes.try_for_each(check_node)
}

/// Checks the domain, the nodes and the default attributes of a function.
fn check_function(function: &proto::Function) -> Result<(), GraphError> {
    if function.domain == ORTOLAN_DOMAIN {
        let name = &function.name;
        let problem =
            format!("a function in the operator domain \"{ORTOLAN_DOMAIN}\" (\"{name}\")");
        return Err(GraphError::Unsupported(problem));
    }
    function.node.iter().try_for_each(check_node)?;
    check_operator_sets(&function.opset_import)?;
    let mut defaults = function.attribute_proto.iter();
    defaults.try_for_each(|attribute| check_attribute(&function.name, attribute))
}

/// Checks that ortolan's operator domain is not imported: the version may differ from that of its operators.
fn check_operator_sets(sets: &[proto::OperatorSet]) -> Result<(), GraphError> {
    match sets.iter().any(|set| set.domain == ORTOLAN_DOMAIN) {
        true => {
            let problem = format!("a graph that imports the operator domain \"{ORTOLAN_DOMAIN}\"");
            Err(GraphError::Unsupported(problem))
        }
        false => Ok(()),
    }
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
    fn rejects_duplicate_external_data_entries() {
        let path = Path::new("graph.onnx");
        let check = |entries: &[(&str, &str)]| {
            let tensor = external_tensor(entries);
            let own = Bytes::from_static(&[0; 8]);
            check_location(&tensor, path, FileAccess::Read, &own, &mut BTreeMap::new())
        };
        let here = ("location", "graph.onnx");
        assert!(check(&[here, ("length", "8")]).is_ok());
        for (second, key) in [
            (("location", "/etc/passwd"), "location"),
            (("length", "9"), "length"),
        ] {
            let error = check(&[here, ("length", "8"), second]).unwrap_err();
            let message = format!("two entries named {key}");
            assert!(error.to_string().contains(&message), "{error}");
        }
    }

    #[test]
    fn rejects_attributes_with_external_data() {
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
        assert!(check_node(&node).is_err());
    }

    /// Writes a model to a file and returns the error of reading it.
    #[track_caller]
    fn read_error(model: &proto::Model) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        let read = read(&path, FileAccess::Read);
        read.map(drop).unwrap_err().to_string()
    }

    fn node_of_domain(domain: &str) -> proto::Node {
        proto::Node {
            name: "attention".to_owned(),
            op_type: "PagedAttention".to_owned(),
            domain: domain.to_owned(),
            ..proto::Node::default()
        }
    }

    fn graph_with(node: proto::Node) -> proto::Graph {
        proto::Graph {
            node: vec![node],
            ..proto::Graph::default()
        }
    }

    fn model_with(node: proto::Node) -> proto::Model {
        proto::Model {
            graph: Some(graph_with(node)),
            ..proto::Model::default()
        }
    }

    fn model_with_function(function: proto::Function) -> proto::Model {
        proto::Model {
            functions: vec![function],
            ..model_with(node_of_domain("com.microsoft"))
        }
    }

    #[test]
    fn refuses_nodes_of_ortolans_domain_at_every_level() {
        let attribute = |domain: &str| proto::Attribute {
            g: Some(graph_with(node_of_domain(domain))),
            ..proto::Attribute::default()
        };
        let list_attribute = |domain: &str| proto::Attribute {
            graphs: vec![graph_with(node_of_domain(domain))],
            ..proto::Attribute::default()
        };
        let node_with = |attribute| proto::Node {
            attribute: vec![attribute],
            ..node_of_domain("")
        };
        let nested = |domain: &str| proto::Attribute {
            g: Some(graph_with(node_with(attribute(domain)))),
            ..proto::Attribute::default()
        };
        let models = |domain: &str| {
            [
                model_with(node_of_domain(domain)),
                model_with(node_with(attribute(domain))),
                model_with(node_with(list_attribute(domain))),
                model_with(node_with(nested(domain))),
                model_with_function(proto::Function {
                    node: vec![node_of_domain(domain)],
                    ..proto::Function::default()
                }),
                model_with_function(proto::Function {
                    attribute_proto: vec![attribute(domain)],
                    ..proto::Function::default()
                }),
            ]
        };
        for model in models(ORTOLAN_DOMAIN) {
            let expected = "the operator \"ortolan.PagedAttention\" in an imported graph (node \"attention\") is not supported";
            assert_eq!(read_error(&model), expected, "{model:?}");
        }
        // The same models with nodes of another domain are read.
        for model in models("com.microsoft") {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.onnx");
            std::fs::write(&path, model.encode_to_vec()).unwrap();
            assert!(read(&path, FileAccess::Read).is_ok(), "{model:?}");
        }
    }

    #[test]
    fn refuses_functions_and_imports_of_ortolans_domain() {
        let opset_import = vec![proto::OperatorSet {
            domain: ORTOLAN_DOMAIN.to_owned(),
            version: 2,
        }];
        let imported = "a graph that imports the operator domain \"ortolan\" is not supported";
        let model = proto::Model {
            opset_import: opset_import.clone(),
            ..model_with(node_of_domain(""))
        };
        assert_eq!(read_error(&model), imported);
        let function = proto::Function {
            name: "PagedAttention".to_owned(),
            ..proto::Function::default()
        };
        let importing = proto::Function {
            opset_import,
            ..function.clone()
        };
        assert_eq!(read_error(&model_with_function(importing)), imported);
        let defining = proto::Function {
            domain: ORTOLAN_DOMAIN.to_owned(),
            ..function
        };
        assert_eq!(
            read_error(&model_with_function(defining)),
            "a function in the operator domain \"ortolan\" (\"PagedAttention\") is not supported"
        );
    }
}
