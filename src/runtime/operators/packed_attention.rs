//! The ONNX operator `PackedMultiHeadAttention`: reads and checks attributes and inputs; `encoder_attention` computes
//! the result. The operator follows the specification of `com.microsoft::PackedMultiHeadAttention` (version 1), for
//! which ONNX Runtime has no CPU kernel, in f32. Features that encoders do not need are rejected by input name.

use ort::operator::{ComputeContext, Kernel, KernelContext};
use ort::value::TensorElementType::{Float32, Int32};

use super::custom_operator::{CustomOperator, thread_pool};
use super::encoder_attention::{EncoderAttentionInputs, attend_bidirectional};
use super::node::{Input, Inputs, attention_scale, head_count, output};
use super::simd::Instructions;

/// The operator. The only output is the attention, `[tokens, heads · head_size]`.
pub(super) struct PackedMultiHeadAttention;

impl CustomOperator for PackedMultiHeadAttention {
    type Kernel = PackedMultiHeadAttentionKernel;

    const NAME: &'static str = "PackedMultiHeadAttention";

    /// `token_offset` is ignored: it repeats the sequence boundaries of `cumulative_sequence_length`, as positions in a
    /// padded batch.
    const INPUTS: &'static [Input] = &[
        Input::required("query", Float32),
        Input::required("key", Float32),
        Input::required("value", Float32),
        Input::optional("bias", Float32),
        Input::optional("token_offset", Int32),
        Input::required("cumulative_sequence_length", Int32),
        Input::optional("attention_bias", Float32),
    ];

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
        let inputs = Inputs::new(context, PackedMultiHeadAttention::INPUTS)?;
        let biases = [3, 6];
        inputs.refuse(&biases, "is not supported on CPU")?;
        let ([tokens, width], query) = inputs.required(0)?;
        let ([_, _], key) = inputs.required(1)?;
        let ([_, _], value) = inputs.required(2)?;
        let ([_], cumulative_sequence_length) = inputs.required(5)?;
        if !width.is_multiple_of(self.heads) {
            let problem = format!("has rows of {width} elements for {} heads", self.heads);
            return Err(inputs.error(0, problem));
        }
        let head_size = width / self.heads;
        let mut output = output(context, [tokens, width])?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let inputs = EncoderAttentionInputs {
            heads: self.heads,
            head_size,
            query,
            key,
            value,
            cumulative_sequence_length,
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
        };
        attend_bidirectional(&inputs, output, self.instructions, &thread_pool(context))
            .map_err(ort::Error::wrap)
    }
}
