//! Converts the body of `POST /v1/messages` to a conversation and generation options.

use serde_json::Value;

use super::blocks::{MessageContent, ToolChange, missing, read_content, refused};
use super::tools::{self, Tools};
use crate::api::error::Error;
use crate::api::openai::reasoning::{REASONING_EFFORT, effort_budget};
use crate::api::options::{RequestDefaults, limit, to_f32};
use crate::api::payload::IgnoredFields;
use crate::api::types;
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
    body: types::MessagesRequest,
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
    } = conversation(
        types::CountTokensRequest {
            messages: body.messages,
            model: body.model,
            system: body.system,
            tool_choice: body.tool_choice,
            tools: body.tools,
            thinking: body.thinking,
            thread: body.thread,
        },
        ignored,
    )?;
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
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_fields_have_the_operators_defaults() {
        let defaults = RequestDefaults {
            temperature: Some(0.25),
            seed: Some(7),
        };
        let messages = json!([{"role": "user", "content": "a"}]);
        for (own, temperature) in [(json!(null), 0.25), (json!(0.5), 0.5)] {
            let body = json!({"max_tokens": 1, "messages": messages, "temperature": own});
            let body = serde_json::from_value(body).unwrap();
            let sampling = request_options(&body, &defaults)
                .unwrap()
                .request
                .options
                .sampling;
            assert_eq!(
                (sampling.temperature, sampling.seed),
                (temperature, Some(7))
            );
        }
    }

    /// The role and the text of a message.
    type Turn = (String, String);

    /// Reads a body. Returns the roles and texts of the messages, the ignored fields and the converted input.
    fn read_conversation(
        body: Value,
    ) -> Result<(Vec<Turn>, IgnoredFields, ConversationInput), Error> {
        let mut ignored = IgnoredFields::default();
        let body = serde_json::from_value(body).unwrap();
        let input = conversation(body, &mut ignored)?;
        let messages = input.conversation.messages.iter();
        let turns = messages.map(|message| (message.role.clone(), message.content.clone()));
        Ok((turns.collect(), ignored, input))
    }

    /// Checks the converted messages and the ignored fields of a body with one message.
    #[track_caller]
    fn check(role: &str, blocks: &Value, expected: &[(&str, &str)], reported: &[&str]) {
        let body = json!({"messages": [{"role": role, "content": blocks}]});
        let (turns, ignored, _) = read_conversation(body).unwrap();
        let turns: Vec<_> = turns
            .iter()
            .map(|(role, text)| (&**role, &**text))
            .collect();
        assert_eq!(turns, expected);
        assert_eq!(ignored.paths(), reported);
    }

    #[track_caller]
    fn check_refused(body: Value, path: &str, part: &str) {
        match read_conversation(body) {
            Err(Error::Invalid { param, message }) => {
                assert_eq!(param.as_deref(), Some(path), "{message}");
                assert!(message.contains(part), "{message}");
            }
            Err(other) => panic!("{other}"),
            Ok((turns, ..)) => panic!("{turns:?}"),
        }
    }

    #[test]
    fn text_documents_and_search_results_become_text() {
        check(
            "user",
            &json!([
                {"type": "text", "text": "Read "},
                {"type": "text", "text": "this."},
                {"type": "document", "title": "Birds", "source": {"type": "text", "media_type": "text/plain", "data": "They sing."}},
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}},
                {"type": "search_result", "title": "T", "source": "http://a", "content": [{"type": "text", "text": "found"}]},
            ]),
            &[(
                "user",
                "Read this.\n\nBirds\nThey sing.\n\nab\n\nT\nhttp://a\nfound",
            )],
            &[],
        );
        let summary = json!([{"type": "compaction", "content": "They spoke of birds."}]);
        check(
            "assistant",
            &summary,
            &[("assistant", "They spoke of birds.")],
            &[],
        );
    }

    #[test]
    fn text_blocks_are_joined_by_line_breaks_except_at_whitespace_and_citations() {
        let blocks = json!([
            {"type": "text", "text": "one"}, {"type": "text", "text": "two "}, {"type": "text", "text": "three"},
            {"type": "text", "text": ""}, {"type": "text", "text": "\nfour"},
        ]);
        let lines = "one\ntwo three\nfour";
        check("user", &blocks, &[("user", lines)], &[]);
        check("system", &blocks, &[("system", lines)], &[]);
        let result = json!([{"type": "tool_result", "tool_use_id": "a", "content": blocks}]);
        check("user", &result, &[("tool", lines)], &[]);
        let cited = "onetwo three\nfour";
        check("assistant", &blocks, &[("assistant", cited)], &[]);
    }

    #[test]
    fn tool_results_have_notes_for_unreadable_blocks() {
        check(
            "user",
            &json!([
                {"type": "tool_result", "tool_use_id": "a", "is_error": true, "content": [
                    {"type": "text", "text": "seen"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "read"}},
                    {"type": "tool_reference", "tool_name": "now"},
                    {"type": "browser_state", "tabs": []},
                ]},
                {"type": "tool_result", "tool_use_id": "b"},
                {"type": "text", "text": "Well?"},
            ]),
            &[
                (
                    "tool",
                    "seen\n\n[image omitted]\n\n[document omitted]\n\nread\n\nnow",
                ),
                ("tool", ""),
                ("user", "Well?"),
            ],
            &[
                "messages.0.content.0.content.1",
                "messages.0.content.0.content.2",
                "messages.0.content.0.content.5",
            ],
        );
    }

    #[test]
    fn unsupported_blocks_are_ignored_and_reported() {
        let unsupported = [
            json!({"type": "redacted_thinking", "data": "AA=="}),
            json!({"type": "server_tool_use", "id": "a", "name": "web_search", "input": {"query": "b"}}),
            json!({"type": "web_search_tool_result", "tool_use_id": "a", "content": [{"type": "web_search_result", "url": "c", "title": "d", "encrypted_content": "e"}]}),
            json!({"type": "web_fetch_tool_result", "tool_use_id": "a", "content": {"type": "web_fetch_tool_result_error", "error_code": "f"}}),
            json!({"type": "mcp_tool_use", "id": "a", "name": "b", "server_name": "c", "input": {}}),
            json!({"type": "mcp_tool_result", "tool_use_id": "a", "content": "b"}),
            json!({"type": "container_upload", "file_id": "a"}),
            json!({"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}),
            json!({"type": "of_tomorrow", "text": null}),
        ];
        let reported: Vec<String> = (0..unsupported.len())
            .map(|index| format!("messages.0.content.{index}"))
            .collect();
        let reported: Vec<&str> = reported.iter().map(String::as_str).collect();
        // The model would continue an empty assistant message at the end, so the message is omitted.
        check("assistant", &unsupported.to_vec().into(), &[], &reported);
        check(
            "user",
            &unsupported.to_vec().into(),
            &[("user", "")],
            &reported,
        );
        let mut with_text = unsupported.to_vec();
        with_text.push(json!({"type": "text", "text": "So."}));
        check(
            "assistant",
            &with_text.into(),
            &[("assistant", "So.")],
            &reported,
        );
    }

    #[test]
    fn images_and_documents_without_text_are_refused_by_type() {
        for (block, path, part) in [
            (
                json!({"type": "image", "source": {"type": "url", "url": "a"}}),
                "type",
                "images",
            ),
            (json!({"type": "image"}), "type", "images"),
            (
                json!({"type": "document", "source": {"type": "base64", "data": "AA=="}}),
                "source.type",
                "base64 documents",
            ),
            (
                json!({"type": "document", "source": {"type": "file", "file_id": "a"}}),
                "source.type",
                "file documents",
            ),
            (
                json!({"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}}),
                "source",
                "nothing else",
            ),
            (json!({"type": "document"}), "source", "required"),
            (json!({"type": "tool_result"}), "tool_use_id", "required"),
        ] {
            let body = json!({"messages": [{"role": "user", "content": [block]}]});
            check_refused(body, &format!("messages.0.content.0.{path}"), part);
        }
    }

    fn with_tools(tools: &Value, choice: &Value) -> Value {
        json!({"messages": [{"role": "user", "content": "a"}], "tools": tools, "tool_choice": choice})
    }

    #[test]
    fn tools_of_anthropics_servers_are_ignored_unless_tool_choice_requires_one() {
        let tools = json!([
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
            {"name": "now", "input_schema": {}},
            {"type": "mcp_toolset", "mcp_server_name": "a"},
            {"type": "custom", "name": "mcp__a.b/c:d__e", "input_schema": {"type": "object"}},
            {"type": "bash_20250124", "name": "bash"},
            {"name": "by_code", "input_schema": {}, "allowed_callers": ["code_execution_20250825"]},
        ]);
        let (_, ignored, input) = read_conversation(with_tools(&tools, &json!(null))).unwrap();
        assert_eq!(
            ignored.paths(),
            ["tools.0", "tools.2", "tools.4", "tools.5"]
        );
        let names: Vec<_> = input
            .tool_use
            .unwrap()
            .functions
            .into_iter()
            .map(|f| f.name)
            .collect();
        assert_eq!(names, ["now", "mcp__a.b/c:d__e"]);
        assert_eq!(input.conversation.tools.len(), 2);
        let any = read_conversation(with_tools(&tools, &json!({"type": "any"}))).unwrap();
        assert!(any.2.tool_use.unwrap().required);
        for (tools, choice, path, part) in [
            (
                &tools,
                json!({"type": "tool", "name": "web_search"}),
                "tool_choice.name",
                "web_search_20250305",
            ),
            (
                &tools,
                json!({"type": "tool", "name": "by_code"}),
                "tool_choice.name",
                "code_execution_20250825",
            ),
            (
                &json!([{"type": "mcp_toolset"}]),
                json!({"type": "any"}),
                "tool_choice",
                "mcp_toolset",
            ),
            (
                &json!([{"type": "custom"}]),
                json!(null),
                "tools.0.name",
                "required",
            ),
            (
                &json!([{"name": "a"}]),
                json!(null),
                "tools.0.input_schema",
                "required",
            ),
            (
                &json!([{"name": "a b", "input_schema": {}}]),
                json!(null),
                "tools.0.name",
                "128",
            ),
        ] {
            check_refused(with_tools(tools, &choice), path, part);
        }
    }

    #[test]
    fn accepts_tool_names_of_128_characters_and_a_thousand_tools() {
        for (length, is_accepted) in [(128, true), (129, false)] {
            let tools = json!([{"name": "n".repeat(length), "input_schema": {}}]);
            assert_eq!(
                read_conversation(with_tools(&tools, &json!(null))).is_ok(),
                is_accepted
            );
        }
        let many = (0..1000).map(|index| json!({"name": format!("t{index}"), "input_schema": {}}));
        let (_, _, input) = read_conversation(with_tools(&many.collect(), &json!(null))).unwrap();
        assert_eq!(input.tool_use.unwrap().functions.len(), 1000);
    }

    #[test]
    fn system_messages_change_the_tools() {
        let change = |kind: &str, tool: Value| json!({"role": "system", "content": [{"type": kind, "tool": tool}]});
        let reference = |name: &str| json!({"type": "tool_reference", "name": name});
        let callable = |changes: Vec<Value>| {
            let mut messages = vec![json!({"role": "user", "content": "a"})];
            messages.extend(changes);
            let tools =
                json!([{"name": "a", "input_schema": {}}, {"name": "b", "input_schema": {}}]);
            let (turns, ignored, input) =
                read_conversation(json!({"messages": messages, "tools": tools}))?;
            assert_eq!(turns.len(), 1);
            let functions = input
                .tool_use
                .map(|tools| tools.functions)
                .unwrap_or_default();
            let names: Vec<String> = functions
                .into_iter()
                .map(|function| function.name)
                .collect();
            Ok::<_, Error>((names.join(" "), ignored.paths().join(" ")))
        };
        let remove = |name| change("tool_removal", reference(name));
        let add = |name| change("tool_addition", reference(name));
        let define = |name: &str| {
            let definition = json!({"name": name, "input_schema": {}});
            change(
                "tool_addition",
                json!({"type": "tool_definition", "definition": definition}),
            )
        };
        for (changes, names) in [
            (vec![remove("a")], "b"),
            (vec![remove("a"), remove("b"), add("a")], "a"),
            (vec![define("c"), remove("b")], "a c"),
            (vec![define("a")], "b a"),
            (vec![remove("a"), remove("b")], ""),
        ] {
            assert_eq!(
                callable(changes).unwrap(),
                (names.to_owned(), String::new())
            );
        }
        let of_mcp = json!({"type": "mcp_toolset_reference", "server_name": "a"});
        let reported = callable(vec![change("tool_removal", of_mcp)]).unwrap().1;
        assert_eq!(reported, "messages.1.content.0");
        let broken = json!({"type": "tool_definition", "definition": {"name": 7}});
        for (changes, problem) in [
            (
                vec![remove("c")],
                "messages.1.content.0.tool.name: tool not found: \"c\"",
            ),
            (
                vec![change("tool_addition", broken)],
                "messages.1.content.0.tool.definition.name: 7 is not",
            ),
            (
                vec![change("tool_addition", json!({}))],
                "messages.1.content.0.tool.type: it is required",
            ),
        ] {
            let error = callable(changes).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn system_messages_keep_their_position_and_empty_ones_are_dropped() {
        for (system, messages, expected) in [
            (json!([]), json!([["user", "a"]]), "user:a"),
            (json!(""), json!([["user", "a"], ["system", ""]]), "user:a"),
            (
                json!("s"),
                json!([["user", "a"], ["system", "b"], ["user", "c"]]),
                "system:s user:a system:b user:c",
            ),
            (
                json!(null),
                json!([["system", "a"], ["user", "b"]]),
                "system:a user:b",
            ),
        ] {
            let messages = messages.as_array().unwrap().iter();
            let messages: Vec<_> = messages
                .map(|m| json!({"role": m[0], "content": m[1]}))
                .collect();
            let (turns, ..) =
                read_conversation(json!({"system": system, "messages": messages})).unwrap();
            let turns: Vec<_> = turns
                .iter()
                .map(|(role, text)| format!("{role}:{text}"))
                .collect();
            assert_eq!(turns.join(" "), expected);
        }
        check_refused(
            json!({"messages": [{"role": "system", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]}),
            "messages.0.content",
            "cannot contain tool_result",
        );
    }

    #[test]
    fn a_thread_is_refused_before_other_errors() {
        let body = json!({"messages": [{"role": "user", "content": [{"type": "image"}]}], "thread": {"type": "create"}});
        assert!(matches!(
            read_conversation(body),
            Err(Error::ThreadUnsupported)
        ));
        let body = json!({"messages": [{"role": "user", "content": "a"}], "thread": null});
        assert!(read_conversation(body).is_ok());
    }

    #[test]
    fn the_thinking_field_sets_the_reasoning_budget() {
        let result = json!([{"type": "tool_result", "tool_use_id": "a", "content": "b"}]);
        for (thinking, content, most) in [
            (json!(null), json!("a"), Some(0)),
            (json!({"type": "disabled"}), json!("a"), Some(0)),
            (
                json!({"type": "adaptive", "display": "omitted"}),
                json!("a"),
                None,
            ),
            (
                json!({"type": "enabled", "budget_tokens": 7}),
                json!("a"),
                Some(7),
            ),
            (json!({"type": "between_tools"}), json!("a"), Some(0)),
            (json!({"type": "between_tools"}), result, None),
        ] {
            let body =
                json!({"messages": [{"role": "user", "content": content}], "thinking": thinking});
            let (.., input) = read_conversation(body).unwrap();
            assert_eq!(input.conversation.max_reasoning_tokens, most, "{thinking}");
        }
    }

    #[test]
    fn output_config_format_and_output_format_must_be_equal() {
        let schema = |body: Value| {
            let mut whole =
                json!({"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]});
            body.as_object()
                .unwrap()
                .iter()
                .for_each(|(name, value)| whole[name] = value.clone());
            output_schema(&serde_json::from_value(whole).unwrap())
        };
        let format = |kind: &str| json!({"type": "json_schema", "schema": {"type": kind}});
        let (object, array) = (format("object"), format("array"));
        for (body, expected) in [
            (json!({}), None),
            (json!({"output_config": null, "output_format": null}), None),
            (
                json!({"output_config": {"format": null, "effort": "low"}}),
                None,
            ),
            (
                json!({"output_config": {"format": object}}),
                Some("output_config.format"),
            ),
            (json!({"output_format": array}), Some("output_format")),
            (
                json!({"output_config": {"format": array}, "output_format": array}),
                Some("output_config.format"),
            ),
        ] {
            assert_eq!(schema(body).unwrap().map(|(field, _)| field), expected);
        }
        let both = json!({"output_config": {"format": array}, "output_format": object});
        assert_eq!(
            schema(both).unwrap_err().to_string(),
            "output_format: output_config.format and output_format cannot both be set"
        );
        let none = json!({"output_config": {"format": {"type": "json_schema"}}});
        assert_eq!(
            schema(none).unwrap_err().to_string(),
            "output_config.format.schema: it is required"
        );
    }
}
