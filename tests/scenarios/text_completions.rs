//! Steps about OpenAI's `/v1/completions`.

use cucumber::gherkin::Step;
use cucumber::{then, when};
use serde_json::{Value, json};

use crate::requests::json_of;
use crate::world::{Response, World};

#[when("I request a text completion:")]
async fn request_text_completion(world: &mut World, step: &Step) {
    let body = json_of(step);
    world.complete_text(body.clone()).await;
    world.text_completion = Some(body);
}

#[then(expr = "the text of choice {int} contains {string}")]
async fn text_of_choice(world: &mut World, choice: u64, part: String) {
    let events = world.response.events.iter();
    let events = events.filter(|event| event["choices"][0]["index"] == choice);
    let text: String = events
        .map(|event| event["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert!(text.contains(&part), "{text:?}");
}

/// The tokens of the first choice, each with its log probability.
fn logprobs(response: &Response) -> Vec<(String, Option<f64>)> {
    let all = response.at("choices.0.logprobs");
    let (tokens, logprobs) = (&all["tokens"], &all["token_logprobs"]);
    let tokens = tokens.as_array().unwrap().iter();
    let pairs = tokens.zip(logprobs.as_array().unwrap());
    pairs
        .map(|(token, logprob)| (token.as_str().unwrap().to_owned(), logprob.as_f64()))
        .collect()
}

#[then("echoing the generated text gives the same logprobs")]
async fn echo_has_the_same_logprobs(world: &mut World) {
    let generated = logprobs(&world.response);
    assert!(generated[1..].iter().all(|(_, logprob)| logprob.is_some()));
    let body = json!({
        "prompt": world.response.text(), "max_tokens": 0, "echo": true, "logprobs": 2,
    });
    world.complete_text(body).await;
    assert_eq!(logprobs(&world.response), generated);
}

#[then(expr = "it is the most probable of {int} completions with consecutive seeds from {int} on")]
async fn most_probable(world: &mut World, count: u64, seed: u64) {
    let best = world.response.text();
    let mut body = world.text_completion.clone().unwrap();
    let fields = body.as_object_mut().unwrap();
    fields.remove("best_of");
    fields.insert("logprobs".to_owned(), json!(0));
    let mut texts: Vec<(f64, String)> = Vec::new();
    for seed in seed..seed + count {
        body["seed"] = json!(seed);
        world.complete_text(body.clone()).await;
        assert_eq!(
            world.response.at("choices.0.logprobs.top_logprobs"),
            &Value::Null
        );
        let tokens = logprobs(&world.response);
        let sum: f64 = tokens.iter().filter_map(|(_, logprob)| *logprob).sum();
        texts.push((sum / tokens.len() as f64, world.response.text()));
    }
    texts.sort_by(|left, right| right.0.total_cmp(&left.0));
    assert_eq!(best, texts[0].1, "{texts:?}");
}
