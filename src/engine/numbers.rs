//! What a step computed is used only if it is a number: NaN in a row of logits would choose the same token for ever, and in
//! an embedding it is none.

/// Why the numbers of a sequence cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NumberError {
    #[error("the logits contain NaN")]
    NanLogit,
    #[error("the logits contain infinity")]
    InfiniteLogit,
    #[error("every logit is minus infinity")]
    NoLogit,
    #[error("the hidden states contain NaN or infinity")]
    Hidden,
}

/// Checks a row of logits. Minus infinity excludes a token, as long as there are others.
///
/// # Errors
/// No token can be chosen by it.
pub(super) fn check_logits(logits: &[f32]) -> Result<(), NumberError> {
    let (mut is_nan, mut is_infinite, mut is_possible) = (false, false, false);
    // Without a branch for each, the compiler takes several at once.
    for logit in logits {
        is_nan |= logit.is_nan();
        is_infinite |= *logit == f32::INFINITY;
        is_possible |= *logit > f32::NEG_INFINITY;
    }
    match (is_nan, is_infinite, is_possible) {
        (true, _, _) => Err(NumberError::NanLogit),
        (_, true, _) => Err(NumberError::InfiniteLogit),
        (_, _, false) => Err(NumberError::NoLogit),
        (false, false, true) => Ok(()),
    }
}

/// Checks a row of hidden states.
///
/// # Errors
/// One is no finite number.
pub(super) fn check_hidden(states: &[f32]) -> Result<(), NumberError> {
    match states
        .iter()
        .fold(true, |all, state| all & state.is_finite())
    {
        true => Ok(()),
        false => Err(NumberError::Hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_used_only_if_a_token_can_be_chosen_by_it() {
        const NEVER: f32 = f32::NEG_INFINITY;
        for (row, expected) in [
            (vec![1.0, NEVER, -3.0], Ok(())),
            (vec![NEVER, f32::MIN], Ok(())),
            (vec![1.0, f32::NAN], Err(NumberError::NanLogit)),
            (vec![-f32::NAN, NEVER], Err(NumberError::NanLogit)),
            (vec![1.0, f32::INFINITY], Err(NumberError::InfiniteLogit)),
            (vec![NEVER, NEVER], Err(NumberError::NoLogit)),
        ] {
            assert_eq!(check_logits(&row), expected, "{row:?}");
        }
        assert_eq!(check_hidden(&[0.0, f32::MAX]), Ok(()));
        for wrong in [f32::NAN, f32::INFINITY, NEVER] {
            assert_eq!(check_hidden(&[0.0, wrong]), Err(NumberError::Hidden));
        }
    }
}
