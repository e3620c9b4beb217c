//! Anthropic's surface: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

mod blocks;
mod message;
mod request;
mod tools;

use std::sync::Arc;

use super::answer::{ThoughtForm, answer_events, whole_answer};
use super::error::Error;
use super::payload::Ignored;
use super::preparing::prepare;
use super::relaxed::SchemaPaths;
use super::stream::{EventStream, WholeOrStream};
use super::{ApiSettings, types};
use crate::model::{GenerateError, GenerateLimits, GrammarKind, LoadedModel, Preparations};

use message::Heading;
use request::{MessageRequest, conversation, generate_request};

/// Writes the next message.
pub(super) async fn answer(
    settings: &ApiSettings,
    limits: GenerateLimits,
    model: Arc<LoadedModel>,
    body: types::MessagesRequest,
    ignored: &mut Ignored,
) -> Result<WholeOrStream<types::Message>, Error> {
    let streamed = body.stream.unwrap_or(false);
    let name = model.details().name.clone();
    let defaults = settings.defaults;
    let prepared = prepare(&settings.preparations, ignored, move |ignored, cancel| {
        let tools = body.tools.iter().flatten();
        let tools = tools.map(|tool| tool.name.clone()).collect();
        let MessageRequest {
            request,
            hides_thought,
            format_field,
        } = generate_request(body, &model, &defaults, ignored)?;
        let paths = SchemaPaths {
            form: &format!("{format_field}.schema"),
            tools,
            parameters: "input_schema",
        };
        let generation = model.generate(request.within(&limits), cancel);
        let generation = generation.map_err(|error| in_anthropics_words(error, format_field))?;
        paths.report(generation.relaxations(), ignored)?;
        Ok((generation, hides_thought))
    });
    let (generation, hides_thought) = prepared.await?;
    let heading = Heading::new(&name, generation.prompt_tokens(), hides_thought);
    let events = answer_events(generation, ThoughtForm::Apart);
    if streamed {
        let events = heading.events(events);
        return Ok(WholeOrStream::Stream(EventStream::anthropic(events)));
    }
    Ok(WholeOrStream::Whole(
        heading.message(whole_answer(events).await?),
    ))
}

/// Counts the tokens of a conversation.
pub(super) async fn count_tokens(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    body: types::CountTokensRequest,
    ignored: &mut Ignored,
) -> Result<types::TokenCount, Error> {
    let tokens = prepare(preparations, ignored, move |ignored, cancel| {
        let asked = conversation(body, ignored)?;
        Ok(model.count_tokens(&asked.conversation, cancel)?)
    })
    .await?;
    Ok(types::TokenCount {
        input_tokens: tokens as u64,
    })
}

/// Schemas have other names here; `format_field` is the one that the text follows.
fn in_anthropics_words(error: GenerateError, format_field: &str) -> Error {
    match error {
        GenerateError::Grammar {
            kind: GrammarKind::Calls,
            error,
        } => Error::invalid("tools", format!("tools: input_schema of {error}")),
        GenerateError::Grammar {
            kind: GrammarKind::JsonSchema,
            error,
        } => {
            let field = format!("{format_field}.schema");
            Error::invalid(&*field, format!("{field}: {error}"))
        }
        other => other.into(),
    }
}
