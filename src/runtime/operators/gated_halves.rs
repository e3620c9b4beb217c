//! The ONNX operator `GatedHalves`: multiplies the second half of each row by the activation of the first half. Graphs
//! use the operator if a LoRA update comes between a matmul and its gate, so that `MatMulPanels` cannot apply the gate.
//! `activation` computes the result.

use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorInput};
use ort::value::TensorElementType;

use super::activation::gate_halves;
use super::custom_operator::{CustomOperator, thread_pool};
use super::node::{gate_activation, input_error, invalid_node, tensor};
use super::simd::Instructions;
use crate::graph::{Activation, GATED};

/// The operator. The input is `[rows, 2 · width]`, the output `[rows, width]`.
pub(super) struct GatedHalves;

/// Name of the only input, for errors.
const INPUT: &str = "x";

impl CustomOperator for GatedHalves {
    type Kernel = GatedHalvesKernel;

    const NAME: &'static str = "GatedHalves";

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn create_kernel(&self, attributes: &KernelContext) -> ort::Result<GatedHalvesKernel> {
        let activation = gate_activation(attributes)?
            .ok_or_else(|| invalid_node(format!("{GATED} is missing")))?;
        Ok(GatedHalvesKernel {
            activation,
            instructions: Instructions::detect(),
        })
    }
}

pub(super) struct GatedHalvesKernel {
    activation: Activation,
    instructions: Instructions,
}

impl Kernel for GatedHalvesKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let x = context.input(0)?;
        let x = x.ok_or_else(|| input_error(INPUT, "is missing"))?;
        let ([rows, columns], x) = tensor::<f32, 2>(&x, INPUT)?;
        if !columns.is_multiple_of(2) {
            return Err(input_error(
                INPUT,
                format!("has {columns} columns, not an even number"),
            ));
        }
        let width = columns / 2;
        let mut output = context
            .output(0, [rows as i64, width as i64])?
            .ok_or_else(|| invalid_node("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        gate_halves(
            self.activation,
            x,
            width,
            output,
            self.instructions,
            &thread_pool(context),
        )
        .map_err(ort::Error::wrap)
    }
}
