//! What every operator of ours asks of a node: attributes in range, tensors of a type and a rank.

use ort::operator::{ComputeContext, FromKernelContext, KernelContext};
use ort::value::{PrimitiveTensorElementType, ValueRef};

use super::parallel::OperatorError;
use crate::graph::MAX_HEADS;
use crate::graph::{Activation, GATED};

/// The sizes and the elements of an input.
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
            format!("has the shape {shape}, not one of {RANK} dimensions"),
        )
    })?;
    Ok((dimensions, elements))
}

/// What is wrong with an input.
pub(super) fn input_error(input: &'static str, problem: impl Into<String>) -> ort::Error {
    ort::Error::wrap(OperatorError::input(input, problem.into()))
}

/// The runtime's threads, as the computations are given them.
pub(super) fn threads(
    context: &ComputeContext,
) -> impl Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    |count, call| {
        context
            .par_for(count, 0, call)
            .map_err(|error| OperatorError::Threads(error.to_string()))
    }
}

/// What a node or a run of it is refused for.
pub(super) fn refused(problem: impl std::fmt::Display) -> ort::Error {
    ort::Error::new_with_code(ort::error::ErrorCode::InvalidArgument, problem.to_string())
}

/// An attribute that counts heads.
pub(super) fn head_count(attributes: &KernelContext, name: &str) -> ort::Result<usize> {
    let count = attributes
        .get::<i64>(name)
        .ok_or_else(|| refused(format!("{name} is missing")))?;
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=MAX_HEADS).contains(count))
        .ok_or_else(|| refused(format!("{name} is {count}, not from 1 to {MAX_HEADS}")))
}

/// An attribute that is there and not below 0.
pub(super) fn number(attributes: &KernelContext, name: &str) -> ort::Result<usize> {
    let number = attributes.get::<i64>(name);
    let number = number.ok_or_else(|| refused(format!("{name} is missing")))?;
    usize::try_from(number).map_err(|_| refused(format!("{name} is {number}")))
}

/// An attribute that is 0 or 1; absent, 0.
pub(super) fn flag(attributes: &KernelContext, name: &str) -> ort::Result<bool> {
    match attributes.get::<i64>(name) {
        None | Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(other) => Err(refused(format!("{name} is {other}, not 0 or 1"))),
    }
}

/// The function of a gate, if there is one.
pub(super) fn gated(attributes: &KernelContext) -> ort::Result<Option<Activation>> {
    const SILU: i64 = Activation::Silu as i64;
    const GELU_TANH: i64 = Activation::GeluTanh as i64;

    match attributes.get::<i64>(GATED) {
        None => Ok(None),
        Some(SILU) => Ok(Some(Activation::Silu)),
        Some(GELU_TANH) => Ok(Some(Activation::GeluTanh)),
        Some(other) => Err(refused(format!("{GATED} is {other}, no known function"))),
    }
}

/// A number above 0, and not infinite.
pub(super) fn positive(name: &str, value: f32) -> ort::Result<f32> {
    match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(refused(format!("{name} is {value}, not above 0"))),
    }
}

/// Refuses an attribute that is given with anything but its default.
pub(super) fn allow_only<'a, T>(
    attributes: &KernelContext<'a>,
    name: &str,
    default: &T,
) -> ort::Result<()>
where
    T: FromKernelContext<'a> + PartialEq + std::fmt::Debug,
{
    match attributes.get::<T>(name) {
        Some(value) if value != *default => Err(refused(format!(
            "{name} = {value:?} is not supported on CPU, only {default:?}"
        ))),
        _ => Ok(()),
    }
}
