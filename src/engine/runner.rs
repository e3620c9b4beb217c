//! The interface between the engine and the model: the trait that computes steps, and the outputs of a step.

use super::step::StepPlan;
use crate::cache::BlockId;

/// Computes steps with a model. The runner owns the memory of the KV cache; plans refer to its blocks by id.
pub trait ModelRunner: Send {
    /// Returns an empty output buffer for the vocabulary size and the hidden size of the model.
    fn outputs(&self) -> Outputs;

    /// Returns the number of rows up to which a step costs about as much as a single row. Rows that no sequence needs
    /// carry draft tokens.
    fn speculative_row_budget(&self) -> usize {
        1
    }

    /// Copies the blocks that the plan lists, then computes its chunks. Writes the wanted rows of logits and hidden
    /// states in the order of the plan.
    ///
    /// # Errors
    /// If the step fails. The cache contents that the step was to write are then invalid.
    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError>;

    /// Returns the keys and values of a block as bytes for [`Self::write_block`].
    ///
    /// # Errors
    /// If the block cannot be read.
    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError>;

    /// Writes the keys and values of a block, as [`Self::read_block`] returns them.
    ///
    /// # Errors
    /// If the bytes do not fit the cache, or the block cannot be written.
    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError>;
}

/// Why the runner failed: a message for the log and the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RunError(pub String);

/// The outputs of a step, in buffers that are reused by every step.
#[derive(Debug)]
pub struct Outputs {
    /// `[rows, vocabulary]`.
    pub logits: Rows,
    /// `[rows, hidden]`, after the final norm.
    pub hidden: Rows,
}

impl Outputs {
    /// Creates buffers without rows. A row has `vocabulary` logits, or `hidden` values of a hidden state.
    ///
    /// # Panics
    /// If either size is 0.
    pub fn new(vocabulary: usize, hidden: usize) -> Self {
        Self {
            logits: Rows::new(vocabulary),
            hidden: Rows::new(hidden),
        }
    }

    /// Creates buffers for a model without logits, whose steps must not request rows of logits.
    ///
    /// # Panics
    /// If `hidden` is 0.
    pub fn without_logits(hidden: usize) -> Self {
        Self::new(1, hidden)
    }
}

/// A row-major matrix whose number of rows changes with every step.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    values: Vec<f32>,
}

impl Rows {
    fn new(width: usize) -> Self {
        assert!(width > 0, "a row has at least one value");
        Self {
            width,
            values: Vec::new(),
        }
    }

    /// Changes the number of rows and returns all values, `[rows, width]`.
    pub fn resize(&mut self, rows: usize) -> &mut [f32] {
        self.values.resize(rows * self.width, 0.0);
        &mut self.values
    }

    /// Appends `rows` rows of zeros and returns their values.
    pub fn add(&mut self, rows: usize) -> &mut [f32] {
        let before = self.values.len();
        self.values.resize(before + rows * self.width, 0.0);
        &mut self.values[before..]
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// The rows in order, mutable because sampling overwrites the logits.
    pub fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.width)
    }
}
