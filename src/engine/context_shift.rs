//! Context shift: selects the tokens that a sequence drops when it exceeds its context.
//!
//! ```text
//! 0        keep                     end
//! |  kept  |  dropped  |    tail    |      the tail then follows the kept tokens directly
//! ```

use crate::token::TokenId;

/// Minimum number of context tokens after the kept tokens, so that some tokens can always be dropped.
const MIN_DROPPABLE_TOKENS: usize = 4;

/// Returns the number of leading prompt tokens that a context shift keeps. `keep` is the requested number; `None`
/// requests the whole prompt.
pub(super) fn kept_tokens(
    keep: Option<usize>,
    prompt_tokens: usize,
    context_tokens: usize,
) -> usize {
    keep.unwrap_or(prompt_tokens)
        .min(prompt_tokens)
        .min(context_tokens.saturating_sub(MIN_DROPPABLE_TOKENS))
}

/// Truncates a prompt that exceeds the context: drops whole windows after the kept tokens until the prompt fits. A
/// window is half of the context that remains after the kept tokens.
pub(super) fn truncate_prompt(prompt: &mut Vec<TokenId>, keep: usize, context_tokens: usize) {
    let window = ((context_tokens - keep) / 2).max(1);
    let windows = prompt.len().saturating_sub(keep + window) / window;
    prompt.drain(keep..keep + windows * window);
}

/// Drops the older half of the tokens after the first `keep` tokens.
pub(super) fn shift(tokens: &mut Vec<TokenId>, keep: usize) {
    let dropped = (tokens.len() - keep).div_ceil(2);
    tokens.drain(keep..keep + dropped);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(tokens: usize) -> Vec<TokenId> {
        (0..tokens as u32).map(TokenId).collect()
    }

    #[test]
    fn the_kept_tokens_and_the_end_stay() {
        // The windows have (16 - 4) / 2 = 6 tokens. One window stays after the four kept tokens.
        let mut prompt = text(40);
        truncate_prompt(&mut prompt, 4, 16);
        let numbers: Vec<u32> = prompt.iter().map(|token| token.0).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 34, 35, 36, 37, 38, 39]);
        shift(&mut prompt, 4);
        let numbers: Vec<u32> = prompt.iter().map(|token| token.0).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 37, 38, 39]);
    }

    proptest! {
        #[test]
        fn a_truncated_prompt_fits_the_context(
            tokens in 1usize..500, context in 2usize..100, keep in prop::option::of(0usize..600),
        ) {
            let original = text(tokens);
            let keep = kept_tokens(keep, tokens, context);
            let mut prompt = original.clone();
            truncate_prompt(&mut prompt, keep, context);
            prop_assert!(prompt.len() < context || tokens < context);
            prop_assert_eq!(&prompt[..keep], &original[..keep]);
            prop_assert_eq!(prompt.last(), original.last());
            if tokens > keep {
                let mut shifted = original.clone();
                shift(&mut shifted, keep);
                prop_assert!(shifted.len() < original.len());
                prop_assert_eq!(&shifted[..keep], &original[..keep]);
            }
        }
    }
}
