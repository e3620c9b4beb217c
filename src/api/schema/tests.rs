use super::*;

/// Checks a body against a component. `expected` is the ignored fields, or `param` and message of the error.
#[track_caller]
fn check(component: &str, body: &Value, expected: Result<&[&str], (&str, &str)>) {
    match (super::check(component, body), expected) {
        (Ok(ignored), Ok(expected)) => assert_eq!(ignored, expected),
        (Err(Error::Invalid { param, message }), Err((expected_param, expected_message))) => {
            assert_eq!(param.as_deref().unwrap_or(""), expected_param);
            assert_eq!(message, expected_message);
        }
        (found, _) => panic!("{found:?}"),
    }
}

#[test]
fn every_component_compiles() {
    assert!(VALIDATORS.len() > 20);
    assert!(VALIDATORS.keys().all(|name| validator(name).is_some()));
}

#[test]
fn the_examples_of_the_document_are_valid_and_have_an_effect() {
    for item in DOCUMENT["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let Some(content) = operation.pointer("/requestBody/content/application~1json") else {
                continue;
            };
            let component = content["schema"]["$ref"]
                .as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap();
            let named = content["examples"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(_, example)| &example["value"]);
            for example in named.chain(content.get("example")) {
                check(component, example, Ok(&[]));
            }
        }
    }
}

#[test]
fn reports_a_violated_bound_with_its_path() {
    check(
        "ChatCompletionRequest",
        &json!({"messages": [{"role": "user", "content": "a"}], "temperature": 3}),
        Err((
            "temperature",
            "temperature: 3 is greater than the maximum of 2",
        )),
    );
    check(
        "RerankRequest",
        &json!({}),
        Err(("query", "query: it is required")),
    );
    check(
        "CompletionRequest",
        &json!([]),
        Err(("", "[] is not of type \"object\"")),
    );
    check(
        "ChatCompletionRequest",
        &json!({"messages": [{"role": "user", "content": ""}, {"content": "a"}]}),
        Err(("messages.1.role", "messages.1.role: it is required")),
    );
}

#[test]
fn unions_of_json_types_become_conditions() {
    let unions_left: Vec<_> = DOCUMENT["components"]["schemas"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, schema)| rewrite_unions(schema).to_string().contains("\"oneOf\":"))
        .map(|(name, _)| name.as_str())
        .collect();
    // The alternatives of these unions are all objects, and only responses contain these unions.
    assert_eq!(
        unions_left,
        [
            "ChatCompletionEvent",
            "CompletionAnswer",
            "CompletionEvent",
            "CompletionResult",
            "MessagesEvent",
            "ResponseItem",
            "ResponseOutputPart",
            "ResponsePart",
            "ResponsesEvent",
            "SlotAction",
            "TextCompletionEvent"
        ]
    );
}

#[test]
fn reports_the_first_invalid_item_of_a_long_array() {
    check(
        "CompletionRequest",
        &json!({"prompt": vec![1.5; 1 << 20]}),
        Err((
            "prompt.0",
            r#"prompt.0: 1.5 is not of types "integer", "string", "array", "object""#,
        )),
    );
}

#[test]
fn explains_an_invalid_union_by_the_alternative_of_the_same_type() {
    check(
        "ChatCompletionRequest",
        &json!({"messages": [{"role": "user", "content": [{"text": "a"}]}]}),
        Err((
            "messages.0.content.0.type",
            "messages.0.content.0.type: it is required",
        )),
    );
    check(
        "CompletionRequest",
        &json!({"prompt": []}),
        Err(("prompt", "prompt: [] has less than 1 item")),
    );
    check(
        "CompletionRequest",
        &json!({"prompt": ["a", -1]}),
        Err(("prompt.1", "prompt.1: -1 is less than the minimum of 0")),
    );
}

#[test]
fn refuses_unsupported_fields_and_accepts_neutral_values() {
    check(
        "CompletionRequest",
        &json!({"prompt": "a", "image_data": [{}]}),
        Err((
            "image_data",
            "image_data: this value is not supported yet; remove the field or send []",
        )),
    );
    check(
        "ChatCompletionRequest",
        &json!({"messages": [{"role": "user", "content": "a"}], "functions": [{}]}),
        Err((
            "functions",
            "functions: this older form is not supported; send the functions in tools",
        )),
    );
    check(
        "TextCompletionRequest",
        &json!({"prompt": "a", "n_predict": 5}),
        Err((
            "n_predict",
            "n_predict: use max_tokens on this route; the native route is /completion",
        )),
    );
    let neutral = json!({
        "prompt": "a", "image_data": [], "json_schema": null, "system_prompt": null,
    });
    check("CompletionRequest", &neutral, Ok(&[]));
}

#[test]
fn lists_unknown_fields_and_fields_without_effect() {
    check(
        "ChatCompletionRequest",
        &json!({
            "messages": [{"role": "user", "name": "Ada", "content": [{"type": "text", "text": "a", "new": 1}]}],
            "store": false, "user": "ada", "stream_options": {"speed": 2}, "metadata": {"a": "b"}, "nonsense": null,
        }),
        Ok(&[
            "messages.0.name",
            "messages.0.content.0.new",
            "store",
            "user",
            "stream_options.speed",
            "metadata",
            "nonsense",
        ]),
    );
}

#[test]
fn lists_a_field_of_another_object_type() {
    check(
        "ChatCompletionRequest",
        &json!({
            "messages": [{"role": "assistant", "content": [
                {"type": "text", "text": "a", "refusal": "b"}, {"type": "refusal", "text": null, "refusal": "b"},
            ]}],
            "response_format": {"type": "text", "json_schema": {"schema": {}}},
        }),
        Ok(&[
            "messages.0.content.0.refusal",
            "response_format.json_schema",
        ]),
    );
    check(
        "ResponsesRequest",
        &json!({"input": [{"type": "message", "role": "user", "content": "a", "output": "b"}, {"role": "user", "content": "a"}]}),
        Ok(&["input.0.output"]),
    );
}

#[test]
fn x_ortolan_for_names_existing_types() {
    let mut marked = 0;
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        let listed = schema
            .get(DESCRIBED_TYPES)
            .or(schema.pointer("/properties/type/enum"));
        let fields = schema["properties"].as_object().into_iter().flatten();
        for types in fields.flat_map(|(_, field)| field["x-ortolan-for"].as_array()) {
            marked += types.len();
            let known =
                |value: &Value| listed.is_none_or(|all| all.as_array().unwrap().contains(value));
            assert!(types.iter().all(known), "{name}: {types:?}");
        }
    }
    assert!(marked > 30, "{marked}");
}

#[test]
fn undescribed_objects_are_stripped_to_their_strings() {
    let body = json!({
        "input": [
            {"type": "custom_tool_call", "call_id": "a", "name": 5, "status": "strange", "new": {"a": 1}},
            {"type": "message", "role": "user", "content": "a", "new": 1},
        ],
        "tools": [
            {"type": "web_search", "name": "not a name", "parameters": 5},
            {"type": "namespace", "name": "n", "tools": [{"type": "custom", "format": {}}]},
        ],
    });
    check("ResponsesRequest", &body, Ok(&["input.1.new"]));
    let mut stripped = body;
    strip_undescribed_objects("ResponsesRequest", &mut stripped);
    assert_eq!(
        stripped["input"][0],
        json!({"type": "custom_tool_call", "call_id": "a"})
    );
    assert_eq!(stripped["input"][1]["new"], 1);
    assert_eq!(
        stripped["tools"],
        json!([
            {"type": "web_search", "name": "not a name"},
            {"type": "namespace", "name": "n", "tools": [{"type": "custom"}]},
        ])
    );
    check(
        "ResponsesRequest",
        &json!({"tools": [{"type": "function", "name": "a b"}]}),
        Err((
            "tools.0.name",
            r#"tools.0.name: "a b" does not match "^[a-zA-Z0-9_.:/@-]{1,128}$""#,
        )),
    );
}

#[test]
fn reports_an_unsupported_type_before_a_missing_field() {
    check(
        "ChatCompletionRequest",
        &json!({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "id": "a", "custom": {}}]}]}),
        Err((
            "messages.0.tool_calls.0.type",
            r#"messages.0.tool_calls.0.type: "custom" is not one of "function""#,
        )),
    );
}

#[test]
fn the_list_of_ignored_fields_is_limited() {
    let fields = (0..1000).map(|index| (format!("field{index}"), json!(1)));
    let mut body = Map::from_iter(fields);
    body.insert("content".to_owned(), json!("a"));
    let ignored = super::check("TokenizeRequest", &body.into()).unwrap();
    assert_eq!(ignored.len(), MAX_IGNORED_FIELDS);
}

#[test]
fn long_values_are_not_quoted() {
    check(
        "InfillRequest",
        &json!({"input_prefix": vec![0; 1000], "input_suffix": ""}),
        Err((
            "input_prefix",
            "input_prefix: the value is not of type \"string\"",
        )),
    );
}
