//! SentencePiece's Unigram: encodes a text as its most probable segmentation into tokens.
//!
//! Source: Kudo, "Subword Regularization" (2018), and `sentencepiece/src/normalizer.cc`.

use std::sync::Arc;

use tokenizers::models::unigram::Unigram;

use super::pipeline::{Pipeline, SegmentBoundary};
use super::sentencepiece_bpe::MAX_TOKEN_BYTES;
use crate::text::charsmap::Charsmap;
use crate::text::pre_tokenization::{NormalizerStep, PreTokenization};
use crate::text::tokenizer_error::TokenizerError;
use crate::text::vocabulary::{TokenKind, UnigramWhitespace, Vocabulary};
use crate::token::TokenId;

/// Builds the pipeline of a vocabulary. Text that no token covers becomes the unknown token.
pub(super) fn pipeline(
    vocabulary: &Vocabulary,
    scores: &[f32],
    charsmap: Option<&[u8]>,
    whitespace: UnigramWhitespace,
) -> Result<Pipeline, TokenizerError> {
    let mut kinds = vocabulary.kinds.iter();
    let Some(unknown) = kinds.position(|kind| *kind == TokenKind::Unknown) else {
        let problem = "the vocabulary has no unknown token".to_owned();
        return Err(TokenizerError::Build(problem));
    };
    let charsmap = charsmap.map(Charsmap::new).transpose()?.map(Arc::new);
    let pieces = vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(scores);
    let mut table = Vec::with_capacity(vocabulary.tokens.len());
    for (((piece, kind), score), id) in pieces.zip(0_u32..) {
        // Tokens of the other kinds never match text.
        let matches_text = matches!(kind, TokenKind::Normal | TokenKind::UserDefined);
        if matches_text && piece.len() > MAX_TOKEN_BYTES {
            return Err(TokenizerError::TokenTooLong {
                token: TokenId(id),
                bytes: piece.len(),
                max_bytes: MAX_TOKEN_BYTES,
            });
        }
        if !score.is_finite() {
            return Err(TokenizerError::Score(TokenId(id)));
        }
        let piece = match matches_text {
            true => piece.clone(),
            false => String::new(),
        };
        table.push((piece, f64::from(*score)));
    }
    let model = Unigram::from(table, Some(unknown), false)
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    let pre_tokenization = |adds_space_prefix| PreTokenization {
        normalizers: vec![NormalizerStep::SentencePiece {
            charsmap: charsmap.clone(),
            removes_extra_spaces: whitespace.removes_extra_spaces,
            adds_space_prefix,
        }],
        pre_tokenizers: Vec::new(),
    };
    Ok(Pipeline {
        text_start: pre_tokenization(whitespace.adds_space_prefix),
        continuation: Some(pre_tokenization(false)),
        continues_after_special_token: false,
        model: Arc::new(model.into()),
        boundary: SegmentBoundary::Space,
    })
}
