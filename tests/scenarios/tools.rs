//! Steps about functions that the model calls.

use std::collections::HashSet;

use cucumber::gherkin::Step;
use cucumber::{then, when};
use futures_util::future::join_all;
use ortolan::api::types;
use serde_json::{Value, json};

use crate::servers;
use crate::world::{Answer, World, whole};

/// Functions of the kinds that people declare; all that they take is bounded.
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

#[when(expr = "I force {int} calls at a temperature of 1")]
async fn force_calls(world: &mut World, count: u32) {
    let functions = functions();
    ask_many(world, count, |function| {
        json!({
            "tools": functions,
            "tool_choice": {"type": "function", "function": {"name": function["name"]}},
            "parallel_tool_calls": false,
        })
    })
    .await;
}

#[when(expr = "I ask for {int} messages in strict forms at a temperature of 1")]
async fn ask_for_forms(world: &mut World, count: u32) {
    ask_many(world, count, |function| {
        let mut schema = function["parameters"].clone();
        schema["additionalProperties"] = json!(false);
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": function["name"], "strict": true, "schema": schema}}})
    })
    .await;
}

/// Asks so many different questions, as many at once as run and wait, one function after the other; `options` says what
/// is wanted with it.
async fn ask_many(world: &mut World, count: u32, options: impl Fn(&Value) -> Value) {
    let functions = functions();
    let at_once = (servers::SLOTS + servers::QUEUE) as u32;
    for first in (0..count).step_by(at_once as usize) {
        let asked = (first..count.min(first + at_once)).map(|number| {
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
                let answer = whole(world.client().await.chat_completion(&request).await).await;
                (function, answer)
            }
        });
        let answered = join_all(asked).await;
        world.called.extend(answered);
    }
}

#[then("each is valid, and most are of their own kind")]
async fn forms_are_valid(world: &mut World) {
    let mut different = HashSet::new();
    for (function, answer) in &world.called {
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.at("choices.0.finish_reason"), "stop");
        check_arguments(&function["parameters"], &answer.text());
        different.insert(answer.text());
    }
    let (all, different) = (world.called.len(), different.len());
    assert!(different * 10 >= all * 9, "{different} of {all} differ");
}

#[then("each call is of its function, valid, and of its own kind")]
async fn calls_are_valid(world: &mut World) {
    let mut different = HashSet::new();
    for (function, answer) in &world.called {
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.at("choices.0.finish_reason"), "tool_calls");
        let calls = answer
            .at("choices.0.message.tool_calls")
            .as_array()
            .unwrap();
        assert_eq!(calls.len(), 1);
        let called = &calls[0]["function"];
        assert_eq!(called["name"], function["name"]);
        let arguments = called["arguments"].as_str().unwrap();
        check_arguments(&function["parameters"], arguments);
        different.insert((called["name"].clone(), arguments));
    }
    let (all, different) = (world.called.len(), different.len());
    assert!(
        different * 10 >= all * 9,
        "{different} of {all} calls differ"
    );
}

#[then(expr = "the pieces call {string} with JSON that is valid for:")]
async fn pieces_call(world: &mut World, step: &Step, name: String) {
    let calls: Vec<&Value> = deltas(&world.answer).collect();
    let (first, rest) = calls.split_first().unwrap();
    assert_eq!(first["function"]["name"], name);
    assert_eq!(first["type"], "function");
    assert!(first["id"].is_string() && rest.len() > 1);
    let pieces = calls.iter().map(|call| {
        assert_eq!(call["index"], 0);
        call["function"]["arguments"].as_str().unwrap()
    });
    let schema: Value = serde_json::from_str(step.docstring().unwrap()).unwrap();
    check_arguments(&schema, &pieces.collect::<String>());
}

fn deltas(answer: &Answer) -> impl Iterator<Item = &Value> {
    let pieces = answer.pieces.iter();
    let calls = pieces.filter_map(|piece| piece.pointer("/choices/0/delta/tool_calls")?.as_array());
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
