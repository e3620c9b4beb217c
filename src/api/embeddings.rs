//! What several texts are to the model, for both surfaces.

use futures_util::future::try_join_all;

use super::at_length;
use super::error::Error;
use super::prompts::{Prompts, pieces};
use super::types;
use crate::model::{Embedding, GenerateLimits, LoadedModel, PendingEmbedding, Prompt};

/// The embedding of each prompt; `param` is what they are called.
pub(super) async fn embed(
    model: &LoadedModel,
    param: &str,
    prompts: Vec<types::Prompt>,
    limits: &GenerateLimits,
) -> Result<Vec<Embedding>, Error> {
    Prompts::check_count(param, prompts.len(), model.places())?;
    let begin = |prompt: types::Prompt| -> Result<PendingEmbedding, Error> {
        let prompt = Prompt::Pieces(pieces(prompt));
        Ok(model.embed(&prompt, limits.timeout)?)
    };
    let begun: Result<Vec<_>, Error> = at_length(|| prompts.into_iter().map(begin).collect());
    Ok(try_join_all(begun?.into_iter().map(PendingEmbedding::finish)).await?)
}
