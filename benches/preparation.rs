//! Work before the first step of a chat request, from the JSON body to the sequences in the engine's queue: time, and
//! memory that is allocated for it. For each request, the first one and the median of identical ones.
//!
//! `cargo bench --bench preparation`. The engine runs at the same time, so the figures include a few of its allocations.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ortolan::api::{ApiSettings, Caller, routes};
use ortolan::file_bytes::FileAccess;
use ortolan::model::load::{CacheSize, LoadOptions, inspect};
use ortolan::model::{AdapterOptions, LoadedModel, ModelState, PreparationPool, SystemPrompt};
use ortolan::runtime::SessionOptions;
use poem::{Endpoint, Request};
use serde_json::{Value, json};
use tokio::sync::watch;

const ROUNDS: usize = 21;
const CHOICES: usize = 8;

/// The system's allocator, with counters of all allocations and their bytes.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static ALLOCATED_BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    ALLOCATED_BYTES.fetch_add(bytes, Relaxed);
}

// SAFETY: every call is forwarded unchanged to the system's allocator; the counters do not affect it.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let model = Arc::new(load()?);
    let endpoint = routes(settings(&model)?);
    // The first grammar builds the compiler.
    prepare(&endpoint, &model, &body(json!({"regex": "a"}))).await?;
    println!("{:<28}       time  allocations    KiB", "");
    for (name, options) in [
        ("text", json!({})),
        ("8 choices, text", json!({"n": CHOICES})),
        (
            "8 choices, JSON schema",
            json!({"n": CHOICES, "response_format": response_format()}),
        ),
        (
            "8 choices, 8 tools",
            json!({"n": CHOICES, "tools": tools()}),
        ),
    ] {
        let body = body(options);
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            costs.push(prepare(&endpoint, &model, &body).await?);
        }
        print_cost(&format!("{name}: first"), &costs[0]);
        costs.remove(0);
        costs.sort_by_key(|cost| cost.time);
        print_cost(&format!("{name}: again"), &costs[costs.len() / 2]);
    }
    Ok(())
}

/// The cost of preparing one request.
struct Cost {
    time: Duration,
    allocations: usize,
    bytes: usize,
}

fn print_cost(name: &str, cost: &Cost) {
    let (time, kib) = (cost.time.as_secs_f64() * 1e3, cost.bytes / 1024);
    println!(
        "{name:<28} {time:>7.2} ms {:>12} {kib:>6}",
        cost.allocations
    );
}

/// Sends a request, and measures until the response begins, when all sequences are in the engine's queue. Then cancels
/// the request.
async fn prepare(
    endpoint: &impl Endpoint<Output = poem::Response>,
    model: &LoadedModel,
    body: &str,
) -> anyhow::Result<Cost> {
    let mut request = Request::builder()
        .method(poem::http::Method::POST)
        .uri_str("/v1/chat/completions")
        .content_type("application/json")
        .body(body.to_owned());
    request.set_data(Caller::Anyone);
    let (allocations, bytes) = (ALLOCATIONS.load(Relaxed), ALLOCATED_BYTES.load(Relaxed));
    let start = Instant::now();
    let response = endpoint.call(request).await;
    let cost = Cost {
        time: start.elapsed(),
        allocations: ALLOCATIONS.load(Relaxed) - allocations,
        bytes: ALLOCATED_BYTES.load(Relaxed) - bytes,
    };
    let response = response.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(response.status().is_success(), "{}", response.status());
    drop(response);
    // The engine cancels the sequences when it receives them.
    tokio::time::sleep(Duration::from_millis(50)).await;
    while model.health().map_err(anyhow::Error::msg)?.processing > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(cost)
}

/// A streamed chat request with these options.
fn body(options: Value) -> String {
    let mut body = json!({
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. ".repeat(16)},
            {"role": "user", "content": "Plan a trip to Rome."},
        ],
        "stream": true, "temperature": 0.7, "seed": 7, "max_tokens": 64,
    });
    if let (Some(body), Value::Object(options)) = (body.as_object_mut(), options) {
        body.extend(options);
    }
    body.to_string()
}

fn response_format() -> Value {
    let day = json!({
        "type": "object",
        "properties": {
            "date": {"type": "string", "format": "date"},
            "city": {"type": "string", "maxLength": 40},
            "kind": {"enum": ["museum", "walk", "food", "rest"]},
            "hours": {"type": "number", "minimum": 0, "maximum": 24},
            "notes": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        },
        "required": ["date", "city", "kind", "hours", "notes"],
    });
    let schema = json!({
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "budget": {"type": "integer", "minimum": 0, "maximum": 100_000},
            "days": {"type": "array", "items": day, "minItems": 1, "maxItems": 14},
        },
        "required": ["title", "budget", "days"],
    });
    json!({"type": "json_schema", "json_schema": {"name": "trip", "schema": schema}})
}

fn tools() -> Vec<Value> {
    let tool = |number: usize| {
        let parameters = json!({
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "Path of the file."},
                "lines": {"type": "array", "items": {"type": "integer"}, "maxItems": 8},
                "mode": {"enum": ["read", "write", "append"]},
                "options": {
                    "type": "object",
                    "properties": {"force": {"type": "boolean"}, "depth": {"type": "integer"}},
                },
            },
            "required": ["path", "mode"],
        });
        let name = format!("tool_{number}");
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    (0..8).map(tool).collect()
}

fn load() -> anyhow::Result<LoadedModel> {
    let options = LoadOptions {
        alias: None,
        context_tokens: Some(2048),
        parallel: CHOICES,
        queue: CHOICES,
        step_tokens: 64,
        batch_tokens: 64,
        step_duration: Duration::from_millis(100),
        prefill_share: 0.5,
        cache: CacheSize::AllContexts,
        access: FileAccess::Map,
        lock_memory: false,
        session: SessionOptions::new(common::onnxruntime()),
        quantize: None,
        chat_template: None,
        pooling: None,
        adapters: AdapterOptions::default(),
        system_prompt: SystemPrompt::default(),
    };
    inspect(&common::model(), options)?
        .load(&|_| ())
        .context("the model could not be loaded")
}

fn settings(model: &Arc<LoadedModel>) -> anyhow::Result<ApiSettings> {
    let (_, state) = watch::channel(ModelState::Ready(Arc::clone(model)));
    let preparations = Arc::new(PreparationPool::new(1)?);
    Ok(ApiSettings::new(state, preparations))
}
