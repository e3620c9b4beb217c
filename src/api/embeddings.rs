//! Computes and normalizes the embeddings of several texts, for all routes that return or compare embeddings.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::error::Error;
use super::prompts::prompt_pieces;
use super::response_size::{self, EMBEDDING_NUMBER_BYTES};
use super::types;
use crate::model::{Embedding, GenerateLimits, LoadedModel, PreparationPermit};

/// Maximum number of texts in a request: twice the limit of OpenAI's API.
const MAX_TEXTS: usize = 4096;

/// The value of llama.cpp's `embd_normalize` for vectors that are not normalized.
const NO_NORM: i64 = -1;
/// The value of `embd_normalize` that scales the largest absolute value to [`LARGEST_VALUE`].
const MAXIMUM_NORM: i64 = 0;
/// The value of `embd_normalize` that scales vectors to length 1, as in OpenAI's API.
pub(super) const EUCLIDEAN_NORM: i64 = 2;
/// The largest absolute value after [`MAXIMUM_NORM`], as in llama.cpp; fits into a signed 16-bit integer.
const LARGEST_VALUE: f64 = 32760.0;

/// Normalizes a vector. `norm` is llama.cpp's `embd_normalize`: 1 and values above 2 are the `p` of a p-norm. Returns a
/// vector of zeros unchanged.
fn normalize(mut values: Vec<f32>, norm: i64) -> Vec<f32> {
    let magnitudes = values.iter().map(|value| f64::from(value.abs()));
    let divisor = match norm {
        NO_NORM => return values,
        MAXIMUM_NORM => magnitudes.fold(0.0, f64::max) / LARGEST_VALUE,
        EUCLIDEAN_NORM => magnitudes.map(|size| size * size).sum::<f64>().sqrt(),
        p => {
            let p = p as f64;
            magnitudes
                .map(|size| size.powf(p))
                .sum::<f64>()
                .powf(1.0 / p)
        }
    };
    if divisor > 0.0 {
        for value in &mut values {
            *value = (f64::from(*value) / divisor) as f32;
        }
    }
    values
}

/// Rejects a request whose embeddings, `width` numbers for each text, would exceed the size limit of responses.
pub(super) fn check_size(param: &str, texts: usize, width: usize) -> Result<(), Error> {
    let numbers = texts.saturating_mul(width);
    response_size::check(param, numbers.saturating_mul(EMBEDDING_NUMBER_BYTES))
}

/// Computes the normalized embeddings of the prompts in the field `param`. All prompts run under one admission permit,
/// so that a graceful shutdown lets the whole request finish.
pub(super) async fn embed(
    admitted: &PreparationPermit<'_>,
    model: &Arc<LoadedModel>,
    param: &str,
    prompts: Vec<types::Prompt>,
    norm: i64,
    limits: &GenerateLimits,
) -> Result<Vec<Embedding>, Error> {
    if prompts.len() > MAX_TEXTS {
        let problem = format!(
            "{param}: {} texts are more than the limit of {MAX_TEXTS}",
            prompts.len()
        );
        return Err(Error::invalid(param, problem));
    }
    let start = |prompt: types::Prompt| {
        let (model, text, limits) = (Arc::clone(model), prompt_pieces(prompt), limits.clone());
        admitted.run(move |cancel| model.embed(&text, &limits, cancel))
    };
    // Runs enough texts at once to keep all slots busy. More would fill the queue.
    let concurrent_texts = model.max_generations().min(2 * model.details().slots);
    let embeddings = stream::iter(prompts)
        .map(|prompt| async { start(prompt).await??.finish().await })
        .buffered(concurrent_texts)
        .map_ok(|embedding| Embedding {
            values: normalize(embedding.values, norm),
            ..embedding
        });
    Ok(embeddings.try_collect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_texts_whose_embeddings_exceed_the_response_limit() {
        assert!(check_size("input", 1024, 4096).is_ok());
        let error = check_size("input", 1025, 4096).unwrap_err();
        assert!(error.to_string().starts_with("input: "), "{error}");
        assert!(check_size("input", MAX_TEXTS, usize::MAX).is_err());
    }

    #[test]
    fn normalizes_vectors_by_each_norm() {
        let vector = || vec![3.0, -4.0];
        assert_eq!(normalize(vector(), NO_NORM), vector());
        assert_eq!(normalize(vector(), MAXIMUM_NORM), [24570.0, -32760.0]);
        assert_eq!(normalize(vector(), EUCLIDEAN_NORM), [0.6, -0.8]);
        let sums = normalize(vector(), 1)
            .iter()
            .map(|value| value.abs())
            .sum::<f32>();
        assert!((sums - 1.0).abs() < 1e-6);
        let cubes = normalize(vector(), 3)
            .iter()
            .map(|value| value.abs().powi(3))
            .sum::<f32>();
        assert!((cubes - 1.0).abs() < 1e-6);
        assert_eq!(normalize(vec![0.0, 0.0], 1), [0.0, 0.0]);
    }
}
