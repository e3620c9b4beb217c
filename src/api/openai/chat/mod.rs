//! `POST /v1/chat/completions`: the assistant's next message.

mod message;
mod request;
mod tools;

use futures_util::future::try_join_all;

use crate::api::answer::{answer_events, whole_answer};
use crate::api::at_length;
use crate::api::error::Error;
use crate::api::options::for_choice;
use crate::api::payload::Ignored;
use crate::api::stream::{EventStream, WholeOrStream};
use crate::api::types;
use crate::model::{GenerateLimits, GenerateRequest, LoadedModel, Prompt};

use super::options::in_openais_words;
use super::thoughts::thought_form;
use message::Messages;
use request::generate_request;

/// Counts the tokens of the conversation that a message would be written from.
pub(in crate::api) fn count_tokens(
    model: &LoadedModel,
    body: types::ChatCompletionRequest,
    ignored: &mut Ignored,
) -> Result<types::ResponseTokens, Error> {
    let (request, _) = generate_request(body, ignored)?;
    let tokens = match &request.prompt {
        Prompt::Chat(conversation) => at_length(|| model.count_tokens(conversation))?,
        Prompt::Pieces(_) => 0,
    };
    Ok(types::ResponseTokens {
        object: types::ResponseTokensObject::ResponseInputTokens,
        input_tokens: tokens as u64,
    })
}

/// Writes the next message.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
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
    let (request, fields) = generate_request(body, ignored)?;
    let request = request.within(limits);
    let streamed = request.options.stream;
    let mut begin = |choice: u32| {
        let GenerateRequest { options, .. } = request.clone();
        let request = GenerateRequest {
            options: for_choice(options, choice),
            ..request.clone()
        };
        let generation = model.generate(request);
        let generation = generation.map_err(|error| in_openais_words(error, &fields))?;
        // The schemas are the same for all choices.
        if choice == 0 {
            fields.report(generation.relaxations(), ignored)?;
        }
        Ok(answer_events(generation, thoughts))
    };
    let begun = at_length(|| {
        (0..choices)
            .map(&mut begin)
            .collect::<Result<Vec<_>, Error>>()
    })?;
    let messages = Messages::new(&model.details().name);
    if streamed {
        let chunks = messages.chunks(begun, usage_wanted);
        return Ok(WholeOrStream::Stream(EventStream::openai(chunks)));
    }
    let answers = try_join_all(begun.into_iter().map(whole_answer)).await?;
    Ok(WholeOrStream::Whole(messages.completion(answers)))
}
