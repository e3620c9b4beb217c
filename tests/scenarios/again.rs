//! What another question gives: the same, or something else.

use cucumber::then;
use ortolan::api::types;
use serde_json::{Value, json};

use crate::common;
use crate::world::{Question, World, whole};

#[then("a completion of the last piece's prompt gives the same text")]
async fn completion_is_the_same(world: &mut World) {
    let text = world.answer.text();
    let last = world.answer.pieces.last().unwrap().clone();
    let request = json!({"prompt": last["prompt"], "n_predict": 12, "temperature": 0});
    assert!(!text.is_empty());
    let infill = std::mem::take(&mut world.answer);
    world.complete(request).await;
    assert_eq!(world.answer.text(), text);
    world.answer = infill;
}

#[then("nearly all of the conversation before came from the cache")]
async fn conversation_was_cached(world: &mut World) {
    let before = world.before.take().unwrap();
    let known = before.at("usage.total_tokens").as_u64().unwrap();
    let cached = world
        .answer
        .at("usage.prompt_tokens_details.cached_tokens")
        .as_u64()
        .unwrap();
    // The last token that was generated was not fed to the model.
    assert!((known - 2..=known).contains(&cached), "{cached} of {known}");
}

#[then("asking for it as a stream gives the same texts")]
async fn streamed_texts_are_the_same(world: &mut World) {
    let Some(Question::Completion(body)) = world.asked.clone() else {
        panic!("a completion was asked for")
    };
    let whole = std::mem::take(&mut world.answer);
    world.stream_completion(body).await;
    for (index, wanted) in whole.body.as_array().unwrap().iter().enumerate() {
        let own = |piece: &&Value| piece["index"] == index;
        let own: Vec<&Value> = world.answer.pieces.iter().filter(own).collect();
        let text: String = own
            .iter()
            .map(|piece| piece["content"].as_str().unwrap())
            .collect();
        assert_eq!(wanted["content"], text);
        assert_eq!(
            own.last().unwrap()["tokens_predicted"],
            wanted["tokens_predicted"]
        );
    }
}

#[then("asking for the whole of it gives the same text")]
async fn whole_is_the_same(world: &mut World) {
    let text = world.answer.text();
    let Some(Question::Completion(mut body)) = world.asked.clone() else {
        panic!("a completion was asked for")
    };
    body["stream"] = false.into();
    world.complete(body).await;
    assert_eq!(world.answer.text(), text);
}

#[then("asking for it as a stream gives the same text")]
async fn stream_is_the_same(world: &mut World) {
    let text = world.answer.text();
    let Some(Question::Completion(body)) = world.asked.clone() else {
        panic!("a completion was asked for")
    };
    world.stream_completion(body).await;
    assert_eq!(world.answer.text(), text);
}

#[then("asking again from the cache gives the same text")]
async fn cached_is_the_same(world: &mut World) {
    let text = world.answer.text();
    let Some(Question::Completion(mut body)) = world.asked.clone() else {
        panic!("a completion was asked for")
    };
    body["stream"] = false.into();
    body["cache_prompt"] = true.into();
    world.complete(body).await;
    assert!(world.answer.at("tokens_cached").as_u64() > Some(0));
    assert_eq!(world.answer.text(), text);
}

#[then("keeping the whole prompt gives another text")]
async fn keeping_is_another(world: &mut World) {
    let text = world.answer.text();
    let Some(Question::Completion(mut body)) = world.asked.clone() else {
        panic!("a completion was asked for")
    };
    body["n_keep"] = (-1).into();
    world.complete(body).await;
    assert_ne!(world.answer.text(), text);
}

#[then(regex = r"^the same with (\{.*\}) gives (the same|another) text$")]
async fn changed(world: &mut World, options: String, which: String) {
    let text = world.answer.text();
    let asked = world.asked.clone().unwrap();
    let options: Value = serde_json::from_str(&options).unwrap();
    let with_options = |body: &Value| {
        let mut body = body.clone();
        for (name, value) in options.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let before = std::mem::take(&mut world.answer);
    match &asked {
        Question::Completion(body) => world.complete(with_options(body)).await,
        Question::Chat(body) => world.chat(with_options(body)).await,
    }
    assert_eq!(world.answer.status, 200, "{}", world.answer.body);
    let changed = world.answer.text();
    match which.as_str() {
        // What comes next is asked of the question that was.
        "the same" => {
            assert_eq!(changed, text);
            (world.answer, world.asked) = (before, Some(asked));
        }
        _ => assert_ne!(changed, text),
    }
}

#[then(expr = "its choice {int} is what the seed {int} chooses alone")]
async fn choice_alone(world: &mut World, choice: usize, seed: u32) {
    let chosen = world
        .answer
        .at(&format!("choices.{choice}.message.content"))
        .clone();
    let Some(Question::Chat(mut body)) = world.asked.clone() else {
        panic!("a chat was asked for")
    };
    body["n"] = 1.into();
    body["seed"] = seed.into();
    world.chat(body).await;
    assert_eq!(world.answer.at("choices.0.message.content"), &chosen);
}

#[then("asking again gives the same text")]
async fn again_is_the_same(world: &mut World) {
    let text = world.answer.text();
    match world.asked.clone().unwrap() {
        Question::Completion(body) => world.complete(body).await,
        Question::Chat(body) => world.chat(body).await,
    }
    assert!(!text.is_empty());
    assert_eq!(world.answer.text(), text);
}

#[then(expr = "asking again with the seed {int} gives another text")]
async fn another_seed_is_another(world: &mut World, seed: u32) {
    let text = world.answer.text();
    let Some(Question::Completion(mut body)) = world.asked.clone() else {
        panic!("a completion was asked for")
    };
    body["seed"] = seed.into();
    world.complete(body).await;
    assert_ne!(world.answer.text(), text);
}

#[then("all recorded texts are tokenized and put together again as recorded")]
async fn recorded_tokens(world: &mut World) {
    let client = world.client().await;
    let golden = common::golden();
    let entries = golden["tokenize"].as_array().unwrap();
    assert!(entries.len() > 50);
    for entry in entries {
        let text = entry["text"].as_str().unwrap();
        for (parse_special, wanted) in [(true, "tokens"), (false, "tokens_no_special_parsing")] {
            let request = json!({"content": text, "parse_special": parse_special});
            let request: types::TokenizeRequest = serde_json::from_value(request).unwrap();
            let answer = whole(client.tokenize(&request).await).await;
            assert_eq!(answer.body["tokens"], entry[wanted], "{wanted} of {text:?}");
        }
        let request: types::DetokenizeRequest =
            serde_json::from_value(json!({"tokens": entry["tokens"]})).unwrap();
        let answer = whole(client.detokenize(&request).await).await;
        assert_eq!(answer.body["content"], text);
    }
}
