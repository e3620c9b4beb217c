//! SentencePiece's Unigram: of all ways to cut a text into pieces the most probable one.
//!
//! Source: Kudo, "Subword Regularization" (2018), and `sentencepiece/src/normalizer.cc`.

use std::sync::Arc;

use tokenizers::models::unigram::Unigram;

use super::TokenizerError;
use super::charsmap::Charsmap;
use super::front::{Evening, Front};
use super::pipeline::{Parting, Pipeline};
use super::scored_pairs::MOST_PIECE_BYTES;
use crate::text::vocabulary::{TokenKind, UnigramSpaces, Vocabulary};
use crate::token::TokenId;

/// The way from text to ids. What no piece spells is the unknown token.
pub(super) fn pipeline(
    vocabulary: &Vocabulary,
    scores: &[f32],
    charsmap: Option<&[u8]>,
    spaces: UnigramSpaces,
) -> Result<Pipeline, TokenizerError> {
    let mut kinds = vocabulary.kinds.iter();
    let Some(unknown) = kinds.position(|kind| *kind == TokenKind::Unknown) else {
        let problem = "the token for what it cannot spell is missing".to_owned();
        return Err(TokenizerError::Build(problem));
    };
    let charsmap = charsmap.map(Charsmap::new).transpose()?.map(Arc::new);
    let pieces = vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(scores);
    let mut table = Vec::with_capacity(vocabulary.tokens.len());
    for (((piece, kind), score), id) in pieces.zip(0_u32..) {
        // The others are in no text.
        let is_piece = matches!(kind, TokenKind::Normal | TokenKind::UserDefined);
        if is_piece && piece.len() > MOST_PIECE_BYTES {
            return Err(TokenizerError::LongPiece {
                token: TokenId(id),
                bytes: piece.len(),
                most: MOST_PIECE_BYTES,
            });
        }
        if !score.is_finite() {
            return Err(TokenizerError::Score(TokenId(id)));
        }
        let piece = match is_piece {
            true => piece.clone(),
            false => String::new(),
        };
        table.push((piece, f64::from(*score)));
    }
    let model = Unigram::from(table, Some(unknown), false)
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    let front = |before| Front {
        even: vec![Evening::Spaces {
            charsmap: charsmap.clone(),
            merges: spaces.merges,
            before,
        }],
        words: Vec::new(),
    };
    Ok(Pipeline {
        beginning: front(spaces.before),
        going_on: Some(front(false)),
        goes_on_behind_tokens: false,
        model: Arc::new(model.into()),
        parting: Parting::Spaces,
    })
}
