//! The sentences about adapters.

use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use ortolan::api::types;
use serde_json::{Value, json};

use crate::asking::json_of;
use crate::servers;
use crate::world::{World, whole};

#[given("a server with two adapters, neither of which counts")]
async fn two_adapters(world: &mut World) {
    let server = servers::adapted().await;
    server.model.set_adapter_scales(&[]).unwrap();
    world.speak_to(server);
}

#[given("each with adapters of its own")]
async fn adapters_of_its_own(world: &mut World) {
    let ways = [
        json!([]),
        json!([{"id": 0, "scale": 0.5}]),
        json!([{"id": 1, "scale": -0.5}]),
        json!([{"id": 0, "scale": 0.25}, {"id": 1, "scale": 0.25}]),
    ];
    let way = |lora: &Value| json!({"temperature": 0, "lora": lora});
    world.crowd.continue_by(ways.iter().map(way).collect());
}

#[when("I ask for the adapters")]
async fn ask_adapters(world: &mut World) {
    world.answer = whole(world.client().await.lora_adapters().await).await;
}

#[when("I set the adapters:")]
async fn set_adapters(world: &mut World, step: &Step) {
    set(world, json_of(step)).await;
}

async fn set(world: &mut World, scales: Value) {
    let scales: types::LoraScales = serde_json::from_value(scales).unwrap();
    world.answer = whole(world.client().await.set_lora_adapters(&scales).await).await;
}

#[then(expr = "embedding {string} gives another vector while the adapter {int} counts")]
async fn embeds_otherwise(world: &mut World, text: String, adapter: usize) {
    let mut vectors = Vec::new();
    for scales in [json!([]), json!([{"id": adapter, "scale": 1}]), json!([])] {
        set(world, scales).await;
        world.embed(json!({"content": text})).await;
        vectors.push(world.answer.at("embedding").clone());
    }
    assert_ne!(vectors[0], vectors[1]);
    assert_eq!(vectors[0], vectors[2]);
}
