//! Embeddings of several texts and their normalization, for both surfaces.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::answer_size::{self, NUMBER_BYTES};
use super::error::Error;
use super::prompts::pieces;
use super::types;
use crate::model::{Admitted, Embedding, GenerateLimits, LoadedModel};

/// Most texts of a request: twice as many as OpenAI's API takes.
const MOST_TEXTS: usize = 4096;

/// The `embd_normalize` of llama.cpp that leaves vectors as the model's pooling gives them.
const NO_NORM: i64 = -1;
/// The `embd_normalize` that scales the largest absolute value to [`LARGEST_VALUE`].
const MAXIMUM_NORM: i64 = 0;
/// The `embd_normalize` that scales vectors to length 1, as OpenAI's are.
pub(super) const EUCLIDEAN_NORM: i64 = 2;
/// The largest absolute value under [`MAXIMUM_NORM`]: llama.cpp's, just within 16 bits.
const LARGEST_VALUE: f64 = 32760.0;

/// Scales a vector as llama.cpp's `embd_normalize` says; values above 2 are the `p` of a p-norm. A vector of zeros stays.
fn normalized(mut values: Vec<f32>, norm: i64) -> Vec<f32> {
    let sizes = values.iter().map(|value| f64::from(value.abs()));
    let size = match norm {
        NO_NORM => return values,
        MAXIMUM_NORM => sizes.fold(0.0, f64::max) / LARGEST_VALUE,
        EUCLIDEAN_NORM => sizes.map(|size| size * size).sum::<f64>().sqrt(),
        p => {
            let p = p as f64;
            sizes.map(|size| size.powf(p)).sum::<f64>().powf(1.0 / p)
        }
    };
    if size > 0.0 {
        for value in &mut values {
            *value = (f64::from(*value) / size) as f32;
        }
    }
    values
}

/// Refuses texts whose embeddings, with `width` numbers each, would be too large an answer.
pub(super) fn check_size(param: &str, texts: usize, width: usize) -> Result<(), Error> {
    let numbers = texts.saturating_mul(width);
    answer_size::check(param, numbers.saturating_mul(NUMBER_BYTES))
}

/// The embedding of each prompt, scaled by a norm; `param` is what they are called. All are parts of one request, which is
/// finished if the server stops meanwhile.
pub(super) async fn embed(
    admitted: &Admitted<'_>,
    model: &Arc<LoadedModel>,
    param: &str,
    prompts: Vec<types::Prompt>,
    norm: i64,
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
        let (model, text, limits) = (Arc::clone(model), pieces(prompt), limits.clone());
        admitted.run(move |cancel| model.embed(&text, &limits, cancel))
    };
    // Enough that no slot waits for a text, and not all at once: they would take the places of others.
    let beside = model.places().min(2 * model.details().slots);
    let embeddings = stream::iter(prompts)
        .map(|prompt| async { begin(prompt).await??.finish().await })
        .buffered(beside)
        .map_ok(|embedding| Embedding {
            values: normalized(embedding.values, norm),
            ..embedding
        });
    Ok(embeddings.try_collect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_texts_are_embedded_as_their_numbers_fit_into_an_answer() {
        assert!(check_size("input", 1024, 4096).is_ok());
        let error = check_size("input", 1025, 4096).unwrap_err();
        assert!(error.to_string().starts_with("input: "), "{error}");
        assert!(check_size("input", MOST_TEXTS, usize::MAX).is_err());
    }

    #[test]
    fn vectors_are_scaled_as_wanted() {
        let vector = || vec![3.0, -4.0];
        assert_eq!(normalized(vector(), NO_NORM), vector());
        assert_eq!(normalized(vector(), MAXIMUM_NORM), [24570.0, -32760.0]);
        assert_eq!(normalized(vector(), EUCLIDEAN_NORM), [0.6, -0.8]);
        let sums = normalized(vector(), 1)
            .iter()
            .map(|value| value.abs())
            .sum::<f32>();
        assert!((sums - 1.0).abs() < 1e-6);
        let cubes = normalized(vector(), 3)
            .iter()
            .map(|value| value.abs().powi(3))
            .sum::<f32>();
        assert!((cubes - 1.0).abs() < 1e-6);
        assert_eq!(normalized(vec![0.0, 0.0], 1), [0.0, 0.0]);
    }
}
