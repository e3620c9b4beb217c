//! Server-sent events: JSON events in the format of each API surface, with an error as the last event, and keep-alive
//! comments. Also collects the events of a generation into its complete text.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use super::error::{Error, Surface};
use crate::model::{GenerateError, GenerateEvent, Generation, GenerationSummary, OutputToken};

/// Time without events after which the server sends a comment. The comment fails if the client has disconnected.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A response as one JSON body or as a stream.
pub(super) enum JsonOrStream<T> {
    Json(T),
    Stream(EventStream),
}

/// The format of an event stream.
#[derive(Clone, Copy)]
struct StreamFormat {
    /// The surface whose error format is used.
    surface: Surface,
    /// Whether the `type` of a value is also the name of its event.
    named_events: bool,
    /// Data of an additional event after the last value.
    final_data: Option<&'static str>,
}

/// A stream of server-sent events.
pub(super) struct EventStream(BoxStream<'static, Event>);

impl EventStream {
    /// Creates a stream with an event `data: {json}` for each value. Errors have the native format.
    pub(super) fn native<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let format = StreamFormat {
            surface: Surface::Native,
            named_events: false,
            final_data: None,
        };
        Self::new(values, format)
    }

    /// Creates a stream with an event `data: {json}` for each value, then `[DONE]` unless an error ended the stream.
    /// Errors have OpenAI's format.
    pub(super) fn openai<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let format = StreamFormat {
            surface: Surface::OpenAi,
            named_events: false,
            final_data: Some("[DONE]"),
        };
        Self::new(values, format)
    }

    /// Creates a stream with an event for each value, named by the value's `type`. Errors have Anthropic's format.
    pub(super) fn anthropic<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let format = StreamFormat {
            surface: Surface::Anthropic,
            named_events: true,
            final_data: None,
        };
        Self::new(values, format)
    }

    /// Creates a stream for OpenAI's Responses API, with an event for each value, named by the value's `type`. An error
    /// is one of the values.
    pub(super) fn responses<T: Serialize + Send + 'static>(
        values: impl Stream<Item = T> + Send + 'static,
    ) -> Self {
        let format = StreamFormat {
            surface: Surface::OpenAi,
            named_events: true,
            final_data: None,
        };
        Self::new(values.map(Ok), format)
    }

    fn new<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
        format: StreamFormat,
    ) -> Self {
        enum State<S> {
            Open(S),
            Ended,
        }
        let events = stream::unfold(State::Open(Box::pin(values)), move |state| async move {
            let State::Open(mut values) = state else {
                return None;
            };
            match values.next().await {
                Some(Ok(value)) => match event(&value, format) {
                    Ok(event) => Some((event, State::Open(values))),
                    Err(error) => {
                        tracing::error!(%error, "an event could not be written as JSON");
                        None
                    }
                },
                Some(Err(error)) => {
                    let event = event(&error.body(format.surface), format).ok()?;
                    Some((event, State::Ended))
                }
                None => format
                    .final_data
                    .map(|data| (Event::message(data), State::Ended)),
            }
        });
        Self(events.boxed())
    }
}

/// Converts a value to a server-sent event.
fn event(value: &impl Serialize, format: StreamFormat) -> serde_json::Result<Event> {
    let event = Event::message(serde_json::to_string(value)?);
    if !format.named_events {
        return Ok(event);
    }
    let name = serde_json::to_value(value)?["type"].take();
    Ok(match name {
        Value::String(name) => event.event_type(name),
        _ => event,
    })
}

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        SSE::new(self.0).keep_alive(KEEP_ALIVE).into_response()
    }
}

/// Returns the events of a generation. Dropping the stream cancels the generation.
pub(super) fn generation_events(
    generation: Generation,
) -> impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static {
    stream::unfold(generation, |mut generation| async move {
        let event = generation.next().await?;
        Some((event.map_err(Error::from), generation))
    })
}

/// The complete text of a generation, including the prompt if it is echoed.
pub(super) struct GeneratedText {
    pub content: String,
    /// The tokens of `content`.
    pub tokens: Vec<OutputToken>,
    pub summary: GenerationSummary,
}

/// Collects the events of a generation until it ends.
pub(super) async fn collect_text(
    events: impl Stream<Item = Result<GenerateEvent, Error>>,
) -> Result<GeneratedText, Error> {
    let mut events = pin!(events);
    let (mut content, mut tokens) = (String::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event? {
            GenerateEvent::Prompt {
                text,
                tokens: new_tokens,
            }
            | GenerateEvent::Text {
                text,
                tokens: new_tokens,
            } => {
                content.push_str(&text);
                tokens.extend(new_tokens);
            }
            GenerateEvent::Progress(_) => {}
            GenerateEvent::Finished(summary) => {
                return Ok(GeneratedText {
                    content,
                    tokens,
                    summary,
                });
            }
        }
    }
    Err(GenerateError::Failed("the generation ended without a result".to_owned()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(
        values: Vec<Result<&'static str, Error>>,
        events: impl FnOnce(BoxStream<'static, Result<&'static str, Error>>) -> EventStream,
        expected: &str,
    ) {
        let response = events(stream::iter(values).boxed()).into_response();
        assert_eq!(response.content_type(), Some("text/event-stream"));
        assert_eq!(response.into_body().into_string().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn sends_an_event_per_value_and_the_final_data() {
        check(
            vec![Ok("a"), Ok("b\n")],
            EventStream::native,
            "data: \"a\"\n\ndata: \"b\\n\"\n\n",
        )
        .await;
        check(
            vec![Ok("a")],
            EventStream::openai,
            "data: \"a\"\n\ndata: [DONE]\n\n",
        )
        .await;
    }

    #[tokio::test]
    async fn an_error_is_the_last_event() {
        check(
            vec![Ok("a"), Err(Error::Loading), Ok("b")],
            EventStream::native,
            "data: \"a\"\n\ndata: {\"error\":{\"code\":503,\"message\":\"Loading model\",\"param\":null,\"type\":\"unavailable_error\"}}\n\n",
        )
        .await;
        check(
            vec![Err(Error::Loading)],
            EventStream::openai,
            "data: {\"error\":{\"code\":null,\"message\":\"Loading model\",\"param\":null,\"type\":\"unavailable_error\"}}\n\n",
        )
        .await;
    }
}
