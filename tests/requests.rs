//! Every field of every route, and requests recorded from real clients. The server must apply each field, reject it by
//! name, or report it in `x-ortolan-ignored`.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "requests/expectation.rs"]
mod expectation;
#[path = "requests/field_path.rs"]
mod field_path;
#[path = "requests/fields.rs"]
mod fields;
#[path = "requests/nested_fields.rs"]
mod nested_fields;
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

/// A request recorded from a client (`requests/clients.jsonl`).
#[derive(Deserialize)]
struct ClientRequest {
    id: String,
    path: String,
    body: Value,
    expect: Expectation,
}

#[tokio::test]
async fn requests_of_real_clients_have_the_expected_responses() {
    let server = Server::start();
    let lines = include_str!("requests/clients.jsonl").lines();
    let mut problems = Vec::new();
    for line in lines {
        let request: ClientRequest = serde_json::from_str(line).unwrap();
        let response = server.post(&request.path, &request.body).await;
        let problem = request.expect.check(&server, &response, None).await;
        problems.extend(problem.map(|problem| format!("{}: {problem}", request.id)));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[tokio::test]
async fn every_field_is_applied_rejected_or_reported() {
    let problems = fields::check().await;
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_table_has_every_field_of_the_document() {
    let (missing, unknown) = fields::coverage();
    assert_eq!((missing, unknown), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn every_nested_field_is_applied_rejected_or_reported() {
    let problems = nested_fields::check().await;
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_table_has_every_nested_field_of_the_document() {
    let (missing, unknown) = nested_fields::coverage();
    assert_eq!((missing, unknown), (Vec::new(), Vec::new()));
}

/// The tables check something only if an unmet expectation is reported.
#[tokio::test]
async fn unmet_expectations_are_reported() {
    let server = Server::start();
    let body = json!({"prompt": "The capital of France is", "n_predict": 2, "temperature": 0});
    let response = server.post("/completion", &body).await;
    for unmet in [
        json!({"refused": "prompt"}),
        json!({"reported": ["prompt"]}),
        json!({"slot": {"temperature": 0.5}}),
        json!({"answer": {"/content": "nothing like it"}}),
        json!({"text": "^nothing like it$"}),
        json!({"streamed": true}),
        json!({}),
    ] {
        let expectation: Expectation = serde_json::from_value(unmet.clone()).unwrap();
        let problem = expectation.check(&server, &response, None).await;
        assert!(problem.is_some(), "{unmet}");
    }
}
