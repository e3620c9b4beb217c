//! Runs step plans: ids to embedding rows, a ragged batch through the session, logits out.

use std::borrow::Cow;

use anyhow::Context;
use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::adapters::ScaleRows;
use super::session::{SessionOptions, Sessions};
use super::{KvCache, RuntimeError, add_rows, no_hidden_states, read_rows, write_block};
use crate::engine::{BlockCopy, BlockId, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::imported::{ImportedModel, POSITION_IDS};
use crate::graph::{Embeddings, LeastRows, ModelFile, names};
use crate::token::TokenId;

/// A decoder in a session, with its cache.
pub struct Decoder {
    sessions: Sessions,
    cache: KvCache,
    cache_names: Vec<[String; 2]>,
    tokens: TokenInput,
    vocabulary: usize,
    hidden: usize,
    gives_hidden: bool,
    /// The block of rows that belong to no sequence: one beyond those that plans name.
    spare_block: usize,
    least_rows: LeastRows,
    batch: Batch,
}

/// What the graph is given for its tokens.
enum TokenInput {
    /// Their rows of the embedding matrix, which is not in the graph.
    Rows(Embeddings),
    /// Themselves, `[1, tokens]`.
    Ids {
        /// And their places in their sequences.
        positions: bool,
    },
}

/// A step's inputs, in memory that is used again at every step.
#[derive(Default)]
struct Batch {
    embeds: Vec<f32>,
    ids: Vec<i64>,
    positions: Vec<i64>,
    cumulative_sequence_length: Vec<i32>,
    past_seqlens: Vec<i32>,
    block_table: Vec<i32>,
    blocks_of_a_sequence: usize,
    logit_rows: Vec<i64>,
    hidden_rows: Vec<i64>,
    scales: ScaleRows,
}

impl Decoder {
    /// A session for `file`, which is to be a decoder, and a cache of `blocks` blocks of `block_tokens` tokens, for sequences of
    /// up to `context_tokens` tokens. `progress` hears the share that is done, from 0 to 1.
    pub fn load(
        file: &ModelFile,
        options: &SessionOptions,
        context_tokens: usize,
        blocks: usize,
        block_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let shape = file.architecture.decoder();
        let shape = shape.context("an encoder does not go on with texts")?;
        let cache = KvCache::new(
            shape.layers,
            [blocks + 1, block_tokens, shape.kv_heads, shape.head_size],
        )?;
        let graph = |progress: &dyn Fn(f32)| file.graph(context_tokens, progress);
        Ok(Self {
            sessions: Sessions::build(graph, options, progress)?,
            cache,
            cache_names: cache_names(shape.layers),
            tokens: TokenInput::Rows(file.embeddings()),
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            gives_hidden: true,
            spare_block: blocks,
            least_rows: file.least_rows(),
            batch: Batch {
                scales: ScaleRows::new(file.adapters()),
                ..Batch::default()
            },
        })
    }

    /// The same for a graph in the paged form that others exported.
    pub fn load_imported(
        model: &ImportedModel,
        options: &SessionOptions,
        blocks: usize,
        block_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let shape = &model.shape;
        let cache = KvCache::new(
            shape.layers,
            [blocks + 1, block_tokens, shape.kv_heads, shape.head_size],
        )?;
        Ok(Self {
            sessions: Sessions::build(|_| model.graph(), options, progress)?,
            cache,
            cache_names: cache_names(shape.layers),
            tokens: TokenInput::Ids {
                positions: model.inputs.positions,
            },
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            gives_hidden: model.gives_hidden,
            spare_block: blocks,
            least_rows: LeastRows::OF_IMPORTED,
            batch: Batch::default(),
        })
    }

    /// Room for what a step computes.
    pub fn outputs(&self) -> Outputs {
        Outputs::new(self.vocabulary, self.hidden)
    }

    /// Bytes of the key-value cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }
}

impl ModelRunner for Decoder {
    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let wanted = self
            .batch
            .fill(plan, &self.tokens, self.spare_block, self.least_rows)?;
        if !self.gives_hidden && !self.batch.hidden_rows.is_empty() {
            return Err(no_hidden_states());
        }
        for BlockCopy { from, to } in &plan.copies {
            self.cache.copy(from.index(), to.index());
        }
        let decodes = plan.chunks.iter().all(|chunk| chunk.tokens.len() == 1);
        self.compute(wanted, decodes, outputs)
            .map_err(|error| RunError(error.to_string()))
    }

    fn read_block(&self, block: BlockId) -> Result<Vec<u8>, RunError> {
        Ok(self.cache.read(block.index()))
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        write_block(&mut self.cache, block, bytes)
    }
}

impl Decoder {
    /// Runs a session on the batch: that for prompts, if there is one and the step does not only `decode`. The first
    /// `wanted` rows of its logits are the plan's.
    fn compute(
        &mut self,
        wanted: usize,
        decodes: bool,
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let batch = &self.batch;
        let rows = batch.rows();
        let sequences = batch.past_seqlens.len();
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            (
                names::CUMULATIVE_SEQUENCE_LENGTH.into(),
                TensorRef::from_array_view((
                    [sequences + 1],
                    batch.cumulative_sequence_length.as_slice(),
                ))?
                .into(),
            ),
            (
                names::PAST_SEQLENS.into(),
                TensorRef::from_array_view(([sequences], batch.past_seqlens.as_slice()))?.into(),
            ),
            (
                names::BLOCK_TABLE.into(),
                TensorRef::from_array_view((
                    [sequences, batch.blocks_of_a_sequence],
                    batch.block_table.as_slice(),
                ))?
                .into(),
            ),
            (
                names::LOGIT_ROWS.into(),
                TensorRef::from_array_view((
                    [batch.logit_rows.len()],
                    batch.logit_rows.as_slice(),
                ))?
                .into(),
            ),
        ];
        match &self.tokens {
            TokenInput::Rows(embeddings) => {
                let embeds = ([rows, embeddings.columns()], batch.embeds.as_slice());
                let embeds = TensorRef::from_array_view(embeds)?;
                inputs.push((names::INPUTS_EMBEDS.into(), embeds.into()));
            }
            TokenInput::Ids { positions } => {
                let ids = TensorRef::from_array_view(([1, rows], batch.ids.as_slice()))?;
                inputs.push((names::INPUT_IDS.into(), ids.into()));
                if *positions {
                    let places = ([1, rows], batch.positions.as_slice());
                    let places = TensorRef::from_array_view(places)?;
                    inputs.push((POSITION_IDS.into(), places.into()));
                }
            }
        }
        let hidden_rows = batch.hidden_rows.len();
        if self.gives_hidden {
            let rows = ([hidden_rows], batch.hidden_rows.as_slice());
            let rows = TensorRef::from_array_view(rows)?;
            inputs.push((names::HIDDEN_ROWS.into(), rows.into()));
        }
        inputs.extend(batch.scales.input(rows)?);
        let caches = self.cache.layers()?;
        for ([key_name, value_name], [keys, values]) in self.cache_names.iter().zip(caches) {
            inputs.push((key_name.as_str().into(), keys.into()));
            inputs.push((value_name.as_str().into(), values.into()));
        }
        let computed = self.sessions.for_step(decodes).run(inputs)?;
        outputs.logits.resize(0);
        let rows = [wanted, batch.logit_rows.len()];
        add_rows(&computed, names::LOGITS, rows, &mut outputs.logits)?;
        outputs.hidden.resize(0);
        if self.gives_hidden {
            let rows = [hidden_rows, hidden_rows];
            add_rows(&computed, names::HIDDEN, rows, &mut outputs.hidden)?;
        }
        Ok(())
    }
}

fn cache_names(layers: usize) -> Vec<[String; 2]> {
    let names = |layer| [names::key_cache(layer), names::value_cache(layer)];
    (0..layers).map(names).collect()
}

impl Batch {
    /// Lays the plan out; rows and logit rows are filled up to `least`. Answers how many logit rows are
    /// wanted: they come first.
    fn fill(
        &mut self,
        plan: &StepPlan,
        tokens: &TokenInput,
        spare_block: usize,
        least: LeastRows,
    ) -> Result<usize, RunError> {
        let spare = least.tokens.saturating_sub(plan.tokens());
        let widest = plan.chunks.iter().map(|chunk| chunk.blocks.len()).max();
        self.blocks_of_a_sequence = widest.unwrap_or(0).max(1);
        self.cumulative_sequence_length.clear();
        self.cumulative_sequence_length.push(0);
        self.past_seqlens.clear();
        self.block_table.clear();
        self.embeds.clear();
        self.ids.clear();
        self.positions.clear();
        self.scales.fill(plan, plan.tokens() + spare)?;

        for chunk in &plan.chunks {
            match tokens {
                TokenInput::Rows(embeddings) => {
                    read_rows(embeddings, &chunk.tokens, &mut self.embeds)?;
                }
                TokenInput::Ids { .. } => self.add_ids(&chunk.tokens, chunk.past),
            }
            self.add_sequence(
                chunk.tokens.len(),
                chunk.past,
                chunk.blocks.iter().map(|block: &BlockId| block.index()),
            );
        }
        for _ in 0..spare {
            match tokens {
                TokenInput::Rows(embeddings) => {
                    let zeros = self.embeds.len() + embeddings.columns();
                    self.embeds.resize(zeros, 0.0);
                }
                TokenInput::Ids { .. } => self.add_ids(&[TokenId(0)], 0),
            }
            self.add_sequence(1, 0, std::iter::once(spare_block));
        }

        let rows = plan.logit_rows();
        self.logit_rows.clear();
        self.logit_rows.extend(rows.iter().map(|row| *row as i64));
        if !rows.is_empty() {
            // Row 0 exists in every step.
            self.logit_rows.resize(rows.len().max(least.logits), 0);
        }
        let hidden = plan.hidden_rows();
        self.hidden_rows.clear();
        self.hidden_rows
            .extend(hidden.iter().map(|row| *row as i64));
        Ok(rows.len())
    }

    /// Rows of the step.
    fn rows(&self) -> usize {
        let end = self.cumulative_sequence_length.last();
        end.map_or(0, |end| *end as usize)
    }

    fn add_ids(&mut self, tokens: &[TokenId], past: usize) {
        let ids = tokens.iter().map(|token| i64::from(token.0));
        self.ids.extend(ids);
        let positions = past..past + tokens.len();
        self.positions
            .extend(positions.map(|position| position as i64));
    }

    fn add_sequence(&mut self, tokens: usize, past: usize, blocks: impl Iterator<Item = usize>) {
        let index = |number: usize| i32::try_from(number).expect("limits keep numbers far below");
        let start = self.cumulative_sequence_length.last().copied().unwrap_or(0);
        self.cumulative_sequence_length.push(start + index(tokens));
        self.past_seqlens.push(index(past));
        let end = self.block_table.len() + self.blocks_of_a_sequence;
        self.block_table.extend(blocks.map(index));
        self.block_table.resize(end, 0);
    }
}
