//! Runs step plans on an encoder: whole sequences, side by side, and the hidden states that are wanted of them.

use std::borrow::Cow;

use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use super::adapters::ScaleRows;
use super::device::Device;
use super::session::{self, SessionOptions};
use super::{RuntimeError, read_rows};
use crate::engine::{BlockId, ModelRunner, Outputs, RunError, StepPlan};
use crate::graph::{Embeddings, ModelFile, names};

/// An encoder in a session. It has no cache: blocks that a plan names hold nothing.
pub struct Encoder {
    session: Session,
    embeddings: Embeddings,
    /// Tokens of a step, so that a row's bits do not depend on how many there are.
    least_tokens: usize,
    batch: Batch,
}

/// A step's inputs, in memory that is used again at every step.
#[derive(Default)]
struct Batch {
    embeds: Vec<f32>,
    positions: Vec<i64>,
    cumulative_sequence_length: Vec<i32>,
    hidden_rows: Vec<i64>,
    scales: ScaleRows,
}

impl Encoder {
    /// A session for `file`. `progress` hears the share that is done, from 0 to 1.
    pub fn load(
        file: &ModelFile,
        options: &SessionOptions,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let products = options.products(Device::Cpu);
        let context_tokens = file.architecture.trained_context();
        let graph = |progress: &dyn Fn(f32)| file.graph(products, context_tokens, progress);
        let threads = options.batch_threads.or(options.threads);
        let session = session::build(graph, Device::Cpu, options, threads, progress)?;
        Ok(Self {
            session,
            embeddings: file.embeddings(),
            least_tokens: file.least_rows(products).tokens,
            batch: Batch {
                scales: ScaleRows::new(file.adapters()),
                ..Batch::default()
            },
        })
    }
}

impl ModelRunner for Encoder {
    fn outputs(&self) -> Outputs {
        Outputs::without_logits(self.embeddings.columns())
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        self.batch.fill(plan, &self.embeddings, self.least_tokens)?;
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
    RunError("an encoder has no cache".to_owned())
}

impl Encoder {
    fn compute(&mut self, outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let batch = &self.batch;
        let columns = self.embeddings.columns();
        let rows = batch.embeds.len() / columns;
        let sequences = batch.cumulative_sequence_length.len() - 1;
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            (
                names::INPUTS_EMBEDS.into(),
                TensorRef::from_array_view(([rows, columns], batch.embeds.as_slice()))?.into(),
            ),
            (
                names::POSITIONS.into(),
                TensorRef::from_array_view(([rows], batch.positions.as_slice()))?.into(),
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
                names::HIDDEN_ROWS.into(),
                TensorRef::from_array_view((
                    [batch.hidden_rows.len()],
                    batch.hidden_rows.as_slice(),
                ))?
                .into(),
            ),
        ];
        inputs.extend(batch.scales.input(rows)?);
        let computed = self.session.run(inputs)?;
        outputs.logits.resize(0);
        let (_, hidden) = computed[names::HIDDEN].try_extract_tensor::<f32>()?;
        let rows = outputs.hidden.resize(batch.hidden_rows.len());
        rows.copy_from_slice(hidden);
        Ok(())
    }
}

impl Batch {
    /// Lays the plan out, filled up to `least_tokens` with sequences of a token that belongs to nobody.
    fn fill(
        &mut self,
        plan: &StepPlan,
        embeddings: &Embeddings,
        least_tokens: usize,
    ) -> Result<(), RunError> {
        self.embeds.clear();
        self.positions.clear();
        self.cumulative_sequence_length.clear();
        self.cumulative_sequence_length.push(0);
        for chunk in &plan.chunks {
            if chunk.past > 0 {
                return Err(RunError("an encoder takes whole sequences".to_owned()));
            }
            read_rows(embeddings, &chunk.tokens, &mut self.embeds)?;
            self.end_sequence(chunk.tokens.len());
        }
        while self.positions.len() < least_tokens {
            let zeros = self.embeds.len() + embeddings.columns();
            self.embeds.resize(zeros, 0.0);
            self.end_sequence(1);
        }
        self.scales.fill(plan, self.positions.len())?;
        let rows = plan.hidden_rows();
        self.hidden_rows.clear();
        self.hidden_rows.extend(rows.iter().map(|row| *row as i64));
        Ok(())
    }

    /// The rows that were added last are a sequence of so many tokens.
    fn end_sequence(&mut self, tokens: usize) {
        self.positions.extend(0..tokens as i64);
        let end = i32::try_from(self.positions.len());
        self.cumulative_sequence_length
            .push(end.expect("limits keep numbers far below"));
    }
}
