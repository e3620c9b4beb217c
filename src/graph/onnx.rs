//! An ONNX graph under construction, and its bytes. Large initializers stay outside of the bytes: the
//! session gets them by name, so the `ModelProto` stays far below protobuf's 2 GB.
//!
//! Source: `onnx/onnx.proto` (field numbers), IR version 10.

mod exported;

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
            raw_data: None,
            external_data: vec![proto::StringStringEntry {
                key: "location".to_owned(),
                value: "memory".to_owned(),
            }],
            data_location: Some(proto::EXTERNAL),
        });
        let edge = Edge(initializer.name.clone());
        self.initializers.push(initializer);
        edge
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
            external_data: Vec::new(),
            data_location: None,
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
    }
}

/// The messages of `onnx.proto` with the fields that we write.
mod proto {
    /// `TensorProto.DataLocation.EXTERNAL`.
    pub(super) const EXTERNAL: i32 = 1;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Model {
        #[prost(int64, tag = "1")]
        pub ir_version: i64,
        #[prost(string, tag = "2")]
        pub producer_name: String,
        #[prost(string, tag = "3")]
        pub producer_version: String,
        #[prost(message, optional, tag = "7")]
        pub graph: Option<Graph>,
        #[prost(message, repeated, tag = "8")]
        pub opset_import: Vec<OperatorSet>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct OperatorSet {
        #[prost(string, tag = "1")]
        pub domain: String,
        #[prost(int64, tag = "2")]
        pub version: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Graph {
        #[prost(message, repeated, tag = "1")]
        pub node: Vec<Node>,
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(message, repeated, tag = "5")]
        pub initializer: Vec<Tensor>,
        #[prost(message, repeated, tag = "11")]
        pub input: Vec<ValueInfo>,
        #[prost(message, repeated, tag = "12")]
        pub output: Vec<ValueInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Node {
        #[prost(string, repeated, tag = "1")]
        pub input: Vec<String>,
        #[prost(string, repeated, tag = "2")]
        pub output: Vec<String>,
        #[prost(string, tag = "3")]
        pub name: String,
        #[prost(string, tag = "4")]
        pub op_type: String,
        #[prost(message, repeated, tag = "5")]
        pub attribute: Vec<Attribute>,
        #[prost(string, tag = "7")]
        pub domain: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Attribute {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(float, optional, tag = "2")]
        pub f: Option<f32>,
        #[prost(int64, optional, tag = "3")]
        pub i: Option<i64>,
        #[prost(int32, tag = "20")]
        pub r#type: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Tensor {
        #[prost(int64, repeated, tag = "1")]
        pub dims: Vec<i64>,
        #[prost(int32, tag = "2")]
        pub data_type: i32,
        #[prost(string, tag = "8")]
        pub name: String,
        #[prost(bytes = "vec", optional, tag = "9")]
        pub raw_data: Option<Vec<u8>>,
        #[prost(message, repeated, tag = "13")]
        pub external_data: Vec<StringStringEntry>,
        #[prost(int32, optional, tag = "14")]
        pub data_location: Option<i32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct StringStringEntry {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ValueInfo {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, optional, tag = "2")]
        pub r#type: Option<Type>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Type {
        #[prost(message, optional, tag = "1")]
        pub tensor_type: Option<TensorType>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TensorType {
        #[prost(int32, tag = "1")]
        pub elem_type: i32,
        #[prost(message, optional, tag = "2")]
        pub shape: Option<Shape>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Shape {
        #[prost(message, repeated, tag = "1")]
        pub dim: Vec<Dimension>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Dimension {
        #[prost(oneof = "DimensionValue", tags = "1, 2")]
        pub value: Option<DimensionValue>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum DimensionValue {
        #[prost(int64, tag = "1")]
        Value(i64),
        #[prost(string, tag = "2")]
        Param(String),
    }
}
