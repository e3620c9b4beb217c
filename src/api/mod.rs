//! The API as the document defines it: the generated types, routes and client, and who answers each operation.
//! How a surface translates requests and answers is in its folder; sockets are the server's.

mod answer;
mod answer_size;
mod anthropic;
mod caller;
pub mod document;
mod embeddings;
mod error;
mod messages;
mod native;
mod openai;
mod options;
mod payload;
mod preparing;
mod prompts;
mod relaxed;
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
pub use options::Defaults;
pub use payload::{BODY_BYTES_MAX, BodyRules};
pub use schema::check;

use generated::{Api, Routes};
use native::health::HealthQuestion;
use native::slot_actions::SlotFiles;
use native::{
    completion, embedding, health, infill, lora, metrics, props, slot_actions, slots, tokenize,
};
use openai::{chat, completions, models, responses};
use payload::{Ignored, Text, WithStatus};
use preparing::prepare;
use stream::WholeOrStream;

use crate::model::{
    GenerateLimits, LoadedModel, ModelState, Preparations, RequestOwner, SlotFolder,
};

/// What the operator decides.
#[derive(Clone)]
pub struct ApiSettings {
    /// The model, from the first moment on.
    pub model: watch::Receiver<ModelState>,
    /// Where requests are prepared.
    pub preparations: Arc<Preparations>,
    /// What is answered of what not every server answers.
    pub endpoints: Endpoints,
    /// What generations may take, whatever a request says.
    pub limits: GenerateLimits,
    /// What they ask for where they name nothing.
    pub defaults: Defaults,
    /// What a body may be.
    pub bodies: BodyRules,
    /// The responses that are kept.
    pub responses: Arc<ResponseStore>,
    /// Whether a request that names another model than the one that is served is refused.
    pub strict_model_names: bool,
    /// What API keys share.
    pub key_policy: KeyPolicy,
}

/// What API keys share, beside what each key has to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// Whether each key has a namespace of its own in the prefix cache.
    pub cache_per_key: bool,
    /// Highest priority of a request without an operator's key. `None` is [`USUAL_PRIORITY`] on a server with keys, and
    /// no limit on one without.
    pub max_priority: Option<i32>,
}

/// The priority of a request that asks for none.
const USUAL_PRIORITY: i32 = 0;

/// What is answered with 501 where it is switched off.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// `/slots` and `include_slots`, which show what the slots do, prompts included.
    pub slots: bool,
    /// `/metrics`.
    pub metrics: bool,
    /// `/embedding`.
    pub embedding: bool,
    /// `POST /props`.
    pub change_props: bool,
    /// `POST /slots/{id_slot}`, with the folder of its files.
    pub slot_files: Option<SlotFolder>,
}

/// All routes of the document. Every failure has the document's shape, those of the HTTP layer, too.
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
        .around(error::as_the_client_may_read_it)
}

/// What poem-openapi says of the routes: it is compared with the document.
///
/// # Errors
/// If the system has no threads to give.
pub fn routes_description() -> std::io::Result<String> {
    let (_, model) = watch::channel(ModelState::Loading { done: 0.0 });
    let settings = ApiSettings {
        model,
        preparations: Arc::new(Preparations::new(0)?),
        endpoints: Endpoints {
            slots: true,
            metrics: true,
            embedding: true,
            change_props: true,
            slot_files: None,
        },
        limits: GenerateLimits::NONE,
        defaults: Defaults::default(),
        bodies: BodyRules {
            idle: Duration::MAX,
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
        Routes(Service(settings, SystemTime::now())),
        "ortolan",
        env!("CARGO_PKG_VERSION"),
    )
}

/// An answer to what never reached an operation.
fn http_error(error: poem::Error, method: String, path: String) -> Response {
    use poem::http::StatusCode;
    if error.is_from_response() {
        return error.into_response();
    }
    let error = match error.status() {
        StatusCode::NOT_FOUND => Error::NoSuchPath(path),
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

/// Answers the operations; the time is when the server started.
struct Service(ApiSettings, SystemTime);

impl Service {
    /// The model, if it is there and well.
    fn loaded(&self) -> Result<Arc<LoadedModel>, Error> {
        match &*self.0.model.borrow() {
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

    /// The model, if that may be called so.
    fn named(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, Error> {
        let model = self.loaded()?;
        match name {
            Some(name) if self.0.strict_model_names && name != model.details().name => {
                Err(Error::NoSuchModel(name.to_owned()))
            }
            _ => Ok(model),
        }
    }

    /// The responses that are kept for the caller.
    fn history(&self, caller: Caller) -> responses::History<'_> {
        responses::History {
            store: &self.0.responses,
            owner: caller.key(),
        }
    }

    /// What the operator allows the caller's requests.
    fn limits(&self, caller: Caller) -> GenerateLimits {
        let ApiSettings {
            limits, key_policy, ..
        } = &self.0;
        let usual = match caller {
            Caller::Anyone => i32::MAX,
            Caller::KeyHolder { .. } | Caller::Unknown => USUAL_PRIORITY,
        };
        let key = caller.key();
        GenerateLimits {
            max_priority: match caller {
                Caller::KeyHolder {
                    is_operator: true, ..
                } => i32::MAX,
                _ => key_policy.max_priority.unwrap_or(usual),
            },
            owner: RequestOwner {
                key,
                cache_namespace: key.filter(|_| key_policy.cache_per_key),
            },
            ..limits.clone()
        }
    }

    /// Refuses a change of what all requests get, unless the caller is an operator or clients may change it.
    fn check_change(&self, caller: Caller, what: &'static str) -> Result<(), Error> {
        match caller.is_operator() || self.0.endpoints.change_props {
            true => Ok(()),
            false => Err(Error::OperatorOnly(what)),
        }
    }

    /// Refuses a system prompt, which comes before the prompts of all requests, from a caller that may not change it.
    fn check_system_prompt(&self, caller: Caller, is_given: bool) -> Result<(), Error> {
        match is_given {
            true => self.check_change(
                caller,
                "system_prompt: the prompt before the prompts of all requests",
            ),
            false => Ok(()),
        }
    }

    /// The model, if it is to embed.
    fn embedder(&self) -> Result<Arc<LoadedModel>, Error> {
        let model = self.loaded()?;
        match self.0.endpoints.embedding || !model.details().generates {
            true => Ok(model),
            false => Err(Error::NotSupported("embeddings: start it with --embedding")),
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
        // The path is open, the slots are not.
        let may_see = self.0.endpoints.slots && caller != Caller::Unknown;
        let question = HealthQuestion {
            slots_for: (include_slots.is_some() && may_see).then_some(caller),
            fail_on_no_slot: fail_on_no_slot.is_some(),
        };
        Ok(health::health(
            &self.0.model.borrow(),
            &self.0.defaults,
            question,
        ))
    }

    async fn document_json(&self) -> Result<Text, Error> {
        Ok(document::JSON.into())
    }

    async fn document_yaml(&self) -> Result<Text, Error> {
        Ok(document::YAML.into())
    }

    async fn docs(&self) -> Result<Text, Error> {
        Ok(document::page().into())
    }

    async fn metrics(&self) -> Result<Text, Error> {
        if !self.0.endpoints.metrics {
            return Err(Error::NotSupported("metrics endpoint."));
        }
        metrics::metrics(&*self.loaded()?, self.1)
    }

    async fn completion(
        &self,
        caller: Caller,
        mut body: types::CompletionRequest,
        ignored: &mut Ignored,
    ) -> Result<WholeOrStream<types::CompletionAnswer>, Error> {
        self.0.defaults.fill(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        self.check_system_prompt(caller, body.system_prompt.is_some())?;
        let model = self.loaded()?;
        completion::answer(&self.0.preparations, model, body, &limits, ignored).await
    }

    async fn infill(
        &self,
        caller: Caller,
        mut body: types::InfillRequest,
        ignored: &mut Ignored,
    ) -> Result<WholeOrStream<types::CompletionAnswer>, Error> {
        self.0.defaults.fill(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        self.check_system_prompt(caller, body.system_prompt.is_some())?;
        let model = self.loaded()?;
        infill::answer(&self.0.preparations, model, body, ignored, &limits).await
    }

    async fn embedding(
        &self,
        caller: Caller,
        body: types::EmbeddingRequest,
        _: &mut Ignored,
    ) -> Result<types::EmbeddingAnswer, Error> {
        let model = self.embedder()?;
        embedding::answer(&self.0.preparations, &model, body, &self.limits(caller)).await
    }

    async fn tokenize(
        &self,
        body: types::TokenizeRequest,
        ignored: &mut Ignored,
    ) -> Result<types::Tokens, Error> {
        let model = self.loaded()?;
        prepare(&self.0.preparations, ignored, move |_, cancel| {
            tokenize::tokenize(&model, body, cancel)
        })
        .await
    }

    async fn apply_template(
        &self,
        body: types::TemplateRequest,
        ignored: &mut Ignored,
    ) -> Result<types::RenderedPrompt, Error> {
        let model = self.loaded()?;
        prepare(&self.0.preparations, ignored, move |ignored, cancel| {
            tokenize::apply_template(&model, body, ignored, cancel)
        })
        .await
    }

    async fn detokenize(
        &self,
        body: types::DetokenizeRequest,
        ignored: &mut Ignored,
    ) -> Result<types::DetokenizedText, Error> {
        let model = self.loaded()?;
        prepare(&self.0.preparations, ignored, move |_, cancel| {
            tokenize::detokenize(&model, body, cancel)
        })
        .await
    }

    async fn props(&self, caller: Caller) -> Result<types::Props, Error> {
        Ok(props::props(
            &*self.loaded()?,
            caller,
            self.0.limits.max_tokens,
            &self.0.defaults,
        ))
    }

    async fn change_props(
        &self,
        body: types::PropsChange,
        ignored: &mut Ignored,
    ) -> Result<types::PropsChanged, Error> {
        if !self.0.endpoints.change_props {
            let problem = "changing its properties. Start it with `--props`";
            return Err(Error::NotSupported(problem));
        }
        let model = self.loaded()?;
        prepare(&self.0.preparations, ignored, move |_, cancel| {
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
        _: &mut Ignored,
    ) -> Result<types::LoraAdaptersSet, Error> {
        self.check_change(caller, "the scales of the adapters for all requests")?;
        lora::set(&*self.loaded()?, body)
    }

    async fn slots(&self, caller: Caller) -> Result<types::Slots, Error> {
        if !self.0.endpoints.slots {
            return Err(Error::NotSupported("slots endpoint."));
        }
        Ok(slots::slots(&*self.loaded()?, &self.0.defaults, caller))
    }

    async fn slot_action(
        &self,
        caller: Caller,
        id_slot: String,
        action: Option<String>,
        body: types::SlotActionRequest,
        _: &mut Ignored,
    ) -> Result<types::SlotAction, Error> {
        let Some(folder) = &self.0.endpoints.slot_files else {
            let problem = "slots action. Start it with `--slot-save-path`";
            return Err(Error::NotSupported(problem));
        };
        let model = self.loaded()?;
        let owner = self.limits(caller).owner;
        let files = SlotFiles {
            folder,
            caller,
            owner,
        };
        slot_actions::answer(&model, files, &id_slot, action.as_deref(), body).await
    }

    async fn chat_completion(
        &self,
        caller: Caller,
        mut body: types::ChatCompletionRequest,
        ignored: &mut Ignored,
    ) -> Result<WholeOrStream<types::ChatCompletion>, Error> {
        self.0.defaults.fill(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        let model = self.named(body.model.as_deref())?;
        chat::answer(&self.0.preparations, model, body, &limits, ignored).await
    }

    async fn count_chat_tokens(
        &self,
        body: types::ChatCompletionRequest,
        ignored: &mut Ignored,
    ) -> Result<types::ResponseTokens, Error> {
        let model = self.named(body.model.as_deref())?;
        chat::count_tokens(&self.0.preparations, model, body, ignored).await
    }

    async fn text_completion(
        &self,
        caller: Caller,
        mut body: types::TextCompletionRequest,
        ignored: &mut Ignored,
    ) -> Result<WholeOrStream<types::TextCompletion>, Error> {
        self.0.defaults.fill(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        let model = self.named(body.model.as_deref())?;
        completions::answer(&self.0.preparations, model, body, &limits, ignored).await
    }

    async fn create_response(
        &self,
        caller: Caller,
        mut body: types::ResponsesRequest,
        ignored: &mut Ignored,
    ) -> Result<WholeOrStream<types::ResponseObject>, Error> {
        self.0.defaults.fill(&mut body.temperature, &mut body.seed);
        let limits = self.limits(caller);
        ignored.report_priority(body.priority, limits.max_priority)?;
        let model = self.named(body.model.as_deref())?;
        let (preparations, history) = (&self.0.preparations, self.history(caller));
        responses::answer(preparations, model, history, body, &limits, ignored).await
    }

    async fn count_response_tokens(
        &self,
        caller: Caller,
        body: types::ResponseTokensRequest,
        ignored: &mut Ignored,
    ) -> Result<types::ResponseTokens, Error> {
        let model = self.named(body.model.as_deref())?;
        let history = self.history(caller);
        responses::count_tokens(&self.0.preparations, model, history, body, ignored).await
    }

    async fn response_input_items(
        &self,
        caller: Caller,
        response_id: String,
        limit: Option<String>,
        order: Option<String>,
        after: Option<String>,
    ) -> Result<types::ResponseItemList, Error> {
        let page = responses::Page {
            limit,
            order,
            after,
        };
        responses::input_items(self.history(caller), response_id, &page)
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
        _: &mut Ignored,
    ) -> Result<types::Embeddings, Error> {
        let model = self.embedder()?;
        self.named(body.model.as_deref())?;
        openai::embeddings::answer(&self.0.preparations, &model, body, &self.limits(caller)).await
    }

    async fn rerank(
        &self,
        caller: Caller,
        body: types::RerankRequest,
        _: &mut Ignored,
    ) -> Result<types::RerankAnswer, Error> {
        let model = self.embedder()?;
        self.named(body.model.as_deref())?;
        openai::rerank::answer(&self.0.preparations, &model, body, &self.limits(caller)).await
    }

    async fn create_message(
        &self,
        caller: Caller,
        body: types::MessagesRequest,
        ignored: &mut Ignored,
    ) -> Result<WholeOrStream<types::Message>, Error> {
        let model = self.named(body.model.as_deref())?;
        anthropic::answer(&self.0, self.limits(caller), model, body, ignored).await
    }

    async fn count_message_tokens(
        &self,
        body: types::CountTokensRequest,
        ignored: &mut Ignored,
    ) -> Result<types::TokenCount, Error> {
        let model = self.named(body.model.as_deref())?;
        anthropic::count_tokens(&self.0.preparations, model, body, ignored).await
    }

    async fn models(&self) -> Result<types::ModelList, Error> {
        Ok(models::models(self.loaded()?.details()))
    }

    async fn model(&self, model: String) -> Result<types::Model, Error> {
        models::model(self.loaded()?.details(), model)
    }
}

/// The document's schemas as types.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::large_enum_variant,
    reason = "generated from the document"
)]
pub mod types {
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}

/// The typed client of the document's operations.
#[cfg(feature = "client")]
#[expect(clippy::unwrap_used, reason = "generated from the document")]
pub mod client {
    use super::types;
    include!(concat!(env!("OUT_DIR"), "/client.rs"));
}

mod generated {
    use super::caller::{Admitted, Caller};
    use super::error::Error;
    use super::payload::{Body, Ignored, Reply, Text, WithStatus};
    use super::stream::WholeOrStream;
    use super::types;
    include!(concat!(env!("OUT_DIR"), "/routes.rs"));
}

#[cfg(test)]
mod tests;
