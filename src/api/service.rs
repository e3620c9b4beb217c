//! Dispatches each operation of the OpenAPI document to its handler. Checks what depends on the server's settings and the
//! caller: enabled endpoints, rights and limits.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::Error;
use super::generated::Api;
use super::native::health::HealthQuery;
use super::native::slot_actions::SlotFiles;
use super::native::{
    completion, embedding, health, infill, lora, metrics, props, slot_actions, slots, tokenize,
};
use super::openai::{chat, completions, models, responses};
use super::payload::{IgnoredFields, TextResponse, WithStatus};
use super::prepare::prepare;
use super::stream::JsonOrStream;
use super::{ApiSettings, Caller, anthropic, document, openai, types};
use crate::model::{GenerateLimits, LoadedModel, ModelState, RequestOwner};

/// Priority of requests without the field `priority`.
const DEFAULT_PRIORITY: i32 = 0;

/// Implements the operations of the OpenAPI document.
pub(super) struct Service {
    pub(super) settings: ApiSettings,
    pub(super) started_at: SystemTime,
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
