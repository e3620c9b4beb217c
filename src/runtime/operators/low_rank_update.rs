//! `LowRankUpdate` as ONNX Runtime sees it: its inputs and their shapes. The computation is `low_rank`'s.

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRef};

use super::low_rank::{UpdateInputs, update};
use super::node::{input_error, refused, tensor, threads};
use super::simd::Instructions;

/// The operator. There is none of that kind in ONNX or among the contrib operators.
pub(super) struct LowRankUpdate;

/// The inputs in order, as [`UpdateInputs`] describes them.
const INPUTS: [&str; 6] = ["product", "input", "scales", "down", "up", "branches"];

impl Operator for LowRankUpdate {
    type Kernel<'attr> = LowRankUpdateKernel;

    fn name(&self) -> &str {
        "LowRankUpdate"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        INPUTS.map(|name| {
            OperatorInput::required(match name {
                "branches" => TensorElementType::Int64,
                _ => TensorElementType::Float32,
            })
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<LowRankUpdateKernel> {
        Ok(LowRankUpdateKernel(Instructions::detect()))
    }
}

pub(super) struct LowRankUpdateKernel(Instructions);

impl Kernel for LowRankUpdateKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let values = (0..INPUTS.len()).map(|index| context.input(index));
        let values = values.collect::<ort::Result<Vec<_>>>()?;
        let ([rows, outputs], product) = given(&values, 0)?;
        let ([_, columns], input) = given(&values, 1)?;
        let ([_, adapters], scales) = given(&values, 2)?;
        let ([_, down_columns], down) = given(&values, 3)?;
        let ([_], up) = given(&values, 4)?;
        let ([_], branches) = given(&values, 5)?;
        if down_columns != columns {
            let problem = format!("has {down_columns} columns, the input {columns}");
            return Err(input_error(INPUTS[3], problem));
        }
        let mut output = context
            .output(0, [rows as i64, outputs as i64])?
            .ok_or_else(|| refused("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let inputs = UpdateInputs {
            product,
            outputs,
            input,
            columns,
            scales,
            adapters,
            down,
            up,
            branches,
        };
        update(&inputs, output, self.0, &threads(context)).map_err(ort::Error::wrap)
    }
}

/// The sizes and elements of the input of that number.
fn given<'v, T: PrimitiveTensorElementType, const RANK: usize>(
    values: &'v [Option<ValueRef<'_>>],
    index: usize,
) -> ort::Result<([usize; RANK], &'v [T])> {
    let value = values[index].as_ref();
    tensor(
        value.ok_or_else(|| input_error(INPUTS[index], "is missing"))?,
        INPUTS[index],
    )
}
