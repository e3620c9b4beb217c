//! What a client asks.

use cucumber::gherkin::Step;
use cucumber::when;
use ortolan::api::types;
use serde_json::{Value, json};

use crate::world::{Question, World, whole};

pub(crate) fn text(step: &Step) -> String {
    step.docstring.clone().unwrap().trim().to_owned()
}

pub(crate) fn json_of(step: &Step) -> Value {
    serde_json::from_str(&text(step)).unwrap()
}

#[when("I ask for the health")]
async fn ask_health(world: &mut World) {
    world.answer = whole(world.client().await.health(None, None).await).await;
}

#[when("I ask for the health with the slots")]
async fn ask_health_with_slots(world: &mut World) {
    world.answer = whole(world.client().await.health(None, Some("")).await).await;
}

#[when("I ask for the health and want a failure if no slot is free")]
async fn ask_health_strictly(world: &mut World) {
    world.answer = whole(world.client().await.health(Some(""), None).await).await;
}

#[when("I ask for the props")]
async fn ask_props(world: &mut World) {
    world.answer = whole(world.client().await.props().await).await;
}

#[when("I ask for the slots")]
async fn ask_slots(world: &mut World) {
    world.answer = whole(world.client().await.slots().await).await;
}

#[when("I ask for the models")]
async fn ask_models(world: &mut World) {
    world.answer = whole(world.client().await.models().await).await;
}

#[when(expr = "I ask for the model {string}")]
async fn ask_model(world: &mut World, name: String) {
    world.answer = whole(world.client().await.model(&name).await).await;
}

#[when("I ask for a completion:")]
async fn ask_completion(world: &mut World, step: &Step) {
    world.complete(json_of(step)).await;
}

#[when(expr = "I ask for a completion with a bias of {int} texts of {int} words")]
async fn with_bias(world: &mut World, texts: usize, words: usize) {
    let bias: Vec<_> = (0..texts)
        .map(|_| json!(["bird ".repeat(words), 1]))
        .collect();
    let body = json!({"prompt": "a", "n_predict": 1, "logit_bias": bias});
    world.complete(body).await;
}

#[when(expr = "I ask for a completion of a prompt of {int} words")]
async fn ask_long_completion(world: &mut World, words: usize) {
    world
        .complete(json!({"prompt": "word ".repeat(words)}))
        .await;
}

#[when(expr = "I ask for a completion of a prompt of {int} words with:")]
async fn ask_long_completion_with(world: &mut World, step: &Step, words: usize) {
    let mut body = json_of(step);
    body["prompt"] = "word ".repeat(words).into();
    world.complete(body).await;
}

#[when("I stream a completion:")]
async fn ask_stream(world: &mut World, step: &Step) {
    world.stream_completion(json_of(step)).await;
}

#[when("I stream an infill:")]
async fn ask_infill(world: &mut World, step: &Step) {
    world.stream_infill(json_of(step)).await;
}

#[when(expr = "I stream an infill of {int} characters before the gap")]
async fn ask_long_infill(world: &mut World, characters: usize) {
    world
        .stream_infill(json!({"input_prefix": "x".repeat(characters), "input_suffix": "y"}))
        .await;
}

#[when(expr = "I post an infill whose {int} other files have {int} characters each:")]
async fn ask_infill_with_files(world: &mut World, step: &Step, files: usize, characters: usize) {
    let mut body = json_of(step);
    body["input_extra"] = vec![json!({"text": "x".repeat(characters)}); files].into();
    let address = world.address().await;
    let request = reqwest::Client::new().post(format!("{address}/infill"));
    world.raw(request.json(&body)).await;
}

#[when("I chat:")]
async fn ask_chat(world: &mut World, step: &Step) {
    world.chat(json_of(step)).await;
}

#[when(expr = "I chat about {int} words")]
async fn ask_long_chat(world: &mut World, words: usize) {
    let message = json!({"role": "user", "content": "word ".repeat(words)});
    world.chat(json!({"messages": [message]})).await;
}

#[when(expr = "I go on with the chat: {string}")]
async fn go_on(world: &mut World, text: String) {
    let Some(Question::Chat(mut body)) = world.asked.clone() else {
        panic!("a chat was begun")
    };
    let answer = world.answer.at("choices.0.message").clone();
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": answer["content"]}));
    messages.push(json!({"role": "user", "content": text}));
    world.before = Some(std::mem::take(&mut world.answer));
    world.chat(body).await;
}

#[when("I stream a chat:")]
async fn ask_chat_stream(world: &mut World, step: &Step) {
    world.stream_chat(json_of(step)).await;
}

#[when(expr = "I {word} the slot {int} as {string}")]
async fn act_on_slot(world: &mut World, action: String, slot: usize, filename: String) {
    world.act_on_slot(slot, &action, Some(filename)).await;
}

#[when(expr = "I erase the slot {int}")]
async fn erase_slot(world: &mut World, slot: usize) {
    world.act_on_slot(slot, "erase", None).await;
}

#[when("I change the props:")]
async fn change_props(world: &mut World, step: &Step) {
    world.change_props(json_of(step)).await;
}

#[when(expr = "I set a system prompt of {int} words")]
async fn set_long_system_prompt(world: &mut World, words: usize) {
    world
        .change_props(json!({"system_prompt": "word ".repeat(words)}))
        .await;
}

#[when("I embed:")]
async fn ask_embedding(world: &mut World, step: &Step) {
    world.embed(json_of(step)).await;
}

#[when(expr = "I embed {int} words")]
async fn ask_long_embedding(world: &mut World, words: usize) {
    world.embed(json!({"content": "word ".repeat(words)})).await;
}

#[when(expr = "I embed {int} texts as with OpenAI's API")]
async fn ask_embeddings(world: &mut World, texts: usize) {
    let input = vec!["bird"; texts];
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}/v1/embeddings"))
        .json(&json!({ "input": input }));
    world.raw(request).await;
}

#[when("I tokenize:")]
async fn ask_tokens(world: &mut World, step: &Step) {
    let request: types::TokenizeRequest = serde_json::from_value(json_of(step)).unwrap();
    world.answer = whole(world.client().await.tokenize(&request).await).await;
}

#[when("I detokenize:")]
async fn ask_text(world: &mut World, step: &Step) {
    let request: types::DetokenizeRequest = serde_json::from_value(json_of(step)).unwrap();
    world.answer = whole(world.client().await.detokenize(&request).await).await;
}

#[when(expr = "I post to {string} as {string}:")]
async fn post(world: &mut World, step: &Step, path: String, media: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", media)
        .body(text(step));
    world.raw(request).await;
}

#[when(expr = "I post to {string} with the Content-Encoding {string}:")]
async fn post_encoded(world: &mut World, step: &Step, path: String, encoding: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", "application/json")
        .header("content-encoding", encoding)
        .body(text(step));
    world.raw(request).await;
}

#[when(expr = "I post to {string} from the origin {string}:")]
async fn post_from(world: &mut World, step: &Step, path: String, origin: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", "text/plain")
        .header("origin", origin)
        .body(text(step));
    world.raw(request).await;
}

#[when(expr = "I post 10 MB to {string}")]
async fn post_much(world: &mut World, path: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", "application/json")
        .body(format!("{{\"prompt\": \"{}\"}}", "x".repeat(10_000_000)));
    world.raw(request).await;
}

#[when(expr = "I get {string}")]
async fn get(world: &mut World, path: String) {
    let address = world.address().await;
    world
        .raw(reqwest::Client::new().get(format!("{address}{path}")))
        .await;
}

#[when(expr = "I get {string} from the origin {string}")]
async fn get_from(world: &mut World, path: String, origin: String) {
    let address = world.address().await;
    world
        .raw(
            reqwest::Client::new()
                .get(format!("{address}{path}"))
                .header("origin", origin),
        )
        .await;
}

#[when(expr = "I get {string} with {string} as {string}")]
async fn get_with_header(world: &mut World, path: String, value: String, name: String) {
    let address = world.address().await;
    world
        .raw(
            reqwest::Client::new()
                .get(format!("{address}{path}"))
                .header(name, value),
        )
        .await;
}

#[when(expr = "I get {string} with the host {string}")]
async fn get_with_host(world: &mut World, path: String, host: String) {
    let address = world.address().await;
    world
        .raw(
            reqwest::Client::new()
                .get(format!("{address}{path}"))
                .header("host", host),
        )
        .await;
}
