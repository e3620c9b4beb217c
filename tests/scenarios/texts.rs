//! Steps about texts that go on, as OpenAI's older route has them.

use cucumber::gherkin::Step;
use cucumber::{then, when};
use serde_json::{Value, json};

use crate::asking::json_of;
use crate::world::{Answer, World};

#[when("I go on with:")]
async fn go_on(world: &mut World, step: &Step) {
    let body = json_of(step);
    world.go_on(body.clone()).await;
    world.texts = Some(body);
}

#[then(expr = "the text of choice {int} contains {string}")]
async fn text_of_choice(world: &mut World, choice: u64, part: String) {
    let pieces = world.answer.pieces.iter();
    let pieces = pieces.filter(|piece| piece["choices"][0]["index"] == choice);
    let text: String = pieces
        .map(|piece| piece["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert!(text.contains(&part), "{text:?}");
}

/// The tokens and their log-probabilities.
fn logprobs(answer: &Answer) -> Vec<(String, Option<f64>)> {
    let all = answer.at("choices.0.logprobs");
    let (tokens, logprobs) = (&all["tokens"], &all["token_logprobs"]);
    let tokens = tokens.as_array().unwrap().iter();
    let told = tokens.zip(logprobs.as_array().unwrap());
    told.map(|(token, logprob)| (token.as_str().unwrap().to_owned(), logprob.as_f64()))
        .collect()
}

#[then("the text that was told is told again with the same log-probabilities")]
async fn told_again(world: &mut World) {
    let first = logprobs(&world.answer);
    assert!(first[1..].iter().all(|(_, logprob)| logprob.is_some()));
    let body = json!({
        "prompt": world.answer.text(), "max_tokens": 0, "echo": true, "logprobs": 2,
    });
    world.go_on(body).await;
    assert_eq!(logprobs(&world.answer), first);
}

#[then(expr = "it is the most probable of the {int} that the seeds from {int} on choose")]
async fn most_probable(world: &mut World, count: u64, seed: u64) {
    let best = world.answer.text();
    let mut body = world.texts.clone().unwrap();
    let fields = body.as_object_mut().unwrap();
    fields.remove("best_of");
    fields.insert("logprobs".to_owned(), json!(0));
    let mut texts: Vec<(f64, String)> = Vec::new();
    for seed in seed..seed + count {
        body["seed"] = json!(seed);
        world.go_on(body.clone()).await;
        assert_eq!(
            world.answer.at("choices.0.logprobs.top_logprobs"),
            &Value::Null
        );
        let told = logprobs(&world.answer);
        let sum: f64 = told.iter().filter_map(|(_, logprob)| *logprob).sum();
        texts.push((sum / told.len() as f64, world.answer.text()));
    }
    texts.sort_by(|left, right| right.0.total_cmp(&left.0));
    assert_eq!(best, texts[0].1, "{texts:?}");
}
