//! Prepares a graph for other programs: the weights become external data, and standard operators replace non-standard
//! operators in ONNX's default domain.
//!
//! Source: `onnx/docs/ExternalData.md`.

use prost::Message;

use super::{ElementType, proto};

/// Alignment in bytes of weights of at least this size, so that they can be memory-mapped.
const PAGE_BYTES: u64 = 4096;
/// Alignment of smaller weights in bytes: a cache line.
const LINE_BYTES: u64 = 64;

/// ONNX Runtime's operator for RMS norms, which is not a standard ONNX operator.
const SIMPLIFIED_NORM: &str = "SimplifiedLayerNormalization";

/// An encoded graph whose weights are external data.
#[derive(Debug)]
pub struct ExportedGraph {
    /// The bytes of the `ModelProto`.
    pub model: Vec<u8>,
    /// The position of each weight in the weights file, in file order.
    pub weights: Vec<ExternalWeight>,
    /// The graph's inputs.
    pub inputs: Vec<ValueInfo>,
    /// The graph's outputs.
    pub outputs: Vec<ValueInfo>,
    /// Domain and name of each custom operator in the graph.
    pub operators: Vec<[String; 2]>,
}

/// The name and position of a weight in the weights file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalWeight {
    /// The weight's name in the graph.
    pub name: String,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length of the weight in bytes.
    pub length: u64,
}

/// The name, type and shape of an input or output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ValueInfo {
    /// The name of the input or output.
    pub name: String,
    /// The type of the elements, such as `float32`.
    #[serde(rename = "type")]
    pub element: &'static str,
    /// The dimensions; the contiguous dimension is last.
    pub shape: Vec<ExportedDimension>,
}

/// A dimension of an input or output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum ExportedDimension {
    /// A constant size.
    Fixed(i64),
    /// A named size that varies between runs. Dimensions with the same name have the same size.
    Named(String),
}

/// Converts the encoded graph `model` to a graph with its weights as external data in the file `location`.
///
/// # Panics
/// If `model` was not encoded by a [`super::GraphBuilder`].
pub(in crate::graph) fn exported(model: &[u8], location: &str) -> ExportedGraph {
    let mut model = proto::Model::decode(model).expect("GraphBuilder encoded the model");
    let graph = model.graph.as_mut().expect("GraphBuilder sets the graph");
    let mut weights = Vec::new();
    let mut end = 0_u64;
    for tensor in &mut graph.initializer {
        if tensor.data_location.is_none() {
            continue;
        }
        let values: i64 = tensor.dims.iter().product();
        let length = values as u64 * element_bytes(tensor.data_type);
        let offset = end.next_multiple_of(match length {
            PAGE_BYTES.. => PAGE_BYTES,
            _ => LINE_BYTES,
        });
        end = offset + length;
        let entry = |key: &str, value: String| proto::StringStringEntry {
            key: key.to_owned(),
            value,
        };
        tensor.external_data = vec![
            entry("location", location.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ];
        weights.push(ExternalWeight {
            name: tensor.name.clone(),
            offset,
            length,
        });
    }
    expand_rms_norms(graph);
    let mut operators: Vec<[String; 2]> = Vec::new();
    for node in &graph.node {
        let operator = [node.domain.clone(), node.op_type.clone()];
        if !node.domain.is_empty() && !operators.contains(&operator) {
            operators.push(operator);
        }
    }
    ExportedGraph {
        weights,
        inputs: graph.input.iter().map(value_info).collect(),
        outputs: graph.output.iter().map(value_info).collect(),
        operators,
        model: model.encode_to_vec(),
    }
}

fn element_bytes(data_type: i32) -> u64 {
    match data_type {
        kind if kind == ElementType::U8 as i32 => 1,
        kind if kind == ElementType::F16 as i32 => 2,
        kind if kind == ElementType::I64 as i32 => 8,
        _ => 4,
    }
}

fn value_info(value: &proto::ValueInfo) -> ValueInfo {
    let tensor = value.r#type.as_ref();
    let tensor = tensor.and_then(|kind| kind.tensor_type.as_ref());
    let dimensions = tensor.and_then(|tensor| tensor.shape.as_ref());
    let dimensions = dimensions.map_or(&[][..], |shape| &shape.dim[..]);
    ValueInfo {
        name: value.name.clone(),
        element: match tensor.map_or(0, |tensor| tensor.elem_type) {
            kind if kind == ElementType::U8 as i32 => "uint8",
            kind if kind == ElementType::I32 as i32 => "int32",
            kind if kind == ElementType::I64 as i32 => "int64",
            kind if kind == ElementType::F16 as i32 => "float16",
            _ => "float32",
        },
        shape: dimensions
            .iter()
            .map(|dimension| match &dimension.value {
                Some(proto::DimensionValue::Value(size)) => ExportedDimension::Fixed(*size),
                Some(proto::DimensionValue::Param(name)) => ExportedDimension::Named(name.clone()),
                None => ExportedDimension::Named(String::new()),
            })
            .collect(),
    }
}

/// Replaces each RMS norm by standard operators, in a pattern that ONNX Runtime fuses again:
/// `x / sqrt(mean(x²) + ε) · gain`.
fn expand_rms_norms(graph: &mut proto::Graph) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        if node.op_type != SIMPLIFIED_NORM {
            nodes.push(node);
            continue;
        }
        let epsilon = node
            .attribute
            .iter()
            .find(|attribute| attribute.name == "epsilon");
        let epsilon = epsilon.and_then(|attribute| attribute.f).unwrap_or(1e-5);
        let [x, gain] = &node.input[..] else {
            unreachable!("a norm has two inputs");
        };
        let result = &node.output[0];
        let part = |suffix: &str| format!("{result}.{suffix}");
        let constant =
            |suffix: &str, dims: &[i64], kind: ElementType, bytes: &[u8]| proto::Tensor {
                dims: dims.to_vec(),
                data_type: kind as i32,
                name: part(suffix),
                raw_data: Some(bytes.to_vec().into()),
                ..proto::Tensor::default()
            };
        graph.initializer.extend([
            constant("two", &[], ElementType::F32, &2.0_f32.to_le_bytes()),
            constant("axis", &[1], ElementType::I64, &(-1_i64).to_le_bytes()),
            constant("epsilon", &[], ElementType::F32, &epsilon.to_le_bytes()),
        ]);
        let mut add_node = |operator: &str, inputs: [&str; 2], output: &str| {
            let inputs = inputs.into_iter().filter(|input| !input.is_empty());
            nodes.push(proto::Node {
                input: inputs.map(str::to_owned).collect(),
                output: vec![output.to_owned()],
                name: output.to_owned(),
                op_type: operator.to_owned(),
                ..proto::Node::default()
            });
        };
        let parts = ["square", "mean", "shifted", "root", "divided"].map(part);
        let [square, mean, shifted, root, divided] = parts.each_ref().map(String::as_str);
        add_node("Pow", [x, &part("two")], square);
        add_node("ReduceMean", [square, &part("axis")], mean);
        add_node("Add", [mean, &part("epsilon")], shifted);
        add_node("Sqrt", [shifted, ""], root);
        add_node("Div", [x, root], divided);
        add_node("Mul", [divided, gain], result);
    }
    graph.node = nodes;
}
