use std::time::Duration;

use serde_json::{Value, json};

use super::super::response::begun;
use std::collections::HashMap;

use super::*;

/// What is sent of these events.
async fn sent(events: Vec<Result<AnswerEvent, Error>>) -> Vec<Value> {
    let body = serde_json::from_value(json!({})).unwrap();
    let writer = Writer::new(begun(&body, "tiny", true), HashMap::new());
    let sent = writer.events(stream::iter(events), |_| ());
    let sent = sent.map(|event| serde_json::to_value(event).unwrap());
    let sent: Vec<Value> = sent.collect().await;
    for event in &sent {
        crate::api::check("ResponsesEvent", event).unwrap();
    }
    sent
}

#[tokio::test]
async fn a_failure_is_told_and_is_the_end() {
    let text = AnswerEvent::Parts {
        parts: vec![AnswerPart::Text("Hi".to_owned())],
        tokens: Vec::new(),
    };
    let timeout = Duration::from_secs(2);
    let error = GenerateError::DeadlinePassed { timeout };
    let sent = sent(vec![Ok(text), Err(error.into())]).await;
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
async fn what_is_said_and_called_are_items() {
    let parts = vec![
        AnswerPart::Text("I ".to_owned()),
        AnswerPart::Text("look.".to_owned()),
        AnswerPart::Call {
            name: "now".to_owned(),
        },
        AnswerPart::Arguments("{}".to_owned()),
        AnswerPart::Call {
            name: "here".to_owned(),
        },
        AnswerPart::Arguments("{".to_owned()),
    ];
    let tokens = Vec::new();
    let sent = sent(vec![Ok(AnswerEvent::Parts { parts, tokens })]).await;
    let items: Vec<(&Value, &Value, &Value)> = sent
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| {
            let item = &event["item"];
            (&event["output_index"], &item["type"], &item["status"])
        })
        .collect();
    let (message, call) = (json!("message"), json!("function_call"));
    let whole = json!("completed");
    assert_eq!(
        items,
        [(&json!(0), &message, &whole), (&json!(1), &call, &whole)]
    );
    let numbers = sent.iter().map(|event| event["sequence_number"].as_u64());
    assert!(numbers.eq((0..sent.len() as u64).map(Some)));
}
