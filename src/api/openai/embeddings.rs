//! `POST /v1/embeddings`: computes the embeddings of texts.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::api::embeddings::{EUCLIDEAN_NORM, check_size, embed};
use crate::api::error::Error;
use crate::api::prompts::Prompts;
use crate::api::types;
use crate::model::{GenerateLimits, LoadedModel, PreparationPool};

/// Handles `POST /v1/embeddings`.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: &Arc<LoadedModel>,
    body: types::EmbeddingsRequest,
    limits: &GenerateLimits,
) -> Result<types::Embeddings, Error> {
    let width = model.details().hidden_size;
    if let Some(dimensions) = body
        .dimensions
        .filter(|dimensions| *dimensions as usize != width)
    {
        let problem = format!("{dimensions} is not supported: use {width}");
        return Err(Error::invalid(
            "dimensions",
            format!("dimensions: {problem}"),
        ));
    }
    let prompts = Prompts::read("input", body.input)?.into_vec();
    check_size("input", prompts.len(), width)?;
    let embeddings = embed(
        &preparations.admit()?,
        model,
        "input",
        prompts,
        EUCLIDEAN_NORM,
        limits,
    )
    .await?;
    let tokens: usize = embeddings
        .iter()
        .map(|embedding| embedding.prompt_tokens)
        .sum();
    let to_json = match body.encoding_format {
        None | Some(types::EncodingFormat::Float) => types::EmbeddingVector::Array,
        Some(types::EncodingFormat::Base64) => {
            |values| types::EmbeddingVector::String(base64(values))
        }
    };
    let data = (0..)
        .zip(embeddings)
        .map(|(index, embedding)| types::EmbeddingsItem {
            object: types::EmbeddingsItemObject::Embedding,
            index,
            embedding: to_json(embedding.values),
        });
    Ok(types::Embeddings {
        object: types::EmbeddingsObject::List,
        data: data.collect(),
        model: model.details().name.clone(),
        usage: types::EmbeddingsUsage {
            prompt_tokens: tokens as u64,
            total_tokens: tokens as u64,
        },
    })
}

/// Encodes the numbers as little-endian `f32` in base64.
fn base64(values: Vec<f32>) -> String {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    STANDARD.encode(bytes)
}
