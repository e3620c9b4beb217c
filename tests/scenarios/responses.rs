//! Steps about responses as OpenAI's newer API has them.

use cucumber::gherkin::Step;
use cucumber::{then, when};
use futures_util::StreamExt;
use ortolan::api::types;
use serde_json::{Value, json};

use crate::asking::json_of;
use crate::world::{World, streamed, whole};

impl World {
    async fn respond(&mut self, body: Value) {
        let request: types::ResponsesRequest = serde_json::from_value(body).unwrap();
        self.answer = whole(self.client().await.create_response(&request).await).await;
        self.remember();
    }

    /// The response is the one that was answered last, if it is one.
    fn remember(&mut self) {
        let first = self.answer.pieces.first().map(|piece| &piece["response"]);
        let response = first.unwrap_or(&self.answer.body);
        if response["object"] == "response" {
            self.responses.push(response.clone());
        }
    }

    fn response(&self) -> &Value {
        self.responses.last().unwrap()
    }

    fn response_id(&self) -> String {
        self.response()["id"].as_str().unwrap().to_owned()
    }

    async fn input_items(&mut self, query: &[(&str, &str)]) {
        let of = |name: &str| query.iter().find(|(own, _)| *own == name);
        let order = of("order").map(|(_, order)| order.parse().unwrap());
        let of = |name: &str| of(name).map(|(_, value)| *value);
        let (client, id) = (self.client().await, self.response_id());
        let answered = client.response_input_items(&id, of("after"), of("limit"), order);
        self.answer = whole(answered.await).await;
    }

    async fn get_with_key(&mut self, key: &str) {
        let address = self.address().await;
        let id = self.response_id();
        let url = format!("{address}/v1/responses/{id}");
        let request = reqwest::Client::new().get(url);
        self.raw(request.bearer_auth(key)).await;
    }

    async fn post_with_key(&mut self, body: Value, key: &str) {
        let address = self.address().await;
        let url = format!("{address}/v1/responses");
        let request = reqwest::Client::new().post(url).json(&body);
        self.raw(request.bearer_auth(key)).await;
        self.remember();
    }
}

#[when("I ask for a response:")]
async fn ask(world: &mut World, step: &Step) {
    world.respond(json_of(step)).await;
}

#[when("I stream a response:")]
async fn stream(world: &mut World, step: &Step) {
    let mut body = json_of(step);
    body["stream"] = json!(true);
    let request: types::ResponsesRequest = serde_json::from_value(body).unwrap();
    let client = world.client().await;
    world.answer = streamed(client.create_response_stream(&request).await).await;
    world.remember();
}

#[when("I leave a stream of a response")]
async fn leave_stream(world: &mut World) {
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
    world.responses.push(first["response"].clone());
}

#[when("I go on with the response:")]
async fn go_on(world: &mut World, step: &Step) {
    let mut body = json_of(step);
    body["previous_response_id"] = world.response_id().into();
    world.respond(body).await;
}

#[when("I go on with the response and delete it:")]
async fn go_on_and_delete(world: &mut World, step: &Step) {
    let before = world.response_id();
    go_on(world, step).await;
    let deleted = whole(world.client().await.delete_response(&before).await).await;
    assert_eq!(deleted.status, 200);
}

#[then("the answer goes on with the response before")]
async fn goes_on(world: &mut World) {
    let [.., before, _] = world.responses.as_slice() else {
        panic!("there were two responses")
    };
    assert_eq!(world.answer.at("previous_response_id"), &before["id"]);
}

#[when(expr = "I tell the response what came of its call: {string}")]
async fn answer_call(world: &mut World, output: String) {
    let call_id = world.response()["output"][0]["call_id"].clone();
    let input = json!([{"type": "function_call_output", "call_id": call_id, "output": output}]);
    let id = world.response_id();
    world
        .respond(json!({"input": input, "previous_response_id": id, "max_output_tokens": 8}))
        .await;
}

#[when("I send its output back, with what came of its call")]
async fn send_output_back(world: &mut World) {
    send_back(world, false).await;
}

#[when("I send its output back, with every field that is null")]
async fn send_output_back_with_nulls(world: &mut World) {
    send_back(world, true).await;
}

/// As OpenAI's libraries do, who may write down what they do not know as null.
async fn send_back(world: &mut World, nulls: bool) {
    let call = world.responses[0]["output"][0].clone();
    let mut input = json!([
        {"role": "user", "content": "What time is it?"},
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "12:30"},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Half past twelve.", "annotations": []}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Thanks."}]},
    ]);
    let unknown = [
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
        for name in unknown {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    let address = world.address().await;
    let body = json!({"input": input, "max_output_tokens": 4, "store": false});
    let url = format!("{address}/v1/responses");
    world
        .raw(reqwest::Client::new().post(url).json(&body))
        .await;
}

#[when(expr = "I refer to its output and ask {string}")]
async fn refer(world: &mut World, text: String) {
    let reference = json!({"type": "item_reference", "id": world.response()["output"][0]["id"]});
    let question = json!({"role": "user", "content": "Name the capital of Italy."});
    let next = json!({"role": "user", "content": text});
    world
        .respond(json!({"input": [question, reference, next], "max_output_tokens": 24, "temperature": 0}))
        .await;
}

#[when("I get the response")]
async fn get(world: &mut World) {
    let (client, id) = (world.client().await, world.response_id());
    world.answer = whole(client.retrieve_response(&id, None).await).await;
}

#[then("it is what it was")]
async fn is_the_same(world: &mut World) {
    assert_eq!(&world.answer.body, world.response());
}

#[when("I ask for the response's events again")]
async fn get_events(world: &mut World) {
    let address = world.address().await;
    let id = world.response_id();
    let url = format!("{address}/v1/responses/{id}?stream=true");
    world.raw(reqwest::Client::new().get(url)).await;
}

#[when("I delete the response")]
async fn delete(world: &mut World) {
    let (client, id) = (world.client().await, world.response_id());
    world.answer = whole(client.delete_response(&id).await).await;
}

#[when("I cancel the response")]
async fn cancel(world: &mut World) {
    let (client, id) = (world.client().await, world.response_id());
    world.answer = whole(client.cancel_response(&id).await).await;
}

#[when("I get the response's input items")]
async fn get_items(world: &mut World) {
    world.input_items(&[]).await;
}

#[when(expr = "I get the first {int} of the response's input items in their order")]
async fn get_first_items(world: &mut World, count: usize) {
    let limit = count.to_string();
    world
        .input_items(&[("limit", &limit), ("order", "asc")])
        .await;
}

#[when("I get those behind, in their order")]
async fn get_items_behind(world: &mut World) {
    let last = world.answer.at("last_id").as_str().unwrap().to_owned();
    world
        .input_items(&[("after", &last), ("order", "asc")])
        .await;
}

#[when("I count the tokens of a response:")]
async fn count_tokens(world: &mut World, step: &Step) {
    let request: types::ResponseTokensRequest = serde_json::from_value(json_of(step)).unwrap();
    world.answer = whole(world.client().await.count_response_tokens(&request).await).await;
}

#[when(expr = "I ask for a response with the key {string}")]
async fn ask_with_key(world: &mut World, key: String) {
    let body = json!({"input": "Hi", "max_output_tokens": 1});
    world.post_with_key(body, &key).await;
}

#[when(expr = "I go on with the response with the key {string}")]
async fn go_on_with_key(world: &mut World, key: String) {
    let id = world.response_id();
    let body = json!({"input": "Hi", "max_output_tokens": 1, "previous_response_id": id});
    world.post_with_key(body, &key).await;
}

#[when(expr = "I get the response with the key {string}")]
async fn get_as(world: &mut World, key: String) {
    world.get_with_key(&key).await;
}

#[then("every event is named as its type, and numbered")]
async fn events_are_numbered(world: &mut World) {
    let pieces = &world.answer.pieces;
    let types: Vec<_> = pieces.iter().map(|piece| piece["type"].clone()).collect();
    assert_eq!(json!(world.answer.names), json!(types));
    let numbers = pieces.iter().map(|piece| piece["sequence_number"].as_u64());
    assert!(numbers.eq((0..pieces.len() as u64).map(Some)));
    assert!(!world.answer.done);
}

#[then("the events are, with several deltas as one:")]
async fn events_are(world: &mut World, step: &Step) {
    let mut names = world.answer.names.clone();
    names.dedup_by(|left, right| left == right && left.ends_with(".delta"));
    let wanted: Vec<&str> = step.docstring().unwrap().split_ascii_whitespace().collect();
    assert_eq!(names, wanted);
}

fn deltas(pieces: &[Value]) -> String {
    let deltas = pieces.iter().filter_map(|piece| piece["delta"].as_str());
    deltas.collect()
}

#[then(expr = "the deltas are the text of the response, which contains {string}")]
async fn deltas_are_the_text(world: &mut World, part: String) {
    let pieces = &world.answer.pieces;
    let text = deltas(pieces);
    let last = pieces.last().unwrap();
    assert!(text.contains(&part), "{text}");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], text);
}

#[then("the deltas are the arguments of the call")]
async fn deltas_are_the_arguments(world: &mut World) {
    let pieces = &world.answer.pieces;
    let last = pieces.last().unwrap();
    assert_eq!(last["response"]["output"][0]["arguments"], deltas(pieces));
}

#[then(expr = "the response's log-probabilities spell its text, with {int} alternatives each")]
async fn logprobs_spell(world: &mut World, count: usize) {
    let tokens = world.answer.at("output.0.content.0.logprobs");
    let tokens = tokens.as_array().unwrap();
    let bytes = tokens.iter().flat_map(|token| {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), count);
        token["bytes"].as_array().unwrap()
    });
    let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
    assert!(tokens.len() > 2);
    let text = world.answer.at("output.0.content.0.text");
    assert_eq!(String::from_utf8(bytes).unwrap(), text.as_str().unwrap());
}

#[then("the log-probabilities of the deltas are those of the response")]
async fn logprobs_come(world: &mut World) {
    let pieces = world.answer.pieces.iter();
    let came = pieces.filter(|piece| piece["type"] == "response.output_text.delta");
    let came = came.flat_map(|piece| piece["logprobs"].as_array().unwrap().clone());
    let came: Vec<Value> = came.collect();
    assert!(came.len() > 2);
    let last = world.answer.pieces.last().unwrap();
    let all = &last["response"]["output"][0]["content"][0]["logprobs"];
    assert_eq!(all, &json!(came));
}
