//! The ONNX operator `LowRankUpdate`: reads and checks inputs. `low_rank` computes the result.

use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorInput};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRef};

use super::custom_operator::{CustomOperator, thread_pool};
use super::low_rank::{LowRankInputs, update};
use super::node::{input_error, invalid_node, tensor};
use super::simd::Instructions;

/// The operator. Neither ONNX nor the contrib operators have an equivalent.
pub(super) struct LowRankUpdate;

/// Names of the inputs in order; [`LowRankInputs`] describes them.
const INPUTS: [&str; 6] = ["product", "input", "scales", "down", "up", "branches"];

impl CustomOperator for LowRankUpdate {
    type Kernel = LowRankUpdateKernel;

    const NAME: &'static str = "LowRankUpdate";

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        INPUTS.map(|name| {
            OperatorInput::required(match name {
                "branches" => TensorElementType::Int64,
                _ => TensorElementType::Float32,
            })
        })
    }

    fn create_kernel(&self, _: &KernelContext) -> ort::Result<LowRankUpdateKernel> {
        Ok(LowRankUpdateKernel(Instructions::detect()))
    }
}

pub(super) struct LowRankUpdateKernel(Instructions);

impl Kernel for LowRankUpdateKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let values = (0..INPUTS.len()).map(|index| context.input(index));
        let values = values.collect::<ort::Result<Vec<_>>>()?;
        let ([rows, outputs], base) = required(&values, 0)?;
        let ([_, columns], input) = required(&values, 1)?;
        let ([_, adapters], scales) = required(&values, 2)?;
        let ([_, a_columns], lora_a) = required(&values, 3)?;
        let ([_], lora_b) = required(&values, 4)?;
        let ([_], branches) = required(&values, 5)?;
        if a_columns != columns {
            let problem = format!("has {a_columns} columns, but the input has {columns}");
            return Err(input_error(INPUTS[3], problem));
        }
        let mut output = context
            .output(0, [rows as i64, outputs as i64])?
            .ok_or_else(|| invalid_node("the node has no output"))?;
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

/// Returns the dimensions and elements of the input `index`.
fn required<'v, T: PrimitiveTensorElementType, const RANK: usize>(
    values: &'v [Option<ValueRef<'_>>],
    index: usize,
) -> ort::Result<([usize; RANK], &'v [T])> {
    let value = values[index].as_ref();
    tensor(
        value.ok_or_else(|| input_error(INPUTS[index], "is missing"))?,
        INPUTS[index],
    )
}
