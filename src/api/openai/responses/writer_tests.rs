use std::time::Duration;

use serde_json::{Value, json};

use super::super::response::initial_response;
use std::collections::HashMap;

use super::*;

/// Converts assistant events to response events and validates each of them.
async fn response_events(events: Vec<Result<AssistantEvent, Error>>) -> Vec<Value> {
    let body = serde_json::from_value(json!({})).unwrap();
    let writer = Writer::new(initial_response(&body, "tiny", true), HashMap::new());
    let sent = writer.events(stream::iter(events), |_| ());
    let sent = sent.map(|event| serde_json::to_value(event).unwrap());
    let sent: Vec<Value> = sent.collect().await;
    for event in &sent {
        crate::api::check("ResponsesEvent", event).unwrap();
    }
    sent
}

#[tokio::test]
async fn a_failure_is_reported_and_ends_the_stream() {
    let text = AssistantEvent::Parts {
        parts: vec![OutputPart::Text("Hi".to_owned())],
        tokens: Vec::new(),
    };
    let timeout = Duration::from_secs(2);
    let error = GenerateError::DeadlinePassed { timeout };
    let sent = response_events(vec![Ok(text), Err(error.into())]).await;
    let types: Vec<&str> = sent
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(types[5..], ["error", "response.failed"]);
    let message = "the request took longer than 2 seconds";
    assert_eq!(
        sent[5],
        json!({"type": "error", "sequence_number": 5, "code": null, "message": message, "param": null})
    );
    let response = &sent[6]["response"];
    assert_eq!(response["status"], "failed");
    assert_eq!(
        response["error"],
        json!({"code": "server_error", "message": message})
    );
}

#[tokio::test]
async fn messages_and_tool_calls_become_items() {
    let parts = vec![
        OutputPart::Text("I ".to_owned()),
        OutputPart::Text("look.".to_owned()),
        OutputPart::ToolCall {
            name: "now".to_owned(),
        },
        OutputPart::Arguments("{}".to_owned()),
        OutputPart::ToolCall {
            name: "here".to_owned(),
        },
        OutputPart::Arguments("{".to_owned()),
    ];
    let tokens = Vec::new();
    let sent = response_events(vec![Ok(AssistantEvent::Parts { parts, tokens })]).await;
    let items: Vec<(&Value, &Value, &Value)> = sent
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| {
            let item = &event["item"];
            (&event["output_index"], &item["type"], &item["status"])
        })
        .collect();
    let (message, call) = (json!("message"), json!("function_call"));
    let completed = json!("completed");
    assert_eq!(
        items,
        [
            (&json!(0), &message, &completed),
            (&json!(1), &call, &completed)
        ]
    );
    let numbers = sent.iter().map(|event| event["sequence_number"].as_u64());
    assert!(numbers.eq((0..sent.len() as u64).map(Some)));
}
