//! Steps that select the server of a scenario.

use std::time::Duration;

use cucumber::given;
use ortolan::cancel::CancelFlag;
use ortolan::model::{GenerateLimits, ModelState, SystemPrompt};
use ortolan::server::{ApiKeySources, ApiKeys};

use crate::servers;
use crate::world::World;

#[given("a server that is still loading its model")]
async fn loading_server(world: &mut World) {
    world.server_address = Some(servers::in_state(ModelState::Loading { done: 0.3 }).await);
}

#[given("a server whose model failed to load")]
async fn failed_server(world: &mut World) {
    world.server_address =
        Some(servers::in_state(ModelState::Failed("out of memory".to_owned())).await);
}

#[given("a server with all optional endpoints disabled")]
async fn without_optional_endpoints(world: &mut World) {
    world.use_server(servers::without_optional_endpoints(servers::default_server().await).await);
}

#[given("a server with a base model")]
async fn base_model(world: &mut World) {
    world.use_server(servers::base_model().await);
}

#[given(expr = "a server with a model exported by {word}")]
async fn exported(world: &mut World, tool: String) {
    world.use_server(servers::exported(&tool).await);
}

#[given("a server with its layers split across two devices")]
async fn split_layers(world: &mut World) {
    world.use_server(servers::split_layers().await);
}

#[given("a server with an embedding model")]
async fn embedding_model(world: &mut World) {
    world.use_server(servers::encoder().await);
}

#[given("a server with an embedding model and all optional endpoints disabled")]
async fn embedding_model_without_optional_endpoints(world: &mut World) {
    world.use_server(servers::without_optional_endpoints(servers::encoder().await).await);
}

#[given("a server with the slots endpoint disabled")]
async fn without_slots(world: &mut World) {
    world.use_server(servers::without_slots(servers::default_server().await).await);
}

#[given("a server whose KV cache holds one context")]
async fn small_cache(world: &mut World) {
    world.use_server(servers::small_cache().await);
}

#[given("a server with long contexts")]
async fn long_context(world: &mut World) {
    world.use_server(servers::long_context().await);
}

#[given(expr = "a server with contexts of 64 tokens")]
async fn short_context(world: &mut World) {
    world.use_server(servers::short_context().await);
}

#[given("a server whose model supports infill")]
async fn infill_model(world: &mut World) {
    world.use_server(servers::tiny_model().await);
}

#[given("a server with a reasoning model")]
async fn reasoning_model(world: &mut World) {
    world.use_server(servers::tiny_reasoning().await);
}

#[given("a server whose model uses mean pooling")]
async fn mean_pooling(world: &mut World) {
    world.use_server(servers::tiny_mean_pooling().await);
}

#[given("a server whose model adds a BOS token")]
async fn with_bos(world: &mut World) {
    let server = servers::tiny_with_bos().await;
    server
        .model
        .set_system_prompt(SystemPrompt::default(), &CancelFlag::default())
        .unwrap();
    world.use_server(server);
}

#[given("a server with strict model names")]
async fn strict_names(world: &mut World) {
    world.use_server(servers::with_strict_names(servers::default_server().await).await);
}

#[given("a server with context shift disabled")]
async fn without_context_shift(world: &mut World) {
    let limits = GenerateLimits {
        context_shift: false,
        ..GenerateLimits::NONE
    };
    world.use_server(servers::with_limits(servers::short_context().await, limits).await);
}

#[given(expr = "a server with a request timeout of {float} seconds")]
async fn with_request_timeout(world: &mut World, seconds: f64) {
    let limits = GenerateLimits {
        timeout: Some(Duration::from_secs_f64(seconds)),
        ..GenerateLimits::NONE
    };
    world.use_server(servers::with_limits(servers::default_server().await, limits).await);
}

#[given(expr = "a server that generates at most {int} tokens")]
async fn with_token_limit(world: &mut World, tokens: usize) {
    let limits = GenerateLimits {
        max_tokens: Some(tokens),
        ..GenerateLimits::NONE
    };
    world.use_server(servers::with_limits(servers::default_server().await, limits).await);
}

#[given(expr = "a server with the API keys {string} and {string}")]
async fn with_api_keys(world: &mut World, first: String, second: String) {
    let keys = ApiKeys::new(ApiKeySources {
        keys: vec![first, second],
        ..ApiKeySources::default()
    });
    let keys = keys.unwrap();
    world.use_server(servers::with_api_keys(servers::default_server().await, keys).await);
}

#[given(expr = "a file {string} that is not a saved slot")]
async fn invalid_slot_file(_: &mut World, name: String) {
    std::fs::write(servers::slot_folder().join(name), "no saved slot").unwrap();
}

#[given("a server that no other feature uses")]
async fn exclusive(world: &mut World) {
    let server = servers::exclusive().await;
    server
        .model
        .set_system_prompt(SystemPrompt::default(), &CancelFlag::default())
        .unwrap();
    world.use_server(server);
}
