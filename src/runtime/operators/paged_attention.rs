//! The ONNX operator `PagedAttention`: reads and checks attributes and inputs; `attention` computes the result. The
//! operator follows the specification of `com.microsoft::PagedAttention` (version 1), in f32 with f16 caches. Features
//! that no supported model family needs are rejected; the error names the attribute or input.

use half::f16;
use ort::operator::{ComputeContext, Kernel, KernelContext};
use ort::value::DynTensorValueType;
use ort::value::TensorElementType::{Float16, Float32, Int32};

use super::attention::attend;
use super::attention_inputs::{AttentionCaches, AttentionInputs, AttentionShape, Scoring};
use super::batch::BatchIndices;
use super::custom_operator::{CustomOperator, thread_pool};
use super::node::{
    Input, Inputs, attention_scale, flag, head_count, invalid_node, output, positive,
    require_default,
};
use super::norm::{QueryKeyNorms, RowNorm};
use super::rotary::{Pairing, Rotary};
use super::simd::Instructions;

/// The operator. The only output is the attention, `[tokens, heads · head_size]`; caches are updated in place (see the
/// safety section of [`super::domain`]).
pub(super) struct PagedAttention;

/// Indices of the inputs that are read.
mod index {
    pub(super) const QUERY: usize = 0;
    pub(super) const KEY: usize = 1;
    pub(super) const VALUE: usize = 2;
    pub(super) const KEY_CACHE: usize = 3;
    pub(super) const VALUE_CACHE: usize = 4;
    pub(super) const CUMULATIVE_SEQUENCE_LENGTH: usize = 5;
    pub(super) const PAST_SEQLENS: usize = 6;
    pub(super) const BLOCK_TABLE: usize = 7;
    pub(super) const COS_CACHE: usize = 8;
    pub(super) const SIN_CACHE: usize = 9;
    pub(super) const SLOT_MAPPING: usize = 10;
    pub(super) const Q_NORM_WEIGHT: usize = 12;
    pub(super) const K_NORM_WEIGHT: usize = 13;
    pub(super) const UNSUPPORTED: [usize; 3] = [11, 14, 15];
}

impl CustomOperator for PagedAttention {
    type Kernel = PagedAttentionKernel;

    const NAME: &'static str = "PagedAttention";

    const INPUTS: &'static [Input] = &[
        Input::required("query", Float32),
        Input::optional("key", Float32),
        Input::optional("value", Float32),
        Input::required("key_cache", Float16),
        Input::required("value_cache", Float16),
        Input::required("cumulative_sequence_length", Int32),
        Input::required("past_seqlens", Int32),
        Input::required("block_table", Int32),
        Input::optional("cos_cache", Float32),
        Input::optional("sin_cache", Float32),
        Input::optional("slot_mapping", Int32),
        Input::optional("head_sink", Float32),
        Input::optional("q_norm_weight", Float32),
        Input::optional("k_norm_weight", Float32),
        Input::optional("k_scale", Float32),
        Input::optional("v_scale", Float32),
        // Bounds that other implementations use to select a kernel; ignored here.
        Input::optional("attention_metadata", Int32),
    ];

    fn create_kernel(&self, attributes: &KernelContext) -> ort::Result<PagedAttentionKernel> {
        PagedAttentionKernel::new(attributes)
    }
}

/// The validated attributes of a node.
pub(super) struct PagedAttentionKernel {
    heads: usize,
    kv_heads: usize,
    /// Factor of attention scores; `None` means 1/√head_size.
    scale: Option<f32>,
    softcap: Option<f32>,
    window: Option<usize>,
    /// Epsilon of the query and key norms.
    norm_epsilon: f32,
    rotary: Option<Pairing>,
    instructions: Instructions,
}

impl PagedAttentionKernel {
    fn new(attributes: &KernelContext) -> ort::Result<Self> {
        let heads = head_count(attributes, "num_heads")?;
        let kv_heads = head_count(attributes, "kv_num_heads")?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(invalid_node(format!(
                "num_heads {heads} is not a multiple of kv_num_heads {kv_heads}"
            )));
        }
        let interleaved = flag(attributes, "rotary_interleaved")?;
        let pairing = if interleaved {
            Pairing::Adjacent
        } else {
            Pairing::Halves
        };
        let rotary = flag(attributes, "do_rotary")?.then_some(pairing);

        let window = match attributes.get::<i64>("local_window_size") {
            None | Some(-1) => None,
            Some(size @ 1..) => usize::try_from(size).ok(),
            Some(other) => {
                return Err(invalid_node(format!(
                    "local_window_size is {other}, not -1 or above 0"
                )));
            }
        };
        let softcap = match attributes.get::<f32>("softcap") {
            None | Some(0.0) => None,
            Some(softcap) => Some(positive("softcap", softcap)?),
        };
        let norm_epsilon = attributes.get::<f32>("qk_norm_epsilon");
        let norm_epsilon = positive("qk_norm_epsilon", norm_epsilon.unwrap_or(1e-6))?;
        require_default(attributes, "is_causal", &1_i64)?;
        require_default(attributes, "rotary_offset", &0_i64)?;
        require_default(attributes, "v_head_size", &0_i64)?;
        for (name, default) in [
            ("kv_cache_layout", "SEPARATE"),
            ("k_quant_type", "NONE"),
            ("v_quant_type", "NONE"),
            ("k_cache_dtype", ""),
            ("v_cache_dtype", ""),
        ] {
            if attributes.get::<String>(name).as_deref() != Some("float16")
                || !name.ends_with("_cache_dtype")
            {
                require_default(attributes, name, &default.to_string())?;
            }
        }
        Ok(PagedAttentionKernel {
            heads,
            kv_heads,
            scale: attention_scale(attributes)?,
            softcap,
            window,
            norm_epsilon,
            rotary,
            instructions: Instructions::detect(),
        })
    }

    fn norms<'a>(&self, inputs: &'a Inputs) -> ort::Result<Option<QueryKeyNorms<'a>>> {
        let norm = |gain| RowNorm {
            gain,
            epsilon: self.norm_epsilon,
        };
        match (
            inputs.optional::<f32, 1>(index::Q_NORM_WEIGHT)?,
            inputs.optional::<f32, 1>(index::K_NORM_WEIGHT)?,
        ) {
            (None, None) => Ok(None),
            (Some((_, query)), Some((_, key))) => Ok(Some(QueryKeyNorms {
                query: norm(query),
                key: norm(key),
            })),
            (Some(_), None) => Err(inputs.error(
                index::K_NORM_WEIGHT,
                "is missing, but q_norm_weight is given",
            )),
            (None, Some(_)) => Err(inputs.error(
                index::Q_NORM_WEIGHT,
                "is missing, but k_norm_weight is given",
            )),
        }
    }

    fn rotary<'a>(&self, inputs: &'a Inputs) -> ort::Result<Option<Rotary<'a>>> {
        let Some(pairing) = self.rotary else {
            let tables = [index::COS_CACHE, index::SIN_CACHE];
            inputs.refuse(&tables, "is given, but do_rotary is 0")?;
            return Ok(None);
        };
        let ([positions, pairs], cosines) = inputs.required::<f32, 2>(index::COS_CACHE)?;
        let (sine_shape, sines) = inputs.required::<f32, 2>(index::SIN_CACHE)?;
        if sine_shape != [positions, pairs] {
            return Err(inputs.error(index::SIN_CACHE, "does not have the shape of cos_cache"));
        }
        Ok(Some(Rotary {
            cosines,
            sines,
            pairs,
            pairing,
        }))
    }
}

impl Kernel for PagedAttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::new(context, PagedAttention::INPUTS)?;
        inputs.refuse(&index::UNSUPPORTED, "is not supported on CPU")?;

        let (cache_shape, _) = inputs.required::<f16, 4>(index::KEY_CACHE)?;
        let (value_shape, _) = inputs.required::<f16, 4>(index::VALUE_CACHE)?;
        let [blocks, block_tokens, kv_heads, head_size] = cache_shape;
        if value_shape != cache_shape {
            return Err(inputs.error(index::VALUE_CACHE, "does not have the shape of key_cache"));
        }
        if kv_heads != self.kv_heads {
            let problem = format!("has {kv_heads} heads, kv_num_heads is {}", self.kv_heads);
            return Err(inputs.error(index::KEY_CACHE, problem));
        }
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads,
            head_size,
            blocks,
            block_tokens,
        };

        let ([tokens, query_width], query) = inputs.required::<f32, 2>(index::QUERY)?;
        let key_value = match (
            inputs.optional::<f32, 2>(index::KEY)?,
            inputs.optional::<f32, 2>(index::VALUE)?,
        ) {
            (None, None) => None,
            (Some((_, key)), Some((_, value))) => Some((key, value)),
            (Some(_), None) => {
                return Err(inputs.error(index::VALUE, "is missing, but key is given"));
            }
            (None, Some(_)) => {
                return Err(inputs.error(index::KEY, "is missing, but value is given"));
            }
        };
        let row_heads = self.heads + if key_value.is_some() { 0 } else { 2 * kv_heads };
        if Some(query_width) != row_heads.checked_mul(head_size) {
            let problem =
                format!("has rows of {query_width} elements for {row_heads} heads of {head_size}");
            return Err(inputs.error(index::QUERY, problem));
        }

        let (_, cumulative_sequence_length) =
            inputs.required::<i32, 1>(index::CUMULATIVE_SEQUENCE_LENGTH)?;
        let (_, past_seqlens) = inputs.required::<i32, 1>(index::PAST_SEQLENS)?;
        let ([_, blocks_per_sequence], block_table) =
            inputs.required::<i32, 2>(index::BLOCK_TABLE)?;
        let slot_mapping = inputs
            .optional::<i32, 1>(index::SLOT_MAPPING)?
            .map(|(_, mapping)| mapping);
        let batch = BatchIndices {
            cumulative_sequence_length,
            past_seqlens,
            block_table,
            blocks_per_sequence,
            slot_mapping,
        };
        let (norms, rotary) = (self.norms(&inputs)?, self.rotary(&inputs)?);
        let scoring = Scoring {
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
            softcap: self.softcap,
            window: self.window,
        };

        let mut output = output(context, [tokens, self.heads * head_size])?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        // SAFETY: the caller of `domain` guarantees that this node may write to its caches, and that nothing else
        // accesses them during a run. None of the slices above is a cache.
        let caches = unsafe { caches(&inputs) }?;
        let inputs = AttentionInputs {
            query,
            key_value,
            batch,
            norms,
            rotary,
            scoring,
        };
        attend(
            shape,
            &inputs,
            caches,
            output,
            self.instructions,
            &thread_pool(context),
        )
        .map_err(ort::Error::wrap)
    }
}

/// Returns the cache tensors as mutable slices.
///
/// # Safety
/// The memory of the cache tensors must be writable. While the result lives, nothing else may access it.
unsafe fn caches<'a>(inputs: &'a Inputs) -> ort::Result<AttentionCaches<'a>> {
    let memory = |input: usize| -> ort::Result<(*mut f16, usize)> {
        let value = inputs
            .value(input)
            .ok_or_else(|| inputs.error(input, "is missing"))?;
        let elements = value.try_extract_tensor::<f16>()?.1.len();
        if elements == 0 {
            return Err(inputs.error(input, "is empty"));
        }
        let tensor = value.view().downcast::<DynTensorValueType>()?;
        Ok((tensor.data_ptr().cast_mut().cast(), elements))
    };
    let (keys, key_elements) = memory(index::KEY_CACHE)?;
    let (values, value_elements) = memory(index::VALUE_CACHE)?;
    let (first, end) = (keys.addr(), keys.addr() + key_elements * size_of::<f16>());
    if values.addr() < end && first < values.addr() + value_elements * size_of::<f16>() {
        return Err(inputs.error(index::VALUE_CACHE, "overlaps key_cache"));
    }
    // SAFETY: ONNX Runtime guarantees this number of elements at each address, and the two tensors do not
    // overlap. The caller guarantees that they are writable and not accessed elsewhere.
    let (keys, values) = unsafe {
        (
            std::slice::from_raw_parts_mut(keys, key_elements),
            std::slice::from_raw_parts_mut(values, value_elements),
        )
    };
    Ok(AttentionCaches { keys, values })
}
