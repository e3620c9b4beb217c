//! Pooling: reduces the hidden states of a prompt to one embedding.

use super::step::WantedRows;

/// How hidden states are reduced to an embedding (GGUF's `pooling_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The first token's hidden state (CLS pooling).
    First,
    /// The last token's hidden state.
    Last,
}

/// The hidden states that were pooled so far.
#[derive(Debug)]
pub(super) struct PoolingState {
    pooling: Pooling,
    rows: usize,
    /// The sum of all rows for [`Pooling::Mean`], otherwise the selected row; `[hidden]`.
    values: Vec<f64>,
}

impl PoolingState {
    pub(super) fn new(pooling: Pooling) -> Self {
        Self {
            pooling,
            rows: 0,
            values: Vec::new(),
        }
    }

    /// Returns whether pooling needs the hidden states of all tokens. If so, the prompt must not reuse cached blocks,
    /// which hold no hidden states.
    pub(super) fn needs_all_tokens(&self) -> bool {
        match self.pooling {
            Pooling::Mean | Pooling::First => true,
            Pooling::Last => false,
        }
    }

    /// Returns which rows of hidden states the runner must return for a chunk.
    pub(super) fn wanted_rows(&self, chunk_is_last: bool) -> WantedRows {
        match (self.pooling, chunk_is_last) {
            (Pooling::Mean | Pooling::First, _) => WantedRows::All,
            (Pooling::Last, true) => WantedRows::Last(1),
            (Pooling::Last, false) => WantedRows::None,
        }
    }

    /// Adds the hidden states of the next chunk.
    pub(super) fn add<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        for row in rows {
            let values = row.iter().copied().map(f64::from);
            match self.pooling {
                Pooling::Mean if self.rows > 0 => {
                    self.values
                        .iter_mut()
                        .zip(values)
                        .for_each(|(sum, value)| *sum += value);
                }
                Pooling::First if self.rows > 0 => {}
                Pooling::Mean | Pooling::First | Pooling::Last => self.values = values.collect(),
            }
            self.rows += 1;
        }
    }

    /// Drops the pooled rows before the prompt is recomputed.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.pooling);
    }

    /// Returns the embedding, `[hidden]`.
    pub(super) fn finish(&self) -> Vec<f32> {
        let count = match self.pooling {
            Pooling::Mean => self.rows as f64,
            Pooling::First | Pooling::Last => 1.0,
        };
        self.values.iter().map(|sum| (sum / count) as f32).collect()
    }
}
