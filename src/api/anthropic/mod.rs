//! Anthropic's surface: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

mod message;
mod request;

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
use request::{conversation, generate_request};

/// Writes the next message.
pub(super) async fn answer(
    model: &LoadedModel,
    body: types::MessagesRequest,
    limits: &GenerateLimits,
    defaults: &Defaults,
    ignored: &mut Ignored,
) -> Result<WholeOrStream<types::Message>, Error> {
    let tools = body.tools.iter().flatten();
    let paths = SchemaPaths {
        form: "output_config.format.schema",
        tools: tools.map(|tool| Some(tool.name.clone())).collect(),
        parameters: "input_schema",
    };
    let request = generate_request(body, defaults)?.within(limits);
    let streamed = request.options.stream;
    let generation = at_length(|| model.generate(request)).map_err(in_anthropics_words)?;
    paths.report(generation.relaxations(), ignored)?;
    let heading = Heading::new(&model.details().name, generation.prompt_tokens());
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
) -> Result<types::TokenCount, Error> {
    let (conversation, _) = conversation(body)?;
    let tokens = at_length(|| model.count_tokens(&conversation))?;
    Ok(types::TokenCount {
        input_tokens: tokens as u64,
    })
}

/// A function's schema comes by another name here.
fn in_anthropics_words(error: GenerateError) -> Error {
    match error {
        GenerateError::Grammar {
            kind: GrammarKind::Calls,
            error,
        } => Error::invalid("tools", format!("tools: input_schema of {error}")),
        other => other.into(),
    }
}
