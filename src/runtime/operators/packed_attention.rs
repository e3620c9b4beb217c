//! The ONNX operator `PackedMultiHeadAttention`: reads and checks attributes and inputs; `encoder_attention` computes
//! the result. The operator follows the specification of `com.microsoft::PackedMultiHeadAttention` (version 1), for
//! which ONNX Runtime has no CPU kernel, in f32. Features that encoders do not need are rejected by input name.

use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorInput};
use ort::value::TensorElementType;

use super::custom_operator::{CustomOperator, thread_pool};
use super::encoder_attention::{EncoderAttentionInputs, attend_bidirectional};
use super::node::{
    attention_scale, head_count, input_error, inputs, invalid_node, reject_inputs, tensor,
};
use super::simd::Instructions;

/// The operator. The only output is the attention, `[tokens, heads · head_size]`.
pub(super) struct PackedMultiHeadAttention;

/// The inputs in the order of the operator's schema. `token_offset` is ignored: this input repeats the sequence
/// boundaries of `cumulative_sequence_length`, as positions in a padded batch.
#[derive(Clone, Copy)]
enum Input {
    Query,
    Key,
    Value,
    Bias,
    TokenOffset,
    CumulativeSequenceLength,
    AttentionBias,
}

impl Input {
    const ALL: [Input; 7] = [
        Input::Query,
        Input::Key,
        Input::Value,
        Input::Bias,
        Input::TokenOffset,
        Input::CumulativeSequenceLength,
        Input::AttentionBias,
    ];
    const UNSUPPORTED: [Input; 2] = [Input::Bias, Input::AttentionBias];

    fn name(self) -> &'static str {
        match self {
            Input::Query => "query",
            Input::Key => "key",
            Input::Value => "value",
            Input::Bias => "bias",
            Input::TokenOffset => "token_offset",
            Input::CumulativeSequenceLength => "cumulative_sequence_length",
            Input::AttentionBias => "attention_bias",
        }
    }

    fn declaration(self) -> OperatorInput {
        use TensorElementType::{Float32, Int32};
        match self {
            Input::Query | Input::Key | Input::Value => OperatorInput::required(Float32),
            Input::Bias | Input::AttentionBias => OperatorInput::optional(Float32),
            Input::TokenOffset => OperatorInput::optional(Int32),
            Input::CumulativeSequenceLength => OperatorInput::required(Int32),
        }
    }
}

impl CustomOperator for PackedMultiHeadAttention {
    type Kernel = PackedMultiHeadAttentionKernel;

    const NAME: &'static str = "PackedMultiHeadAttention";

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        Input::ALL.map(Input::declaration)
    }

    fn create_kernel(
        &self,
        attributes: &KernelContext,
    ) -> ort::Result<PackedMultiHeadAttentionKernel> {
        Ok(PackedMultiHeadAttentionKernel {
            heads: head_count(attributes, "num_heads")?,
            scale: attention_scale(attributes)?,
            instructions: Instructions::detect(),
        })
    }
}

/// The validated attributes of a node.
pub(super) struct PackedMultiHeadAttentionKernel {
    heads: usize,
    /// Factor of attention scores; `None` means 1/√head_size.
    scale: Option<f32>,
    instructions: Instructions,
}

impl Kernel for PackedMultiHeadAttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let values = inputs(context, Input::ALL.len())?;
        let unsupported = Input::UNSUPPORTED.map(|input| (input as usize, input.name()));
        reject_inputs(&values, unsupported)?;
        let required = |input: Input| {
            let value = values.get(input as usize).and_then(Option::as_ref);
            value.ok_or_else(|| input_error(input.name(), "is missing"))
        };
        let rows = |input: Input| tensor::<f32, 2>(required(input)?, input.name());
        let ([tokens, width], query) = rows(Input::Query)?;
        let (_, key) = rows(Input::Key)?;
        let (_, value_rows) = rows(Input::Value)?;
        let bounds = Input::CumulativeSequenceLength;
        let ([_], cumulative_sequence_length) = tensor::<i32, 1>(required(bounds)?, bounds.name())?;
        if !width.is_multiple_of(self.heads) {
            let problem = format!("has rows of {width} elements for {} heads", self.heads);
            return Err(input_error(Input::Query.name(), problem));
        }
        let head_size = width / self.heads;
        let mut output = context
            .output(0, [tokens as i64, width as i64])?
            .ok_or_else(|| invalid_node("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let inputs = EncoderAttentionInputs {
            heads: self.heads,
            head_size,
            query,
            key,
            value: value_rows,
            cumulative_sequence_length,
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
        };
        attend_bidirectional(&inputs, output, self.instructions, &thread_pool(context))
            .map_err(ort::Error::wrap)
    }
}
