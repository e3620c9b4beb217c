//! Attention by its definition, in f64.

use half::f16;

use super::super::rotary::Pairing;
use super::{Chunk, KEY, Memory, NORM_EPSILON, Node, QUERY};

/// The normed and rotated query of a token.
fn query(node: &Node, chunk: &Chunk, position: usize, head: usize) -> Vec<f64> {
    let row = normed(node, QUERY, node.row(QUERY, chunk, position, head));
    rotated(node, row, position)
}

/// The normed and rotated key of a token, before it is rounded to f16.
pub(super) fn key_written(node: &Node, chunk: &Chunk, position: usize, head: usize) -> Vec<f64> {
    let row = normed(node, KEY, node.row(KEY, chunk, position, head));
    rotated(node, row, position)
}

fn normed(node: &Node, which: u64, row: Vec<f32>) -> Vec<f64> {
    let row = row.into_iter().map(f64::from);
    if !node.normed {
        return row.collect();
    }
    let mean = row.clone().map(|x| x * x).sum::<f64>() / node.shape.head_size as f64;
    let root = (mean + f64::from(NORM_EPSILON)).sqrt();
    row.zip(node.gain(which))
        .map(|(x, gain)| x / root * f64::from(gain))
        .collect()
}

fn rotated(node: &Node, row: Vec<f64>, position: usize) -> Vec<f64> {
    let Some((pairing, pairs)) = node.rotary else {
        return row;
    };
    let mut turned = row.clone();
    for pair in 0..pairs {
        let (first, second) = match pairing {
            Pairing::Halves => (pair, pair + pairs),
            Pairing::Neighbours => (2 * pair, 2 * pair + 1),
        };
        let angle = position as f64 * 10_000_f64.powf(-(pair as f64) / pairs as f64);
        turned[first] = row[first] * angle.cos() - row[second] * angle.sin();
        turned[second] = row[second] * angle.cos() + row[first] * angle.sin();
    }
    turned
}

/// The output for the keys and values that are in the memory, `[tokens, heads · head_size]`.
pub(super) fn reference(node: &Node, chunks: &[Chunk], memory: &Memory) -> Vec<f32> {
    let shape = node.shape;
    let mut output = Vec::new();
    for chunk in chunks {
        for position in chunk.past..chunk.past + chunk.tokens {
            for head in 0..shape.heads {
                let query = query(node, chunk, position, head);
                let row = |from: &[f16], key: usize| -> Vec<f64> {
                    let place = node.place(chunk, key, head / (shape.heads / shape.kv_heads));
                    from[place..place + shape.head_size]
                        .iter()
                        .map(|&x| f64::from(x))
                        .collect()
                };
                let first = node
                    .window
                    .map_or(0, |window| (position + 1).saturating_sub(window));
                let weights: Vec<f64> = (first..=position)
                    .map(|key| {
                        let products = row(&memory.keys, key)
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
                    for (sum, value) in sums.iter_mut().zip(row(&memory.values, key)) {
                        *sum += weight / total * value;
                    }
                }
                output.extend(sums.into_iter().map(|sum| sum as f32));
            }
        }
    }
    output
}
