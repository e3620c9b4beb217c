//! `POST /embedding`: what texts are to the model, as vectors.

use futures_util::future::try_join_all;

use super::prompts::Prompts;
use crate::api::at_length;
use crate::api::error::Error;
use crate::api::options::pieces;
use crate::api::types;
use crate::model::{GenerateLimits, LoadedModel, PendingEmbedding, Prompt};

/// The embedding of each text.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
    body: types::EmbeddingRequest,
    limits: &GenerateLimits,
) -> Result<types::EmbeddingAnswer, Error> {
    let begin = |content: types::Prompt| -> Result<PendingEmbedding, Error> {
        let prompt = Prompt::Pieces(pieces(content));
        Ok(model.embed(&prompt, limits.timeout)?)
    };
    match Prompts::read("content", body.content)? {
        Prompts::One(content) => {
            let embedding = at_length(|| begin(content))?.finish().await?;
            let embedding = types::Embedding {
                embedding: embedding.values,
            };
            Ok(types::EmbeddingAnswer::Embedding(embedding))
        }
        Prompts::Several(contents) => {
            Prompts::check_count("content", contents.len(), model.places())?;
            let begun: Result<Vec<_>, Error> =
                at_length(|| contents.into_iter().map(begin).collect());
            let pending = begun?.into_iter().map(PendingEmbedding::finish);
            let embeddings = try_join_all(pending).await?;
            let indexed = (0..)
                .zip(embeddings)
                .map(|(index, embedding)| types::IndexedEmbedding {
                    index,
                    embedding: embedding.values,
                });
            Ok(types::EmbeddingAnswer::Array(indexed.collect()))
        }
    }
}
