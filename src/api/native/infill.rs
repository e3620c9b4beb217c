//! `POST /infill`: what stands between two texts.

use serde_json::json;

use super::continuation;
use super::props::words;
use crate::api::error::Error;
use crate::api::options::as_completion;
use crate::api::payload::Ignored;
use crate::api::prompts::Prompts;
use crate::api::stream::EventStream;
use crate::api::types;
use crate::model::{GenerateLimits, GenerateOptions, LoadedModel};

/// Fills the gap. A prompt that does not fit is refused: cut, it would have no gap.
pub(in crate::api) fn answer(
    model: &LoadedModel,
    mut body: types::InfillRequest,
    limits: &GenerateLimits,
    ignored: &mut Ignored,
) -> Result<EventStream, Error> {
    let system_prompt = body.system_prompt.take().map(words);
    let (prefix, suffix) = (&body.input_prefix, &body.input_suffix);
    let prompt = model.infill_prompt(prefix, suffix, system_prompt.as_ref())?;
    let prompt = prompt
        .into_iter()
        .map(|token| types::PromptPiece::Uint32(token.0));
    let prompt = types::Prompt::Array(prompt.collect());
    let own = [("prompt", json!("")), ("stream", json!(true))];
    let options = GenerateOptions {
        whole_prompt: true,
        ..GenerateOptions::try_from(as_completion(&body, &own)?)?
    };
    let prompts = Prompts::One(prompt);
    let asked = continuation::begin(model, prompts, system_prompt, &options, limits, ignored)?;
    Ok(EventStream::native(asked.events()))
}
