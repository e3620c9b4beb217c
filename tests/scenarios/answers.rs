//! What an answer says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cucumber::gherkin::Step;
use cucumber::then;
use serde_json::{Value, json};

use crate::asking::json_of;
use crate::world::{Answer, World};

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

#[then(expr = "the header {string} is a time of today")]
async fn header_is_recent(world: &mut World, name: String) {
    let seconds: u64 = world.answer.headers[&name]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    let age = SystemTime::now().duration_since(time).unwrap();
    assert!(age < Duration::from_secs(86_400), "{age:?}");
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

#[then(regex = r#"^the answer's "([^"]+)" is (\[.*\]|\{.*\}|".*"|[-\d.]+|true|false|null)$"#)]
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

#[then(expr = "the answer has no {string}")]
async fn has_no(world: &mut World, name: String) {
    let pointer = format!("/{}", name.replace('.', "/"));
    assert_eq!(world.answer.body.pointer(&pointer), None);
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
pub(crate) fn same(left: &Value, right: &Value) -> bool {
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

#[then(expr = "the header {string} is missing")]
async fn header_is_missing(world: &mut World, name: String) {
    assert_eq!(world.answer.headers.get(&name), None);
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

#[then(expr = "the pieces think {string} and say {string}")]
async fn pieces_think(world: &mut World, thought: String, said: String) {
    let pieces = world.answer.pieces.iter();
    let thoughts = pieces.filter_map(|piece| {
        let delta = piece.pointer("/choices/0/delta/reasoning_content")?;
        delta.as_str()
    });
    assert_eq!(thoughts.collect::<String>(), thought);
    assert_eq!(world.answer.text(), said);
}

#[then("every piece but the last has only content and stop")]
async fn pieces_are_small(world: &mut World) {
    let (_, before) = world.answer.pieces.split_last().unwrap();
    for piece in before {
        let fields: Vec<&String> = piece.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["content", "stop"]);
    }
}

#[then(expr = "the pieces' {string} have {int} entries together")]
async fn pieces_have_entries(world: &mut World, name: String, count: usize) {
    let pieces = world.answer.pieces.iter();
    let entries = pieces.filter_map(|piece| piece.get(&name)?.as_array());
    assert_eq!(entries.map(Vec::len).sum::<usize>(), count);
}

#[then(regex = r#"^the last piece is (\{.+\})$"#)]
async fn last_piece_is(world: &mut World, wanted: String) {
    let wanted: Value = serde_json::from_str(&wanted).unwrap();
    assert_eq!(world.answer.pieces.last(), Some(&wanted));
}

#[then(expr = "the answer's {string} is that of the field {string}")]
async fn value_is_another_fields(world: &mut World, path: String, other: String) {
    assert_eq!(world.answer.at(&path), world.answer.at(&other));
}

#[then(expr = "fewer than {int} tokens were generated")]
async fn generated_fewer(world: &mut World, most: u64) {
    let generated = world.answer.at("tokens_predicted").as_u64().unwrap();
    assert!((1..most).contains(&generated), "{generated}");
}

#[then(regex = r#"^the (first|second|third|last) piece's "([^"]+)" is (.+)$"#)]
async fn piece_is(world: &mut World, which: String, path: String, wanted: String) {
    let pieces = &world.answer.pieces;
    let piece = match &*which {
        "first" => pieces.first(),
        "second" => pieces.get(1),
        "third" => pieces.get(2),
        _ => pieces.last(),
    };
    let pointer = format!("/{}", path.replace('.', "/"));
    let wanted: Value = serde_json::from_str(&wanted).unwrap();
    assert_eq!(piece.unwrap().pointer(&pointer), Some(&wanted), "{piece:?}");
}

#[then(expr = "no piece but the last has {string}")]
async fn only_the_last_piece_has(world: &mut World, name: String) {
    let (last, before) = world.answer.pieces.split_last().unwrap();
    assert!(last.get(&name).is_some(), "{last}");
    assert!(!before.is_empty());
    for piece in before {
        assert_eq!(piece.get(&name), None, "{piece}");
    }
}

#[then("the stream ends with [DONE]")]
async fn stream_is_done(world: &mut World) {
    assert!(world.answer.done);
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
