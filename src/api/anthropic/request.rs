//! A body of `POST /v1/messages` as a conversation and how it goes on.

use crate::api::error::Error;
use crate::api::options::{Defaults, count, single, unless_zero};
use crate::api::tools::{Choice, Tool, check_names};
use crate::api::types;
use crate::model::{GenerateOptions, GenerateRequest, Prompt, ToolUse, WhenFull};
use crate::sampling::SamplingParameters;
use crate::text::{ChatMessage, Conversation, ToolCall};

/// What a body asks for.
pub(super) fn generate_request(
    body: types::MessagesRequest,
    defaults: &Defaults,
) -> Result<GenerateRequest, Error> {
    let openai = SamplingParameters::openai();
    let sampling = SamplingParameters {
        temperature: body
            .temperature
            .or(defaults.temperature)
            .map_or(openai.temperature, single),
        seed: defaults.seed,
        top_p: body.top_p.map_or(openai.top_p, single),
        top_k: unless_zero("top_k", body.top_k.unwrap_or(0))?,
        ..openai
    };
    let max_tokens = count("max_tokens", body.max_tokens.into())?;
    let (stop, stream) = (body.stop_sequences.unwrap_or_default(), body.stream);
    let budget = body.thinking.as_ref();
    let budget = budget.and_then(|thinking| thinking.budget_tokens);
    if budget.is_some_and(|budget| budget as usize >= max_tokens) {
        let problem = "`max_tokens` must be greater than `thinking.budget_tokens`";
        return Err(Error::invalid("max_tokens", problem));
    }
    let (conversation, tools) = conversation(types::CountTokensRequest {
        messages: body.messages,
        model: body.model,
        system: body.system,
        tool_choice: body.tool_choice,
        tools: body.tools,
        thinking: body.thinking,
    })?;
    Ok(GenerateRequest {
        prompt: Prompt::Chat(conversation),
        system_prompt: None,
        options: GenerateOptions {
            max_tokens: Some(max_tokens),
            stop,
            ignore_end: false,
            sampling,
            logit_bias: Vec::new(),
            grammar: None,
            tools,
            penalty_prompt: None,
            slot: None,
            when_full: WhenFull::Stop,
            whole_prompt: true,
            read_cache: true,
            cache_salt: None,
            adapters: None,
            priority: 0,
            timeout: None,
            echo: false,
            stream: stream.unwrap_or(false),
        },
    })
}

/// What was said, and which functions may be called.
pub(super) fn conversation(
    body: types::CountTokensRequest,
) -> Result<(Conversation, Option<ToolUse>), Error> {
    let mut messages = Vec::new();
    if let Some(system) = body.system {
        let Blocks { text, .. } = blocks("system", system)?;
        messages.push(ChatMessage::new("system", text));
    }
    for (number, message) in (0..).zip(body.messages) {
        messages.extend(chat_messages(number, message)?);
    }
    if messages.last().is_some_and(|last| !last.calls.is_empty()) {
        let message = "messages: tool_result blocks must follow tool_use blocks, one for each";
        return Err(Error::invalid("messages", message));
    }
    let tools = body.tools.unwrap_or_default().into_iter();
    let tools: Vec<Tool> = tools
        .map(|tool| Tool {
            name: tool.name,
            description: tool.description,
            parameters: tool.input_schema.into(),
            strict: tool.strict.unwrap_or(false),
        })
        .collect();
    check_names(&tools, |number| format!("tools.{number}.name"))?;
    let use_ = tool_use(&tools, body.tool_choice.as_ref())?;
    let shown = tools.iter().filter(|_| use_.is_some()).map(Tool::shown);
    let tools = shown.collect();
    let conversation = Conversation {
        messages,
        tools,
        most_thought_tokens: most_thought_tokens(body.thinking.as_ref())?,
        ..Conversation::default()
    };
    Ok((conversation, use_))
}

/// How long is thought before; not at all, unless that is asked for.
fn most_thought_tokens(thinking: Option<&types::Thinking>) -> Result<Option<usize>, Error> {
    use types::ThinkingType as Kind;
    Ok(
        match thinking.map(|thinking| (thinking.type_, thinking.budget_tokens)) {
            None | Some((Kind::Disabled, _)) => Some(0),
            Some((Kind::Adaptive, _)) => None,
            Some((Kind::Enabled, Some(budget))) => Some(budget as usize),
            Some((Kind::Enabled, None)) => {
                let place = "thinking.budget_tokens";
                return Err(Error::invalid(place, format!("{place}: it is required")));
            }
        },
    )
}

/// A message, and before it what came of calls: templates have messages of their own for that.
fn chat_messages(number: usize, message: types::InputMessage) -> Result<Vec<ChatMessage>, Error> {
    use types::InputMessageRole as Role;
    let place = format!("messages.{number}.content");
    let Blocks {
        thought,
        text,
        calls,
        results,
    } = blocks(&place, message.content)?;
    let (role, misplaced) = match message.role {
        Role::User => ("user", (!calls.is_empty()).then_some("tool_use")),
        Role::Assistant => ("assistant", (!results.is_empty()).then_some("tool_result")),
    };
    if let Some(kind) = misplaced {
        let problem = format!("{place}: a message of the role «{role}» has no {kind}");
        return Err(Error::invalid(place, problem));
    }
    let mut messages = results;
    if !text.is_empty() || messages.is_empty() {
        messages.push(ChatMessage {
            thought: (!thought.is_empty()).then_some(thought),
            calls,
            ..ChatMessage::new(role, text)
        });
    }
    Ok(messages)
}

/// What is among blocks.
#[derive(Default)]
struct Blocks {
    thought: String,
    text: String,
    calls: Vec<ToolCall>,
    /// What came of calls.
    results: Vec<ChatMessage>,
}

fn blocks(place: &str, content: types::BlocksOrText) -> Result<Blocks, Error> {
    use types::InputBlockType as Kind;
    let mut read = Blocks::default();
    let blocks = match content {
        types::BlocksOrText::String(text) => return Ok(Blocks { text, ..read }),
        types::BlocksOrText::Array(blocks) => blocks,
    };
    for (number, block) in blocks.into_iter().enumerate() {
        let missing = |field: &str| {
            let place = format!("{place}.{number}.{field}");
            Error::invalid(&*place, format!("{place}: it is required"))
        };
        match block.type_ {
            Kind::Text => read
                .text
                .push_str(&block.text.ok_or_else(|| missing("text"))?),
            Kind::ToolUse => read.calls.push(ToolCall {
                id: block.id.ok_or_else(|| missing("id"))?,
                name: block.name.ok_or_else(|| missing("name"))?,
                arguments: serde_json::Value::from(block.input).to_string(),
            }),
            Kind::ToolResult => {
                let answers = block.tool_use_id.ok_or_else(|| missing("tool_use_id"))?;
                let said = match block.content {
                    None => String::new(),
                    Some(types::ResultContent::String(text)) => text,
                    Some(types::ResultContent::Array(texts)) => {
                        texts.into_iter().map(|part| part.text).collect()
                    }
                };
                read.results.push(ChatMessage {
                    answers: Some(answers),
                    ..ChatMessage::new("tool", said)
                });
            }
            Kind::Thinking => {
                let thought = block.thinking.ok_or_else(|| missing("thinking"))?;
                read.thought.push_str(&thought);
            }
            Kind::RedactedThinking => {}
        }
    }
    Ok(read)
}

/// Which functions the message may call, and which it must; `None` if none.
fn tool_use(
    tools: &[Tool],
    choice: Option<&types::InputToolChoice>,
) -> Result<Option<ToolUse>, Error> {
    use types::InputToolChoiceType as Kind;
    let kind = choice.map_or(Kind::Auto, |choice| choice.type_);
    let name = choice.and_then(|choice| choice.name.as_deref());
    let refuse =
        |field: &str, problem: String| Err(Error::invalid(field, format!("{field}: {problem}")));
    let named = match kind {
        Kind::None => return Ok(None),
        Kind::Any | Kind::Tool if tools.is_empty() => {
            return refuse(
                "tool_choice",
                "there are no tools to choose from".to_owned(),
            );
        }
        Kind::Auto | Kind::Any if tools.is_empty() => return Ok(None),
        Kind::Auto | Kind::Any => None,
        Kind::Tool => match name {
            None => return refuse("tool_choice.name", "it is required".to_owned()),
            Some(name) if tools.iter().all(|tool| tool.name != name) => {
                let problem = format!("there is no tool «{name}»");
                return refuse("tool_choice.name", problem);
            }
            name => name,
        },
    };
    let alone = choice
        .as_ref()
        .and_then(|choice| choice.disable_parallel_tool_use);
    let choice = Choice {
        required: kind != Kind::Auto,
        names: named.map(|name| [name.to_owned()].into()),
        several: !alone.unwrap_or(false),
    };
    Ok(Some(choice.of(tools)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_body_does_not_say_the_operator_does() {
        let defaults = Defaults {
            temperature: Some(0.25),
            seed: Some(7),
        };
        let messages = json!([{"role": "user", "content": "a"}]);
        for (own, temperature) in [(json!(null), 0.25), (json!(0.5), 0.5)] {
            let body = json!({"max_tokens": 1, "messages": messages, "temperature": own});
            let request = generate_request(serde_json::from_value(body).unwrap(), &defaults);
            let sampling = request.unwrap().options.sampling;
            assert_eq!(
                (sampling.temperature, sampling.seed),
                (temperature, Some(7))
            );
        }
    }
}
