//! The tokens after which nothing is generated, by their names: files often name one of several.
//!
//! Source: llama.cpp's `llama-vocab.cpp` (`special_eog_ids`).

use std::collections::BTreeSet;

use tokenizers::models::bpe::Vocab;

use crate::text::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// Names by which llama.cpp recognises that a token ends the generation, whatever the file says.
const NAMES: [&str; 33] = [
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

/// The tokens that end a generation. Those that do by their names steer the model, and those that do not, but have
/// such a name, are text: a file that says otherwise is mistaken; llama.cpp overrides it too.
pub(super) fn find(vocabulary: &mut Vocabulary, ids: &Vocab) -> BTreeSet<TokenId> {
    let said = [vocabulary.end, vocabulary.end_of_turn];
    let mut ends: BTreeSet<TokenId> = said.into_iter().flatten().collect();
    ends.extend(&vocabulary.ends);
    let id = |name: &str| ids.get(name).copied().map(TokenId);
    for token in NAMES.into_iter().filter_map(id) {
        vocabulary.kinds[token.row()] = TokenKind::Control;
        ends.insert(token);
    }
    let has = |name: &str| id(name).is_some();
    // Where calls and answers have an end of their own, this one ends a part of a turn.
    let calls = has("<|call|>") || has("<|calls|>");
    let parts = calls && (has("<|return|>") || has("<|flush|>"));
    // Among Gemma 4's it is the end of what is struck through.
    let markup = has("<|tool_response>");
    for (name, goes_on, kind) in [
        ("<|end|>", parts, TokenKind::UserDefined),
        ("</s>", markup, TokenKind::Normal),
    ] {
        if let Some(token) = id(name).filter(|_| goes_on) {
            vocabulary.kinds[token.row()] = kind;
            ends.remove(&token);
        }
    }
    ends
}
