//! `GatedHalves` as ONNX Runtime sees it: the second half of each row, times a function of the first, as `MatMulPanels` computes
//! it. For products that something is added to before.

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::activation::gate_halves;
use super::node::{gated, input_error, refused, tensor, threads};
use super::simd::Instructions;
use crate::graph::{Activation, GATED};

/// The operator. Its one input is `[rows, 2 · width]`, its output `[rows, width]`.
pub(super) struct GatedHalves;

/// The input's name.
const INPUT: &str = "x";

impl Operator for GatedHalves {
    type Kernel<'attr> = GatedHalvesKernel;

    fn name(&self) -> &str {
        "GatedHalves"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        attributes: &KernelContext<'attr>,
    ) -> ort::Result<GatedHalvesKernel> {
        let activation =
            gated(attributes)?.ok_or_else(|| refused(format!("{GATED} is missing")))?;
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
        let ([rows, both], x) = tensor::<f32, 2>(&x, INPUT)?;
        if !both.is_multiple_of(2) {
            return Err(input_error(
                INPUT,
                format!("has {both} columns, which have no halves"),
            ));
        }
        let width = both / 2;
        let mut output = context
            .output(0, [rows as i64, width as i64])?
            .ok_or_else(|| refused("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        gate_halves(
            self.activation,
            x,
            width,
            output,
            self.instructions,
            &threads(context),
        )
        .map_err(ort::Error::wrap)
    }
}
