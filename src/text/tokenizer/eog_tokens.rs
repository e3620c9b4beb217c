//! EOG (end-of-generation) tokens. Model files often declare only one EOG token, so the others are found by their
//! texts.
//!
//! Source: llama.cpp's `llama-vocab.cpp` (`special_eog_ids`).

use std::collections::BTreeSet;

use tokenizers::models::bpe::Vocab;

use crate::text::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// Texts of tokens that llama.cpp treats as EOG tokens regardless of what the model file declares.
const EOG_TEXTS: [&str; 33] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Returns the EOG tokens that the model file declares and those found by their texts. Changes the kinds of tokens, as
/// llama.cpp does: tokens found by their texts become control tokens, and tokens that only look like EOG tokens become
/// text.
pub(super) fn resolve(vocabulary: &mut Vocabulary, ids: &Vocab) -> BTreeSet<TokenId> {
    let declared = [vocabulary.eos, vocabulary.eot];
    let mut eog_tokens: BTreeSet<TokenId> = declared.into_iter().flatten().collect();
    eog_tokens.extend(&vocabulary.eog_tokens);
    let id = |text: &str| ids.get(text).copied().map(TokenId);
    for token in EOG_TEXTS.into_iter().filter_map(id) {
        vocabulary.kinds[token.row()] = TokenKind::Control;
        eog_tokens.insert(token);
    }
    let has = |text: &str| id(text).is_some();
    // In vocabularies with separate end tokens for tool calls and answers (Harmony format), `<|end|>` only ends a
    // message within a turn.
    let has_call_end = has("<|call|>") || has("<|calls|>");
    let end_is_inner = has_call_end && (has("<|return|>") || has("<|flush|>"));
    // In Gemma 4's vocabulary, `</s>` closes the HTML tag for struck-through text.
    let s_is_html = has("<|tool_response>");
    for (text, is_text, kind) in [
        ("<|end|>", end_is_inner, TokenKind::UserDefined),
        ("</s>", s_is_html, TokenKind::Normal),
    ] {
        if let Some(token) = id(text).filter(|_| is_text) {
            vocabulary.kinds[token.row()] = kind;
            eog_tokens.remove(&token);
        }
    }
    eog_tokens
}
