//! What a request can fail with, as the client is told: statuses, kinds and the one shape of all errors.
//! (`/health` tells its failures in a shape of its own.)

use poem::http::header::HeaderName;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Endpoint, IntoResponse, Request, Response};
use serde_json::{Value, json};

use super::caller::caller_of;
use super::{document, types};
use crate::model::GenerateError;

/// Bytes of a message; what a client sent may be quoted in it.
const MESSAGE_BYTES_MAX: usize = 500;

/// How long a client should wait when the queue is full.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Carries a request's id to Anthropic's clients.
const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Whose routes are asked: each has its words for what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The routes of the llama.cpp server of 2024, and the server's own.
    Native,
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

impl Surface {
    /// That of a path, also of one that leads nowhere.
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

/// Why a request is refused or fails.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The body cannot be had or means nothing.
    #[error("{message}")]
    Invalid {
        /// The dotted path of the field that is wrong.
        param: Option<String>,
        /// What to change.
        message: String,
    },
    /// A conversation is to be kept on the server, as Anthropic's threads are.
    #[error(
        "thread: this server keeps no conversations; leave it out and send the whole conversation"
    )]
    ThreadUnsupported,
    /// The request came without a key that the server knows.
    #[error("Invalid API Key")]
    Unauthorized,
    /// Only an operator's key may change what all requests get.
    #[error("{0}: only an operator's key may change this (see --operator-key-file and --props)")]
    OperatorOnly(&'static str),
    /// The slot's last request was made with another key.
    #[error("slot {0} ran another key's request last")]
    SlotOfAnotherKey(usize),
    /// The Content-Type is another one.
    #[error("send the body with Content-Type: application/json")]
    NotJson,
    /// The body is compressed.
    #[error("the encoding {coding} is not supported: send the body without Content-Encoding")]
    EncodedBody {
        /// The content coding.
        coding: String,
    },
    /// The client stopped sending its body, or sends it too slowly.
    #[error("{0}")]
    BodyTooSlow(String),
    /// The body is longer than is read.
    #[error("the body is longer than {limit_bytes} bytes")]
    BodyTooLarge {
        /// Bytes that are read.
        limit_bytes: usize,
    },
    /// A limit on what is done at once is reached.
    #[error("{0}")]
    Busy(String),
    /// Another model is asked for.
    #[error("there is no model '{0}' here")]
    NoSuchModel(String),
    /// No such response is kept for the caller.
    #[error("Response with id '{0}' not found.")]
    NoSuchResponse(String),
    /// The one that is to be gone on with is not.
    #[error("Previous response with id '{0}' not found.")]
    NoPreviousResponse(String),
    /// No response that is kept for the caller has that item.
    #[error(
        "Item with id '{0}' not found: only those of responses that are kept can be referred to."
    )]
    NoSuchItem(String),
    /// The operator did not switch it on, or switched it off.
    #[error("This server does not support {0}")]
    NotSupported(&'static str),
    /// The model is not there yet.
    #[error("Loading model")]
    Loading,
    /// The model will not be there.
    #[error("{0}")]
    NoModel(String),
    /// The model will not be there. Only operators learn the cause, which names files of the server.
    #[error("{failure}: {cause}")]
    ModelFailed {
        /// What failed.
        failure: &'static str,
        /// Why.
        cause: String,
    },
    /// The model refused the request or failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// No route leads there.
    #[error("there is nothing at {0}")]
    NoSuchPath(String),
    /// The path has other methods.
    #[error("{method} is not allowed here: use {allowed}")]
    MethodNotAllowed {
        /// The method that was used.
        method: String,
        /// Those that can be used, separated by commas.
        allowed: String,
    },
    /// The HTTP layer refused it.
    #[error("{message}")]
    Http {
        /// Its status.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
}

impl Error {
    /// A field that is wrong, and why.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: Some(param.into()),
            message: message.into(),
        }
    }

    /// The HTTP status it is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::ThreadUnsupported | Self::NoPreviousResponse(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::OperatorOnly(_) | Self::SlotOfAnotherKey(_) => StatusCode::FORBIDDEN,
            Self::NotJson | Self::EncodedBody { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoSuchModel(_)
            | Self::NoSuchPath(_)
            | Self::NoSuchResponse(_)
            | Self::NoSuchItem(_) => StatusCode::NOT_FOUND,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Loading | Self::NoModel(_) | Self::ModelFailed { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Http { status, .. } => *status,
            Self::Generate(error) => match error {
                GenerateError::PromptTooLong { .. }
                | GenerateError::SystemPromptTooLong { .. }
                | GenerateError::EmptyPrompt
                | GenerateError::UnknownToken { .. }
                | GenerateError::UnknownSlot { .. }
                | GenerateError::UnknownAdapter { .. }
                | GenerateError::AdapterTwice(_)
                | GenerateError::OptionTooLong { .. }
                | GenerateError::AnswerTooLarge { .. }
                | GenerateError::Template(_)
                | GenerateError::Grammar { .. }
                | GenerateError::Unfollowable { .. } => StatusCode::BAD_REQUEST,
                GenerateError::NoInfill
                | GenerateError::Encoder
                | GenerateError::NoHiddenStates => StatusCode::NOT_IMPLEMENTED,
                GenerateError::QueueFull { .. } | GenerateError::PreparationsFull { .. } => {
                    StatusCode::TOO_MANY_REQUESTS
                }
                GenerateError::EngineEnded(_)
                | GenerateError::Stopping
                | GenerateError::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
                GenerateError::DeadlinePassed { .. } => StatusCode::REQUEST_TIMEOUT,
                GenerateError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// The answer to a request for that path.
    pub fn answer_at(self, path: &str) -> Response {
        worded(self.into_response(), Surface::of(path))
    }

    /// The body of the answer.
    pub fn body(&self, surface: Surface) -> Value {
        match surface {
            Surface::Anthropic => json!(self.anthropic_error()),
            Surface::Native | Surface::OpenAi => json!(types::Error {
                error: self.detail(surface),
            }),
        }
    }

    /// What went wrong, in OpenAI's words or in the native ones.
    pub(super) fn detail(&self, surface: Surface) -> types::ErrorDetail {
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
            message: shortened(self.message(surface)),
            type_: self.kind(),
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
                message: shortened(self.message(Surface::Anthropic)),
                details: self.anthropic_details(),
            },
        }
    }

    /// What Anthropic's libraries read of an error to go on without it.
    fn anthropic_details(&self) -> Option<types::MessagesErrorDetails> {
        use types::MessagesErrorDetailsErrorCode as Code;
        matches!(self, Self::ThreadUnsupported).then(|| types::MessagesErrorDetails {
            error_code: Code::ThreadUnsupportedRequest,
            unsupported: vec!["thread".to_owned()],
        })
    }

    /// What went wrong in words; those that clients know a surface's errors by are that surface's.
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

    /// OpenAI's word for the cause, where it has one that clients look at.
    fn openai_code(&self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => Some("invalid_api_key"),
            Self::NoSuchModel(_) => Some("model_not_found"),
            Self::NoSuchPath(_) => Some("unknown_url"),
            Self::NoPreviousResponse(_) => Some("previous_response_not_found"),
            Self::Generate(GenerateError::PromptTooLong { .. }) => Some("context_length_exceeded"),
            _ if self.status() == StatusCode::TOO_MANY_REQUESTS => Some("rate_limit_exceeded"),
            _ => None,
        }
    }

    fn kind(&self) -> types::ErrorDetailType {
        use types::ErrorDetailType as Kind;
        match self {
            Self::Invalid { .. }
            | Self::ThreadUnsupported
            | Self::NoSuchResponse(_)
            | Self::NoPreviousResponse(_)
            | Self::NoSuchItem(_)
            | Self::NotJson
            | Self::EncodedBody { .. }
            | Self::BodyTooLarge { .. }
            | Self::MethodNotAllowed { .. } => Kind::InvalidRequestError,
            Self::Unauthorized => Kind::AuthenticationError,
            Self::OperatorOnly(_) | Self::SlotOfAnotherKey(_) => Kind::PermissionError,
            Self::BodyTooSlow(_) => Kind::TimeoutError,
            Self::Busy(_) => Kind::RateLimitError,
            Self::NoSuchModel(_) | Self::NoSuchPath(_) => Kind::NotFoundError,
            Self::NotSupported(_) => Kind::NotSupportedError,
            Self::Loading | Self::NoModel(_) | Self::ModelFailed { .. } => Kind::UnavailableError,
            Self::Http { status, .. } if status.is_client_error() => Kind::InvalidRequestError,
            Self::Http { .. } => Kind::ServerError,
            Self::Generate(error) => match error {
                GenerateError::PromptTooLong { .. } => Kind::ExceedContextSizeError,
                GenerateError::EmptyPrompt
                | GenerateError::SystemPromptTooLong { .. }
                | GenerateError::UnknownToken { .. }
                | GenerateError::UnknownSlot { .. }
                | GenerateError::UnknownAdapter { .. }
                | GenerateError::AdapterTwice(_)
                | GenerateError::OptionTooLong { .. }
                | GenerateError::AnswerTooLarge { .. }
                | GenerateError::Template(_)
                | GenerateError::Grammar { .. }
                | GenerateError::Unfollowable { .. } => Kind::InvalidRequestError,
                GenerateError::NoInfill
                | GenerateError::Encoder
                | GenerateError::NoHiddenStates => Kind::NotSupportedError,
                GenerateError::QueueFull { .. } | GenerateError::PreparationsFull { .. } => {
                    Kind::RateLimitError
                }
                GenerateError::EngineEnded(_)
                | GenerateError::Stopping
                | GenerateError::Cancelled => Kind::UnavailableError,
                GenerateError::DeadlinePassed { .. } => Kind::TimeoutError,
                GenerateError::Failed(_) => Kind::ServerError,
            },
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::Invalid { param, .. } => param.clone(),
            Self::ThreadUnsupported => Some("thread".to_owned()),
            Self::NoSuchModel(_) => Some("model".to_owned()),
            Self::NoPreviousResponse(_) => Some("previous_response_id".to_owned()),
            Self::NoSuchItem(_) => Some("input".to_owned()),
            Self::Generate(GenerateError::UnknownSlot { .. }) => Some("id_slot".to_owned()),
            Self::Generate(
                GenerateError::UnknownAdapter { .. } | GenerateError::AdapterTwice(_),
            ) => Some("lora".to_owned()),
            Self::Generate(
                GenerateError::Grammar { kind, .. } | GenerateError::Unfollowable { kind, .. },
            ) => Some(kind.to_string()),
            Self::Generate(GenerateError::OptionTooLong { option, .. }) => {
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
        // Rewritten for the route by `as_the_client_may_read_it`.
        response.set_data(self);
        response
    }
}

/// Says what went wrong in the words of the routes that were asked, with a cause that names files only to operators.
pub(super) async fn as_the_client_may_read_it(
    endpoint: impl Endpoint<Output = Response>,
    request: Request,
) -> poem::Result<Response> {
    let surface = Surface::of(request.uri().path());
    let is_operator = caller_of(&request).is_operator();
    let response = endpoint.call(request).await?;
    let response = match response.data::<Error>() {
        Some(Error::ModelFailed { failure, .. }) if !is_operator => {
            Error::NoModel(format!("{failure}: the server's log says why")).into_response()
        }
        _ => response,
    };
    Ok(worded(response, surface))
}

/// An answer with its request's id, where a surface has that among its words: Anthropic's clients look for it in a header
/// of their own, and in an error's body.
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

/// An answer in a surface's words, if it tells an error.
fn worded(mut response: Response, surface: Surface) -> Response {
    let body = response.data::<Error>().map(|error| error.body(surface));
    if let Some(body) = body.filter(|_| surface != Surface::Native) {
        // The content type stays.
        response.set_body(body.to_string());
    }
    response
}

impl From<Error> for poem::Error {
    fn from(error: Error) -> Self {
        let mut carried = Self::from_response(error.clone().into_response());
        // The response's own data is not kept.
        carried.set_data(error);
        carried
    }
}

/// A message that is no longer than its limit.
fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}
