//! One embedding from a sequence's hidden states.

use super::step::WantedRows;

/// Which rows become the embedding (GGUF's `pooling_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// What was gathered so far.
#[derive(Debug)]
pub(super) struct Pool {
    pooling: Pooling,
    rows: usize,
    /// The sum of all rows, or the one row.
    values: Vec<f64>,
}

impl Pool {
    pub(super) fn new(pooling: Pooling) -> Self {
        Self {
            pooling,
            rows: 0,
            values: Vec::new(),
        }
    }

    /// Whether it needs the rows of tokens that the cache holds: their hidden states are not in it.
    pub(super) fn needs_all(&self) -> bool {
        match self.pooling {
            Pooling::Mean | Pooling::First => true,
            Pooling::Last => false,
        }
    }

    /// The rows it needs of a chunk.
    pub(super) fn wanted(&self, chunk_is_last: bool) -> WantedRows {
        match (self.pooling, chunk_is_last) {
            (Pooling::Mean | Pooling::First, _) => WantedRows::All,
            (Pooling::Last, true) => WantedRows::Last(1),
            (Pooling::Last, false) => WantedRows::None,
        }
    }

    /// Takes the rows of the next chunk.
    pub(super) fn add<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        for row in rows {
            let wide = row.iter().copied().map(f64::from);
            match self.pooling {
                Pooling::Mean if self.rows > 0 => {
                    self.values
                        .iter_mut()
                        .zip(wide)
                        .for_each(|(sum, value)| *sum += value);
                }
                Pooling::First if self.rows > 0 => {}
                Pooling::Mean | Pooling::First | Pooling::Last => self.values = wide.collect(),
            }
            self.rows += 1;
        }
    }

    /// Forgets what was gathered: it is computed anew.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.pooling);
    }

    /// The embedding.
    pub(super) fn finish(&self) -> Vec<f32> {
        let count = match self.pooling {
            Pooling::Mean => self.rows as f64,
            Pooling::First | Pooling::Last => 1.0,
        };
        self.values.iter().map(|sum| (sum / count) as f32).collect()
    }
}
