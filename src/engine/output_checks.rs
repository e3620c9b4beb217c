//! Checks logits and hidden states for NaN and infinity: with NaN logits, a sequence would sample the same token
//! forever, and an embedding with NaN is useless.

use std::collections::HashMap;

use super::sequence_id::SequenceId;

/// Why the outputs of a sequence cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidOutput {
    #[error("the logits contain NaN")]
    NanLogit,
    #[error("the logits contain infinity")]
    InfiniteLogit,
    #[error("every logit is minus infinity")]
    NoLogit,
    #[error("the hidden states contain NaN or infinity")]
    HiddenState,
}

/// The sequences of a step that have invalid outputs.
pub(super) type InvalidOutputs = HashMap<SequenceId, InvalidOutput>;

/// Checks a row of logits, `[vocabulary]`. Minus infinity excludes a token and is valid as long as another token is
/// possible.
///
/// # Errors
/// If no token can be sampled from the row.
pub(super) fn check_logits(logits: &[f32]) -> Result<(), InvalidOutput> {
    let (mut has_nan, mut has_infinity, mut is_possible) = (false, false, false);
    // The loop has no branches, so the compiler vectorizes it.
    for logit in logits {
        has_nan |= logit.is_nan();
        has_infinity |= *logit == f32::INFINITY;
        is_possible |= *logit > f32::NEG_INFINITY;
    }
    match (has_nan, has_infinity, is_possible) {
        (true, _, _) => Err(InvalidOutput::NanLogit),
        (_, true, _) => Err(InvalidOutput::InfiniteLogit),
        (_, _, false) => Err(InvalidOutput::NoLogit),
        (false, false, true) => Ok(()),
    }
}

/// Checks a row of hidden states, `[hidden]`.
///
/// # Errors
/// If a value is not finite.
pub(super) fn check_hidden(states: &[f32]) -> Result<(), InvalidOutput> {
    match states
        .iter()
        .fold(true, |all, state| all & state.is_finite())
    {
        true => Ok(()),
        false => Err(InvalidOutput::HiddenState),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_logits_from_which_no_token_can_be_sampled() {
        const EXCLUDED: f32 = f32::NEG_INFINITY;
        for (row, expected) in [
            (vec![1.0, EXCLUDED, -3.0], Ok(())),
            (vec![EXCLUDED, f32::MIN], Ok(())),
            (vec![1.0, f32::NAN], Err(InvalidOutput::NanLogit)),
            (vec![-f32::NAN, EXCLUDED], Err(InvalidOutput::NanLogit)),
            (vec![1.0, f32::INFINITY], Err(InvalidOutput::InfiniteLogit)),
            (vec![EXCLUDED, EXCLUDED], Err(InvalidOutput::NoLogit)),
        ] {
            assert_eq!(check_logits(&row), expected, "{row:?}");
        }
        assert_eq!(check_hidden(&[0.0, f32::MAX]), Ok(()));
        for invalid in [f32::NAN, f32::INFINITY, EXCLUDED] {
            assert_eq!(
                check_hidden(&[0.0, invalid]),
                Err(InvalidOutput::HiddenState)
            );
        }
    }
}
