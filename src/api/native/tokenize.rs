//! `POST /tokenize`, `POST /detokenize` and `POST /apply-template`: what becomes of texts before they are prompts.

use crate::api::answer_size::{self, ID_BYTES};
use crate::api::error::Error;
use crate::api::messages::{conversation, ending};
use crate::api::payload::Ignored;
use crate::api::prompts::pieces;
use crate::api::tools::{Tool, declared};
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{GenerateError, LoadedModel, TokenizeRequest};
use crate::text::{Conversation, SpecialTokens};
use crate::token::TokenId;

/// Tokens whose texts are measured between two looks at the cancellation.
const TOKENS_BETWEEN_CHECKS: usize = 65_536;

/// The tokens of a text.
pub(in crate::api) fn tokenize(
    model: &LoadedModel,
    body: types::TokenizeRequest,
    cancel: &CancelFlag,
) -> Result<types::Tokens, Error> {
    let Some(content) = body.content else {
        return Ok(types::Tokens { tokens: Vec::new() });
    };
    let special = match body.parse_special {
        None | Some(true) => SpecialTokens::Parse,
        Some(false) => SpecialTokens::Literal,
    };
    let request = TokenizeRequest {
        content: pieces(content),
        special,
        add_beginning: body.add_special.unwrap_or(false),
    };
    let tokens = model.tokenize(&request, cancel)?;
    let with_pieces = body.with_pieces == Some(true);
    let bytes = match with_pieces {
        true => sum(model, &tokens, answer_size::of_piece, cancel)?,
        false => tokens.len().saturating_mul(ID_BYTES),
    };
    answer_size::check("content", bytes)?;
    let shown = |token: TokenId| match with_pieces {
        true => types::TokenOrPiece::TokenPiece(types::TokenPiece {
            id: token.0,
            piece: piece(model.token_bytes(token)),
        }),
        false => types::TokenOrPiece::Uint32(token.0),
    };
    Ok(types::Tokens {
        tokens: tokens.into_iter().map(shown).collect(),
    })
}

/// The sum of what `size` makes of the length of each token's text.
fn sum(
    model: &LoadedModel,
    tokens: &[TokenId],
    size: fn(usize) -> usize,
    cancel: &CancelFlag,
) -> Result<usize, GenerateError> {
    let mut sum = 0_usize;
    for tokens in tokens.chunks(TOKENS_BETWEEN_CHECKS) {
        cancel.check()?;
        let sizes = tokens
            .iter()
            .map(|token| size(model.token_bytes(*token).len()));
        sum = sizes.fold(sum, usize::saturating_add);
    }
    Ok(sum)
}

fn piece(bytes: &[u8]) -> types::Piece {
    match std::str::from_utf8(bytes) {
        Ok(text) => types::Piece::String(text.to_owned()),
        Err(_) => types::Piece::Array(bytes.to_vec()),
    }
}

/// A conversation as text.
pub(in crate::api) fn apply_template(
    model: &LoadedModel,
    body: types::TemplateRequest,
    ignored: &mut Ignored,
    cancel: &CancelFlag,
) -> Result<types::RenderedPrompt, Error> {
    let tools = declared(body.tools.unwrap_or_default(), ignored)?;
    let shown = tools.iter().map(Tool::shown).collect();
    let ending = ending(
        &body.messages,
        body.add_generation_prompt,
        body.continue_final_message,
    )?;
    let conversation = Conversation {
        ending,
        settings: body.chat_template_kwargs.unwrap_or_default(),
        ..conversation(body.messages, shown)?
    };
    Ok(types::RenderedPrompt {
        prompt: model.render(&conversation, cancel)?,
    })
}

/// The text of tokens.
pub(in crate::api) fn detokenize(
    model: &LoadedModel,
    body: types::DetokenizeRequest,
    cancel: &CancelFlag,
) -> Result<types::DetokenizedText, Error> {
    let tokens: Vec<_> = body.tokens.into_iter().flatten().map(TokenId).collect();
    answer_size::check("tokens", sum(model, &tokens, answer_size::of_text, cancel)?)?;
    Ok(types::DetokenizedText {
        content: model.detokenize(&tokens)?,
    })
}
