//! What the engine needs of a model.

use super::step::StepPlan;

/// Computes steps. Keys and values of past tokens stay with it, in the blocks that the plans name.
pub trait ModelRunner: Send {
    /// Runs the plan and writes one row of logits per wanted row, in order.
    ///
    /// # Errors
    /// What went wrong; the plan's sequences have lost what this step would have added.
    fn run(&mut self, plan: &StepPlan, logits: &mut Logits) -> Result<(), RunError>;
}

/// A step failed, in words for the log and the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RunError(pub String);

/// The logits of a step, `[rows, vocabulary]`, in memory that is used again at every step.
#[derive(Debug)]
pub struct Logits {
    vocabulary: usize,
    values: Vec<f32>,
}

impl Logits {
    /// No rows yet, of `vocabulary` logits each.
    ///
    /// # Panics
    /// If `vocabulary` is 0.
    pub fn new(vocabulary: usize) -> Self {
        assert!(vocabulary > 0, "a vocabulary has tokens");
        Self {
            vocabulary,
            values: Vec::new(),
        }
    }

    /// Makes room for `rows` rows and lends them.
    pub fn resize(&mut self, rows: usize) -> &mut [f32] {
        self.values.resize(rows * self.vocabulary, 0.0);
        &mut self.values
    }

    /// The rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary)
    }

    /// The rows, to be overwritten while sampling.
    pub fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.vocabulary)
    }
}
