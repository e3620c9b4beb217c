//! What the engine needs of a model.

use super::step::StepPlan;
use crate::cache::BlockId;

/// Computes steps. Keys and values of past tokens stay with it, in the blocks that the plans name.
pub trait ModelRunner: Send {
    /// Room for what its steps compute.
    fn outputs(&self) -> Outputs;

    /// Rows that a step computes in about the time of one: what sequences leave of them is for tokens that are only guessed.
    fn cheap_rows(&self) -> usize {
        1
    }

    /// Runs the plan and writes one row per wanted row, of logits and of hidden states, in order.
    ///
    /// # Errors
    /// What went wrong; the plan's sequences have lost what this step would have added.
    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError>;

    /// The keys and values of a block, as bytes that [`Self::write_block`] takes.
    ///
    /// # Errors
    /// They cannot be had.
    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError>;

    /// Writes a block's keys and values.
    ///
    /// # Errors
    /// They are not such bytes.
    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError>;
}

/// A step failed, in words for the log and the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RunError(pub String);

/// What a step computes, in memory that is used again at every step.
#[derive(Debug)]
pub struct Outputs {
    /// `[rows, vocabulary]`.
    pub logits: Rows,
    /// `[rows, hidden]`, after the last norm.
    pub hidden: Rows,
}

impl Outputs {
    /// No rows yet, of `vocabulary` logits and `hidden` values each.
    ///
    /// # Panics
    /// If one of them is 0.
    pub fn new(vocabulary: usize, hidden: usize) -> Self {
        Self {
            logits: Rows::new(vocabulary),
            hidden: Rows::new(hidden),
        }
    }

    /// The same of a model that has no logits: there never are rows of them.
    ///
    /// # Panics
    /// If `hidden` is 0.
    pub fn without_logits(hidden: usize) -> Self {
        Self::new(1, hidden)
    }
}

/// Rows of numbers.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    values: Vec<f32>,
}

impl Rows {
    fn new(width: usize) -> Self {
        assert!(width > 0, "a row has numbers");
        Self {
            width,
            values: Vec::new(),
        }
    }

    /// Makes room for `rows` rows and lends them.
    pub fn resize(&mut self, rows: usize) -> &mut [f32] {
        self.values.resize(rows * self.width, 0.0);
        &mut self.values
    }

    /// Makes room for `rows` more rows and lends them.
    pub fn add(&mut self, rows: usize) -> &mut [f32] {
        let before = self.values.len();
        self.values.resize(before + rows * self.width, 0.0);
        &mut self.values[before..]
    }

    /// The rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// The rows, to be overwritten while sampling.
    pub fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.width)
    }
}
