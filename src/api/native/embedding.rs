//! `POST /embedding`: computes the embeddings of texts.

use std::sync::Arc;

use crate::api::embeddings::{EUCLIDEAN_NORM, check_size, embed};
use crate::api::error::Error;
use crate::api::prompts::Prompts;
use crate::api::types;
use crate::model::{GenerateLimits, LoadedModel, PreparationPool};

/// Handles `POST /embedding`.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: &Arc<LoadedModel>,
    body: types::EmbeddingRequest,
    limits: &GenerateLimits,
) -> Result<types::EmbeddingAnswer, Error> {
    let (param, prompts) = match (body.content, body.input) {
        (Some(content), _) => ("content", content),
        (None, Some(input)) => ("input", input),
        (None, None) => return Err(Error::invalid("content", "content: it is required")),
    };
    let prompts = Prompts::read(param, prompts)?;
    let norm = body.embd_normalize.unwrap_or(EUCLIDEAN_NORM);
    let is_single = matches!(prompts, Prompts::One(_));
    let prompts = prompts.into_vec();
    check_size(param, prompts.len(), model.details().hidden_size)?;
    let embeddings = embed(&preparations.admit()?, model, param, prompts, norm, limits).await?;
    let mut indexed: Vec<types::IndexedEmbedding> = (0..)
        .zip(embeddings)
        .map(|(index, embedding)| types::IndexedEmbedding {
            index,
            embedding: embedding.values,
        })
        .collect();
    Ok(match (is_single, indexed.pop()) {
        (true, Some(single)) => types::EmbeddingAnswer::Embedding(types::Embedding {
            embedding: single.embedding,
        }),
        (_, last) => {
            indexed.extend(last);
            types::EmbeddingAnswer::Array(indexed)
        }
    })
}
