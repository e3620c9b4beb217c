//! Steps about Anthropic's `/v1/messages`.

use cucumber::gherkin::Step;
use cucumber::{then, when};
use ortolan_client::types;
use serde_json::{Value, json};

use crate::requests::json_of;
use crate::world::{World, read_stream};

#[when("I stream a message:")]
async fn stream_message(world: &mut World, step: &Step) {
    let mut body = json_of(step);
    body["stream"] = json!(true);
    let request: types::MessagesRequest = serde_json::from_value(body).unwrap();
    let client = world.client().await;
    world.response = read_stream(client.create_message_stream(&request).await).await;
}

#[then("every event's name is its type")]
async fn events_are_named(world: &mut World) {
    let types = world
        .response
        .events
        .iter()
        .map(|event| event["type"].as_str().unwrap());
    let types: Vec<&str> = types.collect();
    assert!(types.len() > 4);
    assert_eq!(world.response.event_names, types);
}

/// The only content block of a stream, as in its start event, and the concatenated values of `field` in its deltas.
fn only_block(events: &[Value], field: &str) -> (Value, String) {
    let of_type = |name: &'static str| events.iter().filter(move |event| event["type"] == name);
    let starts: Vec<&Value> = of_type("content_block_start").collect();
    assert_eq!(
        (starts.len(), of_type("content_block_stop").count()),
        (1, 1)
    );
    let text = of_type("content_block_delta").map(|event| {
        assert_eq!(event["index"], 0);
        event["delta"][field].as_str().unwrap()
    });
    (starts[0]["content_block"].clone(), text.collect())
}

#[then(expr = "the stream has one text block, which contains {string}")]
async fn only_text_block(world: &mut World, part: String) {
    let (block, text) = only_block(&world.response.events, "text");
    assert_eq!(block["type"], "text");
    assert!(text.contains(&part), "{text}");
}

#[then(expr = "the stream's blocks are {string} and {string}")]
async fn two_blocks(world: &mut World, one: String, other: String) {
    let events = world.response.events.iter();
    let starts = events.filter(|event| event["type"] == "content_block_start");
    let types: Vec<&Value> = starts
        .map(|event| &event["content_block"]["type"])
        .collect();
    assert_eq!(types, [&json!(one), &json!(other)]);
    let events = world.response.events.iter();
    let deltas = events.filter(|event| event["type"] == "content_block_delta");
    let mut types: Vec<&str> = deltas
        .map(|event| event["delta"]["type"].as_str().unwrap())
        .collect();
    types.dedup();
    assert_eq!(types, ["thinking_delta", "input_json_delta"]);
}

#[then(expr = "the stream has one tool_use block, which calls {string} with {string}")]
async fn only_tool_use_block(world: &mut World, name: String, input: String) {
    let (block, text) = only_block(&world.response.events, "partial_json");
    assert_eq!(block["type"], "tool_use");
    assert_eq!(block["name"], name);
    assert_eq!(block["input"], json!({}));
    assert_eq!(text, input);
    let end = world
        .response
        .events
        .iter()
        .find(|event| event["type"] == "message_delta");
    assert_eq!(end.unwrap()["delta"]["stop_reason"], "tool_use");
}
