//! `/v1/responses`: OpenAI's Responses API. Responses are stored, so that later requests can continue them.

mod conversation;
mod event_log;
mod input_items;
mod item;
mod namespaces;
mod request;
mod response;
mod store;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::options::{ErrorFields, openai_error};
use super::reasoning::{ReasoningOptions, reasoning_form};
use crate::api::assistant::assistant_events;
use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::prepare::prepare;
use crate::api::stream::{EventStream, JsonOrStream};
use crate::api::types::{self, Includes};
use crate::model::{GenerateLimits, GenerateRequest, KeyId, LoadedModel, PreparationPool, Prompt};

use conversation::truncate;
pub(in crate::api) use input_items::{ItemListQuery, input_items};
use item::Item;
use request::ResolvedInput;
use response::initial_response;
pub use store::ResponseStore;
use store::StoredResponse;
use writer::Writer;

/// The stored responses of one API key.
#[derive(Clone, Copy)]
pub(in crate::api) struct ResponseHistory<'a> {
    pub store: &'a Arc<ResponseStore>,
    /// The API key; `None` on a server without keys.
    pub owner: Option<KeyId>,
}

impl ResponseHistory<'_> {
    fn response(&self, id: String) -> Result<Arc<StoredResponse>, Error> {
        let stored = self.store.get(self.owner, &id);
        stored.ok_or(Error::ResponseNotFound(id))
    }

    /// Returns the input and output items of the response that a request continues.
    fn previous_items(&self, id: &str) -> Result<Vec<Arc<Item>>, Error> {
        let stored = self.store.get(self.owner, id);
        let stored = stored.ok_or_else(|| Error::PreviousResponseNotFound(id.to_owned()))?;
        Ok(stored.input.iter().chain(&stored.output).cloned().collect())
    }

    fn items(&self, ids: &HashSet<&str>) -> HashMap<String, Arc<Item>> {
        match ids.is_empty() {
            true => HashMap::new(),
            false => self.store.items(self.owner, ids),
        }
    }
}

/// Handles `POST /v1/responses`.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    history: ResponseHistory<'_>,
    mut body: types::ResponsesRequest,
    limits: &GenerateLimits,
    ignored: &mut IgnoredFields,
) -> Result<JsonOrStream<types::ResponseObject>, Error> {
    let response = initial_response(&body, &model.details().name, history.store.is_enabled());
    let input: types::ResponseContext = body.take_part();
    let reasoning_form = reasoning_form(body.reasoning_format);
    let effort = input.reasoning.as_ref();
    let reasoning = ReasoningOptions::new(
        effort.and_then(|reasoning| reasoning.effort),
        body.thinking_budget_tokens.or(body.reasoning_budget),
        body.chat_template_kwargs.take(),
    );
    let stream = body.stream.unwrap_or(false);
    let (store, owner) = (Arc::clone(history.store), history.owner);
    let (limits, truncation) = (limits.clone(), response.truncation);
    let prepared = prepare(preparations, ignored, move |ignored, cancel| {
        let history = ResponseHistory {
            store: &store,
            owner,
        };
        let ResolvedInput {
            items,
            conversation,
            callable,
            format,
            namespaces,
            schemas,
        } = ResolvedInput::read(input, &history, ignored)?;
        let (options, fields) = request::options(&mut body, format, callable, schemas)?;
        let conversation = reasoning.apply(conversation);
        let conversation = match truncation {
            types::ResponseTruncation::Auto => truncate(&model, conversation, &options, cancel)
                .map_err(|error| openai_error(error, &fields))?,
            types::ResponseTruncation::Disabled => conversation,
        };
        let request = GenerateRequest {
            prompt: Prompt::Chat(conversation),
            system_prompt: None,
            options,
        };
        let request = request.with_limits(&limits);
        let generation = model.generate(request, cancel);
        let generation = generation.map_err(|error| openai_error(error, &fields))?;
        fields.report(generation.relaxations(), ignored)?;
        Ok((generation, items, namespaces))
    });
    let (generation, items, namespaces) = prepared.await?;
    let (store, owner) = (Arc::clone(history.store), history.owner);
    let store_response = move |response: &types::ResponseObject| {
        if response.store {
            store.put(StoredResponse::new(owner, items, response.clone()));
        }
    };
    let events = assistant_events(generation, reasoning_form);
    let writer = Writer::new(response, namespaces);
    if stream {
        let events = writer.events(events, store_response);
        return Ok(JsonOrStream::Stream(EventStream::responses(events)));
    }
    let response = writer.response(events).await?;
    store_response(&response);
    Ok(JsonOrStream::Json(response))
}

/// Handles `POST /v1/responses/input_tokens`.
pub(in crate::api) async fn count_tokens(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    history: ResponseHistory<'_>,
    mut body: types::ResponseTokensRequest,
    ignored: &mut IgnoredFields,
) -> Result<types::ResponseTokens, Error> {
    let input: types::ResponseContext = body.take_part();
    let effort = input.reasoning.as_ref();
    let effort = effort.and_then(|reasoning| reasoning.effort);
    let reasoning = ReasoningOptions::new(effort, None, None);
    let (store, owner) = (Arc::clone(history.store), history.owner);
    let tokens = prepare(preparations, ignored, move |ignored, cancel| {
        let history = ResponseHistory {
            store: &store,
            owner,
        };
        let resolved = ResolvedInput::read(input, &history, ignored)?;
        let is_constrained = resolved.callable.is_some() || resolved.format.is_some();
        let conversation = reasoning.apply(resolved.conversation);
        let fields = ErrorFields::with_prompt("input");
        let tokens = model.count_tokens(&conversation, is_constrained, cancel);
        tokens.map_err(|error| openai_error(error, &fields))
    })
    .await?;
    Ok(types::ResponseTokens {
        object: types::ResponseTokensObject::ResponseInputTokens,
        input_tokens: tokens as u64,
    })
}

/// Handles `GET /v1/responses/{response_id}`.
pub(in crate::api) fn retrieve(
    history: ResponseHistory<'_>,
    id: String,
    stream: Option<&str>,
) -> Result<types::ResponseObject, Error> {
    match stream {
        None | Some("false") => Ok(history.response(id)?.response.clone()),
        Some(_) => {
            let message =
                "stream: streaming a stored response is not supported; remove the parameter";
            Err(Error::invalid("stream", message))
        }
    }
}

/// Handles `DELETE /v1/responses/{response_id}`.
pub(in crate::api) fn delete(
    history: ResponseHistory<'_>,
    id: String,
) -> Result<types::ResponseDeleted, Error> {
    match history.store.remove(history.owner, &id) {
        true => Ok(types::ResponseDeleted {
            id,
            object: types::ResponseDeletedObject::Response,
            deleted: true,
        }),
        false => Err(Error::ResponseNotFound(id)),
    }
}

/// Handles `POST /v1/responses/{response_id}/cancel`. Always returns an error, because stored responses have already
/// ended.
pub(in crate::api) fn cancel(
    history: ResponseHistory<'_>,
    id: String,
) -> Result<types::ResponseObject, Error> {
    history.response(id)?;
    Err(Error::Invalid {
        param: None,
        message: "Cannot cancel a synchronous response.".to_owned(),
    })
}
