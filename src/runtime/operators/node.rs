//! Helpers of the custom operators: read a node's attributes and input tensors, and check ranges, types and ranks.

use ort::operator::{FromKernelContext, KernelContext};
use ort::value::{PrimitiveTensorElementType, ValueRef};

use super::parallel::OperatorError;
use crate::graph::MAX_HEADS;
use crate::graph::{Activation, GATED};

/// Returns the dimensions and elements of an input tensor.
///
/// # Errors
/// If the tensor's element type is not `T`, or if the number of dimensions is not `RANK`.
pub(super) fn tensor<'v, T: PrimitiveTensorElementType, const RANK: usize>(
    value: &'v ValueRef<'_>,
    input: &'static str,
) -> ort::Result<([usize; RANK], &'v [T])> {
    let (shape, elements) = value.try_extract_tensor::<T>()?;
    let dimensions: Vec<usize> = shape
        .iter()
        .map(|&dimension| dimension.unsigned_abs() as usize)
        .collect();
    let dimensions = dimensions.try_into().map_err(|_| {
        input_error(
            input,
            format!("has the shape {shape}, expected {RANK} dimensions"),
        )
    })?;
    Ok((dimensions, elements))
}

/// Returns a node's inputs in the order of the operator's schema, which has `count` inputs; `None` if absent.
pub(super) fn inputs<'a>(
    context: &'a ComputeContext,
    count: usize,
) -> ort::Result<Vec<Option<ValueRef<'a>>>> {
    let given = context.num_inputs()?;
    let inputs = (0..count.min(given)).map(|index| context.input(index));
    inputs.collect()
}

/// Returns an error if one of the `unsupported` inputs (index and name) is given.
pub(super) fn reject_inputs<const COUNT: usize>(
    inputs: &[Option<ValueRef>],
    unsupported: [(usize, &'static str); COUNT],
) -> ort::Result<()> {
    let mut given = unsupported.into_iter();
    match given.find(|(index, _)| inputs.get(*index).is_some_and(Option::is_some)) {
        Some((_, name)) => Err(input_error(name, "is not supported on CPU")),
        None => Ok(()),
    }
}

/// Creates the error for an invalid input.
pub(super) fn input_error(input: &'static str, problem: impl Into<String>) -> ort::Error {
    ort::Error::wrap(OperatorError::input(input, problem.into()))
}

/// Creates the error for an invalid attribute or a missing output.
pub(super) fn invalid_node(problem: impl std::fmt::Display) -> ort::Error {
    ort::Error::new_with_code(ort::error::ErrorCode::InvalidArgument, problem.to_string())
}

/// Reads a required attribute: a number of heads, from 1 to [`MAX_HEADS`].
pub(super) fn head_count(attributes: &KernelContext, name: &str) -> ort::Result<usize> {
    let count = attributes
        .get::<i64>(name)
        .ok_or_else(|| invalid_node(format!("{name} is missing")))?;
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=MAX_HEADS).contains(count))
        .ok_or_else(|| invalid_node(format!("{name} is {count}, not from 1 to {MAX_HEADS}")))
}

/// Reads the factor of attention scores. The default and 0 are `None`, which means 1/√head_size.
pub(super) fn attention_scale(attributes: &KernelContext) -> ort::Result<Option<f32>> {
    match attributes.get::<f32>("scale") {
        None | Some(0.0) => Ok(None),
        Some(scale) if scale.is_finite() => Ok(Some(scale)),
        Some(_) => Err(invalid_node("scale is not finite")),
    }
}

/// Reads a required attribute that is at least 0.
pub(super) fn unsigned(attributes: &KernelContext, name: &str) -> ort::Result<usize> {
    let number = attributes.get::<i64>(name);
    let number = number.ok_or_else(|| invalid_node(format!("{name} is missing")))?;
    usize::try_from(number).map_err(|_| invalid_node(format!("{name} is {number}, not at least 0")))
}

/// Reads an attribute that is 0 or 1; the default is 0.
pub(super) fn flag(attributes: &KernelContext, name: &str) -> ort::Result<bool> {
    match attributes.get::<i64>(name) {
        None | Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(other) => Err(invalid_node(format!("{name} is {other}, not 0 or 1"))),
    }
}

/// Reads the attribute for the activation of a gate; `None` if there is no gate.
pub(super) fn gate_activation(attributes: &KernelContext) -> ort::Result<Option<Activation>> {
    const SILU: i64 = Activation::Silu as i64;
    const GELU_TANH: i64 = Activation::GeluTanh as i64;

    match attributes.get::<i64>(GATED) {
        None => Ok(None),
        Some(SILU) => Ok(Some(Activation::Silu)),
        Some(GELU_TANH) => Ok(Some(Activation::GeluTanh)),
        Some(other) => Err(invalid_node(format!(
            "{GATED} is {other}, not a known activation"
        ))),
    }
}

/// Checks that an attribute's value is finite and greater than 0.
pub(super) fn positive(name: &str, value: f32) -> ort::Result<f32> {
    match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(invalid_node(format!("{name} is {value}, not above 0"))),
    }
}

/// Returns an error if the attribute is set and differs from `default`.
pub(super) fn require_default<'a, T>(
    attributes: &KernelContext<'a>,
    name: &str,
    default: &T,
) -> ort::Result<()>
where
    T: FromKernelContext<'a> + PartialEq + std::fmt::Debug,
{
    match attributes.get::<T>(name) {
        Some(value) if value != *default => Err(invalid_node(format!(
            "{name} = {value:?} is not supported on CPU, only {default:?}"
        ))),
        _ => Ok(()),
    }
}
