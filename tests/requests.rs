//! What clients send: every field of every route, and requests of real clients. Each field is honoured, refused by
//! name, or reported in `x-ortolan-ignored`; nothing else may happen to it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "requests/expectation.rs"]
mod expectation;
#[path = "requests/fields.rs"]
mod fields;
#[path = "requests/nested_fields.rs"]
mod nested_fields;
#[path = "requests/place.rs"]
mod place;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;
#[path = "requests/server.rs"]
mod server;
#[path = "requests/small_models.rs"]
mod small_models;

use expectation::Expectation;
use serde::Deserialize;
use serde_json::{Value, json};
use server::Server;

/// A request that a client sent.
#[derive(Deserialize)]
struct ClientRequest {
    id: String,
    path: String,
    body: Value,
    expect: Expectation,
}

#[tokio::test]
async fn requests_of_real_clients_are_answered_or_refused_in_words() {
    let server = Server::start();
    let lines = include_str!("requests/clients.jsonl").lines();
    let mut problems = Vec::new();
    for line in lines {
        let request: ClientRequest = serde_json::from_str(line).unwrap();
        let answer = server.post(&request.path, &request.body).await;
        let found = request.expect.check(&server, &answer, None).await;
        problems.extend(found.map(|problem| format!("{}: {problem}", request.id)));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[tokio::test]
async fn every_field_is_honoured_refused_or_reported() {
    let problems = fields::check().await;
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_table_has_every_field_of_the_document() {
    let (missing, unknown) = fields::coverage();
    assert_eq!((missing, unknown), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn every_nested_field_is_honoured_refused_or_reported() {
    let problems = nested_fields::check().await;
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_table_has_every_nested_field_of_the_document() {
    let (missing, unknown) = nested_fields::coverage();
    assert_eq!((missing, unknown), (Vec::new(), Vec::new()));
}

/// A table in which nothing can fail would show nothing.
#[tokio::test]
async fn an_expectation_that_does_not_hold_is_noticed() {
    let server = Server::start();
    let body = json!({"prompt": "The capital of France is", "n_predict": 2, "temperature": 0});
    let answer = server.post("/completion", &body).await;
    for wrong in [
        json!({"refused": "prompt"}),
        json!({"reported": ["prompt"]}),
        json!({"slot": {"temperature": 0.5}}),
        json!({"answer": {"/content": "nothing like it"}}),
        json!({"text": "^nothing like it$"}),
        json!({"streamed": true}),
        json!({}),
    ] {
        let expectation: Expectation = serde_json::from_value(wrong.clone()).unwrap();
        let problem = expectation.check(&server, &answer, None).await;
        assert!(problem.is_some(), "{wrong}");
    }
}
