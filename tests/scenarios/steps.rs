//! The sentences of the features.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use ortolan::api::types;
use ortolan::model::{GenerateLimits, ModelState, SystemPrompt};
use ortolan::server::Keys;
use serde_json::{Value, json};

use crate::world::{Answer, Question, World, whole};
use crate::{common, servers};

fn text(step: &Step) -> String {
    step.docstring.clone().unwrap().trim().to_owned()
}

fn json_of(step: &Step) -> Value {
    serde_json::from_str(&text(step)).unwrap()
}

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
    world.server = Some(servers::answering_little().await);
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

#[given("a server whose model takes the mean of all tokens")]
async fn takes_the_mean(world: &mut World) {
    world.speak_to(servers::tiny_of_means().await);
}

#[given("a server whose model wants a token before each text")]
async fn wants_a_beginning(world: &mut World) {
    let server = servers::tiny_with_beginnings().await;
    server
        .model
        .set_system_prompt(SystemPrompt::default())
        .unwrap();
    world.speak_to(server);
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
    let keys = Keys::new(vec![one, other], None).unwrap();
    world.speak_to(servers::locked(servers::usual().await, keys).await);
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

#[when(expr = "I ask for a completion of a prompt of {int} words")]
async fn ask_long_completion(world: &mut World, words: usize) {
    world
        .complete(json!({"prompt": "word ".repeat(words)}))
        .await;
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

#[then(
    expr = "that prompt has {int} tokens that no text spells, the first in front and the last at the end"
)]
async fn prompt_has_special_tokens(world: &mut World, count: usize) {
    let last = world.answer.pieces.last().unwrap();
    let prompt: Vec<u64> = serde_json::from_value(last["prompt"].clone()).unwrap();
    let special = prompt.iter().filter(|token| **token >= 256);
    assert_eq!(special.count(), count, "{prompt:?}");
    assert!(prompt[0] >= 256 && *prompt.last().unwrap() >= 256);
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

#[given(expr = "a file {string} that is no saved slot")]
async fn no_saved_slot(_: &mut World, name: String) {
    std::fs::write(servers::slot_files().join(name), "no saved slot").unwrap();
}

#[given("a server of its own")]
async fn of_its_own(world: &mut World) {
    let server = servers::private().await;
    server
        .model
        .set_system_prompt(SystemPrompt::default())
        .unwrap();
    world.speak_to(server);
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

/// The embedding of one of several texts, or of the only one.
fn embedding(answer: &Answer, index: usize) -> Vec<f64> {
    let one = answer.body.get(index).unwrap_or(&answer.body);
    serde_json::from_value(one["embedding"].clone()).unwrap()
}

fn product(left: &[f64], right: &[f64]) -> f64 {
    left.iter()
        .zip(right)
        .map(|(left, right)| left * right)
        .sum()
}

#[then("its length is 1")]
async fn has_length_1(world: &mut World) {
    let values = embedding(&world.answer, 0);
    assert!((product(&values, &values) - 1.0).abs() < 1e-4);
}

#[then(expr = "the embedding {int} is nearer to {int} than to {int}")]
async fn is_nearer(world: &mut World, one: usize, near: usize, far: usize) {
    let [one, near, far] = [one, near, far].map(|index| embedding(&world.answer, index));
    let (near, far) = (product(&one, &near), product(&one, &far));
    assert!(near > far, "{near} and {far}");
}

#[then(expr = "the embeddings {int} and {int} are the same")]
async fn embeddings_are_the_same(world: &mut World, one: usize, other: usize) {
    assert_eq!(
        embedding(&world.answer, one),
        embedding(&world.answer, other)
    );
}

#[then(expr = "embedding {string} alone gives the same as {int}")]
async fn alone_is_the_same(world: &mut World, text: String, index: usize) {
    let among_others = embedding(&world.answer, index);
    world.embed(json!({"content": text})).await;
    assert_eq!(embedding(&world.answer, 0), among_others);
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

#[then(regex = r#"^the metric "(.+)" is ([\d.]+)$"#)]
async fn metric_is(world: &mut World, name: String, wanted: f64) {
    assert_eq!(metric(&world.answer, &name), wanted);
}

#[then(regex = r#"^the metric "(.+)" is at least ([\d.]+)$"#)]
async fn metric_is_at_least(world: &mut World, name: String, least: f64) {
    let value = metric(&world.answer, &name);
    assert!(value >= least, "{name} is {value}");
}

/// The value of a line of Prometheus' text format.
fn metric(answer: &Answer, name: &str) -> f64 {
    let text = answer.body.as_str().unwrap();
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let found = lines.find(|(found, _)| *found == name);
    let (_, value) = found.unwrap_or_else(|| panic!("there is no {name} in {text}"));
    value.parse().unwrap()
}

#[then(expr = "the status is {int}")]
async fn status_is(world: &mut World, status: u16) {
    assert_eq!(world.answer.status, status, "{}", world.answer.body);
}

#[then(regex = r#"^the answer's "([^"]+)" is (\[.*\]|".*"|[-\d.]+|true|false|null)$"#)]
async fn value_is(world: &mut World, path: String, wanted: String) {
    let wanted: Value = serde_json::from_str(&wanted).unwrap();
    assert!(
        same(world.answer.at(&path), &wanted),
        "{path} is {}, not {wanted}",
        world.answer.at(&path)
    );
}

#[then(regex = r#"^the answer's "([^"]+)" is not (\[.*\])$"#)]
async fn value_is_not(world: &mut World, path: String, unwanted: String) {
    let unwanted: Value = serde_json::from_str(&unwanted).unwrap();
    assert_ne!(world.answer.at(&path), &unwanted);
}

#[then(expr = "the answer's {string} contains {string}")]
async fn value_contains(world: &mut World, path: String, part: String) {
    let value = world.answer.at(&path).as_str().unwrap();
    assert!(value.contains(&part), "{value}");
}

#[then(expr = "the answer's {string} does not contain {string}")]
async fn value_does_not_contain(world: &mut World, path: String, part: String) {
    let value = world.answer.at(&path).as_str().unwrap();
    assert!(!value.contains(&part), "{value}");
}

#[then("the answer's settings are:")]
async fn settings_are(world: &mut World, step: &Step) {
    for (name, wanted) in json_of(step).as_object().unwrap() {
        let found = world.answer.at(&format!("generation_settings.{name}"));
        assert!(same(found, wanted), "{name} is {found}, not {wanted}");
    }
}

#[then(expr = "the slot {int} shows:")]
async fn slot_shows(world: &mut World, step: &Step, slot: usize) {
    for (name, wanted) in json_of(step).as_object().unwrap() {
        let found = world.answer.at(&format!("{slot}.{name}"));
        assert!(same(found, wanted), "{name} is {found}, not {wanted}");
    }
}

#[then(expr = "the answer's {string} has {int} entries")]
async fn has_entries(world: &mut World, path: String, count: usize) {
    assert_eq!(world.answer.at(&path).as_array().unwrap().len(), count);
}

#[then(expr = "the answer has {int} entries")]
async fn has_so_many(world: &mut World, count: usize) {
    let entries = world.answer.body.as_array();
    assert_eq!(entries.map(Vec::len), Some(count), "{}", world.answer.body);
}

#[then(expr = "the answer's {string} is that of {string}")]
async fn value_is_anothers(world: &mut World, path: String, other: String) {
    let (_, name) = path.rsplit_once('.').unwrap();
    let wanted = world.answer.at(&format!("{other}.{name}"));
    assert_eq!(world.answer.at(&path), wanted);
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

#[then(expr = "the answer has no {string}")]
async fn has_no(world: &mut World, name: String) {
    assert_eq!(world.answer.body.get(&name), None);
}

#[then(expr = "the last piece has {int} {string}")]
async fn last_piece_has(world: &mut World, count: usize, name: String) {
    let last = world.answer.pieces.last().unwrap();
    assert_eq!(last[&name].as_array().unwrap().len(), count);
}

#[then(expr = "every token has {int} probabilities, the highest first")]
async fn probabilities_in_order(world: &mut World, count: usize) {
    let tokens = world.answer.at("completion_probabilities");
    for token in tokens.as_array().unwrap() {
        let probs = token["probs"].as_array().unwrap();
        let probs: Vec<f64> = probs
            .iter()
            .map(|prob| prob["prob"].as_f64().unwrap())
            .collect();
        assert_eq!(probs.len(), count);
        assert!(probs.is_sorted_by(|left, right| left >= right), "{probs:?}");
        assert!((0.0..=1.0 + 1e-9).contains(&probs.iter().sum::<f64>()));
    }
}

/// The log-probabilities of all tokens, whole or in pieces.
fn logprobs(answer: &Answer) -> Vec<Value> {
    let bodies = match answer.pieces.is_empty() {
        true => std::slice::from_ref(&answer.body),
        false => &answer.pieces,
    };
    let contents = bodies
        .iter()
        .filter_map(|body| body.pointer("/choices/0/logprobs/content")?.as_array());
    contents.flatten().cloned().collect()
}

#[then("the tokens of the log-probabilities spell the text")]
async fn logprobs_spell(world: &mut World) {
    let tokens = logprobs(&world.answer);
    let bytes = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap());
    let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
    assert!(tokens.len() > 2);
    assert_eq!(String::from_utf8(bytes).unwrap(), world.answer.text());
}

#[then(expr = "each has {int} alternatives, the most probable first")]
async fn alternatives_in_order(world: &mut World, count: usize) {
    for token in logprobs(&world.answer) {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), count);
        // Without heat the most probable is the one.
        let most = top
            .first()
            .map_or(&token["logprob"], |first| &first["logprob"]);
        assert_eq!(most, &token["logprob"]);
        assert!(
            top.is_sorted_by(|left, right| left["logprob"].as_f64() >= right["logprob"].as_f64())
        );
    }
}

#[then(expr = "the answer's {string} is one of {string} or {string}")]
async fn value_is_one_of(world: &mut World, path: String, one: String, other: String) {
    let value = world.answer.at(&path).as_str().unwrap();
    assert!(value == one || value == other, "{value:?}");
}

#[then(expr = "the answer's {string} follows {string}")]
async fn value_follows(world: &mut World, path: String, expression: String) {
    let value = world.answer.at(&path).as_str().unwrap();
    let schema = json!({"type": "string", "pattern": format!("^(?:{expression})$")});
    assert!(jsonschema::is_valid(&schema, &json!(value)), "{value:?}");
}

/// Numbers are equal however they are written.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => (left - right).abs() < 1e-6,
        _ => left == right,
    }
}

#[then("the answer's tokens add up")]
async fn tokens_add_up(world: &mut World) {
    let count = |what: &str| world.answer.at(&format!("usage.{what}")).as_u64().unwrap();
    assert_eq!(
        count("total_tokens"),
        count("prompt_tokens") + count("completion_tokens")
    );
    assert!(count("completion_tokens") > 0);
}

#[then(expr = "the error says {string}")]
async fn error_says(world: &mut World, part: String) {
    let message = world.answer.at("error.message").as_str().unwrap();
    assert!(message.contains(&part), "{message}");
}

#[then(expr = "the error's param is {string}")]
async fn error_param(world: &mut World, param: String) {
    let wanted = Some(param)
        .filter(|param| !param.is_empty())
        .map_or(Value::Null, Value::String);
    assert_eq!(
        world.answer.at("error.param"),
        &wanted,
        "{}",
        world.answer.body
    );
}

#[then(expr = "the header {string} is {string}")]
async fn header_is(world: &mut World, name: String, value: String) {
    assert_eq!(
        world.answer.headers.get(&name).unwrap().to_str().unwrap(),
        value
    );
}

#[then(expr = "the pieces' text contains {string}")]
async fn pieces_contain(world: &mut World, part: String) {
    assert!(world.answer.pieces.len() > 2, "{:?}", world.answer.pieces);
    assert!(
        world.answer.text().contains(&part),
        "{}",
        world.answer.text()
    );
}

#[then("every piece but the last has only content and stop")]
async fn pieces_are_small(world: &mut World) {
    let (_, before) = world.answer.pieces.split_last().unwrap();
    for piece in before {
        let fields: Vec<&String> = piece.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["content", "stop"]);
    }
}

#[then(regex = r#"^the (first|last) piece's "([^"]+)" is (.+)$"#)]
async fn piece_is(world: &mut World, which: String, path: String, wanted: String) {
    let pieces = &world.answer.pieces;
    let piece = if which == "first" {
        pieces.first()
    } else {
        pieces.last()
    };
    let pointer = format!("/{}", path.replace('.', "/"));
    let wanted: Value = serde_json::from_str(&wanted).unwrap();
    assert_eq!(piece.unwrap().pointer(&pointer), Some(&wanted), "{piece:?}");
}

#[then("the stream ends with [DONE]")]
async fn stream_is_done(world: &mut World) {
    assert!(world.answer.done);
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

#[then(expr = "each of {int} choices has a role, {int} tokens' text and an end")]
async fn choices_in_pieces(world: &mut World, count: u64, tokens: u64) {
    let choices = world
        .answer
        .pieces
        .iter()
        .filter_map(|piece| piece["choices"].get(0));
    let choices: Vec<&Value> = choices.collect();
    for index in 0..count {
        let own: Vec<&&Value> = choices
            .iter()
            .filter(|choice| choice["index"] == index)
            .collect();
        assert_eq!(own[0]["delta"]["role"], "assistant");
        assert!((1..=tokens as usize).contains(&(own.len() - 2)), "{own:?}");
        let ends = own
            .iter()
            .filter(|choice| !choice["finish_reason"].is_null());
        assert_eq!(ends.count(), 1);
        assert_eq!(own.last().unwrap()["finish_reason"], "length");
    }
}

#[then(expr = "the answer's {string} is the Base64 of what {string} is natively")]
async fn base64_of(world: &mut World, path: String, text: String) {
    let written = world.answer.at(&path).as_str().unwrap();
    let bytes = STANDARD.decode(written).unwrap();
    let (numbers, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    let numbers: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
    world.embed(json!({ "content": text })).await;
    let native: Vec<f32> = serde_json::from_value(world.answer.at("embedding").clone()).unwrap();
    assert_eq!(numbers, native);
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
