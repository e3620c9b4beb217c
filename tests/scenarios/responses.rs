//! Steps about OpenAI's `/v1/responses` and its stored responses.

use cucumber::gherkin::Step;
use cucumber::{then, when};
use futures_util::StreamExt;
use ortolan_client::types;
use serde_json::{Value, json};

use crate::requests::json_of;
use crate::world::{World, read_response, read_stream};

impl World {
    async fn create_response(&mut self, body: Value) {
        let request: types::ResponsesRequest = serde_json::from_value(body).unwrap();
        self.response = read_response(self.client().await.create_response(&request).await).await;
        self.remember_response();
    }

    /// Adds the response object of the last HTTP response, if it has one, to `stored_responses`.
    fn remember_response(&mut self) {
        let started = self.response.events.first().map(|event| &event["response"]);
        let object = started.unwrap_or(&self.response.body);
        if object["object"] == "response" {
            self.stored_responses.push(object.clone());
        }
    }

    fn stored_response(&self) -> &Value {
        self.stored_responses.last().unwrap()
    }

    fn response_id(&self) -> String {
        self.stored_response()["id"].as_str().unwrap().to_owned()
    }

    async fn input_items(&mut self, query: &[(&str, &str)]) {
        let pair = |name: &str| query.iter().find(|(own, _)| *own == name);
        let value = |name: &str| pair(name).map(|(_, value)| *value);
        let order = value("order").map(|order| order.parse().unwrap());
        let (client, id) = (self.client().await, self.response_id());
        let result = client.response_input_items(&id, value("after"), value("limit"), order);
        self.response = read_response(result.await).await;
    }

    async fn get_with_key(&mut self, key: &str) {
        let address = self.address().await;
        let id = self.response_id();
        let url = format!("{address}/v1/responses/{id}");
        let request = reqwest::Client::new().get(url);
        self.send(request.bearer_auth(key)).await;
    }

    async fn post_with_key(&mut self, body: Value, key: &str) {
        let address = self.address().await;
        let url = format!("{address}/v1/responses");
        let request = reqwest::Client::new().post(url).json(&body);
        self.send(request.bearer_auth(key)).await;
        self.remember_response();
    }
}

#[when("I create a response:")]
async fn create(world: &mut World, step: &Step) {
    world.create_response(json_of(step)).await;
}

#[when("I stream a response:")]
async fn stream(world: &mut World, step: &Step) {
    let mut body = json_of(step);
    body["stream"] = json!(true);
    let request: types::ResponsesRequest = serde_json::from_value(body).unwrap();
    let client = world.client().await;
    world.response = read_stream(client.create_response_stream(&request).await).await;
    world.remember_response();
}

#[when("I disconnect from a response stream")]
async fn disconnect_from_stream(world: &mut World) {
    let address = world.address().await;
    let body = json!({"input": "Tell a story.", "stream": true, "ignore_eos": true});
    let url = format!("{address}/v1/responses");
    let request = reqwest::Client::new().post(url).json(&body);
    let mut bytes = request.send().await.unwrap().bytes_stream();
    let mut text = String::new();
    while !text.contains("response.output_text.delta") {
        let part = bytes.next().await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&part));
    }
    let first = text.lines().find_map(|line| line.strip_prefix("data: "));
    let first: Value = serde_json::from_str(first.unwrap()).unwrap();
    world.stored_responses.push(first["response"].clone());
}

#[when("I continue the stored response:")]
async fn continue_response(world: &mut World, step: &Step) {
    let mut body = json_of(step);
    body["previous_response_id"] = world.response_id().into();
    world.create_response(body).await;
}

#[when("I continue the stored response and then delete it:")]
async fn continue_and_delete(world: &mut World, step: &Step) {
    let previous = world.response_id();
    continue_response(world, step).await;
    let deleted = read_response(world.client().await.delete_response(&previous).await).await;
    assert_eq!(deleted.status, 200);
}

#[then("the response refers to the previous one")]
async fn refers_to_previous(world: &mut World) {
    let [.., previous, _] = world.stored_responses.as_slice() else {
        panic!("there are fewer than two responses")
    };
    assert_eq!(world.response.at("previous_response_id"), &previous["id"]);
}

#[when(expr = "I send the output of its function call: {string}")]
async fn send_function_output(world: &mut World, output: String) {
    let call_id = world.stored_response()["output"][0]["call_id"].clone();
    let input = json!([{"type": "function_call_output", "call_id": call_id, "output": output}]);
    let id = world.response_id();
    world
        .create_response(
            json!({"input": input, "previous_response_id": id, "max_output_tokens": 8}),
        )
        .await;
}

#[when("I send its output items back with the output of its function call")]
async fn send_output_back(world: &mut World) {
    send_back(world, false).await;
}

#[when("I send its output items back with all optional fields set to null")]
async fn send_output_back_with_nulls(world: &mut World) {
    send_back(world, true).await;
}

/// Sends output items as input. With `nulls`, absent optional fields are null, as some client libraries write them.
async fn send_back(world: &mut World, nulls: bool) {
    let call = world.stored_responses[0]["output"][0].clone();
    let mut input = json!([
        {"role": "user", "content": "What time is it?"},
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "12:30"},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Half past twelve.", "annotations": []}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Thanks."}]},
    ]);
    let optional_fields = [
        "async",
        "caller",
        "namespace",
        "phase",
        "created_by",
        "encrypted_content",
        "status",
        "content",
        "id",
    ];
    for item in input.as_array_mut().unwrap().iter_mut().filter(|_| nulls) {
        let fields = item.as_object_mut().unwrap();
        for name in optional_fields {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    let address = world.address().await;
    let body = json!({"input": input, "max_output_tokens": 4, "store": false});
    let url = format!("{address}/v1/responses");
    world
        .send(reqwest::Client::new().post(url).json(&body))
        .await;
}

#[when(expr = "I reference its output item and ask {string}")]
async fn reference_output(world: &mut World, text: String) {
    let reference =
        json!({"type": "item_reference", "id": world.stored_response()["output"][0]["id"]});
    let question = json!({"role": "user", "content": "Name the capital of Italy."});
    let next = json!({"role": "user", "content": text});
    world
        .create_response(json!({"input": [question, reference, next], "max_output_tokens": 24, "temperature": 0}))
        .await;
}

#[when("I retrieve the stored response")]
async fn get(world: &mut World) {
    let (client, id) = (world.client().await, world.response_id());
    world.response = read_response(client.retrieve_response(&id, None).await).await;
}

#[then("it equals the response as it was created")]
async fn equals_created(world: &mut World) {
    assert_eq!(&world.response.body, world.stored_response());
}

#[when("I retrieve the stored response as a stream")]
async fn get_as_stream(world: &mut World) {
    let address = world.address().await;
    let id = world.response_id();
    let url = format!("{address}/v1/responses/{id}?stream=true");
    world.send(reqwest::Client::new().get(url)).await;
}

#[when("I delete the stored response")]
async fn delete(world: &mut World) {
    let (client, id) = (world.client().await, world.response_id());
    world.response = read_response(client.delete_response(&id).await).await;
}

#[when("I cancel the stored response")]
async fn cancel(world: &mut World) {
    let (client, id) = (world.client().await, world.response_id());
    world.response = read_response(client.cancel_response(&id).await).await;
}

#[when("I list the stored response's input items")]
async fn get_items(world: &mut World) {
    world.input_items(&[]).await;
}

#[when(expr = "I list the first {int} of the stored response's input items in ascending order")]
async fn get_first_items(world: &mut World, count: usize) {
    let limit = count.to_string();
    world
        .input_items(&[("limit", &limit), ("order", "asc")])
        .await;
}

#[when("I list the next input items in ascending order")]
async fn get_next_items(world: &mut World) {
    let last = world.response.at("last_id").as_str().unwrap().to_owned();
    world
        .input_items(&[("after", &last), ("order", "asc")])
        .await;
}

#[when("I count the input tokens of a response:")]
async fn count_tokens(world: &mut World, step: &Step) {
    let request: types::ResponseTokensRequest = serde_json::from_value(json_of(step)).unwrap();
    world.response =
        read_response(world.client().await.count_response_tokens(&request).await).await;
}

#[when(expr = "I create a response with the API key {string}")]
async fn create_with_key(world: &mut World, key: String) {
    let body = json!({"input": "Hi", "max_output_tokens": 1});
    world.post_with_key(body, &key).await;
}

#[when(expr = "I continue the stored response with the API key {string}")]
async fn continue_with_key(world: &mut World, key: String) {
    let id = world.response_id();
    let body = json!({"input": "Hi", "max_output_tokens": 1, "previous_response_id": id});
    world.post_with_key(body, &key).await;
}

#[when(expr = "I retrieve the stored response with the API key {string}")]
async fn get_response_with_key(world: &mut World, key: String) {
    world.get_with_key(&key).await;
}

#[then("every event's name is its type, and the events are numbered")]
async fn events_are_numbered(world: &mut World) {
    let events = &world.response.events;
    let types: Vec<_> = events.iter().map(|event| event["type"].clone()).collect();
    assert_eq!(json!(world.response.event_names), json!(types));
    let numbers = events.iter().map(|event| event["sequence_number"].as_u64());
    assert!(numbers.eq((0..events.len() as u64).map(Some)));
    assert!(!world.response.ended_with_done);
}

#[then("the event types are, with consecutive deltas merged:")]
async fn event_types_are(world: &mut World, step: &Step) {
    let mut names = world.response.event_names.clone();
    names.dedup_by(|left, right| left == right && left.ends_with(".delta"));
    let expected: Vec<&str> = step.docstring().unwrap().split_ascii_whitespace().collect();
    assert_eq!(names, expected);
}

fn deltas(events: &[Value]) -> String {
    let deltas = events.iter().filter_map(|event| event["delta"].as_str());
    deltas.collect()
}

#[then(expr = "the deltas join to the text of the response, which contains {string}")]
async fn deltas_are_the_text(world: &mut World, part: String) {
    let events = &world.response.events;
    let text = deltas(events);
    let last = events.last().unwrap();
    assert!(text.contains(&part), "{text}");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], text);
}

#[then("the deltas join to the arguments of the function call")]
async fn deltas_are_the_arguments(world: &mut World) {
    let events = &world.response.events;
    let last = events.last().unwrap();
    assert_eq!(last["response"]["output"][0]["arguments"], deltas(events));
}

#[then(
    expr = "the tokens of the response's logprobs join to its text, with {int} top_logprobs each"
)]
async fn logprobs_join_to_text(world: &mut World, count: usize) {
    let tokens = world.response.at("output.0.content.0.logprobs");
    let tokens = tokens.as_array().unwrap();
    let bytes = tokens.iter().flat_map(|token| {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), count);
        token["bytes"].as_array().unwrap()
    });
    let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
    assert!(tokens.len() > 2);
    let text = world.response.at("output.0.content.0.text");
    assert_eq!(String::from_utf8(bytes).unwrap(), text.as_str().unwrap());
}

#[then("the logprobs of the deltas equal those of the response")]
async fn delta_logprobs_equal_final(world: &mut World) {
    let events = world.response.events.iter();
    let deltas = events.filter(|event| event["type"] == "response.output_text.delta");
    let logprobs = deltas.flat_map(|event| event["logprobs"].as_array().unwrap().clone());
    let logprobs: Vec<Value> = logprobs.collect();
    assert!(logprobs.len() > 2);
    let last = world.response.events.last().unwrap();
    let expected = &last["response"]["output"][0]["content"][0]["logprobs"];
    assert_eq!(expected, &json!(logprobs));
}
