//! Values of a request as the floors below take them. Bounds were held by the document's schema.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::error::Error;
use super::types;
use crate::model::{GrammarSource, ProgressEvents};

/// What requests ask for where they name nothing, if it is not the contract's default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Defaults {
    /// How evenly tokens are chosen.
    pub temperature: Option<f64>,
    /// Where chance begins.
    pub seed: Option<u32>,
}

impl Defaults {
    /// Names what a request does not.
    pub(super) fn fill<S: From<u32>>(&self, temperature: &mut Option<f64>, seed: &mut Option<S>) {
        *temperature = temperature.or(self.temperature);
        if seed.is_none() {
            *seed = self.seed.map(S::from);
        }
    }
}

/// A number in single precision; one beyond its range becomes the largest.
pub(super) fn single(number: f64) -> f32 {
    (number as f32).clamp(f32::MIN, f32::MAX)
}

/// A duration; what is longer than any is the longest.
pub(super) fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX)
}

/// A count that may not be negative.
pub(super) fn count(param: &str, number: i64) -> Result<usize, Error> {
    usize::try_from(number)
        .map_err(|_| Error::invalid(param, format!("{param}: {number} is no count")))
}

/// A count where −1 is "no limit".
pub(super) fn limit(param: &str, number: i64) -> Result<Option<usize>, Error> {
    if number == -1 {
        Ok(None)
    } else {
        count(param, number).map(Some)
    }
}

/// A count in an answer, where no limit is −1.
pub(super) fn or_minus_one(limit: Option<usize>) -> i64 {
    limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

/// The progress events of a stream that is asked for these.
pub(super) fn progress_events(
    return_progress: Option<bool>,
    timings_per_token: Option<bool>,
) -> ProgressEvents {
    ProgressEvents {
        prompt: return_progress.unwrap_or(false),
        text: timings_per_token.unwrap_or(false),
    }
}

/// The adapters' scales by their numbers.
pub(super) fn scales(scales: types::LoraScales) -> Vec<(usize, f32)> {
    let scale = |scale: types::LoraScale| (scale.id as usize, single(scale.scale));
    scales.0.into_iter().map(scale).collect()
}

/// The grammar that a text is, if it is one.
pub(super) fn unless_empty(
    text: Option<String>,
    grammar: fn(String) -> GrammarSource,
) -> Option<GrammarSource> {
    text.filter(|text| !text.is_empty()).map(grammar)
}

/// The one grammar of several that may be given.
pub(super) fn one_grammar<const N: usize>(
    given: [Option<GrammarSource>; N],
) -> Result<Option<GrammarSource>, Error> {
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(first), Some(second)) => {
            let (first, second) = (first.kind(), second.kind());
            let message = format!("{second}: a text cannot follow both {first} and {second}");
            Err(Error::invalid(second.to_string(), message))
        }
        (first, _) => Ok(first),
    }
}

/// A body of another route as one of `/completion`, where the options that both have are called the same; `own` are
/// the fields that are not taken over, with what stands in their place.
pub(super) fn as_completion(
    body: &impl Serialize,
    own: &[(&str, Value)],
) -> Result<types::CompletionRequest, Error> {
    let options = serde_json::to_value(body).and_then(|mut options| {
        for (name, value) in own {
            options[*name] = value.clone();
        }
        serde_json::from_value(options)
    });
    options.map_err(|error| Error::Invalid {
        param: None,
        message: format!("the body is not understood: {error}"),
    })
}
