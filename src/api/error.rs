//! The errors of the API: HTTP statuses, error types and codes, and the JSON error bodies of each API surface. A failed
//! `/health` has a schema of its own.

use poem::http::header::HeaderName;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Endpoint, IntoResponse, Request, Response};
use serde_json::{Value, json};

use super::caller::caller_of;
use super::{document, types};
use crate::model::GenerateError;

/// Longest error message in bytes. Messages may quote the client's input.
const MAX_MESSAGE_BYTES: usize = 500;

/// The `Retry-After` value of 429 responses, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// The header in which Anthropic's clients expect the request id.
const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// An API surface: a group of routes that share an error format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The routes of llama.cpp's server as of 2024, and ortolan's own routes.
    Native,
    /// OpenAI-compatible routes.
    OpenAi,
    /// Anthropic-compatible routes.
    Anthropic,
}

impl Surface {
    /// Returns the surface of a request path. The prefix decides for paths that are not in the document.
    pub fn of(path: &str) -> Self {
        match path {
            _ if document::has_tag(path, "Anthropic") || path.starts_with("/v1/messages/") => {
                Self::Anthropic
            }
            _ if path.starts_with("/v1/") || document::has_tag(path, "OpenAI") => Self::OpenAi,
            _ => Self::Native,
        }
    }
}

/// A failure of a request, as it is reported to the client.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The body cannot be read or is invalid.
    #[error("{message}")]
    Invalid {
        /// Dotted path of the invalid field; `None` if the error concerns the whole body.
        param: Option<String>,
        /// The problem and, if known, how to correct it.
        message: String,
    },
    /// The request uses Anthropic's threads, which store conversations on the server.
    #[error("thread: threads are not supported; remove the field and send the whole conversation")]
    ThreadUnsupported,
    /// The request has no valid API key.
    #[error("Invalid API Key")]
    Unauthorized,
    /// The change affects all requests and needs an operator's key.
    #[error("{0}: only an operator's key may change this (see --operator-key-file and --props)")]
    OperatorOnly(&'static str),
    /// The slot's last request was sent with another API key.
    #[error("slot {0} last ran a request of another API key")]
    SlotOfAnotherKey(usize),
    /// The Content-Type is not JSON.
    #[error("send the body with Content-Type: application/json")]
    UnsupportedContentType,
    /// The body has a content or transfer coding that the server does not decode, such as `gzip`.
    #[error("the encoding {coding} is not supported: send the body without Content-Encoding")]
    UnsupportedEncoding {
        /// Name of the coding, as in the header.
        coding: String,
    },
    /// The client stopped sending the body or sent it too slowly.
    #[error("{0}")]
    BodyTimeout(String),
    /// The body exceeds the limit.
    #[error("the body is longer than {limit_bytes} bytes")]
    BodyTooLarge {
        /// Largest accepted body in bytes.
        limit_bytes: usize,
    },
    /// A limit of concurrent requests or operations is reached.
    #[error("{0}")]
    TooManyRequests(String),
    /// The request names a model that is not served.
    #[error("model not found: '{0}'")]
    ModelNotFound(String),
    /// No response with this id is stored for the caller.
    #[error("Response with id '{0}' not found.")]
    ResponseNotFound(String),
    /// The `previous_response_id` of a request is not stored for the caller.
    #[error("Previous response with id '{0}' not found.")]
    PreviousResponseNotFound(String),
    /// No response stored for the caller has an item with this id.
    #[error("Item with id '{0}' not found: only items of stored responses can be referenced.")]
    ItemNotFound(String),
    /// The endpoint is disabled by the server's options.
    #[error("This server does not support {0}")]
    NotSupported(&'static str),
    /// The model is still being loaded.
    #[error("Loading model")]
    Loading,
    /// The model cannot be used. The message contains no file names of the server.
    #[error("{0}")]
    ModelUnavailable(String),
    /// The model failed to load or its engine stopped. Only operators see the cause, which may name files of the
    /// server.
    #[error("{failure}: {cause}")]
    ModelFailed {
        /// What failed, without details of the server; sent to all callers.
        failure: &'static str,
        /// The cause; sent to operators only.
        cause: String,
    },
    /// The model layer rejected the request or failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// No route has this path.
    #[error("path not found: {0}")]
    PathNotFound(String),
    /// The path exists, but not with this method.
    #[error("method {method} is not allowed for this path: use {allowed}")]
    MethodNotAllowed {
        /// The request's method.
        method: String,
        /// The allowed methods, separated by commas.
        allowed: String,
    },
    /// The HTTP layer rejected the request.
    #[error("{message}")]
    Http {
        /// The status that the HTTP layer chose.
        status: StatusCode,
        /// The HTTP layer's message.
        message: String,
    },
}

impl Error {
    /// Returns an error about the field `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: Some(param.into()),
            message: message.into(),
        }
    }

    /// The HTTP status of the response.
    pub fn status(&self) -> StatusCode {
        self.status_and_type().0
    }

    /// Returns the HTTP status, and the `type` in the error bodies of the OpenAI and native surfaces.
    fn status_and_type(&self) -> (StatusCode, types::ErrorDetailType) {
        use types::ErrorDetailType as Kind;
        match self {
            Self::Invalid { .. } | Self::ThreadUnsupported | Self::PreviousResponseNotFound(_) => {
                (StatusCode::BAD_REQUEST, Kind::InvalidRequestError)
            }
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, Kind::AuthenticationError),
            Self::OperatorOnly(_) | Self::SlotOfAnotherKey(_) => {
                (StatusCode::FORBIDDEN, Kind::PermissionError)
            }
            Self::UnsupportedContentType | Self::UnsupportedEncoding { .. } => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Kind::InvalidRequestError,
            ),
            Self::BodyTimeout(_) => (StatusCode::REQUEST_TIMEOUT, Kind::TimeoutError),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Kind::InvalidRequestError),
            Self::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, Kind::RateLimitError),
            Self::ModelNotFound(_) | Self::PathNotFound(_) => {
                (StatusCode::NOT_FOUND, Kind::NotFoundError)
            }
            Self::ResponseNotFound(_) | Self::ItemNotFound(_) => {
                (StatusCode::NOT_FOUND, Kind::InvalidRequestError)
            }
            Self::NotSupported(_) => (StatusCode::NOT_IMPLEMENTED, Kind::NotSupportedError),
            Self::Loading | Self::ModelUnavailable(_) | Self::ModelFailed { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Kind::UnavailableError)
            }
            Self::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, Kind::InvalidRequestError)
            }
            Self::Http { status, .. } if status.is_client_error() => {
                (*status, Kind::InvalidRequestError)
            }
            Self::Http { status, .. } => (*status, Kind::ServerError),
            Self::Generate(error) => match error {
                GenerateError::PromptTooLong { .. } => {
                    (StatusCode::BAD_REQUEST, Kind::ExceedContextSizeError)
                }
                GenerateError::SystemPromptTooLong { .. }
                | GenerateError::EmptyPrompt
                | GenerateError::UnknownToken { .. }
                | GenerateError::UnknownSlot { .. }
                | GenerateError::UnknownAdapter { .. }
                | GenerateError::DuplicateAdapter(_)
                | GenerateError::OptionTooLarge { .. }
                | GenerateError::OutputTooLarge { .. }
                | GenerateError::Template(_)
                | GenerateError::Grammar { .. }
                | GenerateError::ConstraintFailed { .. } => {
                    (StatusCode::BAD_REQUEST, Kind::InvalidRequestError)
                }
                GenerateError::InfillUnsupported
                | GenerateError::GenerationUnsupported
                | GenerateError::EmbeddingsUnsupported => {
                    (StatusCode::NOT_IMPLEMENTED, Kind::NotSupportedError)
                }
                GenerateError::QueueFull { .. } | GenerateError::PreparationQueueFull { .. } => {
                    (StatusCode::TOO_MANY_REQUESTS, Kind::RateLimitError)
                }
                GenerateError::EngineEnded(_)
                | GenerateError::Stopping
                | GenerateError::Cancelled => {
                    (StatusCode::SERVICE_UNAVAILABLE, Kind::UnavailableError)
                }
                GenerateError::DeadlinePassed { .. } => {
                    (StatusCode::REQUEST_TIMEOUT, Kind::TimeoutError)
                }
                GenerateError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, Kind::ServerError),
            },
        }
    }

    /// Returns the response to a request for `path`, in the error format of the path's surface.
    pub fn response_for_path(self, path: &str) -> Response {
        format_for_surface(self.into_response(), Surface::of(path))
    }

    /// Returns the JSON error body in the format of `surface`.
    pub fn body(&self, surface: Surface) -> Value {
        match surface {
            Surface::Anthropic => json!(self.anthropic_error()),
            Surface::Native | Surface::OpenAi => json!(types::Error {
                error: self.openai_error(surface),
            }),
        }
    }

    /// Returns the error object in the format of the OpenAI or native surface.
    pub(super) fn openai_error(&self, surface: Surface) -> types::ErrorDetail {
        let code = match surface {
            Surface::Native => self.status().as_u16().into(),
            Surface::OpenAi | Surface::Anthropic => self.openai_code().into(),
        };
        let (prompt_tokens, context_tokens) = match self {
            Self::Generate(GenerateError::PromptTooLong {
                prompt_tokens,
                context_tokens,
            }) => (Some(*prompt_tokens as u64), Some(*context_tokens as u64)),
            _ => (None, None),
        };
        types::ErrorDetail {
            code,
            message: truncate_message(self.message(surface)),
            type_: self.status_and_type().1,
            param: self.param(),
            n_prompt_tokens: prompt_tokens,
            n_ctx: context_tokens,
        }
    }

    fn anthropic_error(&self) -> types::MessagesError {
        use types::MessagesErrorDetailType as Kind;
        let kind = match self.status() {
            StatusCode::UNAUTHORIZED => Kind::AuthenticationError,
            StatusCode::FORBIDDEN => Kind::PermissionError,
            StatusCode::NOT_FOUND => Kind::NotFoundError,
            StatusCode::REQUEST_TIMEOUT => Kind::TimeoutError,
            StatusCode::PAYLOAD_TOO_LARGE => Kind::RequestTooLarge,
            StatusCode::TOO_MANY_REQUESTS => Kind::RateLimitError,
            StatusCode::SERVICE_UNAVAILABLE => Kind::OverloadedError,
            status if status.is_client_error() => Kind::InvalidRequestError,
            _ => Kind::ApiError,
        };
        types::MessagesError {
            type_: types::MessagesErrorType::Error,
            request_id: None,
            error: types::MessagesErrorDetail {
                type_: kind,
                message: truncate_message(self.message(Surface::Anthropic)),
                details: self.anthropic_details(),
            },
        }
    }

    /// Returns the error details from which Anthropic's client libraries learn that threads are not supported.
    fn anthropic_details(&self) -> Option<types::MessagesErrorDetails> {
        use types::MessagesErrorDetailsErrorCode as Code;
        matches!(self, Self::ThreadUnsupported).then(|| types::MessagesErrorDetails {
            error_code: Code::ThreadUnsupportedRequest,
            unsupported: vec!["thread".to_owned()],
        })
    }

    /// Returns the error message. For a prompt that is too long, uses the wording that clients of `surface` search for.
    fn message(&self, surface: Surface) -> String {
        let (prompt, context) = match self {
            Self::Generate(GenerateError::PromptTooLong {
                prompt_tokens,
                context_tokens,
            }) => (prompt_tokens, context_tokens),
            _ => return self.to_string(),
        };
        match surface {
            Surface::Native => self.to_string(),
            Surface::OpenAi => format!(
                "This model's maximum context length is {context} tokens. However, the prompt has {prompt} tokens. \
                 Please reduce its length."
            ),
            Surface::Anthropic => {
                format!("prompt is too long: {prompt} tokens > {context} maximum")
            }
        }
    }

    /// Returns the `code` in OpenAI's error bodies; `None` becomes `null`.
    fn openai_code(&self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => Some("invalid_api_key"),
            Self::ModelNotFound(_) => Some("model_not_found"),
            Self::PathNotFound(_) => Some("unknown_url"),
            Self::PreviousResponseNotFound(_) => Some("previous_response_not_found"),
            Self::Generate(GenerateError::PromptTooLong { .. }) => Some("context_length_exceeded"),
            _ if self.status() == StatusCode::TOO_MANY_REQUESTS => Some("rate_limit_exceeded"),
            _ => None,
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::Invalid { param, .. } => param.clone(),
            Self::ThreadUnsupported => Some("thread".to_owned()),
            Self::ModelNotFound(_) => Some("model".to_owned()),
            Self::PreviousResponseNotFound(_) => Some("previous_response_id".to_owned()),
            Self::ItemNotFound(_) => Some("input".to_owned()),
            Self::Generate(GenerateError::UnknownSlot { .. }) => Some("id_slot".to_owned()),
            Self::Generate(
                GenerateError::UnknownAdapter { .. } | GenerateError::DuplicateAdapter(_),
            ) => Some("lora".to_owned()),
            Self::Generate(
                GenerateError::Grammar { kind, .. } | GenerateError::ConstraintFailed { kind, .. },
            ) => Some(kind.to_string()),
            Self::Generate(GenerateError::OptionTooLarge { option, .. }) => {
                Some((*option).to_owned())
            }
            Self::Generate(GenerateError::SystemPromptTooLong { .. }) => {
                Some("system_prompt".to_owned())
            }
            _ => None,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = poem::web::Json(self.body(Surface::Native))
            .with_status(self.status())
            .into_response();
        match &self {
            _ if self.status() == StatusCode::TOO_MANY_REQUESTS => {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Self::Unauthorized => {
                let bearer = HeaderValue::from_static("Bearer");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, bearer);
            }
            Self::MethodNotAllowed { allowed, .. } => {
                if let Ok(allowed) = HeaderValue::from_str(allowed) {
                    response.headers_mut().insert(header::ALLOW, allowed);
                }
            }
            _ => {}
        }
        // `format_error_response` rewrites the body for the route's surface.
        response.set_data(self);
        response
    }
}

/// Middleware that writes error responses in the format of the route's surface. Hides causes, which may name files of
/// the server, from callers that are not operators.
pub(super) async fn format_error_response(
    endpoint: impl Endpoint<Output = Response>,
    request: Request,
) -> poem::Result<Response> {
    let surface = Surface::of(request.uri().path());
    let is_operator = caller_of(&request).is_operator();
    let response = endpoint.call(request).await?;
    let response = match response.data::<Error>() {
        Some(Error::ModelFailed { failure, .. }) if !is_operator => {
            Error::ModelUnavailable(format!("{failure}: see the server's log")).into_response()
        }
        _ => response,
    };
    Ok(format_for_surface(response, surface))
}

/// Adds the request id where Anthropic's clients expect it: in the `request-id` header and in error bodies. Returns
/// responses of other surfaces unchanged.
pub fn with_request_id(mut response: Response, path: &str, id: &HeaderValue) -> Response {
    if Surface::of(path) != Surface::Anthropic {
        return response;
    }
    let body = response.data::<Error>().map(Error::anthropic_error);
    if let (Some(error), Ok(id)) = (body, id.to_str()) {
        let error = types::MessagesError {
            request_id: Some(id.to_owned()),
            ..error
        };
        response.set_body(json!(error).to_string());
    }
    response
        .headers_mut()
        .insert(ANTHROPIC_REQUEST_ID, id.clone());
    response
}

/// Rewrites the body of an error response in the format of `surface`. Returns other responses unchanged.
fn format_for_surface(mut response: Response, surface: Surface) -> Response {
    let body = response.data::<Error>().map(|error| error.body(surface));
    if let Some(body) = body.filter(|_| surface != Surface::Native) {
        // `set_body` keeps the Content-Type header.
        response.set_body(body.to_string());
    }
    response
}

impl From<Error> for poem::Error {
    fn from(error: Error) -> Self {
        let mut converted = Self::from_response(error.clone().into_response());
        // `from_response` drops the response's data.
        converted.set_data(error);
        converted
    }
}

/// Truncates a message to [`MAX_MESSAGE_BYTES`].
fn truncate_message(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    message
}
