//! BPE over characters: within a line, adjacent pieces are merged by rank, starting from single characters. Spaces are
//! written as in SentencePiece, and characters without a token become byte tokens (byte fallback).
//!
//! Source: llama.cpp's `llama-vocab.cpp`, the pre-tokenizer `gemma4`.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::Replace;

use super::pipeline::{Pipeline, SegmentBoundary};
use crate::text::linear_regex::LinearRegex;
use crate::text::pre_tokenization::{METASPACE, NormalizerStep, PreTokenizerStep};
use crate::text::tokenizer_error::TokenizerError;

/// The pre-tokenizer splits at these line ends: lines are its words.
const LINE_ENDS: &str = r"\n+";

/// Builds the pipeline of a vocabulary.
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
    let spaces = Replace::new(" ", METASPACE).map_err(build)?;
    let lines = PreTokenizerStep::isolate(LinearRegex::new(LINE_ENDS)?);
    Ok(Pipeline::new(
        vec![NormalizerStep::Crate(spaces.into())],
        vec![lines],
        bpe.into(),
        SegmentBoundary::LineEnd,
    ))
}
