//! `POST /v1/chat/completions`: generates the assistant's next message.

mod request;
mod tools;
mod writer;

use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::api::assistant::{assistant_events, collect_output};
use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::prepare::prepare;
use crate::api::stream::{EventStream, JsonOrStream};
use crate::api::types;
use crate::model::{BatchRequest, GenerateLimits, LoadedModel, PreparationPool, Prompt};

use super::options::openai_error;
use super::reasoning::reasoning_form;
use request::generate_request;
use writer::ChatWriter;

/// Handles `POST /v1/chat/completions/input_tokens`.
pub(in crate::api) async fn count_tokens(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    body: types::ChatCompletionRequest,
    ignored: &mut IgnoredFields,
) -> Result<types::ResponseTokens, Error> {
    let tokens = prepare(preparations, ignored, move |ignored, cancel| {
        let (request, _) = generate_request(body, ignored)?;
        Ok(match &request.prompt {
            Prompt::Chat(conversation) => {
                model.count_tokens(conversation, request.options.is_constrained(), cancel)?
            }
            Prompt::Pieces(_) => 0,
        })
    })
    .await?;
    Ok(types::ResponseTokens {
        object: types::ResponseTokensObject::ResponseInputTokens,
        input_tokens: tokens as u64,
    })
}

/// Handles `POST /v1/chat/completions`.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    body: types::ChatCompletionRequest,
    limits: &GenerateLimits,
    ignored: &mut IgnoredFields,
) -> Result<JsonOrStream<types::ChatCompletion>, Error> {
    let include_usage = body
        .stream_options
        .as_ref()
        .and_then(|options| options.include_usage)
        .unwrap_or(false);
    let choices = body.n.unwrap_or(1);
    let max_requests = model.max_generations();
    if choices as usize > max_requests {
        let problem = format!(
            "{choices} choices are more than the {max_requests} requests that can run or wait"
        );
        return Err(Error::invalid("n", format!("n: {problem}")));
    }
    let reasoning_form = reasoning_form(body.reasoning_format);
    let (stream, limits) = (body.stream.unwrap_or(false), limits.clone());
    let name = model.details().name.clone();
    let generations = prepare(preparations, ignored, move |ignored, cancel| {
        let (request, fields) = generate_request(body, ignored)?;
        let request = BatchRequest {
            prompts: vec![request.prompt],
            choices,
            system_prompt: None,
            options: request.options.with_limits(&limits),
        };
        let generations = model.generate_batch(request, cancel);
        let generations = generations.map_err(|error| openai_error(error, &fields))?;
        // All choices have the same schemas, so their relaxations are reported once.
        if let Some(generation) = generations.first() {
            fields.report(generation.relaxations(), ignored)?;
        }
        Ok(generations)
    })
    .await?;
    let generations = generations.into_iter();
    let outputs: Vec<_> = generations
        .map(|generation| assistant_events(generation, reasoning_form))
        .collect();
    let writer = ChatWriter::new(&name);
    if stream {
        let chunks = writer.chunks(outputs, include_usage);
        return Ok(JsonOrStream::Stream(EventStream::openai(chunks)));
    }
    let outputs = try_join_all(outputs.into_iter().map(collect_output)).await?;
    Ok(JsonOrStream::Json(writer.completion(outputs)))
}
