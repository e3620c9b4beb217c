//! `/v1/responses`: what is written from items, and kept for a while, so that a next one can go on with it.

mod conversation;
mod events;
mod item;
mod list;
mod request;
mod response;
mod store;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::options::{Fields, in_openais_words};
use super::thoughts::{Thoughts, thought_form};
use crate::api::answer::answer_events;
use crate::api::error::Error;
use crate::api::payload::Ignored;
use crate::api::preparing::prepare;
use crate::api::stream::{EventStream, WholeOrStream};
use crate::api::types;
use crate::model::{GenerateLimits, GenerateRequest, KeyId, LoadedModel, Preparations, Prompt};

use conversation::fit;
use item::Item;
pub(in crate::api) use list::{Page, input_items};
use request::Context;
use response::begun;
use store::Kept;
pub use store::ResponseStore;
use writer::Writer;

/// What is kept for one key.
#[derive(Clone, Copy)]
pub(in crate::api) struct History<'a> {
    /// What is kept.
    pub store: &'a Arc<ResponseStore>,
    /// The key that they are kept for; `None` on a server without keys.
    pub owner: Option<KeyId>,
}

impl History<'_> {
    fn response(&self, id: String) -> Result<Arc<Kept>, Error> {
        let kept = self.store.get(self.owner, &id);
        kept.ok_or(Error::NoSuchResponse(id))
    }

    /// All items of a response that is to be gone on with.
    fn of_response(&self, id: &str) -> Result<Vec<Arc<Item>>, Error> {
        let kept = self.store.get(self.owner, id);
        let kept = kept.ok_or_else(|| Error::NoPreviousResponse(id.to_owned()))?;
        Ok(kept.input.iter().chain(&kept.output).cloned().collect())
    }

    fn items(&self, ids: &HashSet<&str>) -> HashMap<String, Arc<Item>> {
        match ids.is_empty() {
            true => HashMap::new(),
            false => self.store.items(self.owner, ids),
        }
    }
}

/// Writes a response.
pub(in crate::api) async fn answer(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    history: History<'_>,
    mut body: types::ResponsesRequest,
    limits: &GenerateLimits,
    ignored: &mut Ignored,
) -> Result<WholeOrStream<types::ResponseObject>, Error> {
    let response = begun(&body, &model.details().name, history.store.keeps());
    let context = types::ResponseContext {
        input: body.input.take(),
        instructions: body.instructions.take(),
        parallel_tool_calls: body.parallel_tool_calls,
        previous_response_id: body.previous_response_id.take(),
        reasoning: None,
        text: None,
        tool_choice: body.tool_choice.take(),
        tools: body.tools.take(),
        truncation: None,
    };
    let form = thought_form(body.reasoning_format);
    let effort = body.reasoning.as_ref();
    let thoughts = Thoughts::new(
        effort.and_then(|reasoning| reasoning.effort),
        body.thinking_budget_tokens.or(body.reasoning_budget),
        body.chat_template_kwargs.take(),
    );
    let streamed = body.stream.unwrap_or(false);
    let (store, owner) = (Arc::clone(history.store), history.owner);
    let (limits, truncation) = (limits.clone(), response.truncation);
    let prepared = prepare(preparations, ignored, move |ignored, cancel| {
        let history = History {
            store: &store,
            owner,
        };
        let Context {
            items,
            conversation,
            callable,
            namespaces,
            schemas,
        } = Context::read(context, &history, ignored)?;
        let (options, fields) = request::options(&body, callable, schemas)?;
        let conversation = thoughts.before(conversation);
        let conversation = match truncation {
            types::ResponseTruncation::Auto => {
                fit(&model, conversation, options.max_tokens, cancel)
                    .map_err(|error| in_openais_words(error, &fields))?
            }
            types::ResponseTruncation::Disabled => conversation,
        };
        let request = GenerateRequest {
            prompt: Prompt::Chat(conversation),
            system_prompt: None,
            options,
        };
        let request = request.within(&limits);
        let generation = model.generate(request, cancel);
        let generation = generation.map_err(|error| in_openais_words(error, &fields))?;
        fields.report(generation.relaxations(), ignored)?;
        Ok((generation, items, namespaces))
    });
    let (generation, items, namespaces) = prepared.await?;
    let (store, owner) = (Arc::clone(history.store), history.owner);
    let keep = move |response: &types::ResponseObject| {
        if response.store {
            store.put(Kept::new(owner, items, response.clone()));
        }
    };
    let events = answer_events(generation, form);
    let writer = Writer::new(response, namespaces);
    if streamed {
        let events = writer.events(events, keep);
        return Ok(WholeOrStream::Stream(EventStream::responses(events)));
    }
    let response = writer.whole(events).await?;
    keep(&response);
    Ok(WholeOrStream::Whole(response))
}

/// Counts the tokens of what a response would be written from.
pub(in crate::api) async fn count_tokens(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    history: History<'_>,
    body: types::ResponseTokensRequest,
    ignored: &mut Ignored,
) -> Result<types::ResponseTokens, Error> {
    let context = types::ResponseContext {
        input: body.input,
        instructions: body.instructions,
        parallel_tool_calls: body.parallel_tool_calls,
        previous_response_id: body.previous_response_id,
        reasoning: None,
        text: None,
        tool_choice: body.tool_choice,
        tools: body.tools,
        truncation: None,
    };
    let effort = body.reasoning.and_then(|reasoning| reasoning.effort);
    let thoughts = Thoughts::new(effort, None, None);
    let (store, owner) = (Arc::clone(history.store), history.owner);
    let tokens = prepare(preparations, ignored, move |ignored, cancel| {
        let history = History {
            store: &store,
            owner,
        };
        let context = Context::read(context, &history, ignored)?;
        let conversation = thoughts.before(context.conversation);
        let fields = Fields::of_prompt("input");
        let tokens = model.count_tokens(&conversation, cancel);
        tokens.map_err(|error| in_openais_words(error, &fields))
    })
    .await?;
    Ok(types::ResponseTokens {
        object: types::ResponseTokensObject::ResponseInputTokens,
        input_tokens: tokens as u64,
    })
}

/// A response that is kept.
pub(in crate::api) fn retrieve(
    history: History<'_>,
    id: String,
    stream: Option<&str>,
) -> Result<types::ResponseObject, Error> {
    match stream {
        None | Some("false") => Ok(history.response(id)?.response.clone()),
        Some(_) => {
            let message = "stream: a response's events are not told again; leave it out";
            Err(Error::invalid("stream", message))
        }
    }
}

/// Forgets a response.
pub(in crate::api) fn delete(
    history: History<'_>,
    id: String,
) -> Result<types::ResponseDeleted, Error> {
    match history.store.remove(history.owner, &id) {
        true => Ok(types::ResponseDeleted {
            id,
            object: types::ResponseDeletedObject::Response,
            deleted: true,
        }),
        false => Err(Error::NoSuchResponse(id)),
    }
}

/// Refuses to cancel: what is kept has ended.
pub(in crate::api) fn cancel(
    history: History<'_>,
    id: String,
) -> Result<types::ResponseObject, Error> {
    history.response(id)?;
    Err(Error::Invalid {
        param: None,
        message: "Cannot cancel a synchronous response.".to_owned(),
    })
}
