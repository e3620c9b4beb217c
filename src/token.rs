//! The token id type, which all layers share.

/// The index of a token in the model's vocabulary.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// The id as a row index into tables with one row per token (embeddings, logits).
    pub fn row(self) -> usize {
        self.0 as usize
    }
}
