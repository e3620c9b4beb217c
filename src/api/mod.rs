//! The HTTP API that the OpenAPI document defines: generated types, routes and client. `service` dispatches each
//! operation to its handler; handlers are in the folders of the API surfaces: `native`, `openai` and `anthropic`.
//! Connections and authorization are in `server`.

mod admitted;
mod anthropic;
mod assistant;
mod caller;
pub mod document;
mod embeddings;
mod error;
mod messages;
mod native;
mod openai;
mod options;
mod payload;
mod prepare;
mod prompts;
mod relaxations;
mod response_size;
mod sampling;
mod schema;
mod service;
mod stream;
mod timings;
mod tools;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route};
use poem_openapi::OpenApiService;
use tokio::sync::watch;

pub use caller::{Caller, KeyId};
pub use error::{Error, with_request_id};
pub use openai::responses::ResponseStore;
pub use options::RequestDefaults;
pub use payload::{BodyRules, MAX_BODY_BYTES};
pub use schema::check;

use generated::Routes;
use service::Service;

use crate::model::{GenerateLimits, ModelState, PreparationPool, SlotFolder};

/// The operator's settings and the state that all handlers share.
#[derive(Clone)]
pub struct ApiSettings {
    /// The state of the model. The server already listens while the model is being loaded.
    pub model: watch::Receiver<ModelState>,
    /// The threads for the CPU work before a generation: parsing large bodies, rendering templates, tokenizing.
    pub preparations: Arc<PreparationPool>,
    /// The optional endpoints that are enabled.
    pub endpoints: Endpoints,
    /// Upper limits of all generations.
    pub limits: GenerateLimits,
    /// Defaults for fields that a request leaves out.
    pub defaults: RequestDefaults,
    /// Rules for reading request bodies.
    pub bodies: BodyRules,
    /// The stored responses of `/v1/responses`.
    pub responses: Arc<ResponseStore>,
    /// Whether to reject requests that name a model other than the served one.
    pub strict_model_names: bool,
    /// Cache isolation and priority limit of API keys.
    pub key_policy: KeyPolicy,
}

impl ApiSettings {
    /// Settings without optional endpoints, limits, timeouts and stored responses.
    pub fn new(model: watch::Receiver<ModelState>, preparations: Arc<PreparationPool>) -> Self {
        Self {
            model,
            preparations,
            endpoints: Endpoints::default(),
            limits: GenerateLimits::NONE,
            defaults: RequestDefaults::default(),
            bodies: BodyRules {
                idle_timeout: Duration::MAX,
                strict: false,
            },
            responses: Arc::new(ResponseStore::new(0)),
            strict_model_names: false,
            key_policy: KeyPolicy::default(),
        }
    }
}

/// Cache isolation and priority limit of API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// Whether each key has its own namespace in the prefix cache.
    pub cache_per_key: bool,
    /// Highest priority of requests without an operator's key. `None` means [`DEFAULT_PRIORITY`] on a server with keys
    /// and no limit on a server without keys.
    pub max_priority: Option<i32>,
}

/// The optional endpoints that are enabled. Disabled ones respond with 501.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    /// `/slots`, and `include_slots` of `/health`. Both show the requests in the slots, including the prompts.
    pub slots: bool,
    /// `/metrics`.
    pub metrics: bool,
    /// `/embedding`.
    pub embedding: bool,
    /// `POST /props`.
    pub change_props: bool,
    /// `POST /slots/{id_slot}`, with the folder of the saved slots.
    pub slot_files: Option<SlotFolder>,
}

/// Returns all routes of the OpenAPI document. Every failure, including failures of the HTTP layer, has the document's
/// error format.
pub fn routes(settings: ApiSettings) -> impl Endpoint<Output = Response> + 'static {
    let bodies = settings.bodies;
    let preparations = Arc::clone(&settings.preparations);
    Route::new()
        .nest("/", service(settings))
        .data(bodies)
        .data(preparations)
        .around(|endpoint, request: Request| async move {
            let (method, path) = (
                request.method().to_string(),
                request.uri().path().to_owned(),
            );
            Ok(endpoint
                .call(request)
                .await
                .unwrap_or_else(|error| http_error(error, method, path)))
        })
        .around(error::format_error_response)
}

/// Returns the OpenAPI document that poem-openapi derives from the routes, for comparison with the source document.
///
/// # Errors
/// If a thread cannot be started.
pub fn routes_description() -> std::io::Result<String> {
    let (_, model) = watch::channel(ModelState::Loading { done: 0.0 });
    let settings = ApiSettings::new(model, Arc::new(PreparationPool::new(0)?));
    Ok(service(settings).spec())
}

fn service(settings: ApiSettings) -> OpenApiService<Routes<Service>, ()> {
    OpenApiService::new(
        Routes(Service {
            settings,
            started_at: SystemTime::now(),
        }),
        "ortolan",
        env!("CARGO_PKG_VERSION"),
    )
}

/// Returns the response to a request that did not reach an operation.
fn http_error(error: poem::Error, method: String, path: String) -> Response {
    use poem::http::StatusCode;
    if error.is_from_response() {
        return error.into_response();
    }
    let error = match error.status() {
        StatusCode::NOT_FOUND => Error::PathNotFound(path),
        StatusCode::METHOD_NOT_ALLOWED => Error::MethodNotAllowed {
            method,
            allowed: document::methods(&path).join(", "),
        },
        status => Error::Http {
            status,
            message: error.to_string(),
        },
    };
    error.into_response()
}

/// The schemas of the OpenAPI document as Rust types.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::large_enum_variant,
    reason = "generated from the document"
)]
pub mod types {
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}

mod generated {
    use super::admitted::Admitted;
    use super::caller::Caller;
    use super::error::Error;
    use super::payload::{Body, IgnoredFields, Reply, TextResponse, WithStatus};
    use super::stream::JsonOrStream;
    use super::types;
    include!(concat!(env!("OUT_DIR"), "/routes.rs"));
}

#[cfg(test)]
mod tests;
