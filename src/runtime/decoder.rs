//! Runs step plans of a decoder: looks up token embeddings, runs the ragged batch through the sessions of all stages,
//! and returns logits and hidden states.

use anyhow::Context;
use ort::value::{DynValue, TensorRef};

use super::adapters::RowAdapterScales;
use super::device::{Device, DeviceLayers};
use super::operators::matmul::ROWS_PER_PASS;
use super::session::SessionOptions;
use super::stage::{SessionInput, Stage};
use super::{
    RuntimeError, append_embedding_rows, append_output_rows, check_block_size, no_hidden_states,
};
use crate::engine::{BlockCopy, BlockId, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::imported::{ImportedModel, POSITION_IDS};
use crate::graph::{
    DecoderStage, Embeddings, MatmulOperator, MinRows, ModelFile, names, residual_name,
};
use crate::token::TokenId;

/// A decoder in one or several stages, with its key-value cache.
pub struct Decoder {
    stages: Vec<Stage>,
    /// Names of the activations that each stage passes to the next stage.
    boundary_names: Vec<String>,
    token_input: TokenInput,
    vocabulary: usize,
    hidden: usize,
    has_hidden_output: bool,
    /// Index of the cache block that padding rows write to: one past the blocks of plans.
    padding_block: usize,
    min_rows: MinRows,
    speculative_row_budget: usize,
    step_inputs: StepInputs,
}

/// Form of the graph's token input.
enum TokenInput {
    /// Token embeddings, `[tokens, hidden]`; the embedding matrix is not part of the graph.
    Embeddings(Embeddings),
    /// Token ids, `[1, tokens]`.
    Ids {
        /// Whether the graph also has an input for the positions of the tokens.
        has_positions: bool,
    },
}

/// Buffers for the inputs of a step, reused by every step.
#[derive(Default)]
struct StepInputs {
    embeds: Vec<f32>,
    ids: Vec<i64>,
    positions: Vec<i64>,
    cumulative_sequence_length: Vec<i32>,
    past_seqlens: Vec<i32>,
    block_table: Vec<i32>,
    /// Number of columns of `block_table`.
    blocks_per_sequence: usize,
    logit_rows: Vec<i64>,
    hidden_rows: Vec<i64>,
    adapter_scales: RowAdapterScales,
}

impl Decoder {
    /// Loads the decoder in `file` for sequences of up to `context_tokens` tokens. The cache has `blocks` blocks of
    /// `block_tokens` tokens. `progress` receives the completed fraction, from 0 to 1.
    ///
    /// # Errors
    /// If `file` is an encoder, a device is not available, or a session cannot be created.
    pub fn load(
        file: &ModelFile,
        options: &SessionOptions,
        context_tokens: usize,
        blocks: usize,
        block_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let shape = file.architecture.decoder();
        let shape = shape.context("an encoder model cannot generate text")?;
        let cache_shape = [blocks + 1, block_tokens, shape.kv_heads, shape.head_size];
        let assigned = options
            .devices
            .assign_layers(&options.library, shape.layers)?;
        let stage_fraction = 1.0 / assigned.len() as f32;
        let load = |(index, DeviceLayers { device, layers }): (usize, &DeviceLayers)| {
            let stage = DecoderStage {
                layers: layers.clone(),
                attention: device.attention_operator(),
                matmul: options.matmul_operator(*device),
            };
            Stage::load(
                |progress| file.stage_graph(&stage, context_tokens, progress),
                *device,
                layers.clone(),
                cache_shape,
                options,
                &|fraction| progress((index as f32 + fraction) * stage_fraction),
            )
            .with_context(|| format!("cannot load layers {layers:?} on {device}"))
        };
        let stages = assigned.iter().enumerate().map(load);
        let later = assigned[1..].iter();
        let mut devices = assigned.iter().map(|stage| stage.device);
        let reads_weights_once =
            devices.all(|device| options.matmul_operator(device) == MatmulOperator::Ortolan);
        Ok(Self {
            stages: stages.collect::<anyhow::Result<_>>()?,
            boundary_names: later
                .map(|stage| residual_name(stage.layers.start))
                .collect(),
            token_input: TokenInput::Embeddings(file.embeddings()),
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            has_hidden_output: true,
            padding_block: blocks,
            min_rows: file.min_rows(options.matmul_operator(assigned[0].device)),
            // `MatMulPanels` reads the weights once for this many rows. Other operators may read them for each row.
            speculative_row_budget: if reads_weights_once { ROWS_PER_PASS } else { 1 },
            step_inputs: StepInputs {
                adapter_scales: RowAdapterScales::new(file.adapter_count()),
                ..StepInputs::default()
            },
        })
    }

    /// Loads an imported graph that uses paged attention. For the parameters see [`Self::load`].
    ///
    /// # Errors
    /// If the cache cannot be allocated, or if the session cannot be created.
    pub fn load_imported(
        model: &ImportedModel,
        options: &SessionOptions,
        blocks: usize,
        block_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let shape = &model.shape;
        let cache_shape = [blocks + 1, block_tokens, shape.kv_heads, shape.head_size];
        let stage = Stage::load(
            |_| model.graph(),
            Device::Cpu,
            0..shape.layers,
            cache_shape,
            options,
            progress,
        )?;
        Ok(Self {
            stages: vec![stage],
            boundary_names: Vec::new(),
            token_input: TokenInput::Ids {
                has_positions: model.inputs.positions,
            },
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            has_hidden_output: model.has_hidden_output,
            padding_block: blocks,
            min_rows: MinRows::IMPORTED,
            speculative_row_budget: 1,
            step_inputs: StepInputs::default(),
        })
    }

    /// Size of the key-value cache in bytes.
    pub fn cache_bytes(&self) -> usize {
        self.stages.iter().map(Stage::cache_bytes).sum()
    }
}

impl ModelRunner for Decoder {
    fn outputs(&self) -> Outputs {
        Outputs::new(self.vocabulary, self.hidden)
    }

    fn speculative_row_budget(&self) -> usize {
        self.speculative_row_budget
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let logit_rows =
            self.step_inputs
                .fill(plan, &self.token_input, self.padding_block, self.min_rows)?;
        if !self.has_hidden_output && !self.step_inputs.hidden_rows.is_empty() {
            return Err(no_hidden_states());
        }
        let run_error = |error: RuntimeError| RunError(error.to_string());
        for BlockCopy { from, to } in &plan.copies {
            for stage in &mut self.stages {
                stage.copy(from.index(), to.index()).map_err(run_error)?;
            }
        }
        let decode_only = plan.chunks.iter().all(|chunk| chunk.tokens.len() == 1);
        self.compute(logit_rows, decode_only, outputs)
            .map_err(run_error)
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
        check_block_size(self.stages.iter().map(Stage::block_bytes).sum(), bytes)?;
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
    /// Runs all stages in order on `step_inputs`. `decode_only` is true if the step has no prefill chunk. `logit_rows`
    /// is the number of logit rows without padding.
    fn compute(
        &mut self,
        logit_rows: usize,
        decode_only: bool,
        outputs: &mut Outputs,
    ) -> Result<(), RuntimeError> {
        let step = &self.step_inputs;
        let last = self.stages.len() - 1;
        let mut boundary_activations: Option<DynValue> = None;
        for (index, stage) in self.stages.iter_mut().enumerate() {
            let mut inputs = step.common_inputs()?;
            match boundary_activations.take() {
                None => inputs.extend(step.token_inputs(&self.token_input)?),
                Some(value) => {
                    let name = self.boundary_names[index - 1].as_str();
                    inputs.push((name.into(), value.into()));
                }
            }
            if index == last {
                inputs.extend(step.output_row_inputs(self.has_hidden_output)?);
            }
            let mut computed = stage.run(decode_only, inputs)?;
            if index < last {
                let name = &self.boundary_names[index];
                let missing = || RuntimeError::MissingOutput { name: name.clone() };
                boundary_activations = Some(computed.remove(name).ok_or_else(missing)?);
                continue;
            }
            outputs.logits.resize(0);
            let rows = [logit_rows, step.logit_rows.len()];
            append_output_rows(&computed, names::LOGITS, rows, &mut outputs.logits)?;
            outputs.hidden.resize(0);
            if self.has_hidden_output {
                let rows = [step.hidden_rows.len(); 2];
                append_output_rows(&computed, names::HIDDEN, rows, &mut outputs.hidden)?;
            }
        }
        Ok(())
    }
}

impl StepInputs {
    /// Fills the buffers with the inputs of a plan, and pads tokens and logit rows to `min_rows`. Returns the number of
    /// logit rows without padding.
    fn fill(
        &mut self,
        plan: &StepPlan,
        tokens: &TokenInput,
        padding_block: usize,
        min_rows: MinRows,
    ) -> Result<usize, RunError> {
        let padding = min_rows.tokens.saturating_sub(plan.tokens());
        let max_blocks = plan.chunks.iter().map(|chunk| chunk.blocks.len()).max();
        self.blocks_per_sequence = max_blocks.unwrap_or(0).max(1);
        self.cumulative_sequence_length.clear();
        self.cumulative_sequence_length.push(0);
        self.past_seqlens.clear();
        self.block_table.clear();
        self.embeds.clear();
        self.ids.clear();
        self.positions.clear();
        self.adapter_scales.fill(plan, plan.tokens() + padding)?;

        for chunk in &plan.chunks {
            match tokens {
                TokenInput::Embeddings(embeddings) => {
                    append_embedding_rows(embeddings, &chunk.tokens, &mut self.embeds)?;
                }
                TokenInput::Ids { .. } => self.add_ids(&chunk.tokens, chunk.past),
            }
            self.add_sequence(
                chunk.tokens.len(),
                chunk.past,
                chunk.blocks.iter().map(|block: &BlockId| block.index()),
            );
        }
        for _ in 0..padding {
            match tokens {
                TokenInput::Embeddings(embeddings) => {
                    let end = self.embeds.len() + embeddings.columns();
                    self.embeds.resize(end, 0.0);
                }
                TokenInput::Ids { .. } => self.add_ids(&[TokenId(0)], 0),
            }
            self.add_sequence(1, 0, std::iter::once(padding_block));
        }

        let rows = plan.logit_rows();
        self.logit_rows.clear();
        self.logit_rows.extend(rows.iter().map(|row| *row as i64));
        if !rows.is_empty() {
            // Padding selects row 0, which every step has.
            self.logit_rows.resize(rows.len().max(min_rows.logits), 0);
        }
        let hidden = plan.hidden_rows();
        self.hidden_rows.clear();
        self.hidden_rows
            .extend(hidden.iter().map(|row| *row as i64));
        Ok(rows.len())
    }

    /// Returns the inputs that all stages have: sequence lengths, block table and adapter scales.
    fn common_inputs(&self) -> Result<Vec<SessionInput<'_>>, RuntimeError> {
        let sequences = self.past_seqlens.len();
        let lengths = &self.cumulative_sequence_length[..];
        let lengths = TensorRef::from_array_view(([sequences + 1], lengths))?;
        let past = TensorRef::from_array_view(([sequences], &self.past_seqlens[..]))?;
        let table = ([sequences, self.blocks_per_sequence], &self.block_table[..]);
        let table = TensorRef::from_array_view(table)?;
        let mut inputs: Vec<SessionInput<'_>> = vec![
            (names::CUMULATIVE_SEQUENCE_LENGTH.into(), lengths.into()),
            (names::PAST_SEQLENS.into(), past.into()),
            (names::BLOCK_TABLE.into(), table.into()),
        ];
        inputs.extend(self.adapter_scales.input(self.rows())?);
        Ok(inputs)
    }

    /// Returns the inputs that only the first stage has: embeddings, or token ids and positions.
    fn token_inputs(&self, tokens: &TokenInput) -> Result<Vec<SessionInput<'_>>, RuntimeError> {
        let rows = self.rows();
        let has_positions = match tokens {
            TokenInput::Embeddings(embeddings) => {
                let embeds = ([rows, embeddings.columns()], &self.embeds[..]);
                let embeds = TensorRef::from_array_view(embeds)?;
                return Ok(vec![(names::INPUTS_EMBEDS.into(), embeds.into())]);
            }
            TokenInput::Ids { has_positions } => *has_positions,
        };
        let ids = TensorRef::from_array_view(([1, rows], &self.ids[..]))?;
        let mut inputs: Vec<SessionInput<'_>> = vec![(names::INPUT_IDS.into(), ids.into())];
        if has_positions {
            let positions = TensorRef::from_array_view(([1, rows], &self.positions[..]))?;
            inputs.push((POSITION_IDS.into(), positions.into()));
        }
        Ok(inputs)
    }

    /// Returns the inputs that only the last stage has: the rows of logits and hidden states to return.
    fn output_row_inputs(&self, hidden: bool) -> Result<Vec<SessionInput<'_>>, RuntimeError> {
        let rows = ([self.logit_rows.len()], &self.logit_rows[..]);
        let rows = TensorRef::from_array_view(rows)?;
        let mut inputs: Vec<SessionInput<'_>> = vec![(names::LOGIT_ROWS.into(), rows.into())];
        if hidden {
            let rows = ([self.hidden_rows.len()], &self.hidden_rows[..]);
            let rows = TensorRef::from_array_view(rows)?;
            inputs.push((names::HIDDEN_ROWS.into(), rows.into()));
        }
        Ok(inputs)
    }

    /// Number of rows in the step, including padding.
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
        let index = |number: usize| {
            i32::try_from(number).expect("configured limits keep indices below i32::MAX")
        };
        let start = self.cumulative_sequence_length.last().copied().unwrap_or(0);
        self.cumulative_sequence_length.push(start + index(tokens));
        self.past_seqlens.push(index(past));
        let end = self.block_table.len() + self.blocks_per_sequence;
        self.block_table.extend(blocks.map(index));
        self.block_table.resize(end, 0);
    }
}
