//! Steps about embeddings and reranking.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cucumber::then;
use serde_json::json;

use crate::world::{Response, World};

/// The embedding of the text at `index`, or of the only text.
fn embedding(response: &Response, index: usize) -> Vec<f64> {
    let entry = response.body.get(index).unwrap_or(&response.body);
    serde_json::from_value(entry["embedding"].clone()).unwrap()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter()
        .zip(right)
        .map(|(left, right)| left * right)
        .sum()
}

#[then("the embedding's norm is 1")]
async fn has_norm_1(world: &mut World) {
    let values = embedding(&world.response, 0);
    assert!((dot(&values, &values) - 1.0).abs() < 1e-4);
}

#[then(expr = "embedding {int} is nearer to {int} than to {int}")]
async fn is_nearer(world: &mut World, one: usize, near: usize, far: usize) {
    let [one, near, far] = [one, near, far].map(|index| embedding(&world.response, index));
    let (near, far) = (dot(&one, &near), dot(&one, &far));
    assert!(near > far, "{near} and {far}");
}

#[then("the results are in descending order of relevance")]
async fn results_are_sorted(world: &mut World) {
    let results = world.response.at("results").as_array().unwrap();
    let scores = results.iter().map(|result| &result["relevance_score"]);
    let scores: Vec<f64> = scores.map(|score| score.as_f64().unwrap()).collect();
    assert!(
        scores.is_sorted_by(|left, right| left > right),
        "{scores:?}"
    );
    assert!(scores.iter().all(|score| (-1.0..=1.0).contains(score)));
}

#[then(expr = "embeddings {int} and {int} are the same")]
async fn embeddings_are_the_same(world: &mut World, one: usize, other: usize) {
    assert_eq!(
        embedding(&world.response, one),
        embedding(&world.response, other)
    );
}

#[then(expr = "embedding {string} alone gives the same vector as entry {int}")]
async fn alone_is_the_same(world: &mut World, text: String, index: usize) {
    let among_others = embedding(&world.response, index);
    world.embed(json!({"content": text})).await;
    assert_eq!(embedding(&world.response, 0), among_others);
}

#[then(expr = "the response's {string} is the Base64 form of the native embedding of {string}")]
async fn base64_of(world: &mut World, path: String, text: String) {
    let base64 = world.response.at(&path).as_str().unwrap();
    let bytes = STANDARD.decode(base64).unwrap();
    let (numbers, remainder) = bytes.as_chunks();
    assert!(remainder.is_empty());
    let numbers: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
    world.embed(json!({ "content": text })).await;
    let native: Vec<f32> = serde_json::from_value(world.response.at("embedding").clone()).unwrap();
    assert_eq!(numbers, native);
}

#[then(expr = "the absolute values of the embedding add up to {int}")]
async fn absolute_values_add_up(world: &mut World, expected: u32) {
    let numbers = world.response.at("embedding").as_array().unwrap();
    let sum: f64 = numbers
        .iter()
        .map(|number| number.as_f64().unwrap().abs())
        .sum();
    assert!((sum - f64::from(expected)).abs() < 1e-4, "{sum}");
}
