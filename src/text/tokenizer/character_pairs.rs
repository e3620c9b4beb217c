//! BPE over characters: within a line, pairs of characters and then of pieces become one. Spaces are spelt as in
//! SentencePiece, and what is no piece in bytes.
//!
//! Source: llama.cpp's `llama-vocab.cpp`, the pre-tokenizer `gemma4`.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::Replace;

use super::TokenizerError;
use super::front::{Evening, WordStep};
use super::pipeline::{Parting, Pipeline};
use super::spellings::SPACE;
use crate::text::expression::Expression;

/// Between the words, which are lines.
const LINE_ENDS: &str = r"\n+";

/// The way from text to ids with these spellings and merges.
pub(super) fn pipeline(
    ids: Vocab,
    merges: Vec<(String, String)>,
) -> Result<Pipeline, TokenizerError> {
    let build =
        |error: Box<dyn std::error::Error + Send + Sync>| TokenizerError::Build(error.to_string());
    let bpe = BPE::builder()
        .vocab_and_merges(ids, merges)
        .byte_fallback(true)
        .build()
        .map_err(build)?;
    let spaces = Replace::new(" ", SPACE).map_err(build)?;
    let lines = WordStep::at(Expression::new(LINE_ENDS)?);
    Ok(Pipeline::new(
        vec![Evening::Crate(spaces.into())],
        vec![lines],
        bpe.into(),
        Parting::Lines,
    ))
}
