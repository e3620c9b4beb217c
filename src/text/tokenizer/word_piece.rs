//! WordPiece: of each word the longest piece that begins it, then the longest that goes on with it.
//!
//! Source: Devlin et al., "BERT" (2018), and its `tokenization.py`.

use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::TokenizerError;
use super::front::{Evening, WordStep};
use super::pipeline::{Parting, Pipeline};
use crate::text::vocabulary::Normalization;

/// Stands before a piece that goes on with a word.
const CONTINUING: &str = "##";

/// A longer word is unknown.
const MOST_CHARACTERS_OF_A_WORD: usize = 100;

/// The way from text to ids with these spellings; what they cannot spell is the token `unknown`.
pub(super) fn pipeline(
    normalization: Normalization,
    ids: Vocab,
    unknown: &str,
) -> Result<Pipeline, TokenizerError> {
    if !ids.contains_key(unknown) {
        let problem = format!("the token \"{unknown}\" for what it cannot spell is missing");
        return Err(TokenizerError::Build(problem));
    }
    let model = WordPiece::builder()
        .vocab(ids)
        .unk_token(unknown.to_owned())
        .continuing_subword_prefix(CONTINUING.to_owned())
        .max_input_chars_per_word(MOST_CHARACTERS_OF_A_WORD)
        .build()
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    let Normalization {
        clean_text,
        handle_chinese_chars,
        strip_accents,
        lowercase,
    } = normalization;
    let normalizer =
        BertNormalizer::new(clean_text, handle_chinese_chars, strip_accents, lowercase);
    Ok(Pipeline::new(
        vec![Evening::Crate(normalizer.into())],
        vec![WordStep::Crate(BertPreTokenizer.into())],
        model.into(),
        Parting::Spaces,
    ))
}

/// What a piece is in a text: words have a space before them.
pub(super) fn spell(piece: &str, bytes: &mut Vec<u8>) {
    match piece.strip_prefix(CONTINUING) {
        Some(rest) if !rest.is_empty() => bytes.extend_from_slice(rest.as_bytes()),
        _ => {
            bytes.push(b' ');
            bytes.extend_from_slice(piece.as_bytes());
        }
    }
}
