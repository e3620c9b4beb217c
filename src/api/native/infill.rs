//! `POST /infill`: generates the text between a prefix and a suffix.

use std::sync::Arc;

use super::batch::{CompletionBatch, RunningCompletions};
use super::completion::response_options;
use super::props::read_system_prompt;
use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::prepare::prepare;
use crate::api::prompts::Prompts;
use crate::api::stream::{EventStream, JsonOrStream};
use crate::api::types::{self, Includes};
use crate::cancel::CancelFlag;
use crate::model::{GenerateLimits, GenerateOptions, LoadedModel, PreparationPool};
use crate::text::InfillInput;

/// File name of `input_extra` files without `filename`.
const UNNAMED: &str = "tmp";

/// Handles `POST /infill`. Rejects a prompt that does not fit the context: truncation would remove the text around the
/// gap.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    body: types::InfillRequest,
    ignored: &mut IgnoredFields,
    limits: &GenerateLimits,
) -> Result<JsonOrStream<types::CompletionAnswer>, Error> {
    let stream = body.stream.unwrap_or(true);
    let limits = limits.clone();
    let completions = prepare(preparations, ignored, move |ignored, cancel| {
        start(&model, body, stream, &limits, ignored, cancel)
    })
    .await?;
    if stream {
        return Ok(JsonOrStream::Stream(EventStream::native(
            completions.events(),
        )));
    }
    Ok(JsonOrStream::Json(completions.response().await?))
}

fn start(
    model: &LoadedModel,
    mut body: types::InfillRequest,
    stream: bool,
    limits: &GenerateLimits,
    ignored: &mut IgnoredFields,
    cancel: &CancelFlag,
) -> Result<RunningCompletions, Error> {
    let mut options: types::CompletionOptions = body.take_part();
    let system_prompt = options.system_prompt.take().map(read_system_prompt);
    let response_options = response_options(&mut options);
    let options = GenerateOptions {
        reject_oversized_prompt: true,
        stream,
        ..GenerateOptions::try_from(options)?
    };
    let files = body.input_extra.iter().flatten();
    let files = files.map(|file| (file.filename.as_deref().unwrap_or(UNNAMED), &*file.text));
    let input = InfillInput {
        prefix: &body.input_prefix,
        suffix: &body.input_suffix,
        middle_start: body.prompt.as_deref().unwrap_or_default(),
        files: files.collect(),
    };
    let (prompt, omitted_files) =
        model.infill_prompt(&input, system_prompt.as_ref(), options.max_tokens, cancel)?;
    for index in 0..omitted_files {
        ignored.report(format!("input_extra.{index}"))?;
    }
    if !model.infill_shows_file_names() {
        let files = body.input_extra.iter().flatten().enumerate();
        let named = files
            .skip(omitted_files)
            .filter(|(_, file)| file.filename.is_some());
        for (index, _) in named {
            ignored.report(format!("input_extra.{index}.filename"))?;
        }
    }
    let prompt = prompt
        .into_iter()
        .map(|token| types::PromptPiece::Uint32(token.0));
    let prompts = Prompts::One(types::Prompt::Array(prompt.collect()));
    let batch = CompletionBatch {
        prompts,
        system_prompt,
        options: options.with_limits(limits),
        response_options,
    };
    batch.start(model, ignored, cancel)
}
