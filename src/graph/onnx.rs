//! Builds and encodes an ONNX graph. Large initializers are not part of the `ModelProto`: the session receives them by
//! name. Therefore the `ModelProto` stays far below protobuf's 2 GB limit.
//!
//! Source: `onnx/onnx.proto` (field numbers), IR version 10.

mod exported;
pub(super) mod proto;

use prost::Message;

pub(super) use exported::exported;
pub use exported::{ExportedDimension, ExportedGraph, ExternalWeight, ValueInfo};

/// The IR version of generated graphs.
const IR_VERSION: i64 = 10;
/// The version of the default operator set in generated graphs.
const ONNX_OPSET: i64 = 18;
/// The domain of ONNX Runtime's contrib operators.
pub const MICROSOFT_DOMAIN: &str = "com.microsoft";

/// The type of a tensor's elements (`TensorProto.DataType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// `f32`, ONNX's `FLOAT`.
    F32 = 1,
    /// `u8`, ONNX's `UINT8`.
    U8 = 2,
    /// `i32`, ONNX's `INT32`.
    I32 = 6,
    /// `i64`, ONNX's `INT64`.
    I64 = 7,
    /// `f16`, ONNX's `FLOAT16`.
    F16 = 10,
    /// `bf16`, ONNX's `BFLOAT16`: the upper half of an `f32`.
    Bf16 = 16,
}

/// A dimension in the shape of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// A constant size.
    Fixed(usize),
    /// A named size that varies between runs. Dimensions with the same name have the same size.
    Named(&'static str),
}

/// An edge of the graph: an input, an initializer, or the output of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge(String);

impl Edge {
    /// The edge's name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// The values of an initializer.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorValues {
    /// Single-precision values.
    F32(Vec<f32>),
    /// Packed quants: one or two per byte.
    U8(Vec<u8>),
}

/// A constant that is passed to the session in addition to the `ModelProto`.
#[derive(Debug, Clone, PartialEq)]
pub struct Initializer {
    /// The initializer's name in the graph.
    pub name: String,
    /// Size of each dimension in elements; the contiguous dimension is last.
    pub shape: Vec<usize>,
    /// The values in row-major order.
    pub values: TensorValues,
}

/// The value of a node's attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// `AttributeProto.INT`, a 64-bit integer.
    Int(i64),
    /// `AttributeProto.FLOAT`, single precision.
    Float(f32),
}

/// Builds a graph: inputs, initializers, nodes and outputs are added in any order, except that nodes follow their
/// inputs.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: proto::Graph,
    initializers: Vec<Initializer>,
    custom_domains: Vec<&'static str>,
}

impl GraphBuilder {
    /// Adds a graph input and returns its edge.
    pub fn input(&mut self, name: &str, element: ElementType, shape: &[Dimension]) -> Edge {
        self.graph.input.push(value_info(name, element, shape));
        Edge(name.to_owned())
    }

    /// Adds a constant whose values are passed to the session by name.
    pub fn initializer(&mut self, initializer: Initializer) -> Edge {
        let element = match initializer.values {
            TensorValues::F32(_) => ElementType::F32,
            TensorValues::U8(_) => ElementType::U8,
        };
        self.graph.initializer.push(proto::Tensor {
            dims: initializer.shape.iter().map(|size| *size as i64).collect(),
            data_type: element as i32,
            name: initializer.name.clone(),
            external_data: vec![proto::StringStringEntry {
                key: "location".to_owned(),
                value: "memory".to_owned(),
            }],
            data_location: Some(proto::EXTERNAL),
            ..proto::Tensor::default()
        });
        let edge = Edge(initializer.name.clone());
        self.initializers.push(initializer);
        edge
    }

    /// The initializer named `name`, if it was added.
    pub fn existing_initializer(&self, name: &str) -> Option<Edge> {
        let mut initializers = self.initializers.iter();
        let existing = initializers.find(|initializer| initializer.name == name);
        existing.map(|initializer| Edge(initializer.name.clone()))
    }

    /// Adds a small constant of integers (shapes, axes) to the `ModelProto`.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> Edge {
        self.graph.initializer.push(proto::Tensor {
            dims: vec![values.len() as i64],
            data_type: ElementType::I64 as i32,
            name: name.to_owned(),
            raw_data: Some(
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            ),
            ..proto::Tensor::default()
        });
        Edge(name.to_owned())
    }

    /// Adds a node and returns the edges of its outputs. `None` omits an optional input.
    pub fn node<const N: usize>(
        &mut self,
        domain: &'static str,
        operator: &str,
        inputs: &[Option<&Edge>],
        outputs: [&str; N],
        attributes: &[(&str, Attribute)],
    ) -> [Edge; N] {
        if !domain.is_empty() && !self.custom_domains.contains(&domain) {
            self.custom_domains.push(domain);
        }
        self.graph.node.push(proto::Node {
            input: inputs
                .iter()
                .map(|edge| edge.map_or_else(String::new, |edge| edge.0.clone()))
                .collect(),
            output: outputs.iter().map(|name| (*name).to_owned()).collect(),
            name: outputs[0].to_owned(),
            op_type: operator.to_owned(),
            attribute: attributes
                .iter()
                .map(|(name, value)| attribute(name, value))
                .collect(),
            domain: domain.to_owned(),
            ..proto::Node::default()
        });
        outputs.map(|name| Edge(name.to_owned()))
    }

    /// Makes an edge a graph output with the edge's name.
    pub fn output(&mut self, edge: &Edge, element: ElementType, shape: &[Dimension]) {
        self.graph.output.push(value_info(&edge.0, element, shape));
    }

    /// Encodes the graph with the name `name`. Returns the bytes of the `ModelProto`, and the initializers to pass to
    /// the session.
    pub fn finish(mut self, name: &str) -> (Vec<u8>, Vec<Initializer>) {
        self.graph.name = name.to_owned();
        let mut opset_import = vec![proto::OperatorSet {
            domain: String::new(),
            version: ONNX_OPSET,
        }];
        opset_import.extend(self.custom_domains.iter().map(|domain| proto::OperatorSet {
            domain: (*domain).to_owned(),
            version: 1,
        }));
        let model = proto::Model {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import,
            ..proto::Model::default()
        };
        (model.encode_to_vec(), self.initializers)
    }
}

fn value_info(name: &str, element: ElementType, shape: &[Dimension]) -> proto::ValueInfo {
    let dim = shape
        .iter()
        .map(|dimension| match dimension {
            Dimension::Fixed(size) => proto::DimensionValue::Value(*size as i64),
            Dimension::Named(name) => proto::DimensionValue::Param((*name).to_owned()),
        })
        .map(|value| proto::Dimension { value: Some(value) })
        .collect();
    proto::ValueInfo {
        name: name.to_owned(),
        r#type: Some(proto::Type {
            tensor_type: Some(proto::TensorType {
                elem_type: element as i32,
                shape: Some(proto::Shape { dim }),
            }),
        }),
    }
}

fn attribute(name: &str, value: &Attribute) -> proto::Attribute {
    const FLOAT: i32 = 1;
    const INT: i32 = 2;
    let (kind, f, i) = match value {
        Attribute::Float(value) => (FLOAT, Some(*value), None),
        Attribute::Int(value) => (INT, None, Some(*value)),
    };
    proto::Attribute {
        name: name.to_owned(),
        f,
        i,
        r#type: kind,
        ..proto::Attribute::default()
    }
}
