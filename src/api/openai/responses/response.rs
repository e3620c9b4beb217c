//! The initial response object, which repeats fields of the request, and the conversion of errors and usage.

use std::time::SystemTime;

use super::super::unix_seconds;
use super::item::new_id;
use super::namespaces::NAMESPACE;
use crate::api::error::{Error, Surface};
use crate::api::tools::{FUNCTION, parameters};
use crate::api::types;
use crate::model::{GenerateError, GenerationSummary};

/// Creates the response object of a request, without output. `can_store` is whether the server stores responses.
pub(super) fn initial_response(
    body: &types::ResponsesRequest,
    model: &str,
    can_store: bool,
) -> types::ResponseObject {
    let text = body.text.as_ref();
    let reasoning = body.reasoning.as_ref();
    let tools = body.tools.iter().flatten().filter_map(supported_tool);
    types::ResponseObject {
        id: new_id("resp"),
        object: types::ResponseObjectObject::Response,
        created_at: unix_seconds(SystemTime::now()),
        completed_at: None,
        status: types::ResponseStatus::InProgress,
        background: false,
        error: None,
        incomplete_details: None,
        instructions: body.instructions.clone(),
        max_output_tokens: body.max_output_tokens,
        max_tool_calls: body.max_tool_calls,
        metadata: body.metadata.clone().unwrap_or_default(),
        model: model.to_owned(),
        output: Vec::new(),
        parallel_tool_calls: body.parallel_tool_calls.unwrap_or(true),
        previous_response_id: body.previous_response_id.clone(),
        prompt_cache_key: body.prompt_cache_key.clone(),
        prompt_cache_retention: body.prompt_cache_retention,
        reasoning: types::ResponseReasoningTold {
            effort: reasoning.and_then(|reasoning| reasoning.effort),
            summary: reasoning.and_then(|reasoning| reasoning.summary.clone()),
        },
        safety_identifier: body.safety_identifier.clone(),
        service_tier: types::ResponseObjectServiceTier::Default,
        store: can_store && body.store.unwrap_or(true),
        temperature: body.temperature.unwrap_or(1.0),
        text: types::ResponseTextTold {
            format: text.and_then(|text| text.format.clone()).unwrap_or(
                types::ResponseTextFormat {
                    type_: types::ResponseTextFormatType::Text,
                    description: None,
                    name: None,
                    schema: None,
                    strict: None,
                },
            ),
            verbosity: text
                .and_then(|text| text.verbosity)
                .unwrap_or(types::ResponseVerbosity::Medium),
        },
        tool_choice: body
            .tool_choice
            .clone()
            .unwrap_or(types::ResponseToolChoice::String(
                types::ResponseToolChoiceString::Auto,
            )),
        tools: tools.collect(),
        top_logprobs: body.top_logprobs.unwrap_or(0),
        top_p: body.top_p.unwrap_or(1.0),
        truncation: body
            .truncation
            .unwrap_or(types::ResponseTruncation::Disabled),
        usage: None,
        timings: None,
        prompt_progress: None,
        user: body.user.clone(),
    }
}

/// Returns a tool for the response, with defaults for missing fields; `None` if the tool's type is not supported.
fn supported_tool(tool: &types::ResponseTool) -> Option<types::ResponseTool> {
    let schema = |schema: &Option<_>| parameters(schema.clone()).as_object().cloned();
    let supported = match tool.type_.as_str() {
        FUNCTION => types::ResponseTool {
            parameters: schema(&tool.parameters),
            strict: Some(tool.strict.unwrap_or(false)),
            ..tool.clone()
        },
        NAMESPACE => {
            let functions = tool.tools.iter().flatten();
            let functions = functions.filter(|function| function.type_ == FUNCTION);
            let functions = functions.map(|function| types::ResponseNamespaceTool {
                parameters: schema(&function.parameters),
                strict: Some(function.strict.unwrap_or(false)),
                ..function.clone()
            });
            types::ResponseTool {
                tools: Some(functions.collect()),
                ..tool.clone()
            }
        }
        _ => return None,
    };
    Some(supported)
}

/// Converts an error that ended a response after its start. Adds OpenAI's error code.
pub(super) fn failure(error: &Error) -> types::ResponseFailure {
    use types::ResponseFailureCode as Code;
    types::ResponseFailure {
        code: match error {
            Error::Generate(GenerateError::QueueFull { .. }) => Code::RateLimitExceeded,
            Error::Generate(GenerateError::ConstraintFailed { .. }) => Code::InvalidPrompt,
            _ => Code::ServerError,
        },
        message: error.openai_error(Surface::OpenAi).message,
    }
}

/// Returns the token usage of a response.
pub(super) fn usage(summary: &GenerationSummary) -> types::ResponseUsage {
    let (input, output) = (summary.prompt_tokens, summary.generated_tokens);
    types::ResponseUsage {
        input_tokens: input as u64,
        input_tokens_details: types::ResponseInputTokensDetails {
            cached_tokens: summary.cached_tokens as u64,
            cache_write_tokens: 0,
        },
        output_tokens: output as u64,
        output_tokens_details: types::ResponseOutputTokensDetails {
            reasoning_tokens: summary.reasoning_tokens as u64,
        },
        total_tokens: (input + output) as u64,
    }
}
