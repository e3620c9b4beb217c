//! Steps that send a request and keep its response.

use cucumber::gherkin::Step;
use cucumber::when;
use ortolan_client::types;
use serde_json::{Value, json};

use crate::world::{RepeatableRequest, World, read_response};

fn docstring(step: &Step) -> String {
    step.docstring.clone().unwrap().trim().to_owned()
}

pub(crate) fn json_of(step: &Step) -> Value {
    serde_json::from_str(&docstring(step)).unwrap()
}

#[when("I request the health")]
async fn request_health(world: &mut World) {
    world.response = read_response(world.client().await.health(None, None).await).await;
}

#[when("I request the health with the slots")]
async fn request_health_with_slots(world: &mut World) {
    world.response = read_response(world.client().await.health(None, Some("")).await).await;
}

#[when("I request the health with failure when no slot is free")]
async fn request_health_with_failure(world: &mut World) {
    world.response = read_response(world.client().await.health(Some(""), None).await).await;
}

#[when("I request the props")]
async fn request_props(world: &mut World) {
    world.response = read_response(world.client().await.props().await).await;
}

#[when("I request the slots")]
async fn request_slots(world: &mut World) {
    world.response = read_response(world.client().await.slots().await).await;
}

#[when("I request the models")]
async fn request_models(world: &mut World) {
    world.response = read_response(world.client().await.models().await).await;
}

#[when(expr = "I request the model {string}")]
async fn request_model(world: &mut World, name: String) {
    world.response = read_response(world.client().await.model(&name).await).await;
}

#[when("I request a completion:")]
async fn request_completion(world: &mut World, step: &Step) {
    world.complete(json_of(step)).await;
}

#[when(expr = "I request a completion with a logit bias of {int} texts of {int} words")]
async fn request_completion_with_bias(world: &mut World, texts: usize, words: usize) {
    let bias: Vec<_> = (0..texts)
        .map(|_| json!(["bird ".repeat(words), 1]))
        .collect();
    let body = json!({"prompt": "a", "n_predict": 1, "logit_bias": bias});
    world.complete(body).await;
}

#[when(expr = "I request a completion of a prompt of {int} words")]
async fn request_long_completion(world: &mut World, words: usize) {
    world
        .complete(json!({"prompt": "word ".repeat(words)}))
        .await;
}

#[when(expr = "I request a completion of a prompt of {int} words with:")]
async fn request_long_completion_with(world: &mut World, step: &Step, words: usize) {
    let mut body = json_of(step);
    body["prompt"] = "word ".repeat(words).into();
    world.complete(body).await;
}

#[when("I stream a completion:")]
async fn stream_completion(world: &mut World, step: &Step) {
    world.stream_completion(json_of(step)).await;
}

#[when("I stream an infill:")]
async fn stream_infill(world: &mut World, step: &Step) {
    world.stream_infill(json_of(step)).await;
}

#[when(expr = "I stream an infill with a prefix of {int} characters")]
async fn stream_long_infill(world: &mut World, characters: usize) {
    world
        .stream_infill(json!({"input_prefix": "x".repeat(characters), "input_suffix": "y"}))
        .await;
}

#[when(expr = "I post an infill with {int} extra files of {int} characters each:")]
async fn post_infill_with_files(world: &mut World, step: &Step, files: usize, characters: usize) {
    let mut body = json_of(step);
    body["input_extra"] = vec![json!({"text": "x".repeat(characters)}); files].into();
    let address = world.address().await;
    let request = reqwest::Client::new().post(format!("{address}/infill"));
    world.send(request.json(&body)).await;
}

#[when("I request a chat completion:")]
async fn request_chat(world: &mut World, step: &Step) {
    world.chat(json_of(step)).await;
}

#[when(expr = "I request a chat completion with a message of {int} words")]
async fn request_long_chat(world: &mut World, words: usize) {
    let message = json!({"role": "user", "content": "word ".repeat(words)});
    world.chat(json!({"messages": [message]})).await;
}

#[when(expr = "I continue the chat with the message {string}")]
async fn continue_chat(world: &mut World, text: String) {
    let Some(RepeatableRequest::Chat(mut body)) = world.last_request.clone() else {
        panic!("the last request is not a chat completion")
    };
    let message = world.response.at("choices.0.message").clone();
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": message["content"]}));
    messages.push(json!({"role": "user", "content": text}));
    world.previous_response = Some(std::mem::take(&mut world.response));
    world.chat(body).await;
}

#[when("I stream a chat completion:")]
async fn stream_chat(world: &mut World, step: &Step) {
    world.stream_chat(json_of(step)).await;
}

#[when(regex = r#"^I (save|restore) slot (\d+) (?:as|from) "([^"]*)"$"#)]
async fn act_on_slot(world: &mut World, action: String, slot: usize, filename: String) {
    world.act_on_slot(slot, &action, Some(filename)).await;
}

#[when(expr = "I erase slot {int}")]
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

#[when("I request embeddings:")]
async fn request_embedding(world: &mut World, step: &Step) {
    world.embed(json_of(step)).await;
}

#[when(expr = "I request the embedding of {int} words")]
async fn request_long_embedding(world: &mut World, words: usize) {
    world.embed(json!({"content": "word ".repeat(words)})).await;
}

#[when(expr = "I request the embeddings of {int} texts with OpenAI's API")]
async fn request_openai_embeddings(world: &mut World, texts: usize) {
    let input = vec!["bird"; texts];
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}/v1/embeddings"))
        .json(&json!({ "input": input }));
    world.send(request).await;
}

#[when("I tokenize:")]
async fn tokenize(world: &mut World, step: &Step) {
    let request: types::TokenizeRequest = serde_json::from_value(json_of(step)).unwrap();
    world.response = read_response(world.client().await.tokenize(&request).await).await;
}

#[when("I detokenize:")]
async fn detokenize(world: &mut World, step: &Step) {
    let request: types::DetokenizeRequest = serde_json::from_value(json_of(step)).unwrap();
    world.response = read_response(world.client().await.detokenize(&request).await).await;
}

#[when(expr = "I post to {string} as {string}:")]
async fn post(world: &mut World, step: &Step, path: String, media: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", media)
        .body(docstring(step));
    world.send(request).await;
}

#[when(expr = "I post to {string} with the Content-Encoding {string}:")]
async fn post_encoded(world: &mut World, step: &Step, path: String, encoding: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", "application/json")
        .header("content-encoding", encoding)
        .body(docstring(step));
    world.send(request).await;
}

#[when(expr = "I post to {string} from the origin {string}:")]
async fn post_from(world: &mut World, step: &Step, path: String, origin: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", "text/plain")
        .header("origin", origin)
        .body(docstring(step));
    world.send(request).await;
}

#[when(expr = "I post 10 MB to {string}")]
async fn post_10_mb(world: &mut World, path: String) {
    let address = world.address().await;
    let request = reqwest::Client::new()
        .post(format!("{address}{path}"))
        .header("content-type", "application/json")
        .body(format!("{{\"prompt\": \"{}\"}}", "x".repeat(10_000_000)));
    world.send(request).await;
}

#[when(expr = "I get {string}")]
async fn get(world: &mut World, path: String) {
    let address = world.address().await;
    world
        .send(reqwest::Client::new().get(format!("{address}{path}")))
        .await;
}

#[when(expr = "I get {string} from the origin {string}")]
async fn get_from(world: &mut World, path: String, origin: String) {
    let address = world.address().await;
    world
        .send(
            reqwest::Client::new()
                .get(format!("{address}{path}"))
                .header("origin", origin),
        )
        .await;
}

#[when(expr = "I get {string} with {string} as the header {string}")]
async fn get_with_header(world: &mut World, path: String, value: String, name: String) {
    let address = world.address().await;
    world
        .send(
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
        .send(
            reqwest::Client::new()
                .get(format!("{address}{path}"))
                .header("host", host),
        )
        .await;
}
