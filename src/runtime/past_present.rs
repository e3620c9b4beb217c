//! Runs step plans on imported graphs with past and present key/value tensors. Keys and values are kept in cache
//! blocks, so prefix sharing and preemption work as with paged attention.
//!
//! Results must not depend on the batch, but the rounding of an attention sum depends on the number of keys. So a row
//! always gets the same number of keys: positions are divided into aligned segments, and a row gets all positions up to
//! the end of its segment, plus one position. Each sequence runs alone, one segment at a time. Padding fills missing
//! positions, and the causal mask hides the padding:
//!
//! ```text
//! position   0 … 15 | 16 17 18 19 20 … 31 | 32          (first position of the next segment: always padding)
//! past       x … x    x  x
//! tokens                   18 19  -  …  -    -          two tokens of the plan, then padding
//! ```

use std::borrow::Cow;
use std::ops::Range;

use anyhow::ensure;
use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::device::Device;
use super::kv::CacheElement;
use super::session::{SessionOptions, Sessions};
use super::{KvCache, RuntimeError, append_output_rows, check_block_size, no_hidden_states};
use crate::engine::{BlockCopy, BlockId, Chunk, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::imported::{
    ATTENTION_MASK, ExtraInputs, ImportedAttention, ImportedModel, ImportedShape, LOGITS_TO_KEEP,
    POSITION_IDS, USE_CACHE_BRANCH, past_names,
};
use crate::graph::{MinRows, names};

/// Number of positions in a segment: few enough that decode stays bound by memory bandwidth, many enough that prefill
/// is bound by compute.
const SEGMENT_TOKENS: usize = 16;

/// An imported decoder with past/present tensors, and its key-value cache.
pub struct PastPresent<T> {
    sessions: Sessions,
    /// Tensors of shape `[blocks, kv_heads, block_tokens, head_size]`.
    cache: KvCache<T>,
    /// For each layer: names of the past keys and past values, then of the present keys and present values.
    names: Vec<[[String; 2]; 2]>,
    shape: ImportedShape,
    inputs: ExtraInputs,
    has_hidden_output: bool,
    segments: Segments,
    step: StepInputs<T>,
}

/// Division of positions into aligned segments, see the module documentation.
#[derive(Debug, Clone, Copy)]
struct Segments {
    tokens: usize,
    /// Number of padding rows after the end of a segment, so that no run has a single row.
    extra_padding: usize,
    /// Number of positions that the model supports.
    max_context: usize,
}

/// Buffers for the inputs of a run, reused by every run.
#[derive(Default)]
struct StepInputs<T> {
    ids: Vec<i64>,
    positions: Vec<i64>,
    mask: Vec<i64>,
    logit_rows: Vec<i64>,
    hidden_rows: Vec<i64>,
    /// Past keys of layer 0, past values of layer 0, past keys of layer 1, …
    pasts: Vec<Vec<T>>,
}

impl<T: CacheElement> PastPresent<T> {
    /// Loads `model`, whose past tensors have the element type `T`. The cache has `blocks` blocks of `block_tokens`
    /// tokens. `progress` receives the completed fraction, from 0 to 1.
    ///
    /// # Errors
    /// If the graph has no past tensors of type `T`, or if the session cannot be created.
    pub fn load(
        model: &ImportedModel,
        options: &SessionOptions,
        blocks: usize,
        block_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let ImportedAttention::PastPresent {
            has_per_tensor_scales,
            ..
        } = model.attention
        else {
            anyhow::bail!("the graph uses paged attention and has no past/present inputs");
        };
        let shape = model.shape.clone();
        ensure!(
            model.cache_bytes_per_token()
                == (2 * shape.layers * shape.kv_heads * shape.head_size * size_of::<T>()) as u64,
            "the graph's past has another element type"
        );
        // If all activations of a run share one quantization scale, each run has a single row, so that rows do not
        // affect each other.
        let (tokens, extra_padding) = match has_per_tensor_scales {
            true => (1, 0),
            false => (SEGMENT_TOKENS, 1),
        };
        Ok(Self {
            sessions: Sessions::build(|_| model.graph(), Device::Cpu, options, progress)?,
            cache: KvCache::new(
                shape.layers,
                [blocks, shape.kv_heads, block_tokens, shape.head_size],
            )?,
            names: (0..shape.layers).map(past_names).collect(),
            inputs: model.inputs,
            has_hidden_output: model.has_hidden_output,
            segments: Segments {
                tokens,
                extra_padding,
                max_context: shape.max_context.unwrap_or(usize::MAX),
            },
            step: StepInputs {
                ids: Vec::new(),
                positions: Vec::new(),
                mask: Vec::new(),
                logit_rows: Vec::new(),
                hidden_rows: Vec::new(),
                pasts: vec![Vec::new(); 2 * shape.layers],
            },
            shape,
        })
    }
}

impl<T: CacheElement> ModelRunner for PastPresent<T> {
    fn outputs(&self) -> Outputs {
        Outputs::new(self.shape.vocabulary, self.shape.hidden)
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        if !self.has_hidden_output && !plan.hidden_rows().is_empty() {
            return Err(no_hidden_states());
        }
        for BlockCopy { from, to } in &plan.copies {
            self.cache.copy(from.index(), to.index());
        }
        outputs.logits.resize(0);
        outputs.hidden.resize(0);
        for chunk in &plan.chunks {
            let end = chunk.past + chunk.tokens.len();
            let mut start = chunk.past;
            while start < end {
                let next = self.segments.end(start).min(end);
                self.run_segment(chunk, start..next, outputs)
                    .map_err(|error| RunError(error.to_string()))?;
                start = next;
            }
        }
        Ok(())
    }

    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError> {
        Ok(self.cache.read(block.index()))
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        check_block_size(self.cache.block_bytes(), bytes)?;
        self.cache.write(block.index(), bytes);
        Ok(())
    }
}

impl<T: CacheElement> PastPresent<T> {
    /// Computes the tokens of a chunk at `positions`, which lie in one segment.
    fn run_segment(
        &mut self,
        chunk: &Chunk,
        positions: Range<usize>,
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let segments = self.segments;
        let present =
            segments.end(positions.start).min(segments.max_context) + segments.extra_padding;
        let [logits, hidden] =
            self.step
                .fill(chunk, positions.clone(), present, segments.extra_padding);
        for (tensor, past) in self.step.pasts.iter_mut().enumerate() {
            past.clear();
            self.cache
                .gather(tensor, &chunk.blocks, positions.start, past);
        }
        let ImportedShape {
            kv_heads,
            head_size,
            ..
        } = self.shape;
        let step = &self.step;
        let tokens = step.ids.len();
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        let mut integers = |name: &'static str, shape: Vec<usize>, values| {
            let tensor = TensorRef::<i64>::from_array_view((shape, values))?;
            inputs.push((name.into(), tensor.into()));
            Ok::<_, RuntimeError>(())
        };
        integers(names::INPUT_IDS, vec![1, tokens], &step.ids[..])?;
        integers(
            names::LOGIT_ROWS,
            vec![step.logit_rows.len()],
            &step.logit_rows,
        )?;
        if self.inputs.mask {
            integers(ATTENTION_MASK, vec![1, present], &step.mask)?;
        }
        if self.inputs.positions {
            integers(POSITION_IDS, vec![1, tokens], &step.positions)?;
        }
        if let Some(dimensions) = self.inputs.logits_to_keep {
            integers(LOGITS_TO_KEEP, vec![1; dimensions], &[0])?;
        }
        if self.has_hidden_output {
            integers(names::HIDDEN_ROWS, vec![hidden], &step.hidden_rows)?;
        }
        if self.inputs.cache_branch {
            let flag = TensorRef::from_array_view(([1_usize], &[true][..]))?;
            inputs.push((USE_CACHE_BRANCH.into(), flag.into()));
        }
        let past_names = self.names.iter().flat_map(|[past, _]| past);
        for (name, past) in past_names.zip(&step.pasts) {
            let shape = [1, kv_heads, positions.start, head_size];
            let past = TensorRef::from_array_view((shape, &past[..]))?;
            inputs.push((name.as_str().into(), past.into()));
        }
        let computed = self
            .sessions
            .for_step(chunk.tokens.len() == 1)
            .run(inputs)?;
        let rows = [logits, step.logit_rows.len()];
        append_output_rows(&computed, names::LOGITS, rows, &mut outputs.logits)?;
        if self.has_hidden_output {
            append_output_rows(&computed, names::HIDDEN, [hidden; 2], &mut outputs.hidden)?;
        }
        let present_names = self.names.iter().flat_map(|[_, present]| present);
        for (tensor, name) in present_names.enumerate() {
            let (_, values) = computed[name.as_str()].try_extract_tensor::<T>()?;
            let expected = kv_heads * present * head_size;
            if values.len() != expected {
                return Err(RuntimeError::OutputSize {
                    name: name.clone(),
                    found: values.len(),
                    expected,
                });
            }
            self.cache
                .scatter(tensor, &chunk.blocks, positions.clone(), values);
        }
        Ok(())
    }
}

impl Segments {
    /// Returns the end of the segment that contains `position`.
    fn end(self, position: usize) -> usize {
        (position / self.tokens + 1) * self.tokens
    }
}

impl<T> StepInputs<T> {
    /// Fills the buffers with the tokens of a chunk at `positions`, padded to `present` positions. Returns the number
    /// of logit rows without padding, and the number of hidden-state rows.
    fn fill(
        &mut self,
        chunk: &Chunk,
        positions: Range<usize>,
        present: usize,
        extra_padding: usize,
    ) -> [usize; 2] {
        let rows = present - positions.start;
        let tokens = &chunk.tokens[positions.start - chunk.past..positions.end - chunk.past];
        self.ids.clear();
        self.ids
            .extend(tokens.iter().map(|token| i64::from(token.0)));
        self.ids.resize(rows, 0);
        self.positions.clear();
        self.positions
            .extend(positions.clone().map(|position| position as i64));
        // Padding has position 0, which every model supports.
        self.positions.resize(rows, 0);
        self.mask.clear();
        self.mask.resize(present, 1);
        let end = chunk.past + chunk.tokens.len();
        let requested_rows = |count: usize| {
            let first = (end - count).max(positions.start).min(positions.end);
            (first - positions.start..positions.end - positions.start).map(|row| row as i64)
        };
        self.logit_rows.clear();
        self.logit_rows
            .extend(requested_rows(chunk.logits.count(chunk.tokens.len())));
        self.hidden_rows.clear();
        self.hidden_rows
            .extend(requested_rows(chunk.hidden.count(chunk.tokens.len())));
        let requested = self.logit_rows.len();
        let min_rows = match extra_padding {
            0 => 1,
            _ => MinRows::IMPORTED.logits,
        };
        self.logit_rows.resize(requested.max(min_rows), 0);
        [requested, self.hidden_rows.len()]
    }
}
