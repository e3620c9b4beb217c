//! `POST /embedding`: what texts are to the model, as vectors.

use crate::api::embeddings::embed;
use crate::api::error::Error;
use crate::api::prompts::Prompts;
use crate::api::types;
use crate::model::{GenerateLimits, LoadedModel};

/// The embedding of each text.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
    body: types::EmbeddingRequest,
    limits: &GenerateLimits,
) -> Result<types::EmbeddingAnswer, Error> {
    let prompts = Prompts::read("content", body.content)?;
    let alone = matches!(prompts, Prompts::One(_));
    let embeddings = embed(model, "content", prompts.all(), limits).await?;
    let mut indexed: Vec<types::IndexedEmbedding> = (0..)
        .zip(embeddings)
        .map(|(index, embedding)| types::IndexedEmbedding {
            index,
            embedding: embedding.values,
        })
        .collect();
    Ok(match (alone, indexed.pop()) {
        (true, Some(one)) => types::EmbeddingAnswer::Embedding(types::Embedding {
            embedding: one.embedding,
        }),
        (_, last) => {
            indexed.extend(last);
            types::EmbeddingAnswer::Array(indexed)
        }
    })
}
