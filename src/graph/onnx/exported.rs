//! A graph as other programs read it: its weights in a file beside it, and under ONNX's own name no operator that is not
//! ONNX's.
//!
//! Source: `onnx/docs/ExternalData.md`.

use prost::Message;

use super::{ElementType, proto};

/// Weights of this size and more begin at a page, so that they can be mapped.
const PAGE_BYTES: u64 = 4096;
/// Smaller ones begin at a cache line.
const LINE_BYTES: u64 = 64;

/// The runtime's name for RMS norms; ONNX has none of that name.
const SIMPLIFIED_NORM: &str = "SimplifiedLayerNormalization";

/// A graph whose weights are elsewhere.
#[derive(Debug)]
pub struct Exported {
    /// The bytes of the `ModelProto`.
    pub model: Vec<u8>,
    /// Where in the file of weights each is to be, in the order of their places.
    pub weights: Vec<ExternalWeight>,
    /// What every run is given.
    pub inputs: Vec<ValueFacts>,
    /// What every run gives.
    pub outputs: Vec<ValueFacts>,
    /// The operators that are not ONNX's own: domain and name.
    pub operators: Vec<[String; 2]>,
}

/// A weight in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalWeight {
    /// Its name in the graph.
    pub name: String,
    /// Where it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ValueFacts {
    /// Its name.
    pub name: String,
    /// What its elements are.
    #[serde(rename = "type")]
    pub element: &'static str,
    /// Its sizes; those that differ from run to run by their names.
    pub shape: Vec<Size>,
}

/// A size in a shape.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Size {
    /// Known.
    Fixed(i64),
    /// Another at every run; equal names are equal sizes.
    Named(String),
}

/// The graph `model` with its weights in the file `location`, beside its own.
///
/// # Panics
/// If the bytes are no graph that a [`super::GraphBuilder`] made.
pub(in crate::graph) fn exported(model: &[u8], location: &str) -> Exported {
    let mut model = proto::Model::decode(model).expect("our own bytes");
    let graph = model.graph.as_mut().expect("our own graph");
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
    spell_norms_out(graph);
    let mut operators: Vec<[String; 2]> = Vec::new();
    for node in &graph.node {
        let operator = [node.domain.clone(), node.op_type.clone()];
        if !node.domain.is_empty() && !operators.contains(&operator) {
            operators.push(operator);
        }
    }
    Exported {
        weights,
        inputs: graph.input.iter().map(facts).collect(),
        outputs: graph.output.iter().map(facts).collect(),
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

fn facts(value: &proto::ValueInfo) -> ValueFacts {
    let tensor = value.r#type.as_ref();
    let tensor = tensor.and_then(|kind| kind.tensor_type.as_ref());
    let dimensions = tensor.and_then(|tensor| tensor.shape.as_ref());
    let dimensions = dimensions.map_or(&[][..], |shape| &shape.dim[..]);
    ValueFacts {
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
                Some(proto::DimensionValue::Value(size)) => Size::Fixed(*size),
                Some(proto::DimensionValue::Param(name)) => Size::Named(name.clone()),
                None => Size::Named(String::new()),
            })
            .collect(),
    }
}

/// Writes each RMS norm as ONNX's own operators, in the pattern that the runtime makes one of again:
/// `x / sqrt(mean(x²) + ε) · gain`.
fn spell_norms_out(graph: &mut proto::Graph) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        if node.op_type != SIMPLIFIED_NORM {
            nodes.push(node);
            continue;
        }
        let epsilon = node.attribute.iter().find(|said| said.name == "epsilon");
        let epsilon = epsilon.and_then(|said| said.f).unwrap_or(1e-5);
        let [x, gain] = &node.input[..] else {
            unreachable!("a norm has two inputs");
        };
        let result = &node.output[0];
        let part = |what: &str| format!("{result}.{what}");
        let constant = |what: &str, dims: &[i64], kind: ElementType, bytes: &[u8]| proto::Tensor {
            dims: dims.to_vec(),
            data_type: kind as i32,
            name: part(what),
            raw_data: Some(bytes.to_vec().into()),
            ..proto::Tensor::default()
        };
        graph.initializer.extend([
            constant("two", &[], ElementType::F32, &2.0_f32.to_le_bytes()),
            constant("axis", &[1], ElementType::I64, &(-1_i64).to_le_bytes()),
            constant("epsilon", &[], ElementType::F32, &epsilon.to_le_bytes()),
        ]);
        let mut add = |operator: &str, inputs: [&str; 2], output: &str| {
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
        add("Pow", [x, &part("two")], square);
        add("ReduceMean", [square, &part("axis")], mean);
        add("Add", [mean, &part("epsilon")], shifted);
        add("Sqrt", [shifted, ""], root);
        add("Div", [x, root], divided);
        add("Mul", [divided, gain], result);
    }
    graph.node = nodes;
}
