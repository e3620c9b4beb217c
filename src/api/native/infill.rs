//! `POST /infill`: what stands between two texts.

use std::sync::Arc;

use serde_json::json;

use super::completion::form;
use super::continuation::{Asked, Batch};
use super::props::words;
use crate::api::error::Error;
use crate::api::options::as_completion;
use crate::api::payload::Ignored;
use crate::api::preparing::prepare;
use crate::api::prompts::Prompts;
use crate::api::stream::{EventStream, WholeOrStream};
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{GenerateLimits, GenerateOptions, LoadedModel, Preparations};
use crate::text::Gap;

/// The name of another file that has none.
const UNNAMED: &str = "tmp";

/// Fills the gap. A prompt that does not fit is refused: cut, it would have no gap.
pub(in crate::api) async fn answer(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    body: types::InfillRequest,
    ignored: &mut Ignored,
    limits: &GenerateLimits,
) -> Result<WholeOrStream<types::CompletionAnswer>, Error> {
    let stream = body.stream.unwrap_or(true);
    let limits = limits.clone();
    let asked = prepare(preparations, ignored, move |ignored, cancel| {
        begin(&model, body, stream, &limits, ignored, cancel)
    })
    .await?;
    if stream {
        return Ok(WholeOrStream::Stream(EventStream::native(asked.events())));
    }
    Ok(WholeOrStream::Whole(asked.whole().await?))
}

fn begin(
    model: &LoadedModel,
    mut body: types::InfillRequest,
    stream: bool,
    limits: &GenerateLimits,
    ignored: &mut Ignored,
    cancel: &CancelFlag,
) -> Result<Asked, Error> {
    let system_prompt = body.system_prompt.take().map(words);
    let own = [("prompt", json!("")), ("stream", json!(stream))];
    let mut completion = as_completion(&body, &own)?;
    let form = form(&mut completion);
    let options = GenerateOptions {
        whole_prompt: true,
        ..GenerateOptions::try_from(completion)?
    };
    let files = body.input_extra.iter().flatten();
    let files = files.map(|file| (file.filename.as_deref().unwrap_or(UNNAMED), &*file.text));
    let gap = Gap {
        prefix: &body.input_prefix,
        suffix: &body.input_suffix,
        begun: body.prompt.as_deref().unwrap_or_default(),
        files: files.collect(),
    };
    let (prompt, left_out) =
        model.infill_prompt(&gap, system_prompt.as_ref(), options.max_tokens, cancel)?;
    for number in 0..left_out {
        ignored.report(format!("input_extra.{number}"))?;
    }
    if !model.infill_shows_file_names() {
        let files = body.input_extra.iter().flatten().enumerate();
        let named = files
            .skip(left_out)
            .filter(|(_, file)| file.filename.is_some());
        for (number, _) in named {
            ignored.report(format!("input_extra.{number}.filename"))?;
        }
    }
    let prompt = prompt
        .into_iter()
        .map(|token| types::PromptPiece::Uint32(token.0));
    let prompts = Prompts::One(types::Prompt::Array(prompt.collect()));
    let question = Batch {
        prompts,
        system_prompt,
        options: options.within(limits),
        form,
    };
    question.begin(model, ignored, cancel)
}
