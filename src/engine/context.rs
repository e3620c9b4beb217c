//! What is dropped when a text outgrows its context.
//!
//! ```text
//! 0        keep                     end
//! |  kept  |  dropped  |  the tail  |      then the tail moves up to the kept part
//! ```

use crate::token::TokenId;

/// Tokens of the context that cannot be kept: there must be something to drop.
const NEVER_KEPT: usize = 4;

/// How many tokens at the beginning of a prompt stay when the context is full. `keep` is what was asked
/// for, `None` the whole prompt.
pub(super) fn kept(keep: Option<usize>, prompt_tokens: usize, context_tokens: usize) -> usize {
    keep.unwrap_or(prompt_tokens)
        .min(prompt_tokens)
        .min(context_tokens.saturating_sub(NEVER_KEPT))
}

/// Cuts a prompt that is too long: so many windows after the kept part go that what is left is shorter than
/// the context. A window is half of what the context holds beside the kept part.
pub(super) fn cut(prompt: &mut Vec<TokenId>, keep: usize, context_tokens: usize) {
    let window = ((context_tokens - keep) / 2).max(1);
    let windows = prompt.len().saturating_sub(keep + window) / window;
    prompt.drain(keep..keep + windows * window);
}

/// Drops the older half of what is not kept.
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
    fn the_beginning_and_the_end_stay() {
        // Windows of (16 - 4) / 2 = 6: one and a half would fit behind the four that are kept.
        let mut prompt = text(40);
        cut(&mut prompt, 4, 16);
        let numbers: Vec<u32> = prompt.iter().map(|token| token.0).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 34, 35, 36, 37, 38, 39]);
        shift(&mut prompt, 4);
        let numbers: Vec<u32> = prompt.iter().map(|token| token.0).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 37, 38, 39]);
    }

    proptest! {
        #[test]
        fn what_is_left_fits(
            tokens in 1usize..500, context in 2usize..100, keep in prop::option::of(0usize..600),
        ) {
            let whole = text(tokens);
            let keep = kept(keep, tokens, context);
            let mut prompt = whole.clone();
            cut(&mut prompt, keep, context);
            prop_assert!(prompt.len() < context || tokens < context);
            prop_assert_eq!(&prompt[..keep], &whole[..keep]);
            prop_assert_eq!(prompt.last(), whole.last());
            if tokens > keep {
                let mut shifted = whole.clone();
                shift(&mut shifted, keep);
                prop_assert!(shifted.len() < whole.len());
                prop_assert_eq!(&shifted[..keep], &whole[..keep]);
            }
        }
    }
}
