//! Helpers of the custom operators: read a node's attributes and input tensors, and check ranges, types and ranks.

use ort::operator::{ComputeContext, FromKernelContext, KernelContext};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRef, ValueRefMut};

use super::parallel::OperatorError;
use crate::graph::MAX_HEADS;
use crate::graph::{Activation, GATED};

/// An input in an operator's schema.
pub(super) struct Input {
    pub(super) name: &'static str,
    pub(super) element: TensorElementType,
    pub(super) is_required: bool,
}

impl Input {
    pub(super) const fn required(name: &'static str, element: TensorElementType) -> Self {
        Self {
            name,
            element,
            is_required: true,
        }
    }

    pub(super) const fn optional(name: &'static str, element: TensorElementType) -> Self {
        Self {
            name,
            element,
            is_required: false,
        }
    }
}

/// The input tensors of a node in one run, with the indices of the schema.
pub(super) struct Inputs<'a> {
    schema: &'static [Input],
    /// `None` for absent inputs.
    values: Vec<Option<ValueRef<'a>>>,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(context: &'a ComputeContext, schema: &'static [Input]) -> ort::Result<Self> {
        let given = context.num_inputs()?.min(schema.len());
        let values = (0..given).map(|index| context.input(index));
        let values = values.collect::<ort::Result<_>>()?;
        Ok(Self { schema, values })
    }

    /// Returns the value of an input; `None` if the input is absent.
    pub(super) fn value(&self, index: usize) -> Option<&ValueRef<'a>> {
        self.values.get(index)?.as_ref()
    }

    /// Returns the dimensions and elements of an input; `None` if the input is absent.
    ///
    /// # Errors
    /// If the element type is not `T`, or if the number of dimensions is not `RANK`.
    pub(super) fn optional<T: PrimitiveTensorElementType, const RANK: usize>(
        &self,
        index: usize,
    ) -> ort::Result<Option<([usize; RANK], &[T])>> {
        let Some(value) = self.value(index) else {
            return Ok(None);
        };
        let (shape, elements) = value.try_extract_tensor::<T>()?;
        match <[i64; RANK]>::try_from(&shape[..]) {
            Ok(dimensions) => {
                let dimensions = dimensions.map(|dimension| dimension.unsigned_abs() as usize);
                Ok(Some((dimensions, elements)))
            }
            Err(_) => {
                let problem = format!("has the shape {shape}, expected {RANK} dimensions");
                Err(self.error(index, problem))
            }
        }
    }

    /// As [`Self::optional`], but returns an error if the input is absent.
    pub(super) fn required<T: PrimitiveTensorElementType, const RANK: usize>(
        &self,
        index: usize,
    ) -> ort::Result<([usize; RANK], &[T])> {
        self.optional(index)?
            .ok_or_else(|| self.error(index, "is missing"))
    }

    /// Returns an error if one of the inputs `indices` is given.
    pub(super) fn refuse(&self, indices: &[usize], problem: &str) -> ort::Result<()> {
        match indices.iter().find(|index| self.value(**index).is_some()) {
            Some(index) => Err(self.error(*index, problem)),
            None => Ok(()),
        }
    }

    /// Creates the error for an invalid input.
    pub(super) fn error(&self, index: usize, problem: impl Into<String>) -> ort::Error {
        ort::Error::wrap(OperatorError::input(
            self.schema[index].name,
            problem.into(),
        ))
    }
}

/// Creates the output of a node.
pub(super) fn output(
    context: &ComputeContext,
    dimensions: [usize; 2],
) -> ort::Result<ValueRefMut<'_>> {
    context
        .output(0, dimensions.map(|dimension| dimension as i64))?
        .ok_or_else(|| invalid_node("the node has no output"))
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
