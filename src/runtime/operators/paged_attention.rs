//! The ONNX operator `PagedAttention`: reads and checks attributes and inputs; `attention` computes the result. The
//! operator follows the specification of `com.microsoft::PagedAttention` (version 1), in f32 with f16 caches. Features
//! that no supported model family needs are rejected; the error names the attribute or input.

use half::f16;
use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorInput};
use ort::value::{DynTensorValueType, PrimitiveTensorElementType, TensorElementType, ValueRef};

use super::attention::attend;
use super::attention_inputs::{AttentionCaches, AttentionInputs, AttentionShape, Scoring};
use super::batch::BatchIndices;
use super::custom_operator::{CustomOperator, thread_pool};
use super::node::{self, flag, head_count, invalid_node, positive, require_default};
use super::norm::{QueryKeyNorms, RowNorm};
use super::rotary::{Pairing, Rotary};
use super::simd::Instructions;

/// The operator. The only output is the attention, `[tokens, heads · head_size]`; caches are updated in place (see the
/// safety section of [`super::domain`]).
pub(super) struct PagedAttention;

/// The inputs in the order of the operator's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Query,
    Key,
    Value,
    KeyCache,
    ValueCache,
    CumulativeSequenceLength,
    PastSeqlens,
    BlockTable,
    CosCache,
    SinCache,
    SlotMapping,
    HeadSink,
    QNormWeight,
    KNormWeight,
    KScale,
    VScale,
    /// Bounds that other implementations use to select a kernel; ignored here.
    AttentionMetadata,
}

impl Input {
    const ALL: [Input; 17] = [
        Input::Query,
        Input::Key,
        Input::Value,
        Input::KeyCache,
        Input::ValueCache,
        Input::CumulativeSequenceLength,
        Input::PastSeqlens,
        Input::BlockTable,
        Input::CosCache,
        Input::SinCache,
        Input::SlotMapping,
        Input::HeadSink,
        Input::QNormWeight,
        Input::KNormWeight,
        Input::KScale,
        Input::VScale,
        Input::AttentionMetadata,
    ];
    const UNSUPPORTED: [Input; 3] = [Input::HeadSink, Input::KScale, Input::VScale];

    fn name(self) -> &'static str {
        match self {
            Input::Query => "query",
            Input::Key => "key",
            Input::Value => "value",
            Input::KeyCache => "key_cache",
            Input::ValueCache => "value_cache",
            Input::CumulativeSequenceLength => "cumulative_sequence_length",
            Input::PastSeqlens => "past_seqlens",
            Input::BlockTable => "block_table",
            Input::CosCache => "cos_cache",
            Input::SinCache => "sin_cache",
            Input::SlotMapping => "slot_mapping",
            Input::HeadSink => "head_sink",
            Input::QNormWeight => "q_norm_weight",
            Input::KNormWeight => "k_norm_weight",
            Input::KScale => "k_scale",
            Input::VScale => "v_scale",
            Input::AttentionMetadata => "attention_metadata",
        }
    }

    fn declaration(self) -> OperatorInput {
        use TensorElementType::{Float16, Float32, Int32};
        match self {
            Input::Query => OperatorInput::required(Float32),
            Input::KeyCache | Input::ValueCache => OperatorInput::required(Float16),
            Input::CumulativeSequenceLength | Input::PastSeqlens | Input::BlockTable => {
                OperatorInput::required(Int32)
            }
            Input::SlotMapping | Input::AttentionMetadata => OperatorInput::optional(Int32),
            _ => OperatorInput::optional(Float32),
        }
    }
}

impl CustomOperator for PagedAttention {
    type Kernel = PagedAttentionKernel;

    const NAME: &'static str = "PagedAttention";

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        Input::ALL.map(Input::declaration)
    }

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
            scale: node::attention_scale(attributes)?,
            softcap,
            window,
            norm_epsilon,
            rotary,
            instructions: Instructions::detect(),
        })
    }

    fn norms<'a>(&self, tensors: &'a Tensors) -> ort::Result<Option<QueryKeyNorms<'a>>> {
        let norm = |gain| RowNorm {
            gain,
            epsilon: self.norm_epsilon,
        };
        match (
            tensors.optional::<f32, 1>(Input::QNormWeight)?,
            tensors.optional::<f32, 1>(Input::KNormWeight)?,
        ) {
            (None, None) => Ok(None),
            (Some((_, query)), Some((_, key))) => Ok(Some(QueryKeyNorms {
                query: norm(query),
                key: norm(key),
            })),
            (Some(_), None) => Err(input_error(
                Input::KNormWeight,
                "is missing, but q_norm_weight is given",
            )),
            (None, Some(_)) => Err(input_error(
                Input::QNormWeight,
                "is missing, but k_norm_weight is given",
            )),
        }
    }

    fn rotary<'a>(&self, tensors: &'a Tensors) -> ort::Result<Option<Rotary<'a>>> {
        let Some(pairing) = self.rotary else {
            return match Input::ALL.into_iter().find(|&input| {
                matches!(input, Input::CosCache | Input::SinCache) && tensors.get(input).is_some()
            }) {
                Some(input) => Err(input_error(input, "is given, but do_rotary is 0")),
                None => Ok(None),
            };
        };
        let ([positions, pairs], cosines) = tensors.required::<f32, 2>(Input::CosCache)?;
        let (sine_shape, sines) = tensors.required::<f32, 2>(Input::SinCache)?;
        if sine_shape != [positions, pairs] {
            return Err(input_error(
                Input::SinCache,
                "does not have the shape of cos_cache",
            ));
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
        let tensors = Tensors::new(context)?;
        let unsupported = Input::UNSUPPORTED.map(|input| (input as usize, input.name()));
        node::reject_inputs(&tensors.0, unsupported)?;

        let (cache_shape, _) = tensors.required::<f16, 4>(Input::KeyCache)?;
        let (value_shape, _) = tensors.required::<f16, 4>(Input::ValueCache)?;
        let [blocks, block_tokens, kv_heads, head_size] = cache_shape;
        if value_shape != cache_shape {
            return Err(input_error(
                Input::ValueCache,
                "does not have the shape of key_cache",
            ));
        }
        if kv_heads != self.kv_heads {
            let problem = format!("has {kv_heads} heads, kv_num_heads is {}", self.kv_heads);
            return Err(input_error(Input::KeyCache, problem));
        }
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads,
            head_size,
            blocks,
            block_tokens,
        };

        let ([tokens, query_width], query) = tensors.required::<f32, 2>(Input::Query)?;
        let key_value = match (
            tensors.optional::<f32, 2>(Input::Key)?,
            tensors.optional::<f32, 2>(Input::Value)?,
        ) {
            (None, None) => None,
            (Some((_, key)), Some((_, value))) => Some((key, value)),
            (Some(_), None) => {
                return Err(input_error(Input::Value, "is missing, but key is given"));
            }
            (None, Some(_)) => {
                return Err(input_error(Input::Key, "is missing, but value is given"));
            }
        };
        let row_heads = self.heads + if key_value.is_some() { 0 } else { 2 * kv_heads };
        if Some(query_width) != row_heads.checked_mul(head_size) {
            let problem =
                format!("has rows of {query_width} elements for {row_heads} heads of {head_size}");
            return Err(input_error(Input::Query, problem));
        }

        let (_, cumulative_sequence_length) =
            tensors.required::<i32, 1>(Input::CumulativeSequenceLength)?;
        let (_, past_seqlens) = tensors.required::<i32, 1>(Input::PastSeqlens)?;
        let ([_, blocks_per_sequence], block_table) =
            tensors.required::<i32, 2>(Input::BlockTable)?;
        let slot_mapping = tensors
            .optional::<i32, 1>(Input::SlotMapping)?
            .map(|(_, mapping)| mapping);
        let batch = BatchIndices {
            cumulative_sequence_length,
            past_seqlens,
            block_table,
            blocks_per_sequence,
            slot_mapping,
        };
        let (norms, rotary) = (self.norms(&tensors)?, self.rotary(&tensors)?);
        let scoring = Scoring {
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
            softcap: self.softcap,
            window: self.window,
        };

        let mut output = context
            .output(0, [tokens as i64, (self.heads * head_size) as i64])?
            .ok_or_else(|| invalid_node("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        // SAFETY: the caller of `domain` guarantees that this node may write to its caches, and that nothing else
        // accesses them during a run. None of the slices above is a cache.
        let caches = unsafe { tensors.caches() }?;
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

/// Input tensors of a node in one run, indexed by [`Input`]; `None` if absent.
struct Tensors<'a>(Vec<Option<ValueRef<'a>>>);

impl<'a> Tensors<'a> {
    fn new(context: &'a ComputeContext) -> ort::Result<Self> {
        node::inputs(context, Input::ALL.len()).map(Tensors)
    }

    fn get(&self, input: Input) -> Option<&ValueRef<'a>> {
        self.0.get(input as usize)?.as_ref()
    }

    fn required<T: PrimitiveTensorElementType, const RANK: usize>(
        &self,
        input: Input,
    ) -> ort::Result<([usize; RANK], &[T])> {
        self.optional(input)?
            .ok_or_else(|| input_error(input, "is missing"))
    }

    fn optional<T: PrimitiveTensorElementType, const RANK: usize>(
        &self,
        input: Input,
    ) -> ort::Result<Option<([usize; RANK], &[T])>> {
        let Some(value) = self.get(input) else {
            return Ok(None);
        };
        node::tensor(value, input.name()).map(Some)
    }

    /// Returns the cache tensors as mutable slices.
    ///
    /// # Safety
    /// The memory of the cache tensors must be writable. While the result lives, nothing else may access it.
    unsafe fn caches(&self) -> ort::Result<AttentionCaches<'_>> {
        let memory = |input: Input| -> ort::Result<(*mut f16, usize)> {
            let value = self
                .get(input)
                .ok_or_else(|| input_error(input, "is missing"))?;
            let elements = value.try_extract_tensor::<f16>()?.1.len();
            if elements == 0 {
                return Err(input_error(input, "is empty"));
            }
            let tensor = value.view().downcast::<DynTensorValueType>()?;
            Ok((tensor.data_ptr().cast_mut().cast(), elements))
        };
        let (keys, key_elements) = memory(Input::KeyCache)?;
        let (values, value_elements) = memory(Input::ValueCache)?;
        let (first, end) = (keys.addr(), keys.addr() + key_elements * size_of::<f16>());
        if values.addr() < end && first < values.addr() + value_elements * size_of::<f16>() {
            return Err(input_error(Input::ValueCache, "overlaps key_cache"));
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
}

fn input_error(input: Input, problem: impl Into<String>) -> ort::Error {
    node::input_error(input.name(), problem)
}
