//! Steps about messages as Anthropic's API has them.

use cucumber::gherkin::Step;
use cucumber::{then, when};
use ortolan::api::types;
use serde_json::{Value, json};

use crate::asking::json_of;
use crate::world::{World, streamed};

#[when("I stream a message:")]
async fn stream_message(world: &mut World, step: &Step) {
    let mut body = json_of(step);
    body["stream"] = json!(true);
    let request: types::MessagesRequest = serde_json::from_value(body).unwrap();
    let client = world.client().await;
    world.answer = streamed(client.create_message_stream(&request).await).await;
}

#[then("every event is named as its type")]
async fn events_are_named(world: &mut World) {
    let types = world
        .answer
        .pieces
        .iter()
        .map(|piece| piece["type"].as_str().unwrap());
    let types: Vec<&str> = types.collect();
    assert!(types.len() > 4);
    assert_eq!(world.answer.names, types);
}

/// The stream's one block: how it began, and its deltas' pieces of that name.
fn one_block(pieces: &[Value], name: &str) -> (Value, String) {
    let of = |kind: &'static str| pieces.iter().filter(move |piece| piece["type"] == kind);
    let starts: Vec<&Value> = of("content_block_start").collect();
    assert_eq!((starts.len(), of("content_block_stop").count()), (1, 1));
    let text = of("content_block_delta").map(|piece| {
        assert_eq!(piece["index"], 0);
        piece["delta"][name].as_str().unwrap()
    });
    (starts[0]["content_block"].clone(), text.collect())
}

#[then(expr = "the blocks of the stream are one text that contains {string}")]
async fn one_text(world: &mut World, part: String) {
    let (block, text) = one_block(&world.answer.pieces, "text");
    assert_eq!(block["type"], "text");
    assert!(text.contains(&part), "{text}");
}

#[then(expr = "the blocks of the stream are {string} and {string}")]
async fn two_blocks(world: &mut World, one: String, other: String) {
    let pieces = world.answer.pieces.iter();
    let starts = pieces.filter(|piece| piece["type"] == "content_block_start");
    let kinds: Vec<&Value> = starts
        .map(|piece| &piece["content_block"]["type"])
        .collect();
    assert_eq!(kinds, [&json!(one), &json!(other)]);
    let pieces = world.answer.pieces.iter();
    let deltas = pieces.filter(|piece| piece["type"] == "content_block_delta");
    let mut kinds: Vec<&str> = deltas
        .map(|piece| piece["delta"]["type"].as_str().unwrap())
        .collect();
    kinds.dedup();
    assert_eq!(kinds, ["thinking_delta", "input_json_delta"]);
}

#[then(expr = "the blocks of the stream are one use of {string} with {string}")]
async fn one_use(world: &mut World, name: String, input: String) {
    let (block, text) = one_block(&world.answer.pieces, "partial_json");
    assert_eq!(block["type"], "tool_use");
    assert_eq!(block["name"], name);
    assert_eq!(block["input"], json!({}));
    assert_eq!(text, input);
    let end = world
        .answer
        .pieces
        .iter()
        .find(|piece| piece["type"] == "message_delta");
    assert_eq!(end.unwrap()["delta"]["stop_reason"], "tool_use");
}
