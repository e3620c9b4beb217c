//! Anthropic's surface: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

mod blocks;
mod message;
mod request;
mod tools;

use super::answer::{ThoughtForm, answer_events, whole_answer};
use super::at_length;
use super::error::Error;
use super::options::Defaults;
use super::payload::Ignored;
use super::relaxed::SchemaPaths;
use super::stream::{EventStream, WholeOrStream};
use super::types;
use crate::model::{GenerateError, GenerateLimits, GrammarKind, LoadedModel};

use message::Heading;
use request::{MessageRequest, conversation, generate_request};

/// Writes the next message.
pub(super) async fn answer(
    model: &LoadedModel,
    body: types::MessagesRequest,
    limits: &GenerateLimits,
    defaults: &Defaults,
    ignored: &mut Ignored,
) -> Result<WholeOrStream<types::Message>, Error> {
    let tools = body.tools.iter().flatten();
    let tools = tools.map(|tool| tool.name.clone()).collect();
    let MessageRequest {
        request,
        hides_thought,
        format_field,
    } = generate_request(body, model, defaults, ignored)?;
    let paths = SchemaPaths {
        form: &format!("{format_field}.schema"),
        tools,
        parameters: "input_schema",
    };
    let request = request.within(limits);
    let streamed = request.options.stream;
    let generation = at_length(|| model.generate(request));
    let generation = generation.map_err(|error| in_anthropics_words(error, format_field))?;
    paths.report(generation.relaxations(), ignored)?;
    let heading = Heading::new(
        &model.details().name,
        generation.prompt_tokens(),
        hides_thought,
    );
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
pub(super) fn count_tokens(
    model: &LoadedModel,
    body: types::CountTokensRequest,
    ignored: &mut Ignored,
) -> Result<types::TokenCount, Error> {
    let asked = conversation(body, ignored)?;
    let tokens = at_length(|| model.count_tokens(&asked.conversation))?;
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
