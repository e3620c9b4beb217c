//! Steps that repeat the last request with changes and compare the texts.

use cucumber::then;
use ortolan_client::types;
use serde_json::{Value, json};

use crate::common;
use crate::world::{RepeatableRequest, World, read_response};

#[then("a completion of the last event's prompt gives the same text")]
async fn completion_is_the_same(world: &mut World) {
    let text = world.response.text();
    let last = world.response.events.last().unwrap().clone();
    let request = json!({"prompt": last["prompt"], "n_predict": 12, "temperature": 0});
    assert!(!text.is_empty());
    let infill = std::mem::take(&mut world.response);
    world.complete(request).await;
    assert_eq!(world.response.text(), text);
    world.response = infill;
}

#[then("all but at most two tokens of the previous conversation came from the cache")]
async fn conversation_was_cached(world: &mut World) {
    let previous = world.previous_response.take().unwrap();
    let total = previous.at("usage.total_tokens").as_u64().unwrap();
    let cached = world
        .response
        .at("usage.prompt_tokens_details.cached_tokens")
        .as_u64()
        .unwrap();
    // The model did not process the last generated token.
    assert!((total - 2..=total).contains(&cached), "{cached} of {total}");
}

#[then("streaming the same request gives the same texts")]
async fn streamed_texts_are_the_same(world: &mut World) {
    let Some(RepeatableRequest::Completion(body)) = world.last_request.clone() else {
        panic!("the last request is not a completion")
    };
    let unstreamed = std::mem::take(&mut world.response);
    world.stream_completion(body).await;
    for (index, expected) in unstreamed.body.as_array().unwrap().iter().enumerate() {
        let own = |event: &&Value| event["index"] == index;
        let own: Vec<&Value> = world.response.events.iter().filter(own).collect();
        let text: String = own
            .iter()
            .map(|event| event["content"].as_str().unwrap())
            .collect();
        assert_eq!(expected["content"], text);
        assert_eq!(
            own.last().unwrap()["tokens_predicted"],
            expected["tokens_predicted"]
        );
    }
}

#[then("the same request without streaming gives the same text")]
async fn unstreamed_is_the_same(world: &mut World) {
    let text = world.response.text();
    let Some(RepeatableRequest::Completion(mut body)) = world.last_request.clone() else {
        panic!("the last request is not a completion")
    };
    body["stream"] = false.into();
    world.complete(body).await;
    assert_eq!(world.response.text(), text);
}

#[then("streaming the same request gives the same text")]
async fn streamed_is_the_same(world: &mut World) {
    let text = world.response.text();
    let Some(RepeatableRequest::Completion(body)) = world.last_request.clone() else {
        panic!("the last request is not a completion")
    };
    world.stream_completion(body).await;
    assert_eq!(world.response.text(), text);
}

#[then("repeating the request with the prompt cache gives the same text")]
async fn cached_is_the_same(world: &mut World) {
    let text = world.response.text();
    let Some(RepeatableRequest::Completion(mut body)) = world.last_request.clone() else {
        panic!("the last request is not a completion")
    };
    body["stream"] = false.into();
    body["cache_prompt"] = true.into();
    world.complete(body).await;
    assert!(world.response.at("tokens_cached").as_u64() > Some(0));
    assert_eq!(world.response.text(), text);
}

#[then("keeping the whole prompt gives another text")]
async fn keeping_the_prompt_is_another(world: &mut World) {
    let text = world.response.text();
    let Some(RepeatableRequest::Completion(mut body)) = world.last_request.clone() else {
        panic!("the last request is not a completion")
    };
    body["n_keep"] = (-1).into();
    world.complete(body).await;
    assert_ne!(world.response.text(), text);
}

#[then(regex = r"^the same request with (\{.*\}) gives (the same|another) text$")]
async fn with_other_options(world: &mut World, options: String, expected: String) {
    let text = world.response.text();
    let original_request = world.last_request.clone().unwrap();
    let options: Value = serde_json::from_str(&options).unwrap();
    let with_options = |body: &Value| {
        let mut body = body.clone();
        for (name, value) in options.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let original = std::mem::take(&mut world.response);
    match &original_request {
        RepeatableRequest::Completion(body) => world.complete(with_options(body)).await,
        RepeatableRequest::Chat(body) => world.chat(with_options(body)).await,
    }
    assert_eq!(world.response.status, 200, "{}", world.response.body);
    let changed = world.response.text();
    match expected.as_str() {
        // The following step compares with the original request again.
        "the same" => {
            assert_eq!(changed, text);
            (world.response, world.last_request) = (original, Some(original_request));
        }
        _ => assert_ne!(changed, text),
    }
}

#[then(expr = "choice {int} equals the only choice of a request with the seed {int}")]
async fn choice_equals_single_choice(world: &mut World, choice: usize, seed: u32) {
    let text = world
        .response
        .at(&format!("choices.{choice}.message.content"))
        .clone();
    let Some(RepeatableRequest::Chat(mut body)) = world.last_request.clone() else {
        panic!("the last request is not a chat completion")
    };
    body["n"] = 1.into();
    body["seed"] = seed.into();
    world.chat(body).await;
    assert_eq!(world.response.at("choices.0.message.content"), &text);
}

#[then("repeating the request gives the same text")]
async fn repeated_is_the_same(world: &mut World) {
    let text = world.response.text();
    match world.last_request.clone().unwrap() {
        RepeatableRequest::Completion(body) => world.complete(body).await,
        RepeatableRequest::Chat(body) => world.chat(body).await,
    }
    assert!(!text.is_empty());
    assert_eq!(world.response.text(), text);
}

#[then(expr = "repeating the request with the seed {int} gives another text")]
async fn with_another_seed(world: &mut World, seed: u32) {
    let text = world.response.text();
    let Some(RepeatableRequest::Completion(mut body)) = world.last_request.clone() else {
        panic!("the last request is not a completion")
    };
    body["seed"] = seed.into();
    world.complete(body).await;
    assert_ne!(world.response.text(), text);
}

#[then("all recorded texts are tokenized and detokenized as recorded")]
async fn recorded_tokens(world: &mut World) {
    let client = world.client().await;
    let golden = common::golden();
    let entries = golden["tokenize"].as_array().unwrap();
    assert!(entries.len() > 50);
    for entry in entries {
        let text = entry["text"].as_str().unwrap();
        for (parse_special, field) in [(true, "tokens"), (false, "tokens_no_special_parsing")] {
            let request = json!({"content": text, "parse_special": parse_special});
            let request: types::TokenizeRequest = serde_json::from_value(request).unwrap();
            let response = read_response(client.tokenize(&request).await).await;
            assert_eq!(response.body["tokens"], entry[field], "{field} of {text:?}");
        }
        let request: types::DetokenizeRequest =
            serde_json::from_value(json!({"tokens": entry["tokens"]})).unwrap();
        let response = read_response(client.detokenize(&request).await).await;
        assert_eq!(response.body["content"], text);
    }
}
