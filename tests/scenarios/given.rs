//! Which server is asked.

use std::time::Duration;

use cucumber::given;
use ortolan::cancel::CancelFlag;
use ortolan::model::{GenerateLimits, ModelState, SystemPrompt};
use ortolan::server::{KeySources, Keys};

use crate::servers;
use crate::world::World;

#[given("a server that is still loading its model")]
async fn loading(world: &mut World) {
    world.server = Some(servers::in_state(ModelState::Loading { done: 0.3 }).await);
}

#[given("a server whose model could not be loaded")]
async fn not_loaded(world: &mut World) {
    world.server = Some(servers::in_state(ModelState::Failed("out of memory".to_owned())).await);
}

#[given("a server that answers nothing that can be switched off")]
async fn answers_little(world: &mut World) {
    world.speak_to(servers::answering_little(servers::usual().await).await);
}

#[given("a server with a base model")]
async fn base(world: &mut World) {
    world.speak_to(servers::base().await);
}

#[given(expr = "a server with what {word} exported")]
async fn exported(world: &mut World, tool: String) {
    world.speak_to(servers::exported(&tool).await);
}

#[given("a server whose layers two devices share")]
async fn divided(world: &mut World) {
    world.speak_to(servers::divided().await);
}

#[given("a server with a model of embeddings")]
async fn embeds(world: &mut World) {
    world.speak_to(servers::encoder().await);
}

#[given("a server with a model of embeddings that answers nothing that can be switched off")]
async fn embeds_and_answers_little(world: &mut World) {
    world.speak_to(servers::answering_little(servers::encoder().await).await);
}

#[given("a server that does not show its slots")]
async fn hides_slots(world: &mut World) {
    world.speak_to(servers::hiding_slots(servers::usual().await).await);
}

#[given("a server whose cache has room for one context")]
async fn crowded(world: &mut World) {
    world.speak_to(servers::crowded().await);
}

#[given("a server with long contexts")]
async fn long(world: &mut World) {
    world.speak_to(servers::long().await);
}

#[given(expr = "a server with contexts of 64 tokens")]
async fn short(world: &mut World) {
    world.speak_to(servers::short().await);
}

#[given("a server whose model fills gaps")]
async fn fills_gaps(world: &mut World) {
    world.speak_to(servers::tiny().await);
}

#[given("a server whose model thinks")]
async fn thinks(world: &mut World) {
    world.speak_to(servers::tiny_thinker().await);
}

#[given("a server whose model takes the mean of all tokens")]
async fn takes_the_mean(world: &mut World) {
    world.speak_to(servers::tiny_of_means().await);
}

#[given("a server whose model wants a token before each text")]
async fn wants_a_beginning(world: &mut World) {
    let server = servers::tiny_with_beginnings().await;
    server
        .model
        .set_system_prompt(SystemPrompt::default(), &CancelFlag::default())
        .unwrap();
    world.speak_to(server);
}

#[given("a server that knows its model's name alone")]
async fn strict_about_names(world: &mut World) {
    world.speak_to(servers::strict_about_names(servers::usual().await).await);
}

#[given("a server that shifts no context")]
async fn shifts_nothing(world: &mut World) {
    let limits = GenerateLimits {
        context_shift: false,
        ..GenerateLimits::NONE
    };
    world.speak_to(servers::limited(servers::short().await, limits).await);
}

#[given(expr = "a server on which a request may take {float} seconds")]
async fn in_a_hurry(world: &mut World, seconds: f64) {
    let limits = GenerateLimits {
        timeout: Some(Duration::from_secs_f64(seconds)),
        ..GenerateLimits::NONE
    };
    world.speak_to(servers::limited(servers::usual().await, limits).await);
}

#[given(expr = "a server that generates at most {int} tokens")]
async fn generates_little(world: &mut World, tokens: usize) {
    let limits = GenerateLimits {
        max_tokens: Some(tokens),
        ..GenerateLimits::NONE
    };
    world.speak_to(servers::limited(servers::usual().await, limits).await);
}

#[given(expr = "a server with the keys {string} and {string}")]
async fn locked(world: &mut World, one: String, other: String) {
    let keys = Keys::new(KeySources {
        given: vec![one, other],
        ..KeySources::default()
    });
    let keys = keys.unwrap();
    world.speak_to(servers::locked(servers::usual().await, keys).await);
}

#[given(expr = "a file {string} that is no saved slot")]
async fn no_saved_slot(_: &mut World, name: String) {
    std::fs::write(servers::slot_files().join(name), "no saved slot").unwrap();
}

#[given("a server of its own")]
async fn of_its_own(world: &mut World) {
    let server = servers::private().await;
    server
        .model
        .set_system_prompt(SystemPrompt::default(), &CancelFlag::default())
        .unwrap();
    world.speak_to(server);
}
