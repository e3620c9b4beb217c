//! The one word that every floor shares.

/// The number of a token in the model's vocabulary.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// The token's row in a table with one row per token (embeddings, logits).
    pub fn row(self) -> usize {
        self.0 as usize
    }
}
