//! Operators of our own, for ONNX Runtime's CPU provider, in the domain `ortolan`. A model that names them
//! loads in a session that was given [`domain`].

pub mod activation;
pub mod attention;
pub mod batch;
mod gated_halves;
pub mod low_rank;
mod low_rank_update;
mod mat_mul_panels;
pub mod mixture;
mod mixture_of_experts;
mod node;
pub mod norm;
mod packed_attention;
mod paged_attention;
pub mod parallel;
mod piece;
pub mod product;
pub mod rotary;
mod shared;
pub mod simd;
mod tile;
pub mod whole;
mod write;

#[cfg(test)]
mod tests;

use crate::graph::OperatorMatrices;

/// The domain's name in a model, version 1.
pub const DOMAIN: &str = "ortolan";

/// All our operators, to be given to the builder of a session whose nodes name these matrices.
///
/// # Errors
/// If ONNX Runtime refuses one: it is not the version that this was built for.
pub fn domain(matrices: OperatorMatrices) -> ort::Result<ort::operator::OperatorDomain> {
    ort::operator::OperatorDomain::new(DOMAIN)?
        .add(paged_attention::PagedAttention)?
        .add(packed_attention::PackedMultiHeadAttention)?
        .add(low_rank_update::LowRankUpdate)?
        .add(mat_mul_panels::MatMulPanels::new(matrices.panels))?
        .add(gated_halves::GatedHalves)?
        .add(mixture_of_experts::MixtureOfExperts(matrices.experts))
}
