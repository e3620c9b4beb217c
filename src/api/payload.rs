//! JSON in and JSON out, as poem-openapi's routes see it: the generated code says what each operation takes and
//! answers, the types here do it. Checking a body against its schema is `schema`'s.

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
use super::stream::WholeOrStream;
use crate::model::Preparations;

/// Bytes of a body that are read.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// Bytes of a body up to which parsing it and checking it take at most some milliseconds: a longer one is parsed where requests
/// are prepared, so that it does not hold up the connections of its thread.
const QUICKLY_PARSED_BYTES: usize = 64 << 10;

/// Bytes of the header that lists fields without effect.
const IGNORED_HEADER_BYTES_MAX: usize = 1024;

/// Paths that are kept for that header, which has no room for more.
const IGNORED_PATHS_MAX: usize = 64;

/// From here on not every integer has a number in double precision.
const EXACT_INTEGERS_END: f64 = (1_u64 << 53) as f64;

/// The header that lists fields without effect.
const IGNORED_HEADER: &str = "x-ortolan-ignored";

/// What the document says of an operation's answers.
pub(super) trait Operation: Send + Sync + 'static {
    /// All of them.
    const ANSWERS: &'static [Answer];
}

/// What the document says of an operation's body.
pub(super) trait BodyOperation: Operation {
    /// What a valid body becomes.
    type Body: DeserializeOwned + Send + 'static;
    /// The component that it must fit.
    const SCHEMA: &'static str;
    /// Whether another Content-Type than JSON is refused.
    const JSON_ONLY: bool;
    /// Whether it may not be left out; where it may, no body is one without fields.
    const REQUIRED: bool;
}

/// An answer that the document lists.
pub(super) struct Answer {
    /// The status.
    pub status: u16,
    /// Media types, each with the name of its component, empty for a schema without a name.
    pub media: &'static [(&'static str, &'static str)],
}

/// What a body may be; it goes with every request.
#[derive(Debug, Clone, Copy)]
pub struct BodyRules {
    /// How long a client may be silent while it sends one.
    pub idle: Duration,
    /// Whether fields without effect are refused, not only named in a header.
    pub strict: bool,
}

/// The body of a request, checked.
pub(super) struct Body<O: BodyOperation> {
    /// The body.
    pub value: O::Body,
    /// Fields that have no effect.
    pub ignored: Ignored,
}

/// Fields and constraints of a request that have no effect: the header `x-ortolan-ignored` reports them. With
/// `--strict` the first one refuses the request instead.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    paths: Vec<String>,
    strict: bool,
}

impl Ignored {
    /// Reports a field by its dotted path, a constraint by the path of its schema and its JSON pointer there. Fields
    /// within it are no longer listed on their own.
    ///
    /// # Errors
    /// If fields without effect are refused.
    pub(super) fn report(&mut self, path: impl Into<String>) -> Result<(), Error> {
        let path = path.into();
        if self.strict {
            let message = format!("{path}: this field has no effect here; leave it out");
            return Err(Error::invalid(path, message));
        }
        let within = format!("{path}.");
        self.paths
            .retain(|known| *known != path && !known.starts_with(&within));
        if self.paths.len() < IGNORED_PATHS_MAX {
            self.paths.push(path);
        }
        Ok(())
    }

    /// Reports a priority that is higher than the caller may have: it is lowered.
    pub(super) fn report_priority(
        &mut self,
        asked: Option<i32>,
        highest: i32,
    ) -> Result<(), Error> {
        match asked.is_some_and(|priority| priority > highest) {
            true => self.report("priority"),
            false => Ok(()),
        }
    }

    /// What was reported, in its order.
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
        if let Some(coding) = coding(request.headers()) {
            return Err(Error::EncodedBody { coding }.into());
        }
        if O::JSON_ONLY && !request.content_type().is_some_and(is_json) {
            return Err(Error::NotJson.into());
        }
        let rules = request.data::<BodyRules>();
        let idle = rules.map_or(Duration::MAX, |rules| rules.idle);
        if declared_bytes(request.headers()) > BODY_BYTES_MAX as u64 {
            return Err(TOO_LARGE.into());
        }
        let (bytes, unread) = read(body.take()?, idle).await?;
        let strict = rules.is_some_and(|rules| rules.strict);
        match request.data::<Arc<Preparations>>() {
            Some(preparations) if bytes.len() > QUICKLY_PARSED_BYTES => {
                let admitted = preparations.admit().map_err(Error::from)?;
                let parse = move |_: &_| {
                    let parsed = Self::parsed(&bytes, strict);
                    drop((bytes, unread));
                    parsed
                };
                let parsed = admitted.run(parse).await;
                Ok(parsed.map_err(Error::from)??)
            }
            _ => Ok(Self::parsed(&bytes, strict)?),
        }
    }
}

impl<O: BodyOperation> Body<O> {
    /// The body that these bytes are.
    fn parsed(bytes: &[u8], strict: bool) -> Result<Self, Error> {
        let mut value = match bytes.is_empty() && !O::REQUIRED {
            true => Value::Object(serde_json::Map::new()),
            false => serde_json::from_slice(bytes)
                .map_err(|error| not_a_body("the body is not valid JSON", &error))?,
        };
        write_integers_as_such(&mut value);
        let mut ignored = Ignored {
            paths: Vec::new(),
            strict,
        };
        for path in schema::check(O::SCHEMA, &value)? {
            ignored.report(path)?;
        }
        schema::cut_foreign_kinds(O::SCHEMA, &mut value);
        let value = serde_json::from_value(value)
            .map_err(|error| not_a_body("the body is not understood", &error))?;
        Ok(Self { value, ignored })
    }
}

/// The first content or transfer coding of a body that changes its bytes, `gzip` for example.
fn coding(headers: &HeaderMap) -> Option<String> {
    let content = headers.get_all(CONTENT_ENCODING).iter();
    let transfer = headers.get_all(TRANSFER_ENCODING).iter();
    let codings = content.chain(transfer).flat_map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let codings = value.split(',').map(|coding| coding.trim().to_owned());
        codings.collect::<Vec<_>>()
    });
    let mut changing = codings.filter(|coding| {
        let unchanged = ["", "identity", "chunked"];
        !unchanged
            .iter()
            .any(|name| coding.eq_ignore_ascii_case(name))
    });
    changing.next()
}

/// Bytes of the body as `Content-Length` declares them; 0 where it does not.
fn declared_bytes(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
    length.unwrap_or(0)
}

const TOO_LARGE: Error = Error::BodyTooLarge {
    limit_bytes: BODY_BYTES_MAX,
};

/// The body's bytes, and its stream: the budget for bodies counts the bytes until the stream is dropped. A body that is
/// longer than the limit is refused as soon as that is known.
async fn read(
    body: poem::Body,
    idle: Duration,
) -> Result<(Bytes, impl Stream + Send + 'static), Error> {
    let mut parts = Box::pin(body.into_bytes_stream());
    let mut bytes = BytesMut::new();
    while bytes.len() <= BODY_BYTES_MAX {
        let part = tokio::time::timeout(idle, parts.next()).await;
        let silent = |_| {
            let seconds = idle.as_secs();
            Error::BodyTooSlow(format!(
                "nothing more of the body came for {seconds} seconds"
            ))
        };
        match part.map_err(silent)? {
            None => return Ok((bytes.freeze(), parts)),
            Some(Ok(part)) => bytes.extend_from_slice(&part),
            Some(Err(error)) => {
                return Err(match error.kind() {
                    ErrorKind::TimedOut => Error::BodyTooSlow(error.to_string()),
                    ErrorKind::QuotaExceeded => Error::Busy(error.to_string()),
                    _ => not_a_body("the body could not be read", &error),
                });
            }
        }
    }
    Err(TOO_LARGE)
}

fn not_a_body(what: &str, error: &dyn std::error::Error) -> Error {
    Error::Invalid {
        param: None,
        message: format!("{what}: {error}"),
    }
}

/// To JSON Schema `1.0` is an integer, to the types it is not.
fn write_integers_as_such(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number
                .as_f64()
                .filter(|number| number.fract() == 0.0 && number.abs() < EXACT_INTEGERS_END);
            if let Some(whole) = whole {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(write_integers_as_such),
        Value::Object(fields) => fields.values_mut().for_each(write_integers_as_such),
        _ => {}
    }
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}

/// A value with a status: for operations whose failures have the shape of their success.
pub(super) struct WithStatus<T> {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub value: T,
}

/// A text, for operations whose answers are no JSON.
pub(super) struct Text {
    /// The body.
    pub text: Cow<'static, str>,
    /// Headers beside the Content-Type.
    pub headers: Vec<(&'static str, String)>,
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self {
            text: text.into(),
            headers: Vec::new(),
        }
    }
}

/// The answer to an operation.
pub(super) struct Reply<O> {
    response: Response,
    operation: PhantomData<fn() -> O>,
}

impl<O: Operation> Reply<O> {
    /// A JSON body.
    pub(super) fn json<T: Serialize + Send>(result: Result<T, Error>) -> Self {
        Self::new(result, |value| json(StatusCode::OK, value))
    }

    /// A JSON body with a status.
    pub(super) fn with_status<T: Serialize + Send>(result: Result<WithStatus<T>, Error>) -> Self {
        Self::new(result, |WithStatus { status, value }| json(status, value))
    }

    /// A JSON body or server-sent events.
    pub(super) fn whole_or_stream<T: Serialize + Send>(
        result: Result<WholeOrStream<T>, Error>,
    ) -> Self {
        Self::new(result, |answer| match answer {
            WholeOrStream::Whole(value) => json(StatusCode::OK, value),
            WholeOrStream::Stream(events) => events.into_response(),
        })
    }

    /// A text of the operation's own media type.
    pub(super) fn text(result: Result<Text, Error>) -> Self {
        Self::new(result, |Text { text, headers }| {
            let media = O::ANSWERS.first().and_then(|answer| answer.media.first());
            let media = media.map_or("text/plain", |(media, _)| media);
            // One with a parameter is answered as the document writes it.
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

    /// Tells the client which fields had no effect.
    pub(super) fn ignoring(mut self, ignored: &Ignored) -> Self {
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

/// The paths that fit into the header, each percent-encoded, separated by commas.
fn ignored_header(fields: &[String]) -> Option<HeaderValue> {
    let mut header = String::new();
    for field in fields {
        let encoded: String = field
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' | b'/' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        if header.len() + 1 + encoded.len() > IGNORED_HEADER_BYTES_MAX {
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
        let responses = O::ANSWERS.iter().map(|answer| MetaResponse {
            description: "",
            status: Some(answer.status),
            status_range: None,
            content: answer
                .media
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
        for (_, schema) in O::ANSWERS.iter().flat_map(|answer| answer.media) {
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

/// poem-openapi wants to know every name; what the name stands for is in the document.
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
    fn ignored_fields_are_encoded_and_cut_at_a_whole_path() {
        let fields = ["a.b/c".to_owned(), "ö,\r\n".to_owned(), "x".repeat(2000)];
        assert_eq!(ignored_header(&fields).unwrap(), "a.b/c,%C3%B6%2C%0D%0A");
        assert_eq!(ignored_header(&[]), None);
    }

    #[test]
    fn a_reported_object_stands_for_what_is_within() {
        let mut ignored = Ignored::default();
        for path in ["a.1.b", "a.10", "a.1.c.d", "a.1", "a.1"] {
            ignored.report(path).unwrap();
        }
        assert_eq!(ignored.paths, ["a.10", "a.1"]);
        (0..1000).for_each(|number| ignored.report(format!("b.{number}")).unwrap());
        assert_eq!(ignored.paths.len(), IGNORED_PATHS_MAX);
        ignored.strict = true;
        assert!(ignored.report("c").is_err());
    }

    #[test]
    fn json_is_recognised_by_its_media_type() {
        assert!(is_json("Application/JSON; charset=utf-8"));
        assert!(!is_json("text/plain"));
        assert!(!is_json("application/jsonlines"));
    }
}
