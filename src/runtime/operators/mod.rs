//! Custom operators for ONNX Runtime's CPU provider, in the domain [`ORTOLAN_DOMAIN`]. A session created with
//! [`domain`] can load graphs that use them. A module named after an operator reads the operator's attributes and
//! tensors; the other modules compute on plain slices.

pub mod activation;
pub mod attention;
pub mod attention_inputs;
mod attention_task;
pub mod batch;
mod cache_write;
mod custom_operator;
pub mod encoder_attention;
mod gated_halves;
pub mod low_rank;
mod low_rank_update;
mod mat_mul_panels;
pub mod matmul;
mod mixture_of_experts;
pub mod moe;
mod node;
pub mod norm;
mod packed_attention;
mod paged_attention;
pub mod parallel;
pub mod rotary;
mod shared_slice;
pub mod simd;
mod tile;

#[cfg(test)]
mod tests;

use crate::graph::{ORTOLAN_DOMAIN, OperatorMatrices};
use custom_operator::Registered;

/// Creates the domain with all custom operators (version 1), for a session whose nodes refer to `matrices` by index.
///
/// # Safety
/// `PagedAttention` writes to its inputs `key_cache` and `value_cache`. In every session with the domain, these must be
/// inputs of the session that no other node uses, their values must be writable and not accessed elsewhere during a
/// run, and the session must run one node at a time, which is ONNX Runtime's default.
///
/// # Errors
/// If ONNX Runtime rejects an operator because the library is not the version that this program was built for.
pub unsafe fn domain(matrices: OperatorMatrices) -> ort::Result<ort::operator::OperatorDomain> {
    ort::operator::OperatorDomain::new(ORTOLAN_DOMAIN)?
        .add(Registered(paged_attention::PagedAttention))?
        .add(Registered(packed_attention::PackedMultiHeadAttention))?
        .add(Registered(low_rank_update::LowRankUpdate))?
        .add(Registered(mat_mul_panels::MatMulPanels::new(
            matrices.panels,
        )))?
        .add(Registered(gated_halves::GatedHalves))?
        .add(Registered(mixture_of_experts::MixtureOfExperts(
            matrices.experts,
        )))
}
