//! The events of a generation, gathered to one answer or sent as they come: server-sent events are frames of JSON,
//! an error is the last frame, comments keep a quiet stream alive.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use super::error::{Error, Surface};
use crate::model::{AnswerToken, GenerateError, GenerateEvent, Generation, Summary};

/// How long a stream is quiet before a comment is sent; it bounds how late a client's leaving is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// An answer in one piece or as it comes.
pub(super) enum WholeOrStream<T> {
    /// One JSON body.
    Whole(T),
    /// Server-sent events.
    Stream(EventStream),
}

/// How a surface writes its streams.
#[derive(Clone, Copy)]
struct Form {
    /// Whose words errors have.
    surface: Surface,
    /// Whether a frame has its value's `type` as its name.
    named: bool,
    /// What comes after all values.
    last: Option<&'static str>,
}

/// A stream of server-sent events.
pub(super) struct EventStream(BoxStream<'static, Event>);

impl EventStream {
    /// A frame `data: {json}` for each value; an error is the last one.
    pub(super) fn native<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let form = Form {
            surface: Surface::Native,
            named: false,
            last: None,
        };
        Self::new(values, form)
    }

    /// The same with errors in OpenAI's words; without one, `[DONE]` comes last.
    pub(super) fn openai<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let form = Form {
            surface: Surface::OpenAi,
            named: false,
            last: Some("[DONE]"),
        };
        Self::new(values, form)
    }

    /// A frame with a name for each value, its `type`; so is an error, in Anthropic's words.
    pub(super) fn anthropic<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let form = Form {
            surface: Surface::Anthropic,
            named: true,
            last: None,
        };
        Self::new(values, form)
    }

    /// The same for values that tell errors themselves.
    pub(super) fn responses<T: Serialize + Send + 'static>(
        values: impl Stream<Item = T> + Send + 'static,
    ) -> Self {
        let form = Form {
            surface: Surface::OpenAi,
            named: true,
            last: None,
        };
        Self::new(values.map(Ok), form)
    }

    fn new<T: Serialize>(
        values: impl Stream<Item = Result<T, Error>> + Send + 'static,
        form: Form,
    ) -> Self {
        /// What is still to be sent.
        enum Rest<S> {
            Values(S),
            Nothing,
        }
        let frames = stream::unfold(Rest::Values(Box::pin(values)), move |rest| async move {
            let Rest::Values(mut values) = rest else {
                return None;
            };
            match values.next().await {
                Some(Ok(value)) => match frame(&value, form) {
                    Ok(event) => Some((event, Rest::Values(values))),
                    Err(error) => {
                        tracing::error!(%error, "an event could not be written as JSON");
                        None
                    }
                },
                Some(Err(error)) => {
                    let event = frame(&error.body(form.surface), form).ok()?;
                    Some((event, Rest::Nothing))
                }
                None => form.last.map(|last| (Event::message(last), Rest::Nothing)),
            }
        });
        Self(frames.boxed())
    }
}

/// A value as an event.
fn frame(value: &impl Serialize, form: Form) -> serde_json::Result<Event> {
    let event = Event::message(serde_json::to_string(value)?);
    if !form.named {
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

/// The events of a generation; dropping the stream cancels it.
pub(super) fn events(
    generation: Generation,
) -> impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static {
    stream::unfold(generation, |mut generation| async move {
        let event = generation.next().await?;
        Some((event.map_err(Error::from), generation))
    })
}

/// A generation from its first token to its end; from its prompt's, if that is told, too.
pub(super) struct WholeAnswer {
    /// The text.
    pub content: String,
    /// Its tokens.
    pub tokens: Vec<AnswerToken>,
    /// How it ended.
    pub summary: Summary,
}

/// Waits for the end.
pub(super) async fn whole(
    events: impl Stream<Item = Result<GenerateEvent, Error>>,
) -> Result<WholeAnswer, Error> {
    let mut events = pin!(events);
    let (mut content, mut tokens) = (String::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event? {
            GenerateEvent::Prompt { text, tokens: own }
            | GenerateEvent::Text { text, tokens: own } => {
                content.push_str(&text);
                tokens.extend(own);
            }
            GenerateEvent::Progress(_) => {}
            GenerateEvent::Finished(summary) => {
                return Ok(WholeAnswer {
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
    async fn a_frame_per_value_and_a_last_word() {
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
    async fn an_error_is_the_last_frame() {
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
