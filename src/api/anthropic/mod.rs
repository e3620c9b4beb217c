//! The Anthropic-compatible routes: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

mod blocks;
mod request;
mod tools;
mod writer;

use std::sync::Arc;

use super::assistant::{ReasoningForm, assistant_events, collect_output};
use super::error::Error;
use super::payload::IgnoredFields;
use super::prepare::prepare;
use super::relaxations::SchemaPaths;
use super::stream::{EventStream, JsonOrStream};
use super::{ApiSettings, types};
use crate::model::{GenerateError, GenerateLimits, GrammarKind, LoadedModel, PreparationPool};

use request::{MessageRequest, conversation, generate_request};
use writer::MessageWriter;

/// Handles `POST /v1/messages`: generates the next message of a conversation.
pub(super) async fn handle(
    settings: &ApiSettings,
    limits: GenerateLimits,
    model: Arc<LoadedModel>,
    body: types::MessagesRequest,
    ignored: &mut IgnoredFields,
) -> Result<JsonOrStream<types::Message>, Error> {
    let stream = body.stream.unwrap_or(false);
    let name = model.details().name.clone();
    let defaults = settings.defaults;
    let prepared = prepare(&settings.preparations, ignored, move |ignored, cancel| {
        let tools = body.tools.iter().flatten();
        let tools = tools.map(|tool| tool.name.clone()).collect();
        let MessageRequest {
            request,
            omits_thinking,
            format_field,
        } = generate_request(body, &model, &defaults, ignored)?;
        let paths = SchemaPaths {
            response_schema: &format!("{format_field}.schema"),
            tool_names: tools,
            tool_schema: "input_schema",
        };
        let generation = model.generate(request.with_limits(&limits), cancel);
        let generation = generation.map_err(|error| anthropic_error(error, format_field))?;
        paths.report(generation.relaxations(), ignored)?;
        Ok((generation, omits_thinking))
    });
    let (generation, omits_thinking) = prepared.await?;
    let writer = MessageWriter::new(&name, generation.prompt_tokens(), omits_thinking);
    let events = assistant_events(generation, ReasoningForm::Separate);
    if stream {
        let events = writer.events(events);
        return Ok(JsonOrStream::Stream(EventStream::anthropic(events)));
    }
    Ok(JsonOrStream::Json(
        writer.message(collect_output(events).await?),
    ))
}

/// Handles `POST /v1/messages/count_tokens`.
pub(super) async fn count_tokens(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    body: types::CountTokensRequest,
    ignored: &mut IgnoredFields,
) -> Result<types::TokenCount, Error> {
    let tokens = prepare(preparations, ignored, move |ignored, cancel| {
        let input = conversation(body, ignored)?;
        Ok(model.count_tokens(&input.conversation, input.tool_use.is_some(), cancel)?)
    })
    .await?;
    Ok(types::TokenCount {
        input_tokens: tokens as u64,
    })
}

/// Converts a model error so that the message names fields of Anthropic's API. `format_field` is the field that
/// contains the output schema.
fn anthropic_error(error: GenerateError, format_field: &str) -> Error {
    match error {
        GenerateError::Grammar {
            kind: GrammarKind::ToolCalls,
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
