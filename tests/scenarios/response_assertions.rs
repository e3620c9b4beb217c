//! Steps that check the last response: status, headers, body, and streamed events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cucumber::gherkin::Step;
use cucumber::then;
use serde_json::{Value, json};

use crate::requests::json_of;
use crate::world::{Response, World};

#[then(expr = "that prompt has {int} special tokens, including its first and its last token")]
async fn prompt_has_special_tokens(world: &mut World, count: usize) {
    let last = world.response.events.last().unwrap();
    let prompt: Vec<u64> = serde_json::from_value(last["prompt"].clone()).unwrap();
    let special = prompt.iter().filter(|token| **token >= 256);
    assert_eq!(special.count(), count, "{prompt:?}");
    assert!(prompt[0] >= 256 && *prompt.last().unwrap() >= 256);
}

#[then(expr = "the header {string} is a Unix time within the last 24 hours")]
async fn header_is_recent(world: &mut World, name: String) {
    let seconds: u64 = world.response.headers[&name]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    let age = SystemTime::now().duration_since(time).unwrap();
    assert!(age < Duration::from_secs(86_400), "{age:?}");
}

#[then(regex = r#"^the metric "(.+)" is ([\d.]+)$"#)]
async fn metric_is(world: &mut World, name: String, expected: f64) {
    assert_eq!(metric(&world.response, &name), expected);
}

#[then(regex = r#"^the metric "(.+)" is at least ([\d.]+)$"#)]
async fn metric_is_at_least(world: &mut World, name: String, minimum: f64) {
    let value = metric(&world.response, &name);
    assert!(value >= minimum, "{name} is {value}");
}

/// The value of a sample in Prometheus' text format.
fn metric(response: &Response, name: &str) -> f64 {
    let text = response.body.as_str().unwrap();
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let sample = lines.find(|(key, _)| *key == name);
    let (_, value) = sample.unwrap_or_else(|| panic!("{name} not found in {text}"));
    value.parse().unwrap()
}

#[then(expr = "the status is {int}")]
async fn status_is(world: &mut World, status: u16) {
    assert_eq!(world.response.status, status, "{}", world.response.body);
}

#[then(regex = r#"^the response's "([^"]+)" is (\[.*\]|\{.*\}|".*"|[-\d.]+|true|false|null)$"#)]
async fn value_is(world: &mut World, path: String, expected: String) {
    let expected: Value = serde_json::from_str(&expected).unwrap();
    assert!(
        same(world.response.at(&path), &expected),
        "{path} is {}, not {expected}",
        world.response.at(&path)
    );
}

#[then(regex = r#"^the response's "([^"]+)" is not (\[.*\])$"#)]
async fn value_is_not(world: &mut World, path: String, excluded: String) {
    let excluded: Value = serde_json::from_str(&excluded).unwrap();
    assert_ne!(world.response.at(&path), &excluded);
}

#[then(expr = "the response's {string} contains {string}")]
async fn value_contains(world: &mut World, path: String, part: String) {
    let value = world.response.at(&path).as_str().unwrap();
    assert!(value.contains(&part), "{value}");
}

#[then(expr = "the response's {string} does not contain {string}")]
async fn value_does_not_contain(world: &mut World, path: String, part: String) {
    let value = world.response.at(&path).as_str().unwrap();
    assert!(!value.contains(&part), "{value}");
}

#[then("the response's generation settings are:")]
async fn settings_are(world: &mut World, step: &Step) {
    for (name, expected) in json_of(step).as_object().unwrap() {
        let value = world.response.at(&format!("generation_settings.{name}"));
        assert!(same(value, expected), "{name} is {value}, not {expected}");
    }
}

#[then(expr = "slot {int} shows:")]
async fn slot_shows(world: &mut World, step: &Step, slot: usize) {
    for (name, expected) in json_of(step).as_object().unwrap() {
        let value = world.response.at(&format!("{slot}.{name}"));
        assert!(same(value, expected), "{name} is {value}, not {expected}");
    }
}

#[then(expr = "the response's {string} has {int} entries")]
async fn has_entries(world: &mut World, path: String, count: usize) {
    assert_eq!(world.response.at(&path).as_array().unwrap().len(), count);
}

#[then(expr = "the response has {int} entries")]
async fn response_has_entries(world: &mut World, count: usize) {
    let entries = world.response.body.as_array();
    assert_eq!(
        entries.map(Vec::len),
        Some(count),
        "{}",
        world.response.body
    );
}

#[then(expr = "the response's {string} equals that of entry {string}")]
async fn value_equals_entry(world: &mut World, path: String, other: String) {
    let (_, name) = path.rsplit_once('.').unwrap();
    let expected = world.response.at(&format!("{other}.{name}"));
    assert_eq!(world.response.at(&path), expected);
}

#[then(expr = "the response has no {string}")]
async fn has_no(world: &mut World, name: String) {
    let pointer = format!("/{}", name.replace('.', "/"));
    assert_eq!(world.response.body.pointer(&pointer), None);
}

#[then(expr = "the last event has {int} {string}")]
async fn last_event_has(world: &mut World, count: usize, name: String) {
    let last = world.response.events.last().unwrap();
    assert_eq!(last[&name].as_array().unwrap().len(), count);
}

#[then(expr = "every token has {int} probabilities in descending order")]
async fn probabilities_in_order(world: &mut World, count: usize) {
    let tokens = world.response.at("completion_probabilities");
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

/// The logprobs of all tokens of the first choice, streamed or not.
fn logprobs(response: &Response) -> Vec<Value> {
    let bodies = match response.events.is_empty() {
        true => std::slice::from_ref(&response.body),
        false => &response.events,
    };
    let contents = bodies
        .iter()
        .filter_map(|body| body.pointer("/choices/0/logprobs/content")?.as_array());
    contents.flatten().cloned().collect()
}

#[then("the tokens of the logprobs join to the text")]
async fn logprobs_join_to_text(world: &mut World) {
    let tokens = logprobs(&world.response);
    let bytes = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap());
    let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
    assert!(tokens.len() > 2);
    assert_eq!(String::from_utf8(bytes).unwrap(), world.response.text());
}

#[then(expr = "each token has {int} top_logprobs in descending order")]
async fn top_logprobs_in_order(world: &mut World, count: usize) {
    for token in logprobs(&world.response) {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), count);
        // At temperature 0 the sampled token is the most probable one.
        let highest = top
            .first()
            .map_or(&token["logprob"], |first| &first["logprob"]);
        assert_eq!(highest, &token["logprob"]);
        assert!(
            top.is_sorted_by(|left, right| left["logprob"].as_f64() >= right["logprob"].as_f64())
        );
    }
}

#[then(expr = "the response's {string} is one of {string} or {string}")]
async fn value_is_one_of(world: &mut World, path: String, one: String, other: String) {
    let value = world.response.at(&path).as_str().unwrap();
    assert!(value == one || value == other, "{value:?}");
}

#[then(expr = "the response's {string} matches {string}")]
async fn value_matches(world: &mut World, path: String, pattern: String) {
    let value = world.response.at(&path).as_str().unwrap();
    let schema = json!({"type": "string", "pattern": format!("^(?:{pattern})$")});
    assert!(jsonschema::is_valid(&schema, &json!(value)), "{value:?}");
}

/// Compares JSON values, numbers within 1e-6.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => (left - right).abs() < 1e-6,
        _ => left == right,
    }
}

#[then("the token counts in usage add up")]
async fn tokens_add_up(world: &mut World) {
    let count = |field: &str| {
        world
            .response
            .at(&format!("usage.{field}"))
            .as_u64()
            .unwrap()
    };
    assert_eq!(
        count("total_tokens"),
        count("prompt_tokens") + count("completion_tokens")
    );
    assert!(count("completion_tokens") > 0);
}

#[then(expr = "the error message contains {string}")]
async fn error_message_contains(world: &mut World, part: String) {
    let message = world.response.at("error.message").as_str().unwrap();
    assert!(message.contains(&part), "{message}");
}

#[then(expr = "the error's param is {string}")]
async fn error_param(world: &mut World, param: String) {
    let expected = Some(param)
        .filter(|param| !param.is_empty())
        .map_or(Value::Null, Value::String);
    assert_eq!(
        world.response.at("error.param"),
        &expected,
        "{}",
        world.response.body
    );
}

#[then(expr = "the header {string} is {string}")]
async fn header_is(world: &mut World, name: String, value: String) {
    assert_eq!(
        world.response.headers.get(&name).unwrap().to_str().unwrap(),
        value
    );
}

#[then(expr = "the header {string} is missing")]
async fn header_is_missing(world: &mut World, name: String) {
    assert_eq!(world.response.headers.get(&name), None);
}

#[then(expr = "the streamed text contains {string}")]
async fn streamed_text_contains(world: &mut World, part: String) {
    assert!(
        world.response.events.len() > 2,
        "{:?}",
        world.response.events
    );
    assert!(
        world.response.text().contains(&part),
        "{}",
        world.response.text()
    );
}

#[then(expr = "the streamed reasoning is {string} and the streamed content is {string}")]
async fn streamed_reasoning_and_content(world: &mut World, reasoning: String, content: String) {
    let events = world.response.events.iter();
    let deltas = events.filter_map(|event| {
        let delta = event.pointer("/choices/0/delta/reasoning_content")?;
        delta.as_str()
    });
    assert_eq!(deltas.collect::<String>(), reasoning);
    assert_eq!(world.response.text(), content);
}

#[then("every event but the last has only content and stop")]
async fn events_are_minimal(world: &mut World) {
    let (_, events) = world.response.events.split_last().unwrap();
    for event in events {
        let fields: Vec<&String> = event.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["content", "stop"]);
    }
}

#[then(expr = "the events' {string} have {int} entries in total")]
async fn events_have_entries(world: &mut World, name: String, count: usize) {
    let events = world.response.events.iter();
    let entries = events.filter_map(|event| event.get(&name)?.as_array());
    assert_eq!(entries.map(Vec::len).sum::<usize>(), count);
}

#[then(regex = r#"^the last event is (\{.+\})$"#)]
async fn last_event_is(world: &mut World, expected: String) {
    let expected: Value = serde_json::from_str(&expected).unwrap();
    assert_eq!(world.response.events.last(), Some(&expected));
}

#[then(expr = "the response's {string} equals its {string}")]
async fn value_equals_field(world: &mut World, path: String, other: String) {
    assert_eq!(world.response.at(&path), world.response.at(&other));
}

#[then(expr = "fewer than {int} tokens were generated")]
async fn generated_fewer(world: &mut World, limit: u64) {
    let generated = world.response.at("tokens_predicted").as_u64().unwrap();
    assert!((1..limit).contains(&generated), "{generated}");
}

#[then(regex = r#"^the (first|second|third|last) event's "([^"]+)" is (.+)$"#)]
async fn event_value_is(world: &mut World, position: String, path: String, expected: String) {
    let events = &world.response.events;
    let event = match &*position {
        "first" => events.first(),
        "second" => events.get(1),
        "third" => events.get(2),
        _ => events.last(),
    };
    let pointer = format!("/{}", path.replace('.', "/"));
    let expected: Value = serde_json::from_str(&expected).unwrap();
    assert_eq!(
        event.unwrap().pointer(&pointer),
        Some(&expected),
        "{event:?}"
    );
}

#[then(expr = "only the last event has {string}")]
async fn only_the_last_event_has(world: &mut World, name: String) {
    let (last, others) = world.response.events.split_last().unwrap();
    assert!(last.get(&name).is_some(), "{last}");
    assert!(!others.is_empty());
    for event in others {
        assert_eq!(event.get(&name), None, "{event}");
    }
}

#[then("the stream ends with [DONE]")]
async fn stream_is_done(world: &mut World) {
    assert!(world.response.ended_with_done);
}

#[then(
    expr = "each of {int} choices has a role, text events for {int} tokens, and a finish_reason"
)]
async fn choices_are_streamed(world: &mut World, count: u64, tokens: u64) {
    let choices = world
        .response
        .events
        .iter()
        .filter_map(|event| event["choices"].get(0));
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
