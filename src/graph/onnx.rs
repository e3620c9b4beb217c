//! An ONNX graph under construction, and its bytes. Large initializers stay outside of the bytes: the
//! session gets them by name, so the `ModelProto` stays far below protobuf's 2 GB.
//!
//! Source: `onnx/onnx.proto` (field numbers), IR version 10.

mod exported;
pub(super) mod proto;

use prost::Message;

pub(super) use exported::exported;
pub use exported::{Exported, ExternalWeight, Size, ValueFacts};

/// The IR version we write.
const IR_VERSION: i64 = 10;
/// The version of ONNX's own operators we use.
const ONNX_OPSET: i64 = 18;
/// ONNX Runtime's contrib operators.
pub const MICROSOFT_DOMAIN: &str = "com.microsoft";

/// The type of a tensor's elements (`TensorProto.DataType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// `f32`.
    F32 = 1,
    /// `u8`.
    U8 = 2,
    /// `i32`.
    I32 = 6,
    /// `i64`.
    I64 = 7,
    /// Half precision.
    F16 = 10,
    /// The upper half of single precision.
    Bf16 = 16,
}

/// One size in the shape of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// Known.
    Fixed(usize),
    /// Another at every run; equal names are equal sizes.
    Named(&'static str),
}

/// An edge of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge(String);

impl Edge {
    /// By which nodes know it.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// The values of an initializer.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorValues {
    /// Floats.
    F32(Vec<f32>),
    /// Quantised blocks.
    U8(Vec<u8>),
}

/// A constant that is handed to the session beside the graph's bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Initializer {
    /// Its name in the graph.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: TensorValues,
}

/// A value of a node's attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
}

/// A graph under construction.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: proto::Graph,
    initializers: Vec<Initializer>,
    own_domains: Vec<&'static str>,
}

impl GraphBuilder {
    /// An input of every run.
    pub fn input(&mut self, name: &str, element: ElementType, shape: &[Dimension]) -> Edge {
        self.graph.input.push(value_info(name, element, shape));
        Edge(name.to_owned())
    }

    /// A constant, given to the session by its name.
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

    /// The constant of that name, if it is there already.
    pub fn known(&self, name: &str) -> Option<Edge> {
        let mut given = self.initializers.iter();
        let known = given.find(|initializer| initializer.name == name);
        known.map(|initializer| Edge(initializer.name.clone()))
    }

    /// A small constant of integers (shapes, axes), kept in the graph's bytes.
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

    /// An operator applied to `inputs` (`None`: an optional one left out), with as many outputs as
    /// `outputs` names (`None`: not wanted). Answers the wanted ones.
    pub fn node<const N: usize>(
        &mut self,
        domain: &'static str,
        operator: &str,
        inputs: &[Option<&Edge>],
        outputs: [&str; N],
        attributes: &[(&str, Attribute)],
    ) -> [Edge; N] {
        if !domain.is_empty() && !self.own_domains.contains(&domain) {
            self.own_domains.push(domain);
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

    /// Makes an edge an output of every run, under the name it has.
    pub fn output(&mut self, edge: &Edge, element: ElementType, shape: &[Dimension]) {
        self.graph.output.push(value_info(&edge.0, element, shape));
    }

    /// The bytes of the `ModelProto`, and what is to be given beside it.
    pub fn finish(mut self, name: &str) -> (Vec<u8>, Vec<Initializer>) {
        self.graph.name = name.to_owned();
        let mut opset_import = vec![proto::OperatorSet {
            domain: String::new(),
            version: ONNX_OPSET,
        }];
        opset_import.extend(self.own_domains.iter().map(|domain| proto::OperatorSet {
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
