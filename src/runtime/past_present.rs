//! Runs step plans on a graph whose attention is its own: past keys and values go in, present ones come out. They are kept
//! in the blocks of the cache like others', so that prefixes are shared and sequences can come back.
//!
//! A sum over a row of scores depends on the row's length, so a row's is always the same: to the end of its cell, and one
//! more. So each sequence runs by itself, a cell at a time, and what of a cell is not there yet is filled with tokens that
//! nobody sees:
//!
//! ```text
//! position   0 … 15 | 16 17 18 19 20 … 31 | 32          (of the next cell: it belongs to nobody)
//! past       x … x    x  x
//! tokens                   18 19  -  …  -    -          two of a plan, the others filled in
//! ```

use std::borrow::Cow;
use std::ops::Range;

use anyhow::ensure;
use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::device::Device;
use super::kv::CacheNumber;
use super::session::{SessionOptions, Sessions};
use super::{KvCache, RuntimeError, add_rows, check_block, no_hidden_states};
use crate::engine::{BlockCopy, BlockId, Chunk, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::imported::{
    ATTENTION_MASK, FedInputs, ImportedAttention, ImportedModel, ImportedShape, LOGITS_TO_KEEP,
    POSITION_IDS, USE_CACHE_BRANCH, past_names,
};
use crate::graph::{LeastRows, names};

/// Tokens of a cell: so few that a decoding sequence's are read in the time of the weights, so many that a prompt's are not.
const CELL_TOKENS: usize = 16;

/// A decoder that others exported, in a session, with its cache.
pub struct PastPresent<T> {
    sessions: Sessions,
    /// `[blocks, kv heads, block tokens, head size]`.
    cache: KvCache<T>,
    names: Vec<[[String; 2]; 2]>,
    shape: ImportedShape,
    inputs: FedInputs,
    gives_hidden: bool,
    cell: Cell,
    step: Step<T>,
}

/// The grid on which sequences are cut.
#[derive(Debug, Clone, Copy)]
struct Cell {
    tokens: usize,
    /// Filled in behind its end, so that no run is of a single row.
    spare: usize,
    /// Tokens that there are places for.
    longest: usize,
}

/// A run's inputs, in memory that is used again.
#[derive(Default)]
struct Step<T> {
    ids: Vec<i64>,
    positions: Vec<i64>,
    mask: Vec<i64>,
    logit_rows: Vec<i64>,
    hidden_rows: Vec<i64>,
    /// Layer 0's keys, its values, layer 1's keys, …
    pasts: Vec<Vec<T>>,
}

impl<T: CacheNumber> PastPresent<T> {
    /// A session for `model`, whose past is to be of these numbers, and a cache of `blocks` blocks of `block_tokens` tokens.
    /// `progress` hears the share that is done, from 0 to 1.
    pub fn load(
        model: &ImportedModel,
        options: &SessionOptions,
        blocks: usize,
        block_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let ImportedAttention::PastPresent { scales_tensors, .. } = model.attention else {
            anyhow::bail!("a graph in the paged form has no past of its own");
        };
        let shape = model.shape.clone();
        ensure!(
            model.cache_bytes_per_token()
                == (2 * shape.layers * shape.kv_heads * shape.head_size * size_of::<T>()) as u64,
            "the past is of other numbers"
        );
        // Where a scale is found for all rows of a run, a run is one row.
        let (tokens, spare) = match scales_tensors {
            true => (1, 0),
            false => (CELL_TOKENS, 1),
        };
        Ok(Self {
            sessions: Sessions::build(|_| model.graph(), Device::Cpu, options, progress)?,
            cache: KvCache::new(
                shape.layers,
                [blocks, shape.kv_heads, block_tokens, shape.head_size],
            )?,
            names: (0..shape.layers).map(past_names).collect(),
            inputs: model.inputs,
            gives_hidden: model.gives_hidden,
            cell: Cell {
                tokens,
                spare,
                longest: shape.longest_context.unwrap_or(usize::MAX),
            },
            step: Step {
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

impl<T: CacheNumber> ModelRunner for PastPresent<T> {
    fn outputs(&self) -> Outputs {
        Outputs::new(self.shape.vocabulary, self.shape.hidden)
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        if !self.gives_hidden && !plan.hidden_rows().is_empty() {
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
                let next = self.cell.end(start).min(end);
                self.run_piece(chunk, start..next, outputs)
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
        check_block(self.cache.block_bytes(), bytes)?;
        self.cache.write(block.index(), bytes);
        Ok(())
    }
}

impl<T: CacheNumber> PastPresent<T> {
    /// Computes the positions `piece` of a chunk, which lie in one cell.
    fn run_piece(
        &mut self,
        chunk: &Chunk,
        piece: Range<usize>,
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let present = self.cell.end(piece.start).min(self.cell.longest) + self.cell.spare;
        let [wanted, hidden] = self
            .step
            .fill(chunk, piece.clone(), present, self.cell.spare);
        for (tensor, past) in self.step.pasts.iter_mut().enumerate() {
            past.clear();
            self.cache.gather(tensor, &chunk.blocks, piece.start, past);
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
        if self.gives_hidden {
            integers(names::HIDDEN_ROWS, vec![hidden], &step.hidden_rows)?;
        }
        if self.inputs.cache_branch {
            let flag = TensorRef::from_array_view(([1_usize], &[true][..]))?;
            inputs.push((USE_CACHE_BRANCH.into(), flag.into()));
        }
        let past_names = self.names.iter().flat_map(|[past, _]| past);
        for (name, past) in past_names.zip(&step.pasts) {
            let shape = [1, kv_heads, piece.start, head_size];
            let past = TensorRef::from_array_view((shape, &past[..]))?;
            inputs.push((name.as_str().into(), past.into()));
        }
        let computed = self
            .sessions
            .for_step(chunk.tokens.len() == 1)
            .run(inputs)?;
        let rows = [wanted, step.logit_rows.len()];
        add_rows(&computed, names::LOGITS, rows, &mut outputs.logits)?;
        if self.gives_hidden {
            add_rows(&computed, names::HIDDEN, [hidden; 2], &mut outputs.hidden)?;
        }
        let present_names = self.names.iter().flat_map(|[_, present]| present);
        for (tensor, name) in present_names.enumerate() {
            let (_, values) = computed[name.as_str()].try_extract_tensor::<T>()?;
            let numbers = kv_heads * present * head_size;
            if values.len() != numbers {
                return Err(RuntimeError::Output {
                    name: name.clone(),
                    found: values.len(),
                    wanted: numbers,
                });
            }
            self.cache
                .scatter(tensor, &chunk.blocks, piece.clone(), values);
        }
        Ok(())
    }
}

impl Cell {
    /// Where the cell of a position ends.
    fn end(self, position: usize) -> usize {
        (position / self.tokens + 1) * self.tokens
    }
}

impl<T> Step<T> {
    /// Lays out the positions `piece` of a chunk, filled up to the position `present`. Answers how many rows of logits are
    /// wanted, which come first, and of hidden states.
    fn fill(
        &mut self,
        chunk: &Chunk,
        piece: Range<usize>,
        present: usize,
        spare: usize,
    ) -> [usize; 2] {
        let rows = present - piece.start;
        let tokens = &chunk.tokens[piece.start - chunk.past..piece.end - chunk.past];
        self.ids.clear();
        self.ids
            .extend(tokens.iter().map(|token| i64::from(token.0)));
        self.ids.resize(rows, 0);
        self.positions.clear();
        self.positions
            .extend(piece.clone().map(|position| position as i64));
        // Every model knows this place.
        self.positions.resize(rows, 0);
        self.mask.clear();
        self.mask.resize(present, 1);
        let end = chunk.past + chunk.tokens.len();
        let wanted_rows = |count: usize| {
            let first = (end - count).max(piece.start).min(piece.end);
            (first - piece.start..piece.end - piece.start).map(|row| row as i64)
        };
        self.logit_rows.clear();
        self.logit_rows
            .extend(wanted_rows(chunk.logits.count(chunk.tokens.len())));
        self.hidden_rows.clear();
        self.hidden_rows
            .extend(wanted_rows(chunk.hidden.count(chunk.tokens.len())));
        let wanted = self.logit_rows.len();
        let least = match spare {
            0 => 1,
            _ => LeastRows::OF_IMPORTED.logits,
        };
        self.logit_rows.resize(wanted.max(least), 0);
        [wanted, self.hidden_rows.len()]
    }
}
