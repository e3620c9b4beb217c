//! What several texts are to the model, for both surfaces.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::at_length;
use super::error::Error;
use super::prompts::pieces;
use super::types;
use crate::model::{Embedding, GenerateLimits, LoadedModel};

/// Most texts of a request: twice as many as OpenAI's API takes.
const MOST_TEXTS: usize = 4096;

/// The embedding of each prompt; `param` is what they are called.
pub(super) async fn embed(
    model: &LoadedModel,
    param: &str,
    prompts: Vec<types::Prompt>,
    limits: &GenerateLimits,
) -> Result<Vec<Embedding>, Error> {
    if prompts.len() > MOST_TEXTS {
        let problem = format!(
            "{param}: {} texts are more than {MOST_TEXTS}",
            prompts.len()
        );
        return Err(Error::invalid(param, problem));
    }
    let begin = |prompt: types::Prompt| {
        let text = pieces(prompt);
        at_length(|| model.embed(&text, limits.timeout))
    };
    // Enough that no slot waits for a text, and not all at once: they would take the places of others.
    let beside = model.places().min(2 * model.details().slots);
    let embeddings = stream::iter(prompts)
        .map(|prompt| async { begin(prompt)?.finish().await })
        .buffered(beside);
    Ok(embeddings.try_collect().await?)
}
