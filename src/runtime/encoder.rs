//! Runs step plans of an encoder: computes whole sequences as one ragged batch and returns the requested hidden states.

use std::borrow::Cow;

use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use super::adapters::RowAdapterScales;
use super::device::Device;
use super::session::{self, SessionOptions};
use super::{RuntimeError, append_embedding_rows};
use crate::engine::{BlockId, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::{Embeddings, ModelFile, names};

/// An encoder that runs in one session, without a key-value cache. The blocks of a plan are ignored.
pub struct Encoder {
    session: Session,
    embeddings: Embeddings,
    /// Minimum number of rows of a step. Smaller steps are padded, so that a row's result does not depend on the batch
    /// size.
    min_tokens: usize,
    step_inputs: StepInputs,
}

/// Buffers for the inputs of a step, reused by every step.
#[derive(Default)]
struct StepInputs {
    embeds: Vec<f32>,
    positions: Vec<i64>,
    cumulative_sequence_length: Vec<i32>,
    hidden_rows: Vec<i64>,
    adapter_scales: RowAdapterScales,
}

impl Encoder {
    /// Loads the encoder in `file`. `progress` receives the completed fraction, from 0 to 1.
    ///
    /// # Errors
    /// If the session cannot be created.
    pub fn load(
        file: &ModelFile,
        options: &SessionOptions,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let matmul = options.matmul_operator(Device::Cpu);
        let context_tokens = file.architecture.trained_context();
        let graph = |progress: &dyn Fn(f32)| file.graph(matmul, context_tokens, progress);
        let threads = options.batch_threads.or(options.threads);
        let session = session::build(graph, Device::Cpu, options, threads, progress)?;
        Ok(Self {
            session,
            embeddings: file.embeddings(),
            min_tokens: file.min_rows(matmul).tokens,
            step_inputs: StepInputs {
                adapter_scales: RowAdapterScales::new(file.adapter_count()),
                ..StepInputs::default()
            },
        })
    }
}

impl ModelRunner for Encoder {
    fn outputs(&self) -> Outputs {
        Outputs::without_logits(self.embeddings.columns())
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        self.step_inputs
            .fill(plan, &self.embeddings, self.min_tokens)?;
        self.compute(outputs)
            .map_err(|error| RunError(error.to_string()))
    }

    fn read_block(&mut self, _: BlockId) -> Result<Vec<u8>, RunError> {
        Err(no_cache())
    }

    fn write_block(&mut self, _: BlockId, _: &[u8]) -> Result<(), RunError> {
        Err(no_cache())
    }
}

fn no_cache() -> RunError {
    RunError("an encoder has no key-value cache".to_owned())
}

impl Encoder {
    fn compute(&mut self, outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let step = &self.step_inputs;
        let columns = self.embeddings.columns();
        let rows = step.embeds.len() / columns;
        let sequences = step.cumulative_sequence_length.len() - 1;
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            (
                names::INPUTS_EMBEDS.into(),
                TensorRef::from_array_view(([rows, columns], step.embeds.as_slice()))?.into(),
            ),
            (
                names::POSITIONS.into(),
                TensorRef::from_array_view(([rows], step.positions.as_slice()))?.into(),
            ),
            (
                names::CUMULATIVE_SEQUENCE_LENGTH.into(),
                TensorRef::from_array_view((
                    [sequences + 1],
                    step.cumulative_sequence_length.as_slice(),
                ))?
                .into(),
            ),
            (
                names::HIDDEN_ROWS.into(),
                TensorRef::from_array_view((
                    [step.hidden_rows.len()],
                    step.hidden_rows.as_slice(),
                ))?
                .into(),
            ),
        ];
        inputs.extend(step.adapter_scales.input(rows)?);
        let computed = self.session.run(inputs)?;
        outputs.logits.resize(0);
        let (_, hidden) = computed[names::HIDDEN].try_extract_tensor::<f32>()?;
        let rows = outputs.hidden.resize(step.hidden_rows.len());
        rows.copy_from_slice(hidden);
        Ok(())
    }
}

impl StepInputs {
    /// Fills the buffers with the inputs of a plan, and pads them to `min_tokens` rows. A padding row is a sequence of
    /// one token whose embedding is zero.
    fn fill(
        &mut self,
        plan: &StepPlan,
        embeddings: &Embeddings,
        min_tokens: usize,
    ) -> Result<(), RunError> {
        self.embeds.clear();
        self.positions.clear();
        self.cumulative_sequence_length.clear();
        self.cumulative_sequence_length.push(0);
        for chunk in &plan.chunks {
            if chunk.past > 0 {
                return Err(RunError(
                    "an encoder computes whole sequences, not chunks".to_owned(),
                ));
            }
            append_embedding_rows(embeddings, &chunk.tokens, &mut self.embeds)?;
            self.end_sequence(chunk.tokens.len());
        }
        while self.positions.len() < min_tokens {
            let end = self.embeds.len() + embeddings.columns();
            self.embeds.resize(end, 0.0);
            self.end_sequence(1);
        }
        self.adapter_scales.fill(plan, self.positions.len())?;
        let rows = plan.hidden_rows();
        self.hidden_rows.clear();
        self.hidden_rows.extend(rows.iter().map(|row| *row as i64));
        Ok(())
    }

    /// Ends the sequence that consists of the last `tokens` rows.
    fn end_sequence(&mut self, tokens: usize) {
        self.positions.extend(0..tokens as i64);
        let end = i32::try_from(self.positions.len());
        self.cumulative_sequence_length
            .push(end.expect("configured limits keep indices below i32::MAX"));
    }
}
