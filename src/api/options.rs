//! Converts request fields to the types of the model layer. Schema validation has already checked the bounds of the
//! fields.

use std::time::Duration;

use super::error::Error;
use super::types;
use crate::model::{GrammarSource, ProgressEvents};

/// The operator's defaults for fields that a request leaves out; `None` keeps the default of the API surface.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestDefaults {
    /// Default sampling temperature.
    pub temperature: Option<f64>,
    /// Default random seed.
    pub seed: Option<u32>,
}

impl RequestDefaults {
    /// Sets the temperature and the seed of a request that leaves them out.
    pub(super) fn apply<S: From<u32>>(&self, temperature: &mut Option<f64>, seed: &mut Option<S>) {
        *temperature = temperature.or(self.temperature);
        if seed.is_none() {
            *seed = self.seed.map(S::from);
        }
    }
}

/// Converts a number to single precision. Numbers beyond the range become the largest or smallest finite number.
pub(super) fn to_f32(number: f64) -> f32 {
    (number as f32).clamp(f32::MIN, f32::MAX)
}

/// Converts seconds to a duration, at most [`Duration::MAX`].
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Converts a count; rejects negative numbers.
pub(super) fn count(param: &str, number: i64) -> Result<usize, Error> {
    usize::try_from(number)
        .map_err(|_| Error::invalid(param, format!("{param}: {number} must not be negative")))
}

/// Converts a limit; -1 is no limit.
pub(super) fn limit(param: &str, number: i64) -> Result<Option<usize>, Error> {
    if number == -1 {
        Ok(None)
    } else {
        count(param, number).map(Some)
    }
}

/// Converts a limit for a response; no limit becomes -1.
pub(super) fn or_minus_one(limit: Option<usize>) -> i64 {
    limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

/// Returns which progress events a stream contains.
pub(super) fn progress_events(options: &types::ProgressOptions) -> ProgressEvents {
    ProgressEvents {
        prompt: options.return_progress.unwrap_or(false),
        text: options.timings_per_token.unwrap_or(false),
    }
}

/// Converts adapter scales to pairs of adapter id and scale.
pub(super) fn adapter_scales(scales: types::LoraScales) -> Vec<(usize, f32)> {
    let scale = |scale: types::LoraScale| (scale.id as usize, to_f32(scale.scale));
    scales.0.into_iter().map(scale).collect()
}

/// Converts a grammar field; `None` if it is missing or empty.
pub(super) fn non_empty_grammar(
    text: Option<String>,
    grammar: fn(String) -> GrammarSource,
) -> Option<GrammarSource> {
    text.filter(|text| !text.is_empty()).map(grammar)
}

/// Returns the grammar of a request, if the request has one.
///
/// # Errors
/// If more than one of `grammars` is set.
pub(super) fn single_grammar<const N: usize>(
    grammars: [Option<GrammarSource>; N],
) -> Result<Option<GrammarSource>, Error> {
    let mut grammars = grammars.into_iter().flatten();
    match (grammars.next(), grammars.next()) {
        (Some(first), Some(second)) => {
            let (first, second) = (first.kind(), second.kind());
            let message = format!("{second}: {first} and {second} cannot both be set");
            Err(Error::invalid(second.to_string(), message))
        }
        (first, _) => Ok(first),
    }
}
