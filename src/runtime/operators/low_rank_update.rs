//! The ONNX operator `LowRankUpdate`: reads and checks inputs. `low_rank` computes the result.

use ort::operator::{ComputeContext, Kernel, KernelContext};
use ort::value::TensorElementType::{Float32, Int64};

use super::custom_operator::{CustomOperator, thread_pool};
use super::low_rank::{LowRankInputs, update};
use super::node::{Input, Inputs, output};
use super::simd::Instructions;

/// The operator. Neither ONNX nor the contrib operators have an equivalent.
pub(super) struct LowRankUpdate;

impl CustomOperator for LowRankUpdate {
    type Kernel = LowRankUpdateKernel;

    const NAME: &'static str = "LowRankUpdate";

    /// [`LowRankInputs`] describes the inputs.
    const INPUTS: &'static [Input] = &[
        Input::required("product", Float32),
        Input::required("input", Float32),
        Input::required("scales", Float32),
        Input::required("down", Float32),
        Input::required("up", Float32),
        Input::required("branches", Int64),
    ];

    fn create_kernel(&self, _: &KernelContext) -> ort::Result<LowRankUpdateKernel> {
        Ok(LowRankUpdateKernel(Instructions::detect()))
    }
}

pub(super) struct LowRankUpdateKernel(Instructions);

impl Kernel for LowRankUpdateKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::new(context, LowRankUpdate::INPUTS)?;
        let ([rows, outputs], base) = inputs.required(0)?;
        let ([_, columns], input) = inputs.required(1)?;
        let ([_, adapters], scales) = inputs.required(2)?;
        let ([_, a_columns], lora_a) = inputs.required(3)?;
        let ([_], lora_b) = inputs.required(4)?;
        let ([_], branches) = inputs.required(5)?;
        if a_columns != columns {
            let problem = format!("has {a_columns} columns, but the input has {columns}");
            return Err(inputs.error(3, problem));
        }
        let mut output = output(context, [rows, outputs])?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let inputs = LowRankInputs {
            base,
            outputs,
            input,
            columns,
            scales,
            adapters,
            lora_a,
            lora_b,
            branches,
        };
        update(&inputs, output, self.0, &thread_pool(context)).map_err(ort::Error::wrap)
    }
}
