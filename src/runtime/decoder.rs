//! Runs step plans: ids to embedding rows, a ragged batch through the sessions of all stages, logits out.

use anyhow::Context;
use ort::value::{DynValue, TensorRef};

use super::adapters::ScaleRows;
use super::device::{Device, DeviceLayers};
use super::operators::product::ROWS_TOGETHER;
use super::session::SessionOptions;
use super::stage::{Input, Stage};
use super::{RuntimeError, add_rows, check_block, no_hidden_states, read_rows};
use crate::engine::{BlockCopy, BlockId, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::imported::{ImportedModel, POSITION_IDS};
use crate::graph::{
    DecoderPart, Embeddings, LeastRows, ModelFile, ProductOperator, handed_over, names,
};
use crate::token::TokenId;

/// A decoder in one session or several, with its cache.
pub struct Decoder {
    stages: Vec<Stage>,
    /// What each stage hands over to the next, by name.
    handed_over: Vec<String>,
    tokens: TokenInput,
    vocabulary: usize,
    hidden: usize,
    gives_hidden: bool,
    /// The block of rows that belong to no sequence: one beyond those that plans name.
    spare_block: usize,
    least_rows: LeastRows,
    cheap_rows: usize,
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
        let cache = [blocks + 1, block_tokens, shape.kv_heads, shape.head_size];
        let divided = options.devices.divide(&options.library, shape.layers)?;
        let share = 1.0 / divided.len() as f32;
        let load = |(place, DeviceLayers { device, layers }): (usize, &DeviceLayers)| {
            let part = DecoderPart {
                layers: layers.clone(),
                attention: device.attention(),
                products: options.products(*device),
            };
            Stage::load(
                |progress| file.part(&part, context_tokens, progress),
                *device,
                layers.clone(),
                cache,
                options,
                &|done| progress((place as f32 + done) * share),
            )
            .with_context(|| format!("the layers {layers:?} on {device}"))
        };
        let stages = divided.iter().enumerate().map(load);
        let later = divided[1..].iter();
        let mut devices = divided.iter().map(|part| part.device);
        let reads_once = devices.all(|device| options.products(device) == ProductOperator::Ortolan);
        Ok(Self {
            stages: stages.collect::<anyhow::Result<_>>()?,
            handed_over: later.map(|part| handed_over(part.layers.start)).collect(),
            tokens: TokenInput::Rows(file.embeddings()),
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            gives_hidden: true,
            spare_block: blocks,
            least_rows: file.least_rows(options.products(divided[0].device)),
            // It reads a matrix once for so many; of others it is not known what the second row costs.
            cheap_rows: if reads_once { ROWS_TOGETHER } else { 1 },
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
        let cache = [blocks + 1, block_tokens, shape.kv_heads, shape.head_size];
        let stage = Stage::load(
            |_| model.graph(),
            Device::Cpu,
            0..shape.layers,
            cache,
            options,
            progress,
        )?;
        Ok(Self {
            stages: vec![stage],
            handed_over: Vec::new(),
            tokens: TokenInput::Ids {
                positions: model.inputs.positions,
            },
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            gives_hidden: model.gives_hidden,
            spare_block: blocks,
            least_rows: LeastRows::OF_IMPORTED,
            cheap_rows: 1,
            batch: Batch::default(),
        })
    }

    /// Bytes of the key-value cache.
    pub fn cache_bytes(&self) -> usize {
        self.stages.iter().map(Stage::cache_bytes).sum()
    }
}

impl ModelRunner for Decoder {
    fn outputs(&self) -> Outputs {
        Outputs::new(self.vocabulary, self.hidden)
    }

    fn cheap_rows(&self) -> usize {
        self.cheap_rows
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let wanted = self
            .batch
            .fill(plan, &self.tokens, self.spare_block, self.least_rows)?;
        if !self.gives_hidden && !self.batch.hidden_rows.is_empty() {
            return Err(no_hidden_states());
        }
        let in_words = |error: RuntimeError| RunError(error.to_string());
        for BlockCopy { from, to } in &plan.copies {
            for stage in &mut self.stages {
                stage.copy(from.index(), to.index()).map_err(in_words)?;
            }
        }
        let decodes = plan.chunks.iter().all(|chunk| chunk.tokens.len() == 1);
        self.compute(wanted, decodes, outputs).map_err(in_words)
    }

    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError> {
        let mut bytes = Vec::new();
        for stage in &mut self.stages {
            let read = stage.read(block.index());
            bytes.extend(read.map_err(|error| RunError(error.to_string()))?);
        }
        Ok(bytes)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        check_block(self.stages.iter().map(Stage::block_bytes).sum(), bytes)?;
        let mut rest = bytes;
        for stage in &mut self.stages {
            let part;
            (part, rest) = rest.split_at(stage.block_bytes());
            let written = stage.write(block.index(), part);
            written.map_err(|error| RunError(error.to_string()))?;
        }
        Ok(())
    }
}

impl Decoder {
    /// Runs the sessions on the batch, one after the other: those for prompts, if there are such and the step does not only
    /// `decode`. The first `wanted` rows of the logits are the plan's.
    fn compute(
        &mut self,
        wanted: usize,
        decodes: bool,
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let batch = &self.batch;
        let last = self.stages.len() - 1;
        let mut taken_over: Option<DynValue> = None;
        for (place, stage) in self.stages.iter_mut().enumerate() {
            let mut inputs = batch.common_inputs()?;
            match taken_over.take() {
                None => inputs.extend(batch.token_inputs(&self.tokens)?),
                Some(value) => {
                    let name = self.handed_over[place - 1].as_str();
                    inputs.push((name.into(), value.into()));
                }
            }
            if place == last {
                inputs.extend(batch.wanted_inputs(self.gives_hidden)?);
            }
            let mut computed = stage.run(decodes, inputs)?;
            if place < last {
                let name = &self.handed_over[place];
                let missing = || RuntimeError::NoOutput { name: name.clone() };
                taken_over = Some(computed.remove(name).ok_or_else(missing)?);
                continue;
            }
            outputs.logits.resize(0);
            let rows = [wanted, batch.logit_rows.len()];
            add_rows(&computed, names::LOGITS, rows, &mut outputs.logits)?;
            outputs.hidden.resize(0);
            if self.gives_hidden {
                let rows = [batch.hidden_rows.len(); 2];
                add_rows(&computed, names::HIDDEN, rows, &mut outputs.hidden)?;
            }
        }
        Ok(())
    }
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

    /// What every stage reads.
    fn common_inputs(&self) -> Result<Vec<Input<'_>>, RuntimeError> {
        let sequences = self.past_seqlens.len();
        let lengths = &self.cumulative_sequence_length[..];
        let lengths = TensorRef::from_array_view(([sequences + 1], lengths))?;
        let past = TensorRef::from_array_view(([sequences], &self.past_seqlens[..]))?;
        let table = (
            [sequences, self.blocks_of_a_sequence],
            &self.block_table[..],
        );
        let table = TensorRef::from_array_view(table)?;
        let mut inputs: Vec<Input<'_>> = vec![
            (names::CUMULATIVE_SEQUENCE_LENGTH.into(), lengths.into()),
            (names::PAST_SEQLENS.into(), past.into()),
            (names::BLOCK_TABLE.into(), table.into()),
        ];
        inputs.extend(self.scales.input(self.rows())?);
        Ok(inputs)
    }

    /// What the first stage reads of the tokens.
    fn token_inputs(&self, tokens: &TokenInput) -> Result<Vec<Input<'_>>, RuntimeError> {
        let rows = self.rows();
        let positions = match tokens {
            TokenInput::Rows(embeddings) => {
                let embeds = ([rows, embeddings.columns()], &self.embeds[..]);
                let embeds = TensorRef::from_array_view(embeds)?;
                return Ok(vec![(names::INPUTS_EMBEDS.into(), embeds.into())]);
            }
            TokenInput::Ids { positions } => *positions,
        };
        let ids = TensorRef::from_array_view(([1, rows], &self.ids[..]))?;
        let mut inputs: Vec<Input<'_>> = vec![(names::INPUT_IDS.into(), ids.into())];
        if positions {
            let places = TensorRef::from_array_view(([1, rows], &self.positions[..]))?;
            inputs.push((POSITION_IDS.into(), places.into()));
        }
        Ok(inputs)
    }

    /// What the last stage reads of the rows whose results are wanted.
    fn wanted_inputs(&self, hidden: bool) -> Result<Vec<Input<'_>>, RuntimeError> {
        let rows = ([self.logit_rows.len()], &self.logit_rows[..]);
        let rows = TensorRef::from_array_view(rows)?;
        let mut inputs: Vec<Input<'_>> = vec![(names::LOGIT_ROWS.into(), rows.into())];
        if hidden {
            let rows = ([self.hidden_rows.len()], &self.hidden_rows[..]);
            let rows = TensorRef::from_array_view(rows)?;
            inputs.push((names::HIDDEN_ROWS.into(), rows.into()));
        }
        Ok(inputs)
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
