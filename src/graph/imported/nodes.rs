//! Helpers to create and inspect nodes and values of imported graphs.

use super::super::onnx::ElementType;
use super::super::onnx::proto::{
    Attribute, Dimension, DimensionValue, Node, Shape, Tensor, TensorType, Type, ValueInfo,
};

/// `AttributeProto.AttributeType.INT`.
const INT: i32 = 2;

/// Creates a node with one output. The name of the node is the name of the output.
pub(super) fn node(
    domain: &str,
    operator: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<Attribute>,
) -> Node {
    Node {
        input: inputs.iter().map(|input| (*input).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: operator.to_owned(),
        attribute,
        domain: domain.to_owned(),
        ..Node::default()
    }
}

/// Creates an integer attribute.
pub(super) fn int(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: Some(value),
        r#type: INT,
        ..Attribute::default()
    }
}

/// Creates a constant of shape `[1]` that contains `value`.
pub(super) fn integer(name: &str, value: i64) -> Tensor {
    Tensor {
        dims: vec![1],
        data_type: ElementType::I64 as i32,
        name: name.to_owned(),
        raw_data: Some(value.to_le_bytes().to_vec().into()),
        ..Tensor::default()
    }
}

/// Creates an input with `dimensions` dimensions, whose sizes vary between runs.
pub(super) fn typed_input(name: &str, element: ElementType, dimensions: usize) -> ValueInfo {
    let dim = (0..dimensions).map(|index| Dimension {
        value: Some(DimensionValue::Param(format!("{name}.{index}"))),
    });
    value(name, element, Some(Shape { dim: dim.collect() }))
}

/// Creates an output of unspecified shape.
pub(super) fn typed_output(name: &str, element: ElementType) -> ValueInfo {
    value(name, element, None)
}

fn value(name: &str, element: ElementType, shape: Option<Shape>) -> ValueInfo {
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type: element as i32,
                shape,
            }),
        }),
    }
}

/// Returns the element type (`TensorProto.DataType`) and the size of each dimension of an input or output; unknown
/// sizes are `None`.
pub(super) fn sizes(value: &ValueInfo) -> (i32, Vec<Option<i64>>) {
    let tensor = value.r#type.as_ref();
    let Some(tensor) = tensor.and_then(|kind| kind.tensor_type.as_ref()) else {
        return (0, Vec::new());
    };
    let dimensions = tensor.shape.iter().flat_map(|shape| &shape.dim);
    let size = |dimension: &Dimension| match dimension.value {
        Some(DimensionValue::Value(size)) => Some(size),
        Some(DimensionValue::Param(_)) | None => None,
    };
    (tensor.elem_type, dimensions.map(size).collect())
}

/// Whether any of `nodes`, or a node in their subgraphs, is one of `operators`.
pub(super) fn has_operator(nodes: &[Node], operators: &[&str]) -> bool {
    nodes.iter().any(|node| {
        let attributes = node.attribute.iter();
        let mut graphs =
            attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        operators.contains(&node.op_type.as_str())
            || graphs.any(|graph| has_operator(&graph.node, operators))
    })
}
