//! JSON overhead of the API: parsing and validating a request body, and serializing a stream event.
//!
//! `cargo bench --bench json`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ortolan::api::{check, types};
use serde_json::{Value, json};

/// A chat completion request with this number of messages.
fn body(messages: usize) -> Vec<u8> {
    let message = |number: usize| {
        let role = ["user", "assistant"][number % 2];
        json!({ "role": role, "content": "Der Ortolan ist ein kleiner Singvogel. ".repeat(20) })
    };
    let messages: Vec<Value> = (0..messages).map(message).collect();
    let body = json!({
        "model": "default",
        "messages": messages,
        "max_tokens": 64,
        "temperature": 0.7,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    body.to_string().into_bytes()
}

fn bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body");
    for messages in [1, 16, 256] {
        let bytes = body(messages);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("messages", messages), |bencher| {
            bencher.iter(|| {
                let value: Value = serde_json::from_slice(black_box(&bytes)).expect("valid JSON");
                check("ChatCompletionRequest", &value).expect("a valid request");
                serde_json::from_value::<types::ChatCompletionRequest>(value)
                    .expect("a value of this type")
            });
        });
    }
    group.finish();
}

fn events(criterion: &mut Criterion) {
    let chunk = json!({
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_732_406_400,
        "model": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "system_fingerprint": "ortolan-0.1.0",
        "choices": [{ "index": 0, "delta": { "content": " Singvogel" }, "finish_reason": null, "logprobs": null }],
    });
    let chunk: types::ChatCompletionChunk =
        serde_json::from_value(chunk).expect("a value of this type");
    criterion.bench_function("stream event", |bencher| {
        bencher.iter(|| serde_json::to_string(black_box(&chunk)).expect("serializable"));
    });
}

criterion_group!(benches, bodies, events);
criterion_main!(benches);
