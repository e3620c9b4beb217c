//! The ONNX operator `GatedHalves`: multiplies the second half of each row by the activation of the first half. Graphs
//! use the operator if a LoRA update comes between a matmul and its gate, so that `MatMulPanels` cannot apply the gate.
//! `activation` computes the result.

use ort::operator::{ComputeContext, Kernel, KernelContext};
use ort::value::TensorElementType::Float32;

use super::activation::gate_halves;
use super::custom_operator::{CustomOperator, thread_pool};
use super::node::{Input, Inputs, gate_activation, invalid_node, output};
use super::simd::Instructions;
use crate::graph::{Activation, GATED};

/// The operator. The input is `[rows, 2 · width]`, the output `[rows, width]`.
pub(super) struct GatedHalves;

impl CustomOperator for GatedHalves {
    type Kernel = GatedHalvesKernel;

    const NAME: &'static str = "GatedHalves";

    const INPUTS: &'static [Input] = &[Input::required("x", Float32)];

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
        let inputs = Inputs::new(context, GatedHalves::INPUTS)?;
        let ([rows, columns], x) = inputs.required::<f32, 2>(0)?;
        if !columns.is_multiple_of(2) {
            let problem = format!("has {columns} columns, not an even number");
            return Err(inputs.error(0, problem));
        }
        let width = columns / 2;
        let mut output = output(context, [rows, width])?;
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
