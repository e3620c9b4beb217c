//! Middleware that validates every response against the OpenAPI document: its status and media type are listed, and
//! its body matches the schema, event by event for a stream.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use ortolan::api;
use ortolan::api::document::{self, DOCUMENT};
use poem::{Body, Endpoint, EndpointExt, Request, Response};
use serde_json::Value;

static VIOLATIONS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The violations of the OpenAPI document so far.
pub(crate) fn violations() -> Vec<String> {
    VIOLATIONS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn report(operation: &str, problem: &str) {
    let violation = format!("{operation}: {problem}");
    VIOLATIONS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(violation);
}

/// Wraps the endpoint with the validation.
pub(crate) fn validated(
    endpoint: impl Endpoint<Output = Response> + 'static,
) -> impl Endpoint<Output = Response> + 'static {
    endpoint.around(|endpoint: Arc<_>, request: Request| async move {
        let (method, path) = (
            request.method().as_str().to_lowercase(),
            request.uri().path().to_owned(),
        );
        let response: Response = endpoint.get_response(request).await;
        Ok(validate(
            &format!("{method} {path}"),
            operation(&method, &path),
            response,
        )
        .await)
    })
}

/// Returns the operation of a request in the OpenAPI document; `None` if the document does not describe it. Such a
/// request gets status 404 or 405, and only the schema of its error is checked.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    DOCUMENT["paths"][document::template(path)?].get(method)
}

async fn validate(name: &str, operation: Option<&'static Value>, response: Response) -> Response {
    let status = response.status().as_u16();
    let media = response.content_type().unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().to_owned();
    let schema = match operation {
        None => Some(error_schema(name).to_owned()),
        Some(operation) => match response_schema(operation, status, &media) {
            Ok(schema) => schema,
            Err(problem) => {
                report(name, &problem);
                None
            }
        },
    };
    let Some(schema) = schema else {
        return response;
    };
    match media.as_str() {
        "text/event-stream" => validate_events(name, schema.replace("Stream", "Event"), response),
        "application/json" => {
            let (parts, body) = response.into_parts();
            let bytes = body.into_bytes().await.unwrap();
            check(name, &schema, &bytes);
            Response::from_parts(parts, Body::from(bytes))
        }
        _ => response,
    }
}

/// The error schema of a path without an operation, by API surface.
fn error_schema(name: &str) -> &'static str {
    match name.contains(" /v1/messages") {
        true => "MessagesError",
        false => "Error",
    }
}

/// The schema component of a listed response; `None` for a body without one.
fn response_schema(
    operation: &'static Value,
    status: u16,
    media: &str,
) -> Result<Option<String>, String> {
    let response = &operation["responses"][status.to_string()];
    let response = match response["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap(),
        None => response,
    };
    if response.is_null() {
        return Err(format!("the status {status} is not listed"));
    }
    // Compare media types without their parameters.
    let mut listed = response["content"].as_object().into_iter().flatten();
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
        Err(error) => report(name, &format!("the body is not JSON: {error}")),
        Ok(value) => match api::check(schema, &value) {
            Err(error) => report(name, &format!("the body does not match {schema}: {error}")),
            Ok(unknown) if !unknown.is_empty() => report(
                name,
                &format!("fields that {schema} does not declare: {unknown:?}"),
            ),
            Ok(_) => {}
        },
    }
}

/// Validates each event of a stream against the schema of the stream's events.
fn validate_events(name: &str, schema: String, response: Response) -> Response {
    let name = name.to_owned();
    let mut pending = Vec::new();
    let (parts, body) = response.into_parts();
    let validated = body
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
    Response::from_parts(parts, Body::from_bytes_stream(validated))
}
