//! The server exports a span for every request, which lasts to the last byte of the response, and one for its
//! generation.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::io::Cursor;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Route, Server, handler, web::Data};
use program::{ortolan, ready, startup_error};
use prost::Message;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Longest time that the test waits for the spans.
const TIMEOUT: Duration = Duration::from_secs(60);

#[handler]
fn collect(body: Vec<u8>, Data(exports): Data<&UnboundedSender<ExportTraceServiceRequest>>) {
    // The receiver is gone if the test has ended.
    let _ = exports.send(ExportTraceServiceRequest::decode(Cursor::new(body)).unwrap());
}

/// Starts an OTLP collector; returns its address and the requests that it receives.
async fn start_collector() -> (String, UnboundedReceiver<ExportTraceServiceRequest>) {
    let (sender, exports) = unbounded_channel();
    let acceptor = TcpListener::bind("127.0.0.1:0")
        .into_acceptor()
        .await
        .unwrap();
    let address = acceptor.local_addr()[0]
        .as_socket_addr()
        .unwrap()
        .to_string();
    let routes = Route::new()
        .at("/v1/traces", poem::post(collect))
        .data(sender);
    tokio::spawn(Server::new_with_acceptor(acceptor).run(routes));
    (address, exports)
}

fn value<'a>(attributes: &'a [KeyValue], name: &str) -> &'a Value {
    let attribute = attributes.iter().find(|attribute| attribute.key == name);
    let attribute = attribute.unwrap_or_else(|| panic!("no {name} in {attributes:?}"));
    attribute.value.as_ref().unwrap().value.as_ref().unwrap()
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_stream_lasts_to_its_end_and_contains_the_generation() {
    let (address, mut exports) = start_collector().await;
    let mut command = ortolan();
    command.arg(format!("--otlp-endpoint=http://{address}"));
    let (program, server) = ready(command);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = reqwest::Client::new()
        .post(format!("{server}/completion"))
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .header("x-request-id", "wren")
        .json(&json!({"prompt": "Once upon a time", "n_predict": 6, "ignore_eos": true, "stream": true}));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().await.unwrap().contains("\"stop\":true"));
    // The program exports all pending spans before it exits.
    assert_eq!(program.stop().code, Some(0));
    let spans = async {
        let mut spans: Vec<Span> = Vec::new();
        while spans.len() < 2 {
            let export = exports.recv().await.unwrap();
            for resource in export.resource_spans {
                let attributes = &resource.resource.unwrap().attributes;
                let service = Value::StringValue("ortolan".to_owned());
                assert_eq!(value(attributes, "service.name"), &service);
                let scopes = resource.scope_spans.into_iter();
                spans.extend(scopes.flat_map(|scope| scope.spans));
            }
        }
        spans
    };
    let spans = tokio::time::timeout(TIMEOUT, spans).await.unwrap();

    let span_named = |name| spans.iter().find(|span| span.name == name).unwrap();
    let (request, generation) = (span_named("POST /completion"), span_named("generation"));
    assert_eq!(request.kind(), SpanKind::Server);
    assert_eq!(
        request.trace_id,
        u128::from_str_radix(trace, 16).unwrap().to_be_bytes()
    );
    assert_eq!(
        request.parent_span_id,
        0xb7ad_6b71_6920_3331_u64.to_be_bytes()
    );
    let text = |text: &str| Value::StringValue(text.to_owned());
    for (name, expected) in [
        ("http.request.method", text("POST")),
        ("http.route", text("/completion")),
        ("url.path", text("/completion")),
        ("http.response.status_code", Value::IntValue(200)),
        ("request_id", text("wren")),
    ] {
        assert_eq!(value(&request.attributes, name), &expected, "{name}");
    }
    assert_eq!(generation.parent_span_id, request.span_id);
    for (name, count) in [
        ("gen_ai.usage.input_tokens", 4),
        ("gen_ai.usage.output_tokens", 6),
    ] {
        assert_eq!(
            value(&generation.attributes, name),
            &Value::IntValue(count),
            "{name}"
        );
    }
    let Value::DoubleValue(decode_ms) = value(&generation.attributes, "decode_ms") else {
        panic!("{generation:?}");
    };
    assert!(*decode_ms > 0.0);
    let request_ms = (request.end_time_unix_nano - request.start_time_unix_nano) as f64 / 1e6;
    assert!(
        request_ms >= *decode_ms,
        "the request took {request_ms} ms, but decoding took {decode_ms} ms"
    );
}

#[test]
fn an_invalid_otlp_endpoint_is_rejected() {
    for (address, cause) in [
        ("nowhere", "relative URL without a base"),
        ("https://127.0.0.1:4318", "as http://127.0.0.1:4318"),
    ] {
        let mut command = ortolan();
        command
            .args(["--otlp-endpoint", address, "-m"])
            .arg(common::model());
        let (code, message) = startup_error(command);
        assert_eq!(code, Some(1), "{message}");
        assert!(
            message.contains("--otlp-endpoint") && message.contains(cause),
            "{message}"
        );
    }
}
