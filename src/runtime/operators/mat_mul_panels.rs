//! The ONNX operator `MatMulPanels`: reads and checks attributes and inputs. The packed weights are not inputs, because
//! ONNX Runtime would copy input weights during session creation. `matmul` computes the result.

use std::sync::{Arc, Mutex, PoisonError};

use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorInput};
use ort::value::{TensorElementType, ValueRef};

use super::custom_operator::{CustomOperator, thread_pool};
use super::matmul::{MatmulInputs, QuantizedActivations, multiply};
use super::node::{gate_activation, input_error, inputs, invalid_node, positive, tensor, unsigned};
use super::norm::RowNorm;
use super::simd::Instructions;
use crate::graph::Activation;
use crate::graph::panels::Panels;

/// The operator: `x · Wᵀ` with the arithmetic of `com.microsoft::MatMulNBits` (`accuracy_level` 4), for weights packed
/// in panels, with optional norm, bias, gate and residual.
pub(super) struct MatMulPanels {
    matrices: Arc<[Panels]>,
    /// Scratch memory that all nodes share, since nodes run one after the other.
    quantized: Arc<Mutex<QuantizedActivations>>,
}

impl MatMulPanels {
    pub(super) fn new(matrices: Arc<[Panels]>) -> Self {
        Self {
            matrices,
            quantized: Arc::default(),
        }
    }
}

/// Names of the inputs in order; [`MatmulInputs`] describes them.
const INPUTS: [&str; 4] = ["x", "norm_gain", "bias", "residual"];

impl CustomOperator for MatMulPanels {
    type Kernel = MatMulPanelsKernel;

    const NAME: &'static str = "MatMulPanels";

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        INPUTS.map(|name| match name {
            "x" => OperatorInput::required(TensorElementType::Float32),
            _ => OperatorInput::optional(TensorElementType::Float32),
        })
    }

    fn create_kernel(&self, attributes: &KernelContext) -> ort::Result<MatMulPanelsKernel> {
        let matrix = unsigned(attributes, "matrix")?;
        let matrices = self.matrices.len();
        if matrix >= matrices {
            return Err(invalid_node(format!(
                "matrix is {matrix}, but the graph has {matrices} packed matrices"
            )));
        }
        Ok(MatMulPanelsKernel {
            matrices: Arc::clone(&self.matrices),
            matrix,
            gated: gate_activation(attributes)?,
            epsilon: positive("epsilon", attributes.get("epsilon").unwrap_or(1e-6))?,
            quantized: Arc::clone(&self.quantized),
            instructions: Instructions::detect(),
        })
    }
}

/// The validated attributes of a node.
pub(super) struct MatMulPanelsKernel {
    matrices: Arc<[Panels]>,
    matrix: usize,
    gated: Option<Activation>,
    epsilon: f32,
    quantized: Arc<Mutex<QuantizedActivations>>,
    instructions: Instructions,
}

impl Kernel for MatMulPanelsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let values = inputs(context, INPUTS.len())?;
        let ([rows, columns], x) =
            optional(&values, 0)?.ok_or_else(|| input_error(INPUTS[0], "is missing"))?;
        let gain = optional::<1>(&values, 1)?;
        let bias = optional::<1>(&values, 2)?;
        let residual = optional::<2>(&values, 3)?;
        let matrix = &self.matrices[self.matrix];
        let expected = matrix.shape.columns;
        if columns != expected {
            let problem = format!("has {columns} columns, but the matrix has {expected}");
            return Err(input_error(INPUTS[0], problem));
        }
        let inputs = MatmulInputs {
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
            .ok_or_else(|| invalid_node("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let mut quantized = self
            .quantized
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let parallel = thread_pool(context);
        multiply(
            &inputs,
            output,
            &mut quantized,
            self.instructions,
            &parallel,
        )
        .map_err(ort::Error::wrap)
    }
}

/// Returns the dimensions and elements of the input `index`, or `None` if the input is absent.
fn optional<'v, const RANK: usize>(
    values: &'v [Option<ValueRef<'_>>],
    index: usize,
) -> ort::Result<Option<([usize; RANK], &'v [f32])>> {
    let value = values.get(index).and_then(Option::as_ref);
    value.map(|value| tensor(value, INPUTS[index])).transpose()
}
