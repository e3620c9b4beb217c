//! `POST /v1/rerank`: which documents are nearest to a query.

use crate::api::embeddings::embed;
use crate::api::error::Error;
use crate::api::types;
use crate::model::{GenerateLimits, LoadedModel};

/// The documents in order.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
    body: types::RerankRequest,
    limits: &GenerateLimits,
) -> Result<types::Rerank, Error> {
    let query = vec![types::Prompt::String(body.query)];
    let query = embed(model, "query", query, limits).await?;
    let text = |document| match document {
        types::RerankDocument::String(text) => text,
        types::RerankDocument::RerankText(types::RerankText { text }) => text,
    };
    let texts: Vec<String> = body.documents.into_iter().map(text).collect();
    let documents = texts.iter().cloned().map(types::Prompt::String).collect();
    let documents = embed(model, "documents", documents, limits).await?;

    let tokens = query.iter().chain(&documents);
    let tokens: usize = tokens.map(|embedding| embedding.prompt_tokens).sum();
    let near = |values: &[f32]| cosine(&query[0].values, values);
    let mut order: Vec<(usize, f32)> = documents
        .iter()
        .map(|document| near(&document.values))
        .enumerate()
        .collect();
    order.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    order.truncate(body.top_n.map_or(usize::MAX, |most| most as usize));
    let told = body.return_documents == Some(true);
    let results = order.into_iter().map(|(index, relevance_score)| {
        let text = || texts[index].clone();
        types::RerankResult {
            index: index as u64,
            relevance_score,
            document: told.then(|| types::RerankText { text: text() }),
        }
    });
    Ok(types::Rerank {
        object: types::RerankObject::List,
        model: model.details().name.clone(),
        results: results.collect(),
        usage: types::EmbeddingsUsage {
            prompt_tokens: tokens as u64,
            total_tokens: tokens as u64,
        },
    })
}

/// Of vectors of length 1.
fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let products = left.iter().zip(right).map(|(left, right)| left * right);
    products.sum::<f32>().clamp(-1.0, 1.0)
}
