//! Reference implementation of attention in f64.

use half::f16;

use super::super::rotary::Pairing;
use super::{Caches, Chunk, KEY, NORM_EPSILON, Node, QUERY};

/// Returns the normalized and rotated query of a token.
fn query(node: &Node, chunk: &Chunk, position: usize, head: usize) -> Vec<f64> {
    let row = normalize(node, QUERY, node.row(QUERY, chunk, position, head));
    rotate(node, row, position)
}

/// Returns the normalized and rotated key of a token, before rounding to f16.
pub(super) fn expected_key(node: &Node, chunk: &Chunk, position: usize, head: usize) -> Vec<f64> {
    let row = normalize(node, KEY, node.row(KEY, chunk, position, head));
    rotate(node, row, position)
}

fn normalize(node: &Node, kind: u64, row: Vec<f32>) -> Vec<f64> {
    let row = row.into_iter().map(f64::from);
    if !node.has_norms {
        return row.collect();
    }
    let mean = row.clone().map(|x| x * x).sum::<f64>() / node.shape.head_size as f64;
    let root = (mean + f64::from(NORM_EPSILON)).sqrt();
    row.zip(node.gain(kind))
        .map(|(x, gain)| x / root * f64::from(gain))
        .collect()
}

fn rotate(node: &Node, row: Vec<f64>, position: usize) -> Vec<f64> {
    let Some((pairing, pairs)) = node.rotary else {
        return row;
    };
    let mut rotated = row.clone();
    for pair in 0..pairs {
        let (first, second) = match pairing {
            Pairing::Halves => (pair, pair + pairs),
            Pairing::Adjacent => (2 * pair, 2 * pair + 1),
        };
        let angle = position as f64 * 10_000_f64.powf(-(pair as f64) / pairs as f64);
        rotated[first] = row[first] * angle.cos() - row[second] * angle.sin();
        rotated[second] = row[second] * angle.cos() + row[first] * angle.sin();
    }
    rotated
}

/// Returns the expected output, `[tokens, heads · head_size]`, for the keys and values in `caches`.
pub(super) fn reference(node: &Node, chunks: &[Chunk], caches: &Caches) -> Vec<f32> {
    let shape = node.shape;
    let mut output = Vec::new();
    for chunk in chunks {
        for position in chunk.past..chunk.past + chunk.tokens {
            for head in 0..shape.heads {
                let query = query(node, chunk, position, head);
                let row = |from: &[f16], key: usize| -> Vec<f64> {
                    let start = node.cache_index(chunk, key, head / (shape.heads / shape.kv_heads));
                    from[start..start + shape.head_size]
                        .iter()
                        .map(|&x| f64::from(x))
                        .collect()
                };
                let first = node
                    .window
                    .map_or(0, |window| (position + 1).saturating_sub(window));
                let weights: Vec<f64> = (first..=position)
                    .map(|key| {
                        let products = row(&caches.keys, key)
                            .into_iter()
                            .zip(&query)
                            .map(|(k, q)| k * q);
                        let score = products.sum::<f64>() / (shape.head_size as f64).sqrt();
                        let capped = node
                            .softcap
                            .map(f64::from)
                            .map(|cap| cap * (score / cap).tanh());
                        capped.unwrap_or(score).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                let mut sums = vec![0.0; shape.head_size];
                for (key, weight) in (first..).zip(&weights) {
                    for (sum, value) in sums.iter_mut().zip(row(&caches.values, key)) {
                        *sum += weight / total * value;
                    }
                }
                output.extend(sums.into_iter().map(|sum| sum as f32));
            }
        }
    }
    output
}
