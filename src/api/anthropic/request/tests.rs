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
fn read_conversation(body: Value) -> Result<(Vec<Turn>, IgnoredFields, ConversationInput), Error> {
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
        let tools = json!([{"name": "a", "input_schema": {}}, {"name": "b", "input_schema": {}}]);
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
        let mut whole = json!({"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]});
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
