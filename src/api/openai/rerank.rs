//! `POST /v1/rerank`: sorts documents by the similarity of their embeddings to the embedding of a query.

use std::sync::Arc;

use crate::api::embeddings::{EUCLIDEAN_NORM, embed};
use crate::api::error::Error;
use crate::api::types;
use crate::model::{GenerateLimits, LoadedModel, PreparationPool};

/// Handles `POST /v1/rerank`.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: &Arc<LoadedModel>,
    body: types::RerankRequest,
    limits: &GenerateLimits,
) -> Result<types::RerankAnswer, Error> {
    let (param, texts) = match (body.documents, body.texts) {
        (Some(documents), None) => (
            "documents",
            documents.into_iter().map(document_text).collect(),
        ),
        (None, Some(texts)) => ("texts", texts),
        (Some(_), Some(_)) => {
            let problem = "texts: texts and documents cannot both be set";
            return Err(Error::invalid("texts", problem));
        }
        (None, None) => return Err(Error::invalid("documents", "documents: it is required")),
    };
    let in_tei_form = param == "texts";
    let query = vec![types::Prompt::String(body.query)];
    let admitted = preparations.admit()?;
    let query = embed(&admitted, model, "query", query, EUCLIDEAN_NORM, limits).await?;
    let documents = texts.iter().cloned().map(types::Prompt::String).collect();
    let documents = embed(&admitted, model, param, documents, EUCLIDEAN_NORM, limits).await?;

    let tokens = query.iter().chain(&documents);
    let tokens: usize = tokens.map(|embedding| embedding.prompt_tokens).sum();
    let similarity = |values: &[f32]| cosine(&query[0].values, values);
    let mut order: Vec<(usize, f32)> = documents
        .iter()
        .map(|document| similarity(&document.values))
        .enumerate()
        .collect();
    order.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    order.truncate(body.top_n.map_or(usize::MAX, |top_n| top_n as usize));
    if in_tei_form {
        let returns_text = body.return_text == Some(true);
        let ranks = order.into_iter().map(|(index, score)| types::TextRank {
            index: index as u64,
            score,
            text: returns_text.then(|| texts[index].clone()),
        });
        return Ok(types::RerankAnswer::Array(ranks.collect()));
    }
    let returns_documents = body.return_documents == Some(true);
    let results = order.into_iter().map(|(index, relevance_score)| {
        let text = || texts[index].clone();
        types::RerankResult {
            index: index as u64,
            relevance_score,
            document: returns_documents.then(|| types::RerankText { text: text() }),
        }
    });
    Ok(types::RerankAnswer::Rerank(types::Rerank {
        object: types::RerankObject::List,
        model: model.details().name.clone(),
        results: results.collect(),
        usage: types::EmbeddingsUsage {
            prompt_tokens: tokens as u64,
            total_tokens: tokens as u64,
        },
    }))
}

fn document_text(document: types::RerankDocument) -> String {
    match document {
        types::RerankDocument::String(text) => text,
        types::RerankDocument::RerankText(types::RerankText { text }) => text,
    }
}

/// Returns the cosine similarity of two vectors of length 1.
fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let products = left.iter().zip(right).map(|(left, right)| left * right);
    products.sum::<f32>().clamp(-1.0, 1.0)
}
