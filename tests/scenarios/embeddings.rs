//! What vectors say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cucumber::then;
use serde_json::json;

use crate::world::{Answer, World};

/// The embedding of one of several texts, or of the only one.
fn embedding(answer: &Answer, index: usize) -> Vec<f64> {
    let one = answer.body.get(index).unwrap_or(&answer.body);
    serde_json::from_value(one["embedding"].clone()).unwrap()
}

fn product(left: &[f64], right: &[f64]) -> f64 {
    left.iter()
        .zip(right)
        .map(|(left, right)| left * right)
        .sum()
}

#[then("its length is 1")]
async fn has_length_1(world: &mut World) {
    let values = embedding(&world.answer, 0);
    assert!((product(&values, &values) - 1.0).abs() < 1e-4);
}

#[then(expr = "the embedding {int} is nearer to {int} than to {int}")]
async fn is_nearer(world: &mut World, one: usize, near: usize, far: usize) {
    let [one, near, far] = [one, near, far].map(|index| embedding(&world.answer, index));
    let (near, far) = (product(&one, &near), product(&one, &far));
    assert!(near > far, "{near} and {far}");
}

#[then("the relevance falls from each result to the next")]
async fn relevance_falls(world: &mut World) {
    let results = world.answer.at("results").as_array().unwrap();
    let scores = results.iter().map(|result| &result["relevance_score"]);
    let scores: Vec<f64> = scores.map(|score| score.as_f64().unwrap()).collect();
    assert!(
        scores.is_sorted_by(|left, right| left > right),
        "{scores:?}"
    );
    assert!(scores.iter().all(|score| (-1.0..=1.0).contains(score)));
}

#[then(expr = "the embeddings {int} and {int} are the same")]
async fn embeddings_are_the_same(world: &mut World, one: usize, other: usize) {
    assert_eq!(
        embedding(&world.answer, one),
        embedding(&world.answer, other)
    );
}

#[then(expr = "embedding {string} alone gives the same as {int}")]
async fn alone_is_the_same(world: &mut World, text: String, index: usize) {
    let among_others = embedding(&world.answer, index);
    world.embed(json!({"content": text})).await;
    assert_eq!(embedding(&world.answer, 0), among_others);
}

#[then(expr = "the answer's {string} is the Base64 of what {string} is natively")]
async fn base64_of(world: &mut World, path: String, text: String) {
    let written = world.answer.at(&path).as_str().unwrap();
    let bytes = STANDARD.decode(written).unwrap();
    let (numbers, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    let numbers: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
    world.embed(json!({ "content": text })).await;
    let native: Vec<f32> = serde_json::from_value(world.answer.at("embedding").clone()).unwrap();
    assert_eq!(numbers, native);
}

#[then(expr = "the numbers of the embedding add up to {int}")]
async fn sizes_add_up(world: &mut World, wanted: u32) {
    let numbers = world.answer.at("embedding").as_array().unwrap();
    let sum: f64 = numbers
        .iter()
        .map(|number| number.as_f64().unwrap().abs())
        .sum();
    assert!((sum - f64::from(wanted)).abs() < 1e-4, "{sum}");
}
