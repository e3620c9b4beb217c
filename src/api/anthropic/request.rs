//! Converts the body of `POST /v1/messages` to a conversation and generation options.

use serde_json::Value;

use super::blocks::{MessageContent, ToolChange, missing, read_content, refused};
use super::tools::{self, Tools};
use crate::api::error::Error;
use crate::api::openai::reasoning::{REASONING_EFFORT, effort_budget};
use crate::api::options::{RequestDefaults, limit, to_f32};
use crate::api::payload::IgnoredFields;
use crate::api::types::{self, Includes};
use crate::model::{
    ContextOverflow, GenerateOptions, GenerateRequest, GrammarSource, LineLimits, LoadedModel,
    ProgressEvents, Prompt, RequestOwner, ToolOptions,
};
use crate::sampling::SamplingParameters;
use crate::text::{ChatMessage, Conversation};

/// The body of `POST /v1/messages`, converted for the model layer.
pub(super) struct MessageRequest {
    pub request: GenerateRequest,
    /// Whether the response omits the text of thinking blocks.
    pub omits_thinking: bool,
    /// The field that contains the output schema, for error messages; empty without an output schema.
    pub format_field: &'static str,
}

/// A conversation and the tools that the model may call.
pub(super) struct ConversationInput {
    pub conversation: Conversation,
    pub tool_use: Option<ToolOptions>,
}

/// Converts the body of `POST /v1/messages`. Reports an effort that has no effect on the model as ignored.
pub(super) fn generate_request(
    mut body: types::MessagesRequest,
    model: &LoadedModel,
    defaults: &RequestDefaults,
    ignored: &mut IgnoredFields,
) -> Result<MessageRequest, Error> {
    let effort = body.output_config.as_ref().and_then(|config| config.effort);
    let effort = effort.map(reasoning_effort);
    let omits_thinking = body
        .thinking
        .as_ref()
        .is_some_and(|thinking| thinking.display == Some(types::ThinkingDisplay::Omitted));
    let mut message_request = request_options(&body, defaults)?;
    let ConversationInput {
        mut conversation,
        tool_use,
    } = conversation(body.take_part(), ignored)?;
    if let Some(effort) = effort {
        let can_reason =
            model.supports_reasoning() && conversation.reasoning_enabled() != Some(false);
        if !can_reason && !model.template_mentions(REASONING_EFFORT) {
            ignored.report("output_config.effort")?;
        }
        conversation
            .template_variables
            .insert(REASONING_EFFORT.to_owned(), effort.to_string().into());
        if conversation.max_reasoning_tokens.is_none() {
            conversation.max_reasoning_tokens = effort_budget(effort);
        }
    }
    message_request.request.prompt = Prompt::Chat(conversation);
    message_request.request.options.tools = tool_use;
    Ok(MessageRequest {
        omits_thinking,
        ..message_request
    })
}

/// Converts all fields except the conversation and the tools; the prompt of the returned request is empty.
fn request_options(
    body: &types::MessagesRequest,
    defaults: &RequestDefaults,
) -> Result<MessageRequest, Error> {
    let openai = SamplingParameters::openai();
    let sampling = SamplingParameters {
        temperature: body
            .temperature
            .or(defaults.temperature)
            .map_or(openai.temperature, to_f32),
        seed: defaults.seed,
        top_p: body.top_p.map_or(openai.top_p, to_f32),
        top_k: limit("top_k", body.top_k.unwrap_or(0))?.filter(|count| *count > 0),
        ..openai
    };
    let max_tokens = limit("max_tokens", body.max_tokens)?;
    let budget = body
        .thinking
        .as_ref()
        .and_then(|thinking| thinking.budget_tokens);
    if let (Some(budget), Some(max_tokens)) = (budget, max_tokens)
        && budget as usize >= max_tokens
    {
        let problem = "`max_tokens` must be greater than `thinking.budget_tokens`";
        return Err(Error::invalid("max_tokens", problem));
    }
    let (format_field, schema) = output_schema(body)?.unzip();
    let options = GenerateOptions {
        max_tokens,
        stop: body.stop_sequences.clone().unwrap_or_default(),
        ignore_eos: false,
        sampling,
        logit_bias: Vec::new(),
        grammar: schema.map(|schema| GrammarSource::JsonSchema {
            schema,
            strict: false,
        }),
        tools: None,
        penalty_prompt: None,
        slot: None,
        context_overflow: ContextOverflow::Stop,
        reject_oversized_prompt: true,
        read_cache: true,
        cache_salt: None,
        adapters: None,
        priority: 0,
        timeout: None,
        echo: false,
        stream: body.stream.unwrap_or(false),
        lines: LineLimits::default(),
        progress: ProgressEvents::default(),
        owner: RequestOwner::default(),
    };
    Ok(MessageRequest {
        request: GenerateRequest {
            prompt: Prompt::Pieces(Vec::new()),
            system_prompt: None,
            options,
        },
        omits_thinking: false,
        format_field: format_field.unwrap_or_default(),
    })
}

/// Returns the output schema and the field that contains it: `output_config.format` or its older name `output_format`.
fn output_schema(body: &types::MessagesRequest) -> Result<Option<(&'static str, Value)>, Error> {
    let config = body.output_config.as_ref();
    let formats = [
        (
            "output_config.format",
            config.and_then(|config| config.format.as_ref()),
        ),
        ("output_format", body.output_format.as_ref()),
    ];
    let mut schemas = Vec::new();
    for (field, format) in formats {
        let Some(format) = format else { continue };
        let schema = format.schema.clone();
        let schema = schema.ok_or_else(|| missing(field, "schema"))?;
        schemas.push((field, Value::from(schema)));
    }
    match &*schemas {
        [(first, one), (second, other)] if one != other => {
            let problem = format!("{first} and {second} cannot both be set");
            Err(refused(second, &problem))
        }
        _ => Ok(schemas.into_iter().next()),
    }
}

fn reasoning_effort(effort: types::OutputConfigEffort) -> types::ReasoningEffort {
    use types::{OutputConfigEffort as Input, ReasoningEffort as Effort};
    match effort {
        Input::Low => Effort::Low,
        Input::Medium => Effort::Medium,
        Input::High => Effort::High,
        Input::Xhigh => Effort::Xhigh,
        Input::Max => Effort::Max,
    }
}

/// Reads the conversation of a body and the tools that the model may call.
pub(super) fn conversation(
    body: types::CountTokensRequest,
    ignored: &mut IgnoredFields,
) -> Result<ConversationInput, Error> {
    if body.thread.is_some() {
        return Err(Error::ThreadUnsupported);
    }
    let (mut messages, mut changes) = (Vec::new(), Vec::new());
    if let Some(system) = body.system {
        let system = system_message("system", system, &mut changes, ignored)?;
        messages.extend(Some(system).filter(|system| !system.content.is_empty()));
    }
    let follows_tool_result = body.messages.last().is_some_and(has_result);
    for (index, message) in (0..).zip(body.messages) {
        messages.extend(chat_messages(index, message, &mut changes, ignored)?);
    }
    if messages
        .last()
        .is_some_and(|last| !last.tool_calls.is_empty())
    {
        let message = "messages: each tool_use block must be followed by a tool_result block";
        return Err(Error::invalid("messages", message));
    }
    let tools: Tools = tools::read_tools(body.tools.unwrap_or_default(), changes, ignored)?;
    let tool_use = tools.tool_use(body.tool_choice.as_ref())?;
    let thinking = body.thinking.as_ref();
    let conversation = Conversation {
        messages,
        tools: tool_use
            .as_ref()
            .map(|_| tools.template_values())
            .unwrap_or_default(),
        max_reasoning_tokens: max_reasoning_tokens(thinking, follows_tool_result)?,
        ..Conversation::default()
    };
    Ok(ConversationInput {
        conversation,
        tool_use,
    })
}

/// Returns whether a message contains a tool result.
fn has_result(message: &types::InputMessage) -> bool {
    match &message.content {
        types::BlocksOrText::String(_) => false,
        types::BlocksOrText::Array(blocks) => {
            blocks.iter().any(|block| block.type_ == "tool_result")
        }
    }
}

/// Returns the reasoning budget in tokens: `Some(0)`, the default, disables reasoning; `None` is no limit.
/// `follows_tool_result`: whether the last message contains a tool result.
fn max_reasoning_tokens(
    thinking: Option<&types::Thinking>,
    follows_tool_result: bool,
) -> Result<Option<usize>, Error> {
    use types::ThinkingType as Kind;
    Ok(
        match thinking.map(|thinking| (thinking.type_, thinking.budget_tokens)) {
            None | Some((Kind::Disabled, _)) => Some(0),
            Some((Kind::BetweenTools, _)) if !follows_tool_result => Some(0),
            Some((Kind::Adaptive | Kind::BetweenTools, _)) => None,
            Some((Kind::Enabled, Some(budget))) => Some(budget as usize),
            Some((Kind::Enabled, None)) => return Err(missing("thinking", "budget_tokens")),
        },
    )
}

/// Converts a message for the chat template: to one message of role `tool` for each tool result, followed by a message
/// with the remaining content.
fn chat_messages(
    index: usize,
    message: types::InputMessage,
    changes: &mut Vec<ToolChange>,
    ignored: &mut IgnoredFields,
) -> Result<Vec<ChatMessage>, Error> {
    use types::InputMessageRole as Role;
    let path = format!("messages.{index}.content");
    let (role, is_assistant) = match message.role {
        Role::User => ("user", false),
        Role::Assistant => ("assistant", true),
        Role::System => {
            let system = system_message(&path, message.content, changes, ignored)?;
            return Ok(Vec::from_iter(
                Some(system).filter(|system| !system.content.is_empty()),
            ));
        }
    };
    let mut content = read_content(&path, message.role, message.content, ignored)?;
    changes.append(&mut content.changes);
    let misplaced = match is_assistant {
        false => (!content.calls.is_empty()).then_some("tool_use"),
        true => (!content.results.is_empty()).then_some("tool_result"),
    };
    if let Some(kind) = misplaced {
        return Err(misplaced_block(&path, role, kind));
    }
    let MessageContent {
        reasoning,
        text,
        calls,
        results: mut messages,
        is_incomplete,
        ..
    } = content;
    let is_empty = text.is_empty() && calls.is_empty() && reasoning.is_empty();
    // Omits a message that contains nothing but tool results, and an assistant message whose blocks were all ignored:
    // the model would continue an empty assistant message.
    let is_omitted = is_empty && (!messages.is_empty() || (is_assistant && is_incomplete));
    if !is_omitted {
        messages.push(ChatMessage {
            reasoning: (!reasoning.is_empty()).then_some(reasoning),
            tool_calls: calls,
            ..ChatMessage::new(role, text)
        });
    }
    Ok(messages)
}

/// Converts a system message. Appends its `tool_addition` and `tool_removal` blocks to `changes`.
fn system_message(
    path: &str,
    content: types::BlocksOrText,
    changes: &mut Vec<ToolChange>,
    ignored: &mut IgnoredFields,
) -> Result<ChatMessage, Error> {
    let mut content = read_content(path, types::InputMessageRole::System, content, ignored)?;
    changes.append(&mut content.changes);
    let misplaced = match (content.calls.is_empty(), content.results.is_empty()) {
        (false, _) => Some("tool_use"),
        (true, false) => Some("tool_result"),
        (true, true) => None,
    };
    match misplaced {
        Some(kind) => Err(misplaced_block(path, "system", kind)),
        None => Ok(ChatMessage::new("system", content.text)),
    }
}

fn misplaced_block(path: &str, role: &str, kind: &str) -> Error {
    refused(path, &format!("a \"{role}\" message cannot contain {kind}"))
}

#[cfg(test)]
mod tests;
