//! The HTTP API that the OpenAPI document defines: generated types, routes and client, and the dispatch of each
//! operation to its handler. Handlers are in the folders of the API surfaces: `native`, `openai` and `anthropic`.
//! Connections and authorization are in `server`.

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
pub use payload::{BODY_BYTES_MAX, BodyRules};
pub use schema::check;

use generated::{Api, Routes};
use native::health::HealthQuery;
use native::slot_actions::SlotFiles;
use native::{
    completion, embedding, health, infill, lora, metrics, props, slot_actions, slots, tokenize,
};
use openai::{chat, completions, models, responses};
use payload::{IgnoredFields, TextResponse, WithStatus};
use prepare::prepare;
use stream::JsonOrStream;

use crate::model::{
    GenerateLimits, LoadedModel, ModelState, PreparationPool, RequestOwner, SlotFolder,
};

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

/// Cache isolation and priority limit of API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// Whether each key has its own namespace in the prefix cache.
    pub cache_per_key: bool,
    /// Highest priority of requests without an operator's key. `None` means [`DEFAULT_PRIORITY`] on a server with keys
    /// and no limit on a server without keys.
    pub max_priority: Option<i32>,
}

/// Priority of requests without the field `priority`.
const DEFAULT_PRIORITY: i32 = 0;

/// The optional endpoints that are enabled. Disabled ones respond with 501.
#[derive(Debug, Clone)]
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
    let settings = ApiSettings {
        model,
        preparations: Arc::new(PreparationPool::new(0)?),
        endpoints: Endpoints {
            slots: true,
            metrics: true,
            embedding: true,
            change_props: true,
            slot_files: None,
        },
        limits: GenerateLimits::NONE,
        defaults: RequestDefaults::default(),
        bodies: BodyRules {
            idle_timeout: Duration::MAX,
            strict: false,
        },
        responses: Arc::new(ResponseStore::new(0)),
        strict_model_names: false,
        key_policy: KeyPolicy::default(),
    };
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

/// Implements the operations of the OpenAPI document.
struct Service {
    settings: ApiSettings,
    started_at: SystemTime,
}

impl Service {
    /// Returns the loaded model.
    ///
    /// # Errors
    /// If the model is not loaded or its engine has stopped.
    fn loaded(&self) -> Result<Arc<LoadedModel>, Error> {
        match &*self.settings.model.borrow() {
            ModelState::Loading { .. } => Err(Error::Loading),
            ModelState::Failed(cause) => Err(Error::ModelFailed {
                failure: "the model could not be loaded",
                cause: cause.clone(),
            }),
            ModelState::Ready(model) => match model.health() {
                Ok(_) => Ok(Arc::clone(model)),
                Err(cause) => Err(Error::ModelFailed {
                    failure: "the engine has stopped",
                    cause,
                }),
            },
        }
    }

    /// Returns the loaded model. With `--strict-model-names`, rejects a `name` that is not the model's name.
    fn model_named(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, Error> {
        let model = self.loaded()?;
        match name {
            Some(name) if self.settings.strict_model_names && name != model.details().name => {
                Err(Error::ModelNotFound(name.to_owned()))
            }
            _ => Ok(model),
        }
    }

    /// Returns the stored responses of the caller's API key.
    fn history(&self, caller: Caller) -> responses::ResponseHistory<'_> {
        responses::ResponseHistory {
            store: &self.settings.responses,
            owner: caller.key(),
        }
    }

    /// Returns the server's limits with the highest priority, the key and the cache namespace of the caller.
    fn limits(&self, caller: Caller) -> GenerateLimits {
        let ApiSettings {
            limits, key_policy, ..
        } = &self.settings;
        let default_max = match caller {
            Caller::Anyone => i32::MAX,
            Caller::KeyHolder { .. } | Caller::Unknown => DEFAULT_PRIORITY,
        };
        let key = caller.key();
        GenerateLimits {
            max_priority: match caller {
                Caller::KeyHolder {
                    is_operator: true, ..
                } => i32::MAX,
                _ => key_policy.max_priority.unwrap_or(default_max),
            },
            owner: RequestOwner {
                key,
                cache_namespace: key.filter(|_| key_policy.cache_per_key),
            },
            ..limits.clone()
        }
    }

    /// Rejects a change that affects all requests, unless the caller is an operator or the server runs with `--props`.
    fn check_may_change(&self, caller: Caller, setting: &'static str) -> Result<(), Error> {
        match caller.is_operator() || self.settings.endpoints.change_props {
            true => Ok(()),
            false => Err(Error::OperatorOnly(setting)),
        }
    }

    /// Rejects a system prompt from a caller that may not change it: the system prompt is prepended to the prompts of
    /// all requests.
    fn check_system_prompt(&self, caller: Caller, is_given: bool) -> Result<(), Error> {
        match is_given {
            true => self.check_may_change(
                caller,
                "system_prompt: it is prepended to the prompts of all requests",
            ),
            false => Ok(()),
        }
    }

    /// Returns the loaded model if it may compute embeddings: with `--embedding`, or if the model is an encoder.
    fn embedding_model(&self) -> Result<Arc<LoadedModel>, Error> {
        let model = self.loaded()?;
        match self.settings.endpoints.embedding || !model.details().generates {
            true => Ok(model),
            false => Err(Error::NotSupported("embeddings; start it with --embedding")),
        }
    }
}

impl Api for Service {
    async fn health(
        &self,
        caller: Caller,
        include_slots: Option<String>,
        fail_on_no_slot: Option<String>,
    ) -> Result<WithStatus<types::Health>, Error> {
        // `/health` needs no API key, but showing the slots does.
        let may_see_slots = self.settings.endpoints.slots && caller != Caller::Unknown;
        let query = HealthQuery {
            slots_for: (include_slots.is_some() && may_see_slots).then_some(caller),
            fail_on_no_slot: fail_on_no_slot.is_some(),
        };
        Ok(health::health(
            &self.settings.model.borrow(),
            &self.settings.defaults,
            query,
        ))
    }

    async fn document_json(&self) -> Result<TextResponse, Error> {
        Ok(document::JSON.into())
    }

    async fn document_yaml(&self) -> Result<TextResponse, Error> {
        Ok(document::YAML.into())
    }

    async fn docs(&self) -> Result<TextResponse, Error> {
        Ok(document::page().into())
    }

    async fn metrics(&self) -> Result<TextResponse, Error> {
        if !self.settings.endpoints.metrics {
            return Err(Error::NotSupported("metrics endpoint."));
        }
        metrics::metrics(&*self.loaded()?, self.started_at)
    }

    async fn completion(
        &self,
        caller: Caller,
        mut body: types::CompletionRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<JsonOrStream<types::CompletionAnswer>, Error> {
        self.settings
            .defaults
            .apply(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        self.check_system_prompt(caller, body.system_prompt.is_some())?;
        let model = self.loaded()?;
        completion::handle(&self.settings.preparations, model, body, &limits, ignored).await
    }

    async fn infill(
        &self,
        caller: Caller,
        mut body: types::InfillRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<JsonOrStream<types::CompletionAnswer>, Error> {
        self.settings
            .defaults
            .apply(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        self.check_system_prompt(caller, body.system_prompt.is_some())?;
        let model = self.loaded()?;
        infill::handle(&self.settings.preparations, model, body, ignored, &limits).await
    }

    async fn embedding(
        &self,
        caller: Caller,
        body: types::EmbeddingRequest,
        _: &mut IgnoredFields,
    ) -> Result<types::EmbeddingAnswer, Error> {
        let model = self.embedding_model()?;
        embedding::handle(
            &self.settings.preparations,
            &model,
            body,
            &self.limits(caller),
        )
        .await
    }

    async fn tokenize(
        &self,
        body: types::TokenizeRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<types::Tokens, Error> {
        let model = self.loaded()?;
        prepare(&self.settings.preparations, ignored, move |_, cancel| {
            tokenize::tokenize(&model, body, cancel)
        })
        .await
    }

    async fn apply_template(
        &self,
        body: types::TemplateRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<types::RenderedPrompt, Error> {
        let model = self.loaded()?;
        prepare(
            &self.settings.preparations,
            ignored,
            move |ignored, cancel| tokenize::apply_template(&model, body, ignored, cancel),
        )
        .await
    }

    async fn detokenize(
        &self,
        body: types::DetokenizeRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<types::DetokenizedText, Error> {
        let model = self.loaded()?;
        prepare(&self.settings.preparations, ignored, move |_, cancel| {
            tokenize::detokenize(&model, body, cancel)
        })
        .await
    }

    async fn props(&self, caller: Caller) -> Result<types::Props, Error> {
        Ok(props::props(
            &*self.loaded()?,
            caller,
            self.settings.limits.max_tokens,
            &self.settings.defaults,
        ))
    }

    async fn change_props(
        &self,
        body: types::PropsChange,
        ignored: &mut IgnoredFields,
    ) -> Result<types::PropsChanged, Error> {
        if !self.settings.endpoints.change_props {
            let feature = "changing its properties; start it with --props";
            return Err(Error::NotSupported(feature));
        }
        let model = self.loaded()?;
        prepare(&self.settings.preparations, ignored, move |_, cancel| {
            props::change(&model, body, cancel)
        })
        .await
    }

    async fn lora_adapters(&self, caller: Caller) -> Result<types::LoraAdapters, Error> {
        Ok(lora::adapters(&*self.loaded()?, caller))
    }

    async fn set_lora_adapters(
        &self,
        caller: Caller,
        body: types::LoraScales,
        _: &mut IgnoredFields,
    ) -> Result<types::LoraAdaptersSet, Error> {
        self.check_may_change(caller, "the scales of the adapters for all requests")?;
        lora::set(&*self.loaded()?, body)
    }

    async fn slots(&self, caller: Caller) -> Result<types::Slots, Error> {
        if !self.settings.endpoints.slots {
            return Err(Error::NotSupported("slots endpoint."));
        }
        Ok(slots::slots(
            &*self.loaded()?,
            &self.settings.defaults,
            caller,
        ))
    }

    async fn slot_action(
        &self,
        caller: Caller,
        id_slot: String,
        action: Option<String>,
        body: types::SlotActionRequest,
        _: &mut IgnoredFields,
    ) -> Result<types::SlotAction, Error> {
        let Some(folder) = &self.settings.endpoints.slot_files else {
            let feature = "actions on slots; start it with --slot-save-path";
            return Err(Error::NotSupported(feature));
        };
        let model = self.loaded()?;
        let owner = self.limits(caller).owner;
        let files = SlotFiles {
            folder,
            caller,
            owner,
        };
        slot_actions::handle(&model, files, &id_slot, action.as_deref(), body).await
    }

    async fn chat_completion(
        &self,
        caller: Caller,
        mut body: types::ChatCompletionRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<JsonOrStream<types::ChatCompletion>, Error> {
        self.settings
            .defaults
            .apply(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        let model = self.model_named(body.model.as_deref())?;
        chat::handle(&self.settings.preparations, model, body, &limits, ignored).await
    }

    async fn count_chat_tokens(
        &self,
        body: types::ChatCompletionRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<types::ResponseTokens, Error> {
        let model = self.model_named(body.model.as_deref())?;
        chat::count_tokens(&self.settings.preparations, model, body, ignored).await
    }

    async fn text_completion(
        &self,
        caller: Caller,
        mut body: types::TextCompletionRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<JsonOrStream<types::TextCompletion>, Error> {
        self.settings
            .defaults
            .apply(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        let model = self.model_named(body.model.as_deref())?;
        completions::handle(&self.settings.preparations, model, body, &limits, ignored).await
    }

    async fn create_response(
        &self,
        caller: Caller,
        mut body: types::ResponsesRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<JsonOrStream<types::ResponseObject>, Error> {
        self.settings
            .defaults
            .apply(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        let model = self.model_named(body.model.as_deref())?;
        let (preparations, history) = (&self.settings.preparations, self.history(caller));
        responses::handle(preparations, model, history, body, &limits, ignored).await
    }

    async fn count_response_tokens(
        &self,
        caller: Caller,
        body: types::ResponseTokensRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<types::ResponseTokens, Error> {
        let model = self.model_named(body.model.as_deref())?;
        let history = self.history(caller);
        responses::count_tokens(&self.settings.preparations, model, history, body, ignored).await
    }

    async fn response_input_items(
        &self,
        caller: Caller,
        response_id: String,
        limit: Option<String>,
        order: Option<String>,
        after: Option<String>,
    ) -> Result<types::ResponseItemList, Error> {
        let query = responses::ItemListQuery {
            limit,
            order,
            after,
        };
        responses::input_items(self.history(caller), response_id, &query)
    }

    async fn cancel_response(
        &self,
        caller: Caller,
        response_id: String,
    ) -> Result<types::ResponseObject, Error> {
        responses::cancel(self.history(caller), response_id)
    }

    async fn retrieve_response(
        &self,
        caller: Caller,
        response_id: String,
        stream: Option<String>,
    ) -> Result<types::ResponseObject, Error> {
        responses::retrieve(self.history(caller), response_id, stream.as_deref())
    }

    async fn delete_response(
        &self,
        caller: Caller,
        response_id: String,
    ) -> Result<types::ResponseDeleted, Error> {
        responses::delete(self.history(caller), response_id)
    }

    async fn embeddings(
        &self,
        caller: Caller,
        body: types::EmbeddingsRequest,
        _: &mut IgnoredFields,
    ) -> Result<types::Embeddings, Error> {
        let model = self.embedding_model()?;
        self.model_named(body.model.as_deref())?;
        openai::embeddings::handle(
            &self.settings.preparations,
            &model,
            body,
            &self.limits(caller),
        )
        .await
    }

    async fn rerank(
        &self,
        caller: Caller,
        body: types::RerankRequest,
        _: &mut IgnoredFields,
    ) -> Result<types::RerankAnswer, Error> {
        let model = self.embedding_model()?;
        self.model_named(body.model.as_deref())?;
        openai::rerank::handle(
            &self.settings.preparations,
            &model,
            body,
            &self.limits(caller),
        )
        .await
    }

    async fn create_message(
        &self,
        caller: Caller,
        body: types::MessagesRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<JsonOrStream<types::Message>, Error> {
        let model = self.model_named(body.model.as_deref())?;
        anthropic::handle(&self.settings, self.limits(caller), model, body, ignored).await
    }

    async fn count_message_tokens(
        &self,
        body: types::CountTokensRequest,
        ignored: &mut IgnoredFields,
    ) -> Result<types::TokenCount, Error> {
        let model = self.model_named(body.model.as_deref())?;
        anthropic::count_tokens(&self.settings.preparations, model, body, ignored).await
    }

    async fn models(&self) -> Result<types::ModelList, Error> {
        Ok(models::models(self.loaded()?.details()))
    }

    async fn model(&self, model: String) -> Result<types::Model, Error> {
        models::model(self.loaded()?.details(), model)
    }
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

/// Typed client for the operations of the OpenAPI document.
#[cfg(feature = "client")]
#[expect(clippy::unwrap_used, reason = "generated from the document")]
pub mod client {
    use super::types;
    include!(concat!(env!("OUT_DIR"), "/client.rs"));
}

mod generated {
    use super::caller::{Admitted, Caller};
    use super::error::Error;
    use super::payload::{Body, IgnoredFields, Reply, TextResponse, WithStatus};
    use super::stream::JsonOrStream;
    use super::types;
    include!(concat!(env!("OUT_DIR"), "/routes.rs"));
}

#[cfg(test)]
mod tests;
