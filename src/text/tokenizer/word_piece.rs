//! WordPiece: encodes each word greedily, with the longest token that matches at each position.
//!
//! Source: Devlin et al., "BERT" (2018), and its `tokenization.py`.

use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::pipeline::{Pipeline, SegmentBoundary};
use crate::text::pre_tokenization::{NormalizerStep, PreTokenizerStep};
use crate::text::tokenizer_error::TokenizerError;
use crate::text::vocabulary::BertNormalization;

/// The prefix of tokens that continue a word.
const CONTINUATION_PREFIX: &str = "##";

/// Longer words become the unknown token.
const MAX_WORD_CHARACTERS: usize = 100;

/// Builds the pipeline of a vocabulary. A word that the tokens cannot cover becomes the token `unknown`.
pub(super) fn pipeline(
    normalization: BertNormalization,
    ids: Vocab,
    unknown: &str,
) -> Result<Pipeline, TokenizerError> {
    if !ids.contains_key(unknown) {
        let problem = format!("the vocabulary has no unknown token \"{unknown}\"");
        return Err(TokenizerError::Build(problem));
    }
    let model = WordPiece::builder()
        .vocab(ids)
        .unk_token(unknown.to_owned())
        .continuing_subword_prefix(CONTINUATION_PREFIX.to_owned())
        .max_input_chars_per_word(MAX_WORD_CHARACTERS)
        .build()
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    let BertNormalization {
        clean_text,
        handle_chinese_chars,
        strip_accents,
        lowercase,
    } = normalization;
    let normalizer =
        BertNormalizer::new(clean_text, handle_chinese_chars, strip_accents, lowercase);
    Ok(Pipeline::new(
        vec![NormalizerStep::Crate(normalizer.into())],
        vec![PreTokenizerStep::Crate(BertPreTokenizer.into())],
        model.into(),
        SegmentBoundary::Space,
    ))
}

/// Appends the text of a token, with a space before it if the token begins a word.
pub(super) fn decode_piece(piece: &str, bytes: &mut Vec<u8>) {
    match piece.strip_prefix(CONTINUATION_PREFIX) {
        Some(rest) if !rest.is_empty() => bytes.extend_from_slice(rest.as_bytes()),
        _ => {
            bytes.push(b' ');
            bytes.extend_from_slice(piece.as_bytes());
        }
    }
}
