//! `POST /v1/chat/completions`: the assistant's next message.

mod message;
mod request;
mod tools;

use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::api::answer::{answer_events, whole_answer};
use crate::api::error::Error;
use crate::api::payload::Ignored;
use crate::api::preparing::prepare;
use crate::api::stream::{EventStream, WholeOrStream};
use crate::api::types;
use crate::model::{BatchRequest, GenerateLimits, LoadedModel, Preparations, Prompt};

use super::options::in_openais_words;
use super::thoughts::thought_form;
use message::Messages;
use request::generate_request;

/// Counts the tokens of the conversation that a message would be written from.
pub(in crate::api) async fn count_tokens(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    body: types::ChatCompletionRequest,
    ignored: &mut Ignored,
) -> Result<types::ResponseTokens, Error> {
    let tokens = prepare(preparations, ignored, move |ignored, cancel| {
        let (request, _) = generate_request(body, ignored)?;
        Ok(match &request.prompt {
            Prompt::Chat(conversation) => model.count_tokens(conversation, cancel)?,
            Prompt::Pieces(_) => 0,
        })
    })
    .await?;
    Ok(types::ResponseTokens {
        object: types::ResponseTokensObject::ResponseInputTokens,
        input_tokens: tokens as u64,
    })
}

/// Writes the next message.
pub(in crate::api) async fn answer(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    body: types::ChatCompletionRequest,
    limits: &GenerateLimits,
    ignored: &mut Ignored,
) -> Result<WholeOrStream<types::ChatCompletion>, Error> {
    let usage_wanted = body
        .stream_options
        .as_ref()
        .and_then(|options| options.include_usage)
        .unwrap_or(false);
    let choices = body.n.unwrap_or(1);
    let places = model.places();
    if choices as usize > places {
        let problem =
            format!("{choices} messages are more than the {places} requests that may run or wait");
        return Err(Error::invalid("n", format!("n: {problem}")));
    }
    let thoughts = thought_form(body.reasoning_format);
    let (streamed, limits) = (body.stream.unwrap_or(false), limits.clone());
    let name = model.details().name.clone();
    let begun = prepare(preparations, ignored, move |ignored, cancel| {
        let (request, fields) = generate_request(body, ignored)?;
        let request = BatchRequest {
            prompts: vec![request.prompt],
            choices,
            system_prompt: None,
            options: request.options.within(&limits),
        };
        let generations = model.generate_batch(request, cancel);
        let generations = generations.map_err(|error| in_openais_words(error, &fields))?;
        // The schemas are the same for all choices.
        if let Some(generation) = generations.first() {
            fields.report(generation.relaxations(), ignored)?;
        }
        Ok(generations)
    })
    .await?;
    let begun = begun.into_iter();
    let begun: Vec<_> = begun
        .map(|generation| answer_events(generation, thoughts))
        .collect();
    let messages = Messages::new(&name);
    if streamed {
        let chunks = messages.chunks(begun, usage_wanted);
        return Ok(WholeOrStream::Stream(EventStream::openai(chunks)));
    }
    let answers = try_join_all(begun.into_iter().map(whole_answer)).await?;
    Ok(WholeOrStream::Whole(messages.completion(answers)))
}
