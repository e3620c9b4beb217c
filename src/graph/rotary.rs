//! The tables of the rotary position embedding.
//!
//! Source: Su et al., «RoFormer» (2021), section 3.2.2.

use super::families::DecoderShape;

/// `cos` and `sin` of position × frequency, each `[positions, rotary / 2]`.
pub(super) struct RotaryTables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// The tables for positions `0..positions`. Angles are computed in `f64`: at thousands of radians an
/// `f32` has lost three digits.
pub(super) fn tables(shape: &DecoderShape, positions: usize) -> RotaryTables {
    let frequencies: Vec<f64> = (0..shape.rotary / 2)
        .map(|pair| f64::from(shape.rotary_base).powf(-2.0 * pair as f64 / shape.rotary as f64))
        .collect();
    let angles = || {
        (0..positions).flat_map(|position| {
            frequencies
                .iter()
                .map(move |frequency| position as f64 * frequency)
        })
    };
    RotaryTables {
        cos: angles().map(|angle| angle.cos() as f32).collect(),
        sin: angles().map(|angle| angle.sin() as f32).collect(),
    }
}
