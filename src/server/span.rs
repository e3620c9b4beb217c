//! The tracing span of a request, from its arrival to the last byte of its response. Log lines within the span have the
//! request's id; with OpenTelemetry, the span is exported.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use poem::{Request, Response};
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::api::document;

type BoxBody = http_body_util::combinators::BoxBody<Bytes, io::Error>;

/// Creates the span of a request as a child of the span in its `traceparent` header. Attribute names follow
/// OpenTelemetry's semantic conventions for HTTP servers.
pub(super) fn request_span(request: &Request, id: &str) -> Span {
    let (method, path) = (request.method(), request.uri().path());
    let route = document::template(path);
    let name = match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_string(),
    };
    // At the highest severity, the span is enabled at every log level, so that all log lines have the request's id.
    let span = tracing::error_span!(
        "request",
        request_id = id,
        otel.name = name,
        otel.kind = "server",
        otel.status_code = field::Empty,
    );
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    // Fails if traces are not exported; the span then needs no parent.
    let _ = span.set_parent(parent);
    if let Some(route) = route {
        span.set_attribute("http.route", route);
    }
    span.set_attribute("http.request.method", method.to_string());
    span.set_attribute("url.path", path.to_owned());
    span
}

/// Returns the response with a body that is polled within the span. Dropping the body ends the span.
pub(super) fn with_span(span: Span, response: Response) -> Response {
    let status = response.status();
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let (parts, body) = response.into_parts();
    let body = SpannedBody {
        body: body.into(),
        span,
    };
    Response::from_parts(parts, BoxBody::new(body).into())
}

struct SpannedBody {
    body: BoxBody,
    span: Span,
}

impl Body for SpannedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Self { body, span } = self.get_mut();
        let _entered = span.enter();
        Pin::new(body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
