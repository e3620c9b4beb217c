//! `POST /tokenize`, `POST /detokenize` and `POST /apply-template`.

use crate::api::error::Error;
use crate::api::messages::{conversation, ending};
use crate::api::payload::IgnoredFields;
use crate::api::prompts::prompt_pieces;
use crate::api::response_size::{self, TOKEN_ID_BYTES};
use crate::api::tools::{Tool, read_tools};
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{GenerateError, LoadedModel, TokenizeRequest};
use crate::text::{Conversation, SpecialTokens};
use crate::token::TokenId;

/// Number of tokens that are measured between two cancellation checks.
const TOKENS_BETWEEN_CHECKS: usize = 65_536;

/// Handles `POST /tokenize`.
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
        content: prompt_pieces(content),
        special,
        add_bos: body.add_special.unwrap_or(false),
    };
    let tokens = model.tokenize(&request, cancel)?;
    let with_pieces = body.with_pieces == Some(true);
    let bytes = match with_pieces {
        true => total_size(model, &tokens, response_size::piece_bytes, cancel)?,
        false => tokens.len().saturating_mul(TOKEN_ID_BYTES),
    };
    response_size::check("content", bytes)?;
    let to_json = |token: TokenId| match with_pieces {
        true => types::TokenOrPiece::TokenPiece(types::TokenPiece {
            id: token.0,
            piece: piece_json(model.token_bytes(token)),
        }),
        false => types::TokenOrPiece::Uint32(token.0),
    };
    Ok(types::Tokens {
        tokens: tokens.into_iter().map(to_json).collect(),
    })
}

/// Returns the sum of `size(bytes)` over all tokens, where `bytes` is the length of the token's text.
fn total_size(
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

fn piece_json(bytes: &[u8]) -> types::Piece {
    match std::str::from_utf8(bytes) {
        Ok(text) => types::Piece::String(text.to_owned()),
        Err(_) => types::Piece::Array(bytes.to_vec()),
    }
}

/// Handles `POST /apply-template`.
pub(in crate::api) fn apply_template(
    model: &LoadedModel,
    body: types::TemplateRequest,
    ignored: &mut IgnoredFields,
    cancel: &CancelFlag,
) -> Result<types::RenderedPrompt, Error> {
    let tools = read_tools(body.tools.unwrap_or_default(), ignored)?;
    let template_tools = tools.iter().map(Tool::template_value).collect();
    let ending = ending(
        &body.messages,
        body.add_generation_prompt,
        body.continue_final_message,
    )?;
    let conversation = Conversation {
        ending,
        template_variables: body.chat_template_kwargs.unwrap_or_default(),
        ..conversation(body.messages, template_tools)?
    };
    Ok(types::RenderedPrompt {
        prompt: model.render(&conversation, cancel)?,
    })
}

/// Handles `POST /detokenize`.
pub(in crate::api) fn detokenize(
    model: &LoadedModel,
    body: types::DetokenizeRequest,
    cancel: &CancelFlag,
) -> Result<types::DetokenizedText, Error> {
    let tokens: Vec<_> = body.tokens.into_iter().flatten().map(TokenId).collect();
    response_size::check(
        "tokens",
        total_size(model, &tokens, response_size::text_bytes, cancel)?,
    )?;
    Ok(types::DetokenizedText {
        content: model.detokenize(&tokens)?,
    })
}
