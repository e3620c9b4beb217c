//! Cosine and sine tables of the rotary position embedding (RoPE).
//!
//! Source: Su et al., "RoFormer" (2021), section 3.2.2.

use std::f64::consts::TAU;

use super::families::{Rotary, RotaryScaling};

/// Cosines and sines of position × frequency, multiplied by the attention factor. Each table is
/// `[positions, rotated_dims / 2]`.
pub(super) struct RotaryTables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// Returns the tables for positions `0..positions`. Angles are computed in `f64`, because `f32` loses three digits at
/// thousands of radians.
pub(super) fn tables(rotary: &Rotary, positions: usize) -> RotaryTables {
    let frequencies = frequencies(rotary, positions);
    let attention_factor = f64::from(rotary.attention_factor);
    let angles = || {
        (0..positions).flat_map(|position| {
            frequencies
                .iter()
                .map(move |frequency| position as f64 * frequency)
        })
    };
    RotaryTables {
        cos: angles()
            .map(|angle| (attention_factor * angle.cos()) as f32)
            .collect(),
        sin: angles()
            .map(|angle| (attention_factor * angle.sin()) as f32)
            .collect(),
    }
}

/// Returns the frequency of each pair, in radians per position.
fn frequencies(rotary: &Rotary, positions: usize) -> Vec<f64> {
    let (pairs, base) = (rotary.rotated_dims / 2, f64::from(rotary.base));
    let unscaled = (0..pairs).map(|pair| base.powf(-(pair as f64) / pairs as f64));
    let divided = |divisors: &[f32]| {
        let both = unscaled.clone().zip(divisors);
        both.map(|(frequency, divisor)| frequency / f64::from(*divisor))
            .collect()
    };
    match &rotary.scaling {
        RotaryScaling::None => unscaled.collect(),
        RotaryScaling::Linear(factor) => divided(&vec![*factor; pairs]),
        RotaryScaling::PerFrequency(divisors) => divided(divisors),
        RotaryScaling::LongRope {
            short,
            long,
            original_context,
        } => divided(if positions > *original_context {
            long
        } else {
            short
        }),
        RotaryScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
        } => {
            // The fractional index of the pair that makes `rotations` full rotations within the original context.
            let pair_of = |rotations: f32| {
                let inverse_frequency = *original_context as f64 / (f64::from(rotations) * TAU);
                pairs as f64 * inverse_frequency.ln() / base.ln()
            };
            let last = (rotary.rotated_dims - 1) as f64;
            let first_interpolated = pair_of(*beta_fast).floor().max(0.0);
            let first_fully_interpolated = pair_of(*beta_slow).ceil().min(last);
            let interpolation_range = (first_fully_interpolated - first_interpolated).max(0.001);
            let interpolated = |pair: usize| {
                ((pair as f64 - first_interpolated) / interpolation_range).clamp(0.0, 1.0)
            };
            unscaled
                .enumerate()
                .map(|(pair, frequency)| {
                    let interpolated = interpolated(pair);
                    frequency * (1.0 - interpolated) + frequency / f64::from(*factor) * interpolated
                })
                .collect()
        }
    }
}
