//! `POST /embedding`: what texts are to the model, as vectors.

use crate::api::embeddings::embed;
use crate::api::error::Error;
use crate::api::prompts::Prompts;
use crate::api::types;
use crate::model::{GenerateLimits, LoadedModel};

/// The `embd_normalize` that embeddings have without it.
const EUCLIDEAN: i64 = 2;
/// What the largest number becomes with `embd_normalize` 0.
const LARGEST: f64 = 32760.0;

/// A vector of length 1, scaled as `embd_normalize` says.
fn scaled(values: Vec<f32>, norm: i64) -> Vec<f32> {
    let sizes = || values.iter().map(|value| f64::from(value.abs()));
    let size = match norm {
        EUCLIDEAN => return values,
        0 => sizes().fold(0.0, f64::max) / LARGEST,
        p => sizes()
            .map(|size| size.powf(p as f64))
            .sum::<f64>()
            .powf(1.0 / p as f64),
    };
    match size > 0.0 {
        true => values
            .iter()
            .map(|value| (f64::from(*value) / size) as f32)
            .collect(),
        false => values,
    }
}

/// The embedding of each text.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
    body: types::EmbeddingRequest,
    limits: &GenerateLimits,
) -> Result<types::EmbeddingAnswer, Error> {
    let (param, prompts) = match (body.content, body.input) {
        (Some(content), _) => ("content", content),
        (None, Some(input)) => ("input", input),
        (None, None) => return Err(Error::invalid("content", "content: it is required")),
    };
    let prompts = Prompts::read(param, prompts)?;
    let norm = body.embd_normalize.unwrap_or(EUCLIDEAN);
    let alone = matches!(prompts, Prompts::One(_));
    let embeddings = embed(model, param, prompts.all(), limits).await?;
    let mut indexed: Vec<types::IndexedEmbedding> = (0..)
        .zip(embeddings)
        .map(|(index, embedding)| types::IndexedEmbedding {
            index,
            embedding: scaled(embedding.values, norm),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_scaled_as_wanted() {
        let vector = || vec![0.6, -0.8];
        assert_eq!(scaled(vector(), EUCLIDEAN), vector());
        assert_eq!(scaled(vector(), 0), [24570.0, -32760.0]);
        let sums = scaled(vector(), 1)
            .iter()
            .map(|value| value.abs())
            .sum::<f32>();
        assert!((sums - 1.0).abs() < 1e-6);
        let cubes = scaled(vector(), 3)
            .iter()
            .map(|value| value.abs().powi(3))
            .sum::<f32>();
        assert!((cubes - 1.0).abs() < 1e-6);
        assert_eq!(scaled(vec![0.0, 0.0], 1), [0.0, 0.0]);
    }
}
