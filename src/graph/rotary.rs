//! The tables of the rotary position embedding.
//!
//! Source: Su et al., "RoFormer" (2021), section 3.2.2.

use std::f64::consts::TAU;

use super::families::{Rotary, RotaryScaling};

/// `cos` and `sin` of position × frequency, each `[positions, rotated / 2]`.
pub(super) struct RotaryTables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// The tables for positions `0..positions`. Angles are computed in `f64`: at thousands of radians an
/// `f32` has lost three digits.
pub(super) fn tables(rotary: &Rotary, positions: usize) -> RotaryTables {
    let frequencies = frequencies(rotary, positions);
    let magnitude = f64::from(rotary.magnitude);
    let angles = || {
        (0..positions).flat_map(|position| {
            frequencies
                .iter()
                .map(move |frequency| position as f64 * frequency)
        })
    };
    RotaryTables {
        cos: angles()
            .map(|angle| (magnitude * angle.cos()) as f32)
            .collect(),
        sin: angles()
            .map(|angle| (magnitude * angle.sin()) as f32)
            .collect(),
    }
}

/// The frequency of each pair, in radians for a position.
fn frequencies(rotary: &Rotary, positions: usize) -> Vec<f64> {
    let (pairs, base) = (rotary.rotated / 2, f64::from(rotary.base));
    let plain = (0..pairs).map(|pair| base.powf(-(pair as f64) / pairs as f64));
    let divided = |divisors: &[f32]| {
        let both = plain.clone().zip(divisors);
        both.map(|(frequency, divisor)| frequency / f64::from(*divisor))
            .collect()
    };
    match &rotary.scaling {
        RotaryScaling::None => plain.collect(),
        RotaryScaling::Linear(factor) => divided(&vec![*factor; pairs]),
        RotaryScaling::Divided(divisors) => divided(divisors),
        RotaryScaling::Long {
            short,
            long,
            trained,
        } => divided(if positions > *trained { long } else { short }),
        RotaryScaling::Yarn {
            factor,
            trained,
            fast,
            slow,
        } => {
            // The pair whose frequency makes so many turns within the context that was trained first.
            let pair_of = |turns: f32| {
                let reach = *trained as f64 / (f64::from(turns) * TAU);
                pairs as f64 * reach.ln() / base.ln()
            };
            let last = (rotary.rotated - 1) as f64;
            let first_divided = pair_of(*fast).floor().max(0.0);
            let whole = pair_of(*slow).ceil().min(last);
            let span = (whole - first_divided).max(0.001);
            let share = |pair: usize| ((pair as f64 - first_divided) / span).clamp(0.0, 1.0);
            plain
                .enumerate()
                .map(|(pair, frequency)| {
                    let share = share(pair);
                    frequency * (1.0 - share) + frequency / f64::from(*factor) * share
                })
                .collect()
        }
    }
}
