//! `POST /tokenize` and `POST /detokenize`.

use crate::api::error::Error;
use crate::api::types;
use crate::model::{LoadedModel, TokenizeRequest};
use crate::text::SpecialTokens;
use crate::token::TokenId;

/// The tokens of a text.
pub(in crate::api) fn tokenize(model: &LoadedModel, body: types::TokenizeRequest) -> types::Tokens {
    let special = match body.parse_special {
        None | Some(true) => SpecialTokens::Parse,
        Some(false) => SpecialTokens::Literal,
    };
    let tokens = model.tokenize(&TokenizeRequest {
        content: body.content,
        special,
    });
    types::Tokens {
        tokens: tokens.into_iter().map(|token| token.0).collect(),
    }
}

/// The text of tokens.
pub(in crate::api) fn detokenize(
    model: &LoadedModel,
    body: types::DetokenizeRequest,
) -> Result<types::DetokenizedText, Error> {
    let tokens: Vec<_> = body.tokens.into_iter().map(TokenId).collect();
    Ok(types::DetokenizedText {
        content: model.detokenize(&tokens)?,
    })
}
