//! Request bodies and responses of the generated poem-openapi routes: reading, parsing and limiting JSON bodies,
//! writing JSON, text and event-stream responses, and the header that lists ignored fields. Schema validation is in
//! `schema`.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use poem::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use poem::http::{HeaderMap, HeaderValue, StatusCode};
use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::registry::{
    MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Error;
use super::schema;
use super::stream::JsonOrStream;
use crate::model::PreparationPool;

/// Largest request body in bytes.
pub const MAX_BODY_BYTES: usize = 8 << 20;

/// Largest body in bytes that is parsed on the connection's thread, which takes a few milliseconds at most. Larger
/// bodies are parsed on the preparation threads, so that they do not delay other connections.
const MAX_INLINE_PARSE_BYTES: usize = 64 << 10;

/// Longest value of the header that lists ignored fields, in bytes.
const MAX_IGNORED_HEADER_BYTES: usize = 1024;

/// Maximum number of ignored fields recorded for a request; the header has no room for more.
const MAX_IGNORED_PATHS: usize = 64;

/// 2^53: double precision represents all integers up to this bound exactly.
const EXACT_INTEGERS_END: f64 = (1_u64 << 53) as f64;

/// The response header that lists ignored fields.
const IGNORED_HEADER: &str = "x-ortolan-ignored";

/// An operation of the OpenAPI document. The build script generates the implementations.
pub(super) trait Operation: Send + Sync + 'static {
    const RESPONSES: &'static [ResponseSpec];
}

/// An operation of the OpenAPI document that takes a request body.
pub(super) trait BodyOperation: Operation {
    /// The generated type of the body.
    type Body: DeserializeOwned + Send + 'static;
    /// The name of the body's schema in `components/schemas`.
    const SCHEMA: &'static str;
    /// Whether a Content-Type other than JSON is rejected.
    const JSON_ONLY: bool;
    /// Whether the body is required. An optional body that is missing is read as `{}`.
    const REQUIRED: bool;
}

/// A response as the OpenAPI document declares it.
pub(super) struct ResponseSpec {
    /// The HTTP status.
    pub status: u16,
    /// Pairs of media type and schema name. The name is empty if the schema is not in `components/schemas`.
    pub media_types: &'static [(&'static str, &'static str)],
}

/// Rules for reading request bodies, attached to every request as poem request data.
#[derive(Debug, Clone, Copy)]
pub struct BodyRules {
    /// Longest wait for the next bytes of a body.
    pub idle_timeout: Duration,
    /// Whether to reject requests with ignored fields, instead of listing the fields in a header.
    pub strict: bool,
}

/// A request body that passed schema validation.
pub(super) struct Body<O: BodyOperation> {
    pub value: O::Body,
    /// The fields of the body that have no effect.
    pub ignored: IgnoredFields,
}

/// Fields and constraints of a request that have no effect. The header `x-ortolan-ignored` lists them. With `--strict`,
/// the first of them fails the request.
#[derive(Debug, Default)]
pub(super) struct IgnoredFields {
    paths: Vec<String>,
    strict: bool,
}

impl IgnoredFields {
    /// Records a field without effect by its dotted path. For a constraint, `path` is the path of its schema followed
    /// by a JSON pointer. Drops recorded fields that are part of the new field.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the server runs with `--strict`.
    pub(super) fn report(&mut self, path: impl Into<String>) -> Result<(), Error> {
        let path = path.into();
        if self.strict {
            let message = format!("{path}: this field has no effect on this server; remove it");
            return Err(Error::invalid(path, message));
        }
        let within = format!("{path}.");
        self.paths
            .retain(|known| *known != path && !known.starts_with(&within));
        if self.paths.len() < MAX_IGNORED_PATHS {
            self.paths.push(path);
        }
        Ok(())
    }

    /// Records `priority` as ignored if it exceeds `max_priority`, the caller's highest priority, which the server then
    /// uses.
    pub(super) fn report_priority(
        &mut self,
        priority: Option<i32>,
        max_priority: i32,
    ) -> Result<(), Error> {
        match priority.is_some_and(|priority| priority > max_priority) {
            true => self.report("priority"),
            false => Ok(()),
        }
    }

    /// Returns the recorded paths, in the order in which they were reported.
    #[cfg(test)]
    pub(super) fn paths(&self) -> &[String] {
        &self.paths
    }
}

impl<'a, O: BodyOperation> ApiExtractor<'a> for Body<O> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_component(registry, O::SCHEMA);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![media_type("application/json", O::SCHEMA)],
            required: O::REQUIRED,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        if let Some(coding) = content_coding(request.headers()) {
            return Err(Error::UnsupportedEncoding { coding }.into());
        }
        if O::JSON_ONLY && !request.content_type().is_some_and(is_json) {
            return Err(Error::UnsupportedContentType.into());
        }
        let rules = request.data::<BodyRules>();
        let idle_timeout = rules.map_or(Duration::MAX, |rules| rules.idle_timeout);
        if declared_bytes(request.headers()) > MAX_BODY_BYTES as u64 {
            return Err(TOO_LARGE.into());
        }
        let (bytes, unread) = read_body(body.take()?, idle_timeout).await?;
        let strict = rules.is_some_and(|rules| rules.strict);
        match request.data::<Arc<PreparationPool>>() {
            Some(preparations) if bytes.len() > MAX_INLINE_PARSE_BYTES => {
                let admitted = preparations.admit().map_err(Error::from)?;
                let parse = move |_: &_| {
                    let parsed = Self::parse(&bytes, strict);
                    drop((bytes, unread));
                    parsed
                };
                let parsed = admitted.run(parse).await;
                Ok(parsed.map_err(Error::from)??)
            }
            _ => Ok(Self::parse(&bytes, strict)?),
        }
    }
}

impl<O: BodyOperation> Body<O> {
    /// Parses a body, validates it against its schema and records fields without effect.
    fn parse(bytes: &[u8], strict: bool) -> Result<Self, Error> {
        let mut value = match bytes.is_empty() && !O::REQUIRED {
            true => Value::Object(serde_json::Map::new()),
            false => serde_json::from_slice(bytes)
                .map_err(|error| invalid_body("the body is not valid JSON", &error))?,
        };
        normalize_whole_numbers(&mut value);
        let mut ignored = IgnoredFields {
            paths: Vec::new(),
            strict,
        };
        for path in schema::check(O::SCHEMA, &value)? {
            ignored.report(path)?;
        }
        schema::strip_undescribed_objects(O::SCHEMA, &mut value);
        let value = serde_json::from_value(value)
            .map_err(|error| invalid_body("the body does not match its schema", &error))?;
        Ok(Self { value, ignored })
    }
}

/// Returns the first content or transfer coding that the server does not decode, such as `gzip`.
fn content_coding(headers: &HeaderMap) -> Option<String> {
    let content = headers.get_all(CONTENT_ENCODING).iter();
    let transfer = headers.get_all(TRANSFER_ENCODING).iter();
    let codings = content.chain(transfer).flat_map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let codings = value.split(',').map(|coding| coding.trim().to_owned());
        codings.collect::<Vec<_>>()
    });
    let mut unsupported = codings.filter(|coding| {
        let supported = ["", "identity", "chunked"];
        !supported
            .iter()
            .any(|name| coding.eq_ignore_ascii_case(name))
    });
    unsupported.next()
}

/// Returns the size of the body in bytes from `Content-Length`; 0 if the header is missing or invalid.
fn declared_bytes(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
    length.unwrap_or(0)
}

const TOO_LARGE: Error = Error::BodyTooLarge {
    limit_bytes: MAX_BODY_BYTES,
};

/// Reads a body; rejects it as soon as it exceeds the limit. Also returns the stream of the body: the server's memory
/// budget for bodies is charged until the stream is dropped.
async fn read_body(
    body: poem::Body,
    idle_timeout: Duration,
) -> Result<(Bytes, impl Stream + Send + 'static), Error> {
    let mut chunks = Box::pin(body.into_bytes_stream());
    let mut bytes = BytesMut::new();
    while bytes.len() <= MAX_BODY_BYTES {
        let chunk = tokio::time::timeout(idle_timeout, chunks.next()).await;
        let timed_out = |_| {
            let seconds = idle_timeout.as_secs();
            Error::BodyTimeout(format!("no data of the body arrived for {seconds} seconds"))
        };
        match chunk.map_err(timed_out)? {
            None => return Ok((bytes.freeze(), chunks)),
            Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
            Some(Err(error)) => {
                return Err(match error.kind() {
                    ErrorKind::TimedOut => Error::BodyTimeout(error.to_string()),
                    ErrorKind::QuotaExceeded => Error::TooManyRequests(error.to_string()),
                    _ => invalid_body("the body could not be read", &error),
                });
            }
        }
    }
    Err(TOO_LARGE)
}

fn invalid_body(problem: &str, error: &dyn std::error::Error) -> Error {
    Error::Invalid {
        param: None,
        message: format!("{problem}: {error}"),
    }
}

/// Converts whole floating-point numbers such as `1.0` to integers. JSON Schema accepts `1.0` as an integer, but serde
/// does not.
fn normalize_whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number
                .as_f64()
                .filter(|number| number.fract() == 0.0 && number.abs() < EXACT_INTEGERS_END);
            if let Some(whole) = whole {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(normalize_whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(normalize_whole_numbers),
        _ => {}
    }
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}

/// A JSON body and its status, for operations whose error responses have the same schema as their success response.
pub(super) struct WithStatus<T> {
    pub status: StatusCode,
    pub value: T,
}

/// A response whose body is already text: HTML, YAML, metrics or serialized JSON.
pub(super) struct TextResponse {
    pub text: Cow<'static, str>,
    /// Headers in addition to Content-Type.
    pub headers: Vec<(&'static str, String)>,
}

impl From<&'static str> for TextResponse {
    fn from(text: &'static str) -> Self {
        Self {
            text: text.into(),
            headers: Vec::new(),
        }
    }
}

/// The HTTP response of the operation `O`.
pub(super) struct Reply<O> {
    response: Response,
    operation: PhantomData<fn() -> O>,
}

impl<O: Operation> Reply<O> {
    /// Responds with a JSON body and status 200, or with the error.
    pub(super) fn json<T: Serialize + Send>(result: Result<T, Error>) -> Self {
        Self::new(result, |value| json(StatusCode::OK, value))
    }

    /// Responds with a JSON body and the given status, or with the error.
    pub(super) fn with_status<T: Serialize + Send>(result: Result<WithStatus<T>, Error>) -> Self {
        Self::new(result, |WithStatus { status, value }| json(status, value))
    }

    /// Responds with a JSON body, server-sent events or the error.
    pub(super) fn json_or_stream<T: Serialize + Send>(
        result: Result<JsonOrStream<T>, Error>,
    ) -> Self {
        Self::new(result, |response| match response {
            JsonOrStream::Json(value) => json(StatusCode::OK, value),
            JsonOrStream::Stream(events) => events.into_response(),
        })
    }

    /// Responds with text of the media type that the document declares for the operation, or with the error.
    pub(super) fn text(result: Result<TextResponse, Error>) -> Self {
        Self::new(result, |TextResponse { text, headers }| {
            let media = O::RESPONSES
                .first()
                .and_then(|spec| spec.media_types.first());
            let media = media.map_or("text/plain", |(media, _)| media);
            // A media type that already has parameters is sent unchanged.
            let media = match media.contains(';') {
                true => media.to_owned(),
                false => format!("{media}; charset=utf-8"),
            };
            let mut response = Response::builder().content_type(media);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(text.into_owned())
        })
    }

    /// Adds the header that lists the ignored fields.
    pub(super) fn with_ignored_fields(mut self, ignored: &IgnoredFields) -> Self {
        if let Some(value) = ignored_header(&ignored.paths) {
            self.response.headers_mut().insert(IGNORED_HEADER, value);
        }
        self
    }

    fn new<T>(result: Result<T, Error>, response: impl FnOnce(T) -> Response) -> Self {
        let response = result.map_or_else(Error::into_response, response);
        Self {
            response,
            operation: PhantomData,
        }
    }
}

fn json(status: StatusCode, value: impl Serialize + Send) -> Response {
    poem::web::Json(value).with_status(status).into_response()
}

/// Returns the header value: as many percent-encoded paths as fit, separated by commas. `None` if there are no paths.
fn ignored_header(paths: &[String]) -> Option<HeaderValue> {
    let mut header = String::new();
    for path in paths {
        let encoded: String = path
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' | b'/' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        if header.len() + 1 + encoded.len() > MAX_IGNORED_HEADER_BYTES {
            break;
        }
        if !header.is_empty() {
            header.push(',');
        }
        header.push_str(&encoded);
    }
    (!header.is_empty())
        .then(|| HeaderValue::from_str(&header).ok())
        .flatten()
}

impl<O: Operation> IntoResponse for Reply<O> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<O: Operation> ApiResponse for Reply<O> {
    fn meta() -> MetaResponses {
        let responses = O::RESPONSES.iter().map(|spec| MetaResponse {
            description: "",
            status: Some(spec.status),
            status_range: None,
            content: spec
                .media_types
                .iter()
                .map(|(media, schema)| media_type(media, schema))
                .collect(),
            headers: Vec::new(),
        });
        MetaResponses {
            responses: responses.collect(),
        }
    }

    fn register(registry: &mut Registry) {
        for (_, schema) in O::RESPONSES.iter().flat_map(|spec| spec.media_types) {
            register_component(registry, schema);
        }
    }
}

fn media_type(media: &'static str, schema: &str) -> MetaMediaType {
    let schema = match schema {
        "" => MetaSchemaRef::Inline(Box::new(MetaSchema::ANY)),
        name => MetaSchemaRef::Reference(name.to_owned()),
    };
    MetaMediaType {
        content_type: media,
        schema,
    }
}

/// Registers the name of a schema, as poem-openapi requires. The schema itself is only in the document.
fn register_component(registry: &mut Registry, name: &str) {
    if !name.is_empty() {
        registry
            .schemas
            .entry(name.to_owned())
            .or_insert(MetaSchema::ANY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_paths_are_percent_encoded_and_not_truncated() {
        let fields = ["a.b/c".to_owned(), "ö,\r\n".to_owned(), "x".repeat(2000)];
        assert_eq!(ignored_header(&fields).unwrap(), "a.b/c,%C3%B6%2C%0D%0A");
        assert_eq!(ignored_header(&[]), None);
    }

    #[test]
    fn a_reported_object_replaces_the_fields_within_it() {
        let mut ignored = IgnoredFields::default();
        for path in ["a.1.b", "a.10", "a.1.c.d", "a.1", "a.1"] {
            ignored.report(path).unwrap();
        }
        assert_eq!(ignored.paths, ["a.10", "a.1"]);
        (0..1000).for_each(|number| ignored.report(format!("b.{number}")).unwrap());
        assert_eq!(ignored.paths.len(), MAX_IGNORED_PATHS);
        ignored.strict = true;
        assert!(ignored.report("c").is_err());
    }

    #[test]
    fn json_is_recognized_by_its_media_type() {
        assert!(is_json("Application/JSON; charset=utf-8"));
        assert!(!is_json("text/plain"));
        assert!(!is_json("application/jsonlines"));
    }
}
