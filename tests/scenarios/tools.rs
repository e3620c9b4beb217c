//! Steps about tool calls and strict response formats.

use std::collections::HashSet;

use cucumber::gherkin::Step;
use cucumber::{then, when};
use futures_util::future::join_all;
use ortolan_client::types;
use serde_json::{Value, json};

use crate::servers;
use crate::world::{Response, World, read_response};

/// Functions like those that clients declare, with bounded parameters.
fn functions() -> Vec<Value> {
    let function = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    vec![
        function(
            "get_weather",
            json!({"type": "object", "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}}, "required": ["city"]}),
        ),
        function(
            "book_table",
            json!({"type": "object", "properties": {"guests": {"type": "integer", "minimum": 1, "maximum": 12}, "when": {"type": "string", "format": "date"}, "outside": {"type": "boolean"}}, "required": ["guests", "when", "outside"]}),
        ),
        function(
            "search",
            json!({"type": "object", "properties": {"words": {"type": "array", "items": {"type": "string", "maxLength": 10}, "minItems": 1, "maxItems": 3}}, "required": ["words"], "additionalProperties": false}),
        ),
    ]
}

const CITIES: [&str; 10] = [
    "Bergen", "Bari", "Cusco", "Dakar", "Essen", "Fez", "Graz", "Hanoi", "Izmir", "Jaipur",
];

#[when(expr = "I request {int} forced tool calls at temperature 1")]
async fn request_forced_calls(world: &mut World, count: u32) {
    let functions = functions();
    request_many(world, count, |function| {
        json!({
            "tools": functions,
            "tool_choice": {"type": "function", "function": {"name": function["name"]}},
            "parallel_tool_calls": false,
        })
    })
    .await;
}

#[when(expr = "I request {int} chat completions with strict schemas at temperature 1")]
async fn request_strict_responses(world: &mut World, count: u32) {
    request_many(world, count, |function| {
        let mut schema = function["parameters"].clone();
        schema["additionalProperties"] = json!(false);
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": function["name"], "strict": true, "schema": schema}}})
    })
    .await;
}

/// Requests `count` different chat completions, as many at once as the slots and the queue hold. The requests use the
/// functions in turn. `options` gives the request fields for a function.
async fn request_many(world: &mut World, count: u32, options: impl Fn(&Value) -> Value) {
    let functions = functions();
    let at_once = (servers::SLOTS + servers::QUEUE_LENGTH) as u32;
    for first in (0..count).step_by(at_once as usize) {
        let requests = (first..count.min(first + at_once)).map(|number| {
            let function = functions[number as usize % functions.len()]["function"].clone();
            let city = CITIES[number as usize % CITIES.len()];
            let mut body = json!({
                "messages": [{"role": "user", "content": format!("I am in {city} with {number} friends, and want to eat outside.")}],
                "temperature": 1, "seed": number, "max_tokens": 200,
            });
            for (name, value) in options(&function).as_object().into_iter().flatten() {
                body[name] = value.clone();
            }
            let request: types::ChatCompletionRequest = serde_json::from_value(body).unwrap();
            let world = &*world;
            async move {
                let response = read_response(world.client().await.chat_completion(&request).await).await;
                (function, response)
            }
        });
        let responses = join_all(requests).await;
        world.function_responses.extend(responses);
    }
}

#[then("each message is valid, and at least 9 of 10 differ")]
async fn messages_are_valid(world: &mut World) {
    let mut different = HashSet::new();
    for (function, response) in &world.function_responses {
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.at("choices.0.finish_reason"), "stop");
        check_arguments(&function["parameters"], &response.text());
        different.insert(response.text());
    }
    let (all, different) = (world.function_responses.len(), different.len());
    assert!(
        all > 0 && different * 10 >= all * 9,
        "{different} of {all} differ"
    );
}

#[then("each call names its function and has valid arguments, and at least 9 of 10 differ")]
async fn calls_are_valid(world: &mut World) {
    let mut different = HashSet::new();
    for (function, response) in &world.function_responses {
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.at("choices.0.finish_reason"), "tool_calls");
        let calls = response
            .at("choices.0.message.tool_calls")
            .as_array()
            .unwrap();
        assert_eq!(calls.len(), 1);
        let call = &calls[0]["function"];
        assert_eq!(call["name"], function["name"]);
        let arguments = call["arguments"].as_str().unwrap();
        check_arguments(&function["parameters"], arguments);
        different.insert((call["name"].clone(), arguments));
    }
    let (all, different) = (world.function_responses.len(), different.len());
    assert!(
        all > 0 && different * 10 >= all * 9,
        "{different} of {all} calls differ"
    );
}

#[then(expr = "the stream calls {string} with arguments that validate against:")]
async fn stream_calls(world: &mut World, step: &Step, name: String) {
    let calls: Vec<&Value> = deltas(&world.response).collect();
    let (first, rest) = calls.split_first().unwrap();
    assert_eq!(first["function"]["name"], name);
    assert_eq!(first["type"], "function");
    assert!(first["id"].is_string() && rest.len() > 1);
    let arguments = calls.iter().map(|call| {
        assert_eq!(call["index"], 0);
        call["function"]["arguments"].as_str().unwrap()
    });
    let schema: Value = serde_json::from_str(step.docstring().unwrap()).unwrap();
    check_arguments(&schema, &arguments.collect::<String>());
}

fn deltas(response: &Response) -> impl Iterator<Item = &Value> {
    let events = response.events.iter();
    let calls = events.filter_map(|event| event.pointer("/choices/0/delta/tool_calls")?.as_array());
    calls.flatten()
}

#[track_caller]
fn check_arguments(schema: &Value, arguments: &str) {
    let value: Value =
        serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{error}: {arguments:?}"));
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap();
    assert!(validator.is_valid(&value), "{arguments} for {schema}");
}
