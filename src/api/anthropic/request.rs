//! A body of `POST /v1/messages` as a conversation and how it continues.

use serde_json::Value;

use super::blocks::{Blocks, ToolChange, blocks, missing, refused};
use super::tools::{self, Tools};
use crate::api::error::Error;
use crate::api::openai::thoughts::{REASONING_EFFORT, most_tokens};
use crate::api::options::{Defaults, limit, single};
use crate::api::payload::Ignored;
use crate::api::types;
use crate::model::{
    GenerateOptions, GenerateRequest, GrammarSource, LineLimits, LoadedModel, ProgressEvents,
    Prompt, RequestOwner, ToolUse, WhenFull,
};
use crate::sampling::SamplingParameters;
use crate::text::{ChatMessage, Conversation};

/// What a body asks for, in its own words where errors name them.
pub(super) struct MessageRequest {
    /// For the model.
    pub request: GenerateRequest,
    /// Whether the thought is left out of the answer.
    pub hides_thought: bool,
    /// The field that says which schema the text follows.
    pub format_field: &'static str,
}

/// A conversation with the tools that may be called.
pub(super) struct Asked {
    /// What was said.
    pub conversation: Conversation,
    /// Which tools may be called.
    pub tool_use: Option<ToolUse>,
}

/// What a body asks for.
pub(super) fn generate_request(
    body: types::MessagesRequest,
    model: &LoadedModel,
    defaults: &Defaults,
    ignored: &mut Ignored,
) -> Result<MessageRequest, Error> {
    let effort = body.output_config.as_ref().and_then(|config| config.effort);
    let effort = effort.map(reasoning_effort);
    let hides_thought = body
        .thinking
        .as_ref()
        .is_some_and(|thinking| thinking.display == Some(types::ThinkingDisplay::Omitted));
    let mut asked = translated(&body, defaults)?;
    let Asked {
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
        let thinks = model.thinks() && conversation.thinks() != Some(false);
        if !thinks && !model.template_names(REASONING_EFFORT) {
            ignored.report("output_config.effort")?;
        }
        conversation
            .settings
            .insert(REASONING_EFFORT.to_owned(), effort.to_string().into());
        if conversation.most_thought_tokens.is_none() {
            conversation.most_thought_tokens = most_tokens(effort);
        }
    }
    asked.request.prompt = Prompt::Chat(conversation);
    asked.request.options.tools = tool_use;
    Ok(MessageRequest {
        hides_thought,
        ..asked
    })
}

/// What a body says beside its conversation.
fn translated(body: &types::MessagesRequest, defaults: &Defaults) -> Result<MessageRequest, Error> {
    let openai = SamplingParameters::openai();
    let sampling = SamplingParameters {
        temperature: body
            .temperature
            .or(defaults.temperature)
            .map_or(openai.temperature, single),
        seed: defaults.seed,
        top_p: body.top_p.map_or(openai.top_p, single),
        top_k: limit("top_k", body.top_k.unwrap_or(0))?.filter(|count| *count > 0),
        ..openai
    };
    let max_tokens = limit("max_tokens", body.max_tokens)?;
    let budget = body
        .thinking
        .as_ref()
        .and_then(|thinking| thinking.budget_tokens);
    if let (Some(budget), Some(most)) = (budget, max_tokens)
        && budget as usize >= most
    {
        let problem = "`max_tokens` must be greater than `thinking.budget_tokens`";
        return Err(Error::invalid("max_tokens", problem));
    }
    let (format_field, schema) = output_schema(body)?.unzip();
    let options = GenerateOptions {
        max_tokens,
        stop: body.stop_sequences.clone().unwrap_or_default(),
        ignore_end: false,
        sampling,
        logit_bias: Vec::new(),
        grammar: schema.map(|schema| GrammarSource::JsonSchema {
            schema,
            strict: false,
        }),
        tools: None,
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
        hides_thought: false,
        format_field: format_field.unwrap_or_default(),
    })
}

/// The schema that the text follows, and the field that says so.
fn output_schema(body: &types::MessagesRequest) -> Result<Option<(&'static str, Value)>, Error> {
    let config = body.output_config.as_ref();
    let formats = [
        (
            "output_config.format",
            config.and_then(|config| config.format.as_ref()),
        ),
        ("output_format", body.output_format.as_ref()),
    ];
    let mut given = Vec::new();
    for (field, format) in formats {
        let Some(format) = format else { continue };
        let schema = format.schema.clone();
        let schema = schema.ok_or_else(|| missing(field, "schema"))?;
        given.push((field, Value::from(schema)));
    }
    match &*given {
        [(first, one), (second, other)] if one != other => {
            let problem = format!("a text cannot follow both {first} and {second}");
            Err(refused(second, &problem))
        }
        _ => Ok(given.into_iter().next()),
    }
}

fn reasoning_effort(effort: types::OutputConfigEffort) -> types::ReasoningEffort {
    use types::{OutputConfigEffort as Own, ReasoningEffort as Effort};
    match effort {
        Own::Low => Effort::Low,
        Own::Medium => Effort::Medium,
        Own::High => Effort::High,
        Own::Xhigh => Effort::Xhigh,
        Own::Max => Effort::Max,
    }
}

/// What was said, and which tools may be called.
pub(super) fn conversation(
    body: types::CountTokensRequest,
    ignored: &mut Ignored,
) -> Result<Asked, Error> {
    if body.thread.is_some() {
        return Err(Error::ThreadUnsupported);
    }
    let (mut messages, mut changes) = (Vec::new(), Vec::new());
    if let Some(system) = body.system {
        let system = system_message("system", system, &mut changes, ignored)?;
        messages.extend(Some(system).filter(|system| !system.content.is_empty()));
    }
    let answers_tools = body.messages.last().is_some_and(has_result);
    for (number, message) in (0..).zip(body.messages) {
        messages.extend(chat_messages(number, message, &mut changes, ignored)?);
    }
    if messages.last().is_some_and(|last| !last.calls.is_empty()) {
        let message = "messages: tool_result blocks must follow tool_use blocks, one for each";
        return Err(Error::invalid("messages", message));
    }
    let tools: Tools = tools::declared(body.tools.unwrap_or_default(), changes, ignored)?;
    let tool_use = tools.chosen(body.tool_choice.as_ref())?;
    let thinking = body.thinking.as_ref();
    let conversation = Conversation {
        messages,
        tools: tool_use.as_ref().map(|_| tools.shown()).unwrap_or_default(),
        most_thought_tokens: most_thought_tokens(thinking, answers_tools)?,
        ..Conversation::default()
    };
    Ok(Asked {
        conversation,
        tool_use,
    })
}

/// Whether a message has the result of a call.
fn has_result(message: &types::InputMessage) -> bool {
    match &message.content {
        types::BlocksOrText::String(_) => false,
        types::BlocksOrText::Array(blocks) => {
            blocks.iter().any(|block| block.type_ == "tool_result")
        }
    }
}

/// How long is thought before; not at all, unless that is asked for. `answers_tools`: whether a tool's result is answered.
fn most_thought_tokens(
    thinking: Option<&types::Thinking>,
    answers_tools: bool,
) -> Result<Option<usize>, Error> {
    use types::ThinkingType as Kind;
    Ok(
        match thinking.map(|thinking| (thinking.type_, thinking.budget_tokens)) {
            None | Some((Kind::Disabled, _)) => Some(0),
            Some((Kind::BetweenTools, _)) if !answers_tools => Some(0),
            Some((Kind::Adaptive | Kind::BetweenTools, _)) => None,
            Some((Kind::Enabled, Some(budget))) => Some(budget as usize),
            Some((Kind::Enabled, None)) => return Err(missing("thinking", "budget_tokens")),
        },
    )
}

/// A message, and before it the results of calls: templates have messages of their own for these.
fn chat_messages(
    number: usize,
    message: types::InputMessage,
    changes: &mut Vec<ToolChange>,
    ignored: &mut Ignored,
) -> Result<Vec<ChatMessage>, Error> {
    use types::InputMessageRole as Role;
    let place = format!("messages.{number}.content");
    let (role, is_assistant) = match message.role {
        Role::User => ("user", false),
        Role::Assistant => ("assistant", true),
        Role::System => {
            let system = system_message(&place, message.content, changes, ignored)?;
            return Ok(Vec::from_iter(
                Some(system).filter(|system| !system.content.is_empty()),
            ));
        }
    };
    let mut read = blocks(&place, message.role, message.content, ignored)?;
    changes.append(&mut read.changes);
    let misplaced = match is_assistant {
        false => (!read.calls.is_empty()).then_some("tool_use"),
        true => (!read.results.is_empty()).then_some("tool_result"),
    };
    if let Some(kind) = misplaced {
        return Err(misplaced_block(&place, role, kind));
    }
    let Blocks {
        thought,
        text,
        calls,
        results: mut messages,
        is_incomplete,
        ..
    } = read;
    let is_empty = text.is_empty() && calls.is_empty() && thought.is_empty();
    // Of the assistant's message nothing may be left: then it would not have spoken.
    let is_left_out = is_empty && (!messages.is_empty() || (is_assistant && is_incomplete));
    if !is_left_out {
        messages.push(ChatMessage {
            thought: (!thought.is_empty()).then_some(thought),
            calls,
            ..ChatMessage::new(role, text)
        });
    }
    Ok(messages)
}

/// Text for the model; blocks that change the tools stand among it.
fn system_message(
    place: &str,
    content: types::BlocksOrText,
    changes: &mut Vec<ToolChange>,
    ignored: &mut Ignored,
) -> Result<ChatMessage, Error> {
    let mut read = blocks(place, types::InputMessageRole::System, content, ignored)?;
    changes.append(&mut read.changes);
    let misplaced = match (read.calls.is_empty(), read.results.is_empty()) {
        (false, _) => Some("tool_use"),
        (true, false) => Some("tool_result"),
        (true, true) => None,
    };
    match misplaced {
        Some(kind) => Err(misplaced_block(place, "system", kind)),
        None => Ok(ChatMessage::new("system", read.text)),
    }
}

fn misplaced_block(place: &str, role: &str, kind: &str) -> Error {
    refused(
        place,
        &format!("a message of the role \"{role}\" has no {kind}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_operator_sets_what_a_body_does_not() {
        let defaults = Defaults {
            temperature: Some(0.25),
            seed: Some(7),
        };
        let messages = json!([{"role": "user", "content": "a"}]);
        for (own, temperature) in [(json!(null), 0.25), (json!(0.5), 0.5)] {
            let body = json!({"max_tokens": 1, "messages": messages, "temperature": own});
            let body = serde_json::from_value(body).unwrap();
            let sampling = translated(&body, &defaults)
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

    /// A role and what it says.
    type Turn = (String, String);

    /// The roles and texts of a body's conversation, and what is reported.
    fn read(body: Value) -> Result<(Vec<Turn>, Ignored, Asked), Error> {
        let mut ignored = Ignored::default();
        let body = serde_json::from_value(body).unwrap();
        let asked = conversation(body, &mut ignored)?;
        let messages = asked.conversation.messages.iter();
        let turns = messages.map(|message| (message.role.clone(), message.content.clone()));
        Ok((turns.collect(), ignored, asked))
    }

    /// A body with one message of a role and these blocks, and what becomes of it.
    #[track_caller]
    fn check(role: &str, blocks: &Value, expected: &[(&str, &str)], reported: &[&str]) {
        let body = json!({"messages": [{"role": role, "content": blocks}]});
        let (turns, ignored, _) = read(body).unwrap();
        let turns: Vec<_> = turns
            .iter()
            .map(|(role, text)| (&**role, &**text))
            .collect();
        assert_eq!(turns, expected);
        assert_eq!(ignored.paths(), reported);
    }

    #[track_caller]
    fn check_refused(body: Value, place: &str, words: &str) {
        match read(body) {
            Err(Error::Invalid { param, message }) => {
                assert_eq!(param.as_deref(), Some(place), "{message}");
                assert!(message.contains(words), "{message}");
            }
            Err(other) => panic!("{other}"),
            Ok((turns, ..)) => panic!("{turns:?}"),
        }
    }

    #[test]
    fn blocks_with_text_are_text() {
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
    fn text_blocks_are_lines_unless_white_space_or_a_citation_parts_them() {
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
    fn results_have_notes_for_what_cannot_be_read() {
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
    fn foreign_blocks_are_left_out_and_reported() {
        let foreign = [
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
        let reported: Vec<String> = (0..foreign.len())
            .map(|number| format!("messages.0.content.{number}"))
            .collect();
        let reported: Vec<&str> = reported.iter().map(String::as_str).collect();
        // The last message of the assistant's would be continued.
        check("assistant", &foreign.to_vec().into(), &[], &reported);
        check("user", &foreign.to_vec().into(), &[("user", "")], &reported);
        let mut with_text = foreign.to_vec();
        with_text.push(json!({"type": "text", "text": "So."}));
        check(
            "assistant",
            &with_text.into(),
            &[("assistant", "So.")],
            &reported,
        );
    }

    #[test]
    fn what_the_user_shows_and_the_model_cannot_read_is_refused_by_kind() {
        for (block, place, words) in [
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
                "more than text",
            ),
            (json!({"type": "document"}), "source", "required"),
            (json!({"type": "tool_result"}), "tool_use_id", "required"),
        ] {
            let body = json!({"messages": [{"role": "user", "content": [block]}]});
            check_refused(body, &format!("messages.0.content.0.{place}"), words);
        }
    }

    fn with_tools(tools: &Value, choice: &Value) -> Value {
        json!({"messages": [{"role": "user", "content": "a"}], "tools": tools, "tool_choice": choice})
    }

    #[test]
    fn tools_that_anthropic_runs_are_left_out_while_the_choice_is_free() {
        let tools = json!([
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
            {"name": "now", "input_schema": {}},
            {"type": "mcp_toolset", "mcp_server_name": "a"},
            {"type": "custom", "name": "mcp__a.b/c:d__e", "input_schema": {"type": "object"}},
            {"type": "bash_20250124", "name": "bash"},
            {"name": "by_code", "input_schema": {}, "allowed_callers": ["code_execution_20250825"]},
        ]);
        let (_, ignored, asked) = read(with_tools(&tools, &json!(null))).unwrap();
        assert_eq!(
            ignored.paths(),
            ["tools.0", "tools.2", "tools.4", "tools.5"]
        );
        let names: Vec<_> = asked
            .tool_use
            .unwrap()
            .functions
            .into_iter()
            .map(|f| f.name)
            .collect();
        assert_eq!(names, ["now", "mcp__a.b/c:d__e"]);
        assert_eq!(asked.conversation.tools.len(), 2);
        let any = read(with_tools(&tools, &json!({"type": "any"}))).unwrap();
        assert!(any.2.tool_use.unwrap().required);
        for (tools, choice, place, words) in [
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
            check_refused(with_tools(tools, &choice), place, words);
        }
    }

    #[test]
    fn names_have_128_characters_and_there_may_be_many_tools() {
        for (length, is_taken) in [(128, true), (129, false)] {
            let tools = json!([{"name": "n".repeat(length), "input_schema": {}}]);
            assert_eq!(read(with_tools(&tools, &json!(null))).is_ok(), is_taken);
        }
        let many =
            (0..1000).map(|number| json!({"name": format!("t{number}"), "input_schema": {}}));
        let (_, _, asked) = read(with_tools(&many.collect(), &json!(null))).unwrap();
        assert_eq!(asked.tool_use.unwrap().functions.len(), 1000);
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
            let (turns, ignored, asked) = read(json!({"messages": messages, "tools": tools}))?;
            assert_eq!(turns.len(), 1);
            let functions = asked
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
                "messages.1.content.0.tool.name: there is no tool \"c\"",
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
    fn system_messages_stay_where_they_are_and_empty_ones_are_none() {
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
            let (turns, ..) = read(json!({"system": system, "messages": messages})).unwrap();
            let turns: Vec<_> = turns
                .iter()
                .map(|(role, text)| format!("{role}:{text}"))
                .collect();
            assert_eq!(turns.join(" "), expected);
        }
        check_refused(
            json!({"messages": [{"role": "system", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]}),
            "messages.0.content",
            "has no tool_result",
        );
    }

    #[test]
    fn a_thread_is_refused_before_anything_else() {
        let body = json!({"messages": [{"role": "user", "content": [{"type": "image"}]}], "thread": {"type": "create"}});
        assert!(matches!(read(body), Err(Error::ThreadUnsupported)));
        let body = json!({"messages": [{"role": "user", "content": "a"}], "thread": null});
        assert!(read(body).is_ok());
    }

    #[test]
    fn thoughts_are_as_long_as_is_asked_for() {
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
            let (.., asked) = read(body).unwrap();
            assert_eq!(asked.conversation.most_thought_tokens, most, "{thinking}");
        }
    }

    #[test]
    fn one_schema_or_the_same_twice() {
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
            "output_format: a text cannot follow both output_config.format and output_format"
        );
        let none = json!({"output_config": {"format": {"type": "json_schema"}}});
        assert_eq!(
            schema(none).unwrap_err().to_string(),
            "output_config.format.schema: it is required"
        );
    }
}
