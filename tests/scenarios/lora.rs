//! Steps about LoRA adapters.

use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use ortolan_client::types;
use serde_json::{Value, json};

use crate::requests::json_of;
use crate::servers;
use crate::world::{World, read_response};

#[given("a server with two LoRA adapters, both at scale 0")]
async fn two_adapters(world: &mut World) {
    let server = servers::with_adapters().await;
    server.model.set_adapter_scales(&[]).unwrap();
    world.use_server(server);
}

#[given("each with its own LoRA adapters")]
async fn adapters_per_prompt(world: &mut World) {
    let scales = [
        json!([]),
        json!([{"id": 0, "scale": 0.5}]),
        json!([{"id": 1, "scale": -0.5}]),
        json!([{"id": 0, "scale": 0.25}, {"id": 1, "scale": 0.25}]),
    ];
    let parameters = |lora: &Value| json!({"temperature": 0, "lora": lora});
    let parameters = scales.iter().map(parameters).collect();
    world.concurrent.assign_parameters(parameters);
}

#[when("I request the adapters")]
async fn request_adapters(world: &mut World) {
    world.response = read_response(world.client().await.lora_adapters().await).await;
}

#[when("I set the adapter scales:")]
async fn set_adapters(world: &mut World, step: &Step) {
    set(world, json_of(step)).await;
}

async fn set(world: &mut World, scales: Value) {
    let scales: types::LoraScales = serde_json::from_value(scales).unwrap();
    world.response = read_response(world.client().await.set_lora_adapters(&scales).await).await;
}

#[then(expr = "embedding {string} gives another vector while adapter {int} has scale 1")]
async fn adapter_changes_embedding(world: &mut World, text: String, adapter: usize) {
    let mut vectors = Vec::new();
    for scales in [json!([]), json!([{"id": adapter, "scale": 1}]), json!([])] {
        set(world, scales).await;
        world.embed(json!({"content": text})).await;
        vectors.push(world.response.at("embedding").clone());
    }
    assert_ne!(vectors[0], vectors[1]);
    assert_eq!(vectors[0], vectors[2]);
}
