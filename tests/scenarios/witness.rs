//! Stands between the routes and the network and holds every answer against the document: its status is
//! listed, its media type too, its body fits the schema, event by event if it is a stream.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use ortolan::api;
use ortolan::api::document::{self, DOCUMENT};
use poem::{Body, Endpoint, EndpointExt, Request, Response};
use serde_json::Value;

static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What was wrong with answers so far.
pub(crate) fn complaints() -> Vec<String> {
    COMPLAINTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn complain(operation: &str, what: &str) {
    let complaint = format!("{operation}: {what}");
    COMPLAINTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(complaint);
}

/// The endpoint, watched.
pub(crate) fn watch(
    endpoint: impl Endpoint<Output = Response> + 'static,
) -> impl Endpoint<Output = Response> + 'static {
    endpoint.around(|endpoint: Arc<_>, request: Request| async move {
        let (method, path) = (
            request.method().as_str().to_lowercase(),
            request.uri().path().to_owned(),
        );
        let response: Response = endpoint.get_response(request).await;
        Ok(judge(
            &format!("{method} {path}"),
            operation(&method, &path),
            response,
        )
        .await)
    })
}

/// The document's operation for a request; what is none (404, 405) is only held against the error's shape.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    DOCUMENT["paths"][document::template(path)?].get(method)
}

async fn judge(name: &str, operation: Option<&'static Value>, response: Response) -> Response {
    let status = response.status().as_u16();
    let media = response.content_type().unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().to_owned();
    let schema = match operation {
        None => Some(error_schema(name).to_owned()),
        Some(operation) => match listed(operation, status, &media) {
            Ok(schema) => schema,
            Err(what) => {
                complain(name, &what);
                None
            }
        },
    };
    let Some(schema) = schema else {
        return response;
    };
    match media.as_str() {
        "text/event-stream" => watch_events(name, schema.replace("Stream", "Event"), response),
        "application/json" => {
            let (parts, body) = response.into_parts();
            let bytes = body.into_bytes().await.unwrap();
            check(name, &schema, &bytes);
            Response::from_parts(parts, Body::from(bytes))
        }
        _ => response,
    }
}

/// The shape of errors of what is no operation, by the surface.
fn error_schema(name: &str) -> &'static str {
    match name.contains(" /v1/messages") {
        true => "MessagesError",
        false => "Error",
    }
}

/// The component that an answer must fit; `None` for a body without one.
fn listed(operation: &'static Value, status: u16, media: &str) -> Result<Option<String>, String> {
    let answer = &operation["responses"][status.to_string()];
    let answer = match answer["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap(),
        None => answer,
    };
    if answer.is_null() {
        return Err(format!("the status {status} is not listed"));
    }
    // Without the media type's parameters, as the answer's.
    let mut listed = answer["content"].as_object().into_iter().flatten();
    let content = listed
        .find(|(name, _)| name.split(';').next() == Some(media))
        .map(|(_, content)| content)
        .ok_or_else(|| format!("{status} is not listed as {media}"))?;
    Ok(content
        .pointer("/schema/$ref")
        .and_then(Value::as_str)
        .map(|reference| reference.rsplit('/').next().unwrap_or_default().to_owned()))
}

fn check(name: &str, schema: &str, bytes: &[u8]) {
    match serde_json::from_slice::<Value>(bytes) {
        Err(error) => complain(name, &format!("no JSON: {error}")),
        Ok(value) => match api::check(schema, &value) {
            Err(error) => complain(name, &format!("no {schema}: {error}")),
            Ok(unknown) if !unknown.is_empty() => {
                complain(name, &format!("fields beyond {schema}: {unknown:?}"))
            }
            Ok(_) => {}
        },
    }
}

/// A stream's frames, each held against the schema of its events.
fn watch_events(name: &str, schema: String, response: Response) -> Response {
    let name = name.to_owned();
    let mut pending = Vec::new();
    let (parts, body) = response.into_parts();
    let watched = body
        .into_bytes_stream()
        .map(move |part: std::io::Result<Bytes>| {
            pending.extend_from_slice(part.as_deref().unwrap_or_default());
            while let Some(end) = pending.windows(2).position(|two| two == b"\n\n") {
                let frame: Vec<u8> = pending.drain(..end + 2).collect();
                let mut lines = frame.split(|byte| *byte == b'\n');
                let data = lines.find_map(|line| line.strip_prefix(b"data: "));
                let data = data.unwrap_or_default();
                if !data.is_empty() && data != b"[DONE]" {
                    check(&name, &schema, data);
                }
            }
            part
        });
    Response::from_parts(parts, Body::from_bytes_stream(watched))
}
