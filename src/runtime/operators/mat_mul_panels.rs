//! `MatMulPanels` as ONNX Runtime sees it: attributes, inputs and their shapes. The matrices are no inputs: the runtime would make
//! copies of them while it makes a session. The computation is `product`'s.

use std::sync::{Arc, Mutex, PoisonError};

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::{TensorElementType, ValueRef};

use super::node::{gated, input_error, number, positive, refused, tensor, threads};
use super::norm::RowNorm;
use super::product::{ProductInputs, QuantisedRows, multiply};
use super::simd::Instructions;
use crate::graph::Activation;
use crate::graph::panels::Panels;

/// The operator: `x · Wᵀ` as `com.microsoft::MatMulNBits` (`accuracy_level` 4) computes it, `W` in panels, with what stands
/// before and behind it.
pub(super) struct MatMulPanels {
    matrices: Arc<[Panels]>,
    /// One node runs after the other.
    rounded: Arc<Mutex<QuantisedRows>>,
}

impl MatMulPanels {
    pub(super) fn new(matrices: Arc<[Panels]>) -> Self {
        Self {
            matrices,
            rounded: Arc::default(),
        }
    }
}

/// The inputs in order, as [`ProductInputs`] describes them.
const INPUTS: [&str; 4] = ["x", "norm_gain", "bias", "residual"];

impl Operator for MatMulPanels {
    type Kernel<'attr> = MatMulPanelsKernel;

    fn name(&self) -> &str {
        "MatMulPanels"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        INPUTS.map(|name| match name {
            "x" => OperatorInput::required(TensorElementType::Float32),
            _ => OperatorInput::optional(TensorElementType::Float32),
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        attributes: &KernelContext<'attr>,
    ) -> ort::Result<MatMulPanelsKernel> {
        let matrix = number(attributes, "matrix")?;
        let matrices = self.matrices.len();
        if matrix >= matrices {
            return Err(refused(format!("matrix is {matrix} of {matrices}")));
        }
        Ok(MatMulPanelsKernel {
            matrices: Arc::clone(&self.matrices),
            matrix,
            gated: gated(attributes)?,
            epsilon: positive("epsilon", attributes.get("epsilon").unwrap_or(1e-6))?,
            rounded: Arc::clone(&self.rounded),
            instructions: Instructions::detect(),
        })
    }
}

/// A node's attributes, checked.
pub(super) struct MatMulPanelsKernel {
    matrices: Arc<[Panels]>,
    matrix: usize,
    gated: Option<Activation>,
    epsilon: f32,
    rounded: Arc<Mutex<QuantisedRows>>,
    instructions: Instructions,
}

impl Kernel for MatMulPanelsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let given = context.num_inputs()?;
        let values = (0..INPUTS.len().min(given)).map(|index| context.input(index));
        let values = values.collect::<ort::Result<Vec<_>>>()?;
        let ([rows, columns], x) =
            optional(&values, 0)?.ok_or_else(|| input_error(INPUTS[0], "is missing"))?;
        let gain = optional::<1>(&values, 1)?;
        let bias = optional::<1>(&values, 2)?;
        let residual = optional::<2>(&values, 3)?;
        let matrix = &self.matrices[self.matrix];
        let wanted = matrix.shape.columns;
        if columns != wanted {
            let problem = format!("has {columns} columns, the matrix {wanted}");
            return Err(input_error(INPUTS[0], problem));
        }
        let inputs = ProductInputs {
            x,
            matrix,
            norm: gain.map(|(_, gain)| RowNorm {
                gain,
                epsilon: self.epsilon,
            }),
            bias: bias.map(|(_, bias)| bias),
            gated: self.gated,
            residual: residual.map(|(_, residual)| residual),
        };
        let mut output = context
            .output(0, [rows as i64, inputs.width() as i64])?
            .ok_or_else(|| refused("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let mut rounded = self.rounded.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = threads(context);
        multiply(&inputs, output, &mut rounded, self.instructions, &threads)
            .map_err(ort::Error::wrap)
    }
}

/// The sizes and elements of the input of that number, if it is given.
fn optional<'v, const RANK: usize>(
    values: &'v [Option<ValueRef<'_>>],
    index: usize,
) -> ort::Result<Option<([usize; RANK], &'v [f32])>> {
    let value = values.get(index).and_then(Option::as_ref);
    value.map(|value| tensor(value, INPUTS[index])).transpose()
}
