//! Runs step plans: ids to embedding rows, a ragged batch through the session, logits out.

use std::borrow::Cow;

use anyhow::Context;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use super::adapters::ScaleRows;
use super::session::{self, SessionOptions};
use super::{KvCache, RuntimeError, read_rows};
use crate::engine::{BlockCopy, BlockId, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::{Embeddings, LeastRows, ModelFile, names};

/// A decoder in a session, with its cache.
pub struct Decoder {
    session: Session,
    /// For steps with a part of a prompt, if other threads compute them.
    batch_session: Option<Session>,
    cache: KvCache,
    cache_names: Vec<[String; 2]>,
    embeddings: Embeddings,
    vocabulary: usize,
    /// The block of rows that belong to no sequence: one beyond those that plans name.
    spare_block: usize,
    least_rows: LeastRows,
    batch: Batch,
}

/// A step's inputs, in memory that is used again at every step.
#[derive(Default)]
struct Batch {
    embeds: Vec<f32>,
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
        /// Making the graph, with the weights repacked, takes about as long as the session.
        const SHARE_OF_GRAPH: f32 = 0.5;

        let shape = file.architecture.decoder();
        let shape = shape.context("an encoder does not go on with texts")?;
        let cache = KvCache::new(
            shape.layers,
            [blocks + 1, block_tokens, shape.kv_heads, shape.head_size],
        )?;
        let build = |threads, progress: &dyn Fn(f32)| {
            let graph = file.graph(context_tokens, &|share| progress(share * SHARE_OF_GRAPH));
            session::build(graph, options, threads, &|share| {
                progress(SHARE_OF_GRAPH + share * (1.0 - SHARE_OF_GRAPH));
            })
        };
        let batch_threads = options
            .batch_threads
            .filter(|_| options.batch_threads != options.threads);
        let sessions = 1.0 + batch_threads.iter().len() as f32;
        let session = build(options.threads, &|share| progress(share / sessions))?;
        let batch_session = batch_threads
            .map(|threads| build(Some(threads), &|share| progress((1.0 + share) / sessions)))
            .transpose()?;
        Ok(Self {
            session,
            batch_session,
            cache,
            cache_names: (0..shape.layers)
                .map(|layer| [names::key_cache(layer), names::value_cache(layer)])
                .collect(),
            embeddings: file.embeddings(),
            vocabulary: shape.vocabulary,
            spare_block: blocks,
            least_rows: file.least_rows(),
            batch: Batch {
                scales: ScaleRows::new(file.adapters()),
                ..Batch::default()
            },
        })
    }

    /// Room for what a step computes.
    pub fn outputs(&self) -> Outputs {
        Outputs::new(self.vocabulary, self.embeddings.columns())
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
            .fill(plan, &self.embeddings, self.spare_block, self.least_rows)?;
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
        let wanted = self.cache.block_bytes();
        if bytes.len() != wanted {
            let found = bytes.len();
            return Err(RunError(format!(
                "a block has {wanted} bytes here, not {found}"
            )));
        }
        self.cache.write(block.index(), bytes);
        Ok(())
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
        let rows = batch.embeds.len() / self.embeddings.columns();
        let sequences = batch.past_seqlens.len();
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            (
                names::INPUTS_EMBEDS.into(),
                TensorRef::from_array_view((
                    [rows, self.embeddings.columns()],
                    batch.embeds.as_slice(),
                ))?
                .into(),
            ),
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
        inputs.push((
            names::HIDDEN_ROWS.into(),
            TensorRef::from_array_view(([batch.hidden_rows.len()], batch.hidden_rows.as_slice()))?
                .into(),
        ));
        inputs.extend(batch.scales.input(rows)?);
        let caches = self.cache.layers()?;
        for ([key_name, value_name], [keys, values]) in self.cache_names.iter().zip(caches) {
            inputs.push((key_name.as_str().into(), keys.into()));
            inputs.push((value_name.as_str().into(), values.into()));
        }
        let session = match &mut self.batch_session {
            Some(session) if !decodes => session,
            _ => &mut self.session,
        };
        let computed = session.run(inputs)?;
        let (_, logits) = computed[names::LOGITS].try_extract_tensor::<f32>()?;
        let rows = outputs.logits.resize(wanted);
        rows.copy_from_slice(&logits[..rows.len()]);
        let (_, hidden) = computed[names::HIDDEN].try_extract_tensor::<f32>()?;
        let rows = outputs.hidden.resize(batch.hidden_rows.len());
        rows.copy_from_slice(hidden);
        Ok(())
    }
}

impl Batch {
    /// Lays the plan out; rows and logit rows are filled up to `least`. Answers how many logit rows are
    /// wanted: they come first.
    fn fill(
        &mut self,
        plan: &StepPlan,
        embeddings: &Embeddings,
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
        self.scales.fill(plan, plan.tokens() + spare)?;

        for chunk in &plan.chunks {
            read_rows(embeddings, &chunk.tokens, &mut self.embeds)?;
            self.add_sequence(
                chunk.tokens.len(),
                chunk.past,
                chunk.blocks.iter().map(|block: &BlockId| block.index()),
            );
        }
        for _ in 0..spare {
            self.embeds
                .resize(self.embeds.len() + embeddings.columns(), 0.0);
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
