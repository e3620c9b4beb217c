//! Steps about concurrent requests, queueing, and clients that disconnect.

use cucumber::{given, then, when};
use futures_util::StreamExt;
use futures_util::future::join_all;
use ortolan::engine::Stats;
use ortolan_client::types;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::servers;
use crate::world::{Response, World, read_response, read_stream};

/// Requests that a scenario sends concurrently, and their outcomes.
#[derive(Debug, Default)]
pub(crate) struct ConcurrentRequests {
    prompts: Vec<Value>,
    tokens_per_prompt: usize,
    /// Request fields for each prompt; greedy sampling if empty.
    parameters: Vec<Value>,
    texts_alone: Vec<String>,
    texts_concurrent: Vec<String>,
    rejection_statuses: Vec<u16>,
    /// Clients that keep their connections open.
    connections: Vec<JoinHandle<()>>,
    /// Clients that wait for their responses.
    pending_responses: Vec<JoinHandle<Response>>,
    /// The engine's statistics before the concurrent requests.
    stats_before: Option<Stats>,
}

impl ConcurrentRequests {
    /// Assigns the parameters to the prompts in turn.
    pub(crate) fn assign_parameters(&mut self, parameters: Vec<Value>) {
        let parameters = parameters.into_iter().cycle();
        self.parameters = parameters.take(self.prompts.len()).collect();
    }
}

fn completion(body: Value) -> types::CompletionRequest {
    serde_json::from_value(body).unwrap()
}

#[given("sixteen prompts")]
async fn sixteen_prompts(world: &mut World) {
    let subjects = [
        "The capital of France is",
        "Once upon a time",
        "def fibonacci(n):",
        "Water boils at",
        "1, 2, 3,",
        "Roses are red,",
        "My name is",
        "In 1969, humans",
        "The opposite of hot is",
        "To bake bread you need",
        "Dear Sir or Madam,",
        "The sun is",
        "A songbird",
        "import numpy as",
        "Q: What is 2+2?\nA:",
        "The sea",
    ];
    world.concurrent.prompts = subjects.map(Value::from).to_vec();
    world.concurrent.tokens_per_prompt = 48;
}

/// `count` token ids that depend on the prompt number, so that prompts share no prefix.
fn token_ids(number: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |position| 1000 + (position * 31 + number * 977) % 20_000)
}

#[given("eight prompts that each need more than a third of the KV cache")]
async fn prompts_that_do_not_fit(world: &mut World) {
    world.concurrent.prompts = (0..8)
        .map(|number| token_ids(number, 100).collect())
        .collect();
    // Prompt and completion of each need 192 of the cache's 512 tokens.
    world.concurrent.tokens_per_prompt = 92;
}

#[given("eight prompts that share their first 1024 tokens")]
async fn prompts_with_a_common_prefix(world: &mut World) {
    world.concurrent.prompts = (1..=8)
        .map(|number| token_ids(0, 1024).chain(token_ids(number, 8)).collect())
        .collect();
    world.concurrent.tokens_per_prompt = 12;
}

#[given("each with its own seed and sampling parameters")]
async fn sampling_parameters(world: &mut World) {
    let variants = [
        json!({"temperature": 1.3}),
        json!({"mirostat": 2, "mirostat_tau": 4}),
        json!({"mirostat": 1, "mirostat_tau": 3}),
        json!({"typical_p": 0.5, "tfs_z": 0.9}),
        json!({"xtc_probability": 0.5, "xtc_threshold": 0.05}),
        json!({"dry_multiplier": 1, "repeat_penalty": 1.3, "dynatemp_range": 0.5}),
        json!({"grammar": "root ::= [a-z ,.]+", "temperature": 1.5}),
        json!({"json_schema": {"type": "object", "properties": {"the_name_of_a_bird": {"type": "string", "minLength": 60}}, "required": ["the_name_of_a_bird"]}, "temperature": 1.2}),
        json!({"samplers": ["temperature", "top_p"], "top_p": 0.8, "n_probs": 2}),
    ];
    world.concurrent.parameters = (0..world.concurrent.prompts.len())
        .map(|number| {
            let mut parameters = variants[number % variants.len()].clone();
            parameters["seed"] = number.into();
            parameters
        })
        .collect();
}

/// The request that completes the prompt of this number with exactly `tokens_per_prompt` tokens.
fn completion_of(
    concurrent: &ConcurrentRequests,
    number: usize,
    from_cache: bool,
) -> types::CompletionRequest {
    let mut body = json!({
        "prompt": concurrent.prompts[number], "n_predict": concurrent.tokens_per_prompt, "ignore_eos": true,
        "cache_prompt": from_cache,
    });
    let greedy = json!({"temperature": 0});
    let parameters = concurrent.parameters.get(number).unwrap_or(&greedy);
    for (name, value) in parameters.as_object().unwrap() {
        body[name] = value.clone();
    }
    completion(body)
}

async fn complete_one(world: &World, number: usize, from_cache: bool) -> String {
    let request = completion_of(&world.concurrent, number, from_cache);
    let response = read_response(world.client().await.completion(&request).await).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.text()
}

async fn complete_all(world: &mut World, from_cache: bool) {
    world.concurrent.stats_before = Some(world.stats().await);
    let texts =
        (0..world.concurrent.prompts.len()).map(|number| complete_one(world, number, from_cache));
    world.concurrent.texts_concurrent = join_all(texts).await;
}

#[when("each prompt is completed alone")]
async fn complete_each_alone(world: &mut World) {
    for number in 0..world.concurrent.prompts.len() {
        let text = complete_one(world, number, false).await;
        world.concurrent.texts_alone.push(text);
    }
}

#[when("all prompts are completed concurrently")]
async fn complete_concurrently(world: &mut World) {
    complete_all(world, false).await;
}

#[when("all prompts are completed concurrently with the prompt cache")]
async fn complete_concurrently_cached(world: &mut World) {
    complete_all(world, true).await;
}

#[when("all prompts are streamed concurrently")]
async fn stream_concurrently(world: &mut World) {
    let texts = (0..world.concurrent.prompts.len()).map(|number| {
        let world = &*world;
        async move {
            let mut request = completion_of(&world.concurrent, number, false);
            request.stream = Some(true);
            let client = world.client().await;
            read_stream(client.completion_stream(&request).await)
                .await
                .text()
        }
    });
    world.concurrent.texts_concurrent = join_all(texts).await;
}

#[then("the concurrent texts equal the texts completed alone")]
async fn texts_are_the_same(world: &mut World) {
    let concurrent = &world.concurrent;
    assert_eq!(concurrent.texts_alone.len(), concurrent.prompts.len());
    assert_eq!(concurrent.texts_alone, concurrent.texts_concurrent);
}

#[then("some sequences were preempted")]
async fn some_were_preempted(world: &mut World) {
    let before = world.concurrent.stats_before.take().unwrap().counters;
    let now = world.stats().await.counters;
    assert!(now.preemptions > before.preemptions);
}

#[then("the shared prefix was computed once")]
async fn prefix_was_computed_once(world: &mut World) {
    let before = world.concurrent.stats_before.take().unwrap().counters;
    let now = world.stats().await.counters;
    let computed = now.prompt_tokens - before.prompt_tokens;
    assert_eq!(computed, 1024 + 8 * 8);
    assert_eq!(now.cached_tokens - before.cached_tokens, 7 * 1024);
}

/// The body of a request that runs until its client disconnects.
fn endless(stream: bool) -> Value {
    json!({"prompt": "Once upon a time", "ignore_eos": true, "temperature": 0, "stream": stream})
}

/// Opens a stream that a background task reads; returns after its first event.
async fn hold_stream(world: &mut World, body: Value) {
    let request = completion(body);
    let client = world.client().await;
    let (started_sender, started) = tokio::sync::oneshot::channel();
    world.concurrent.connections.push(tokio::spawn(async move {
        let mut stream = client
            .completion_stream(&request)
            .await
            .unwrap()
            .into_inner()
            .into_inner();
        stream.next().await.unwrap().unwrap();
        started_sender.send(()).unwrap();
        while stream.next().await.is_some() {}
    }));
    started.await.unwrap();
}

/// Sends a request and does not read the response.
async fn hold_request(world: &mut World, body: Value) {
    use tokio::io::AsyncWriteExt;
    let address = world.address().await;
    let address = address.trim_start_matches("http://").to_owned();
    let body = body.to_string();
    let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /completion HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    world.concurrent.connections.push(tokio::spawn(async move {
        let _socket = socket;
        std::future::pending::<()>().await;
    }));
}

#[given("four endless streams")]
async fn endless_streams(world: &mut World) {
    for _ in 0..servers::SLOTS {
        hold_stream(world, endless(true)).await;
    }
}

#[given(expr = "a client that reads an endless stream in slot {int}")]
async fn endless_stream_in(world: &mut World, slot: u32) {
    let mut body = endless(true);
    body["id_slot"] = slot.into();
    hold_stream(world, body).await;
}

#[when("the clients of all streams disconnect")]
#[when("the client of the endless stream disconnects")]
#[when("that client disconnects")]
async fn disconnect(world: &mut World) {
    for connection in world.concurrent.connections.drain(..) {
        connection.abort();
        // The result is an error if the task was aborted, and success if it had already ended.
        let _ = connection.await;
    }
}

#[when("one request more than the queue holds arrives")]
async fn overfill_queue(world: &mut World) {
    let request = completion(endless(false));
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..=servers::QUEUE_LENGTH {
        let (client, request, sender) = (world.client().await, request.clone(), sender.clone());
        world.concurrent.connections.push(tokio::spawn(async move {
            let response = read_response(client.completion(&request).await).await;
            // Responses after the scenario's end have no receiver.
            let _ = sender.send(response);
        }));
    }
    // The streams hold all slots, so the first response is the rejection.
    world.response = receiver.recv().await.unwrap();
}

#[when("sixty-four clients send requests at once and retry when rejected")]
async fn retry_when_rejected(world: &mut World) {
    let clients = (0..64).map(|number| {
        let world = &*world;
        async move {
            let prompt: Value = token_ids(number, 20).collect();
            let request = completion(json!({"prompt": prompt, "n_predict": 8}));
            let client = world.client().await;
            let mut rejections = Vec::new();
            loop {
                let response = read_response(client.completion(&request).await).await;
                if response.status == 200 {
                    return (rejections, response.text());
                }
                rejections.push(response.status);
                until(world, |stats| stats.waiting < servers::QUEUE_LENGTH).await;
            }
        }
    });
    for (rejections, text) in join_all(clients).await {
        world.concurrent.rejection_statuses.extend(rejections);
        world.concurrent.texts_concurrent.push(text);
    }
}

#[then("all clients get a response in the end")]
async fn all_clients_succeed(world: &mut World) {
    assert_eq!(world.concurrent.texts_concurrent.len(), 64);
}

#[then("some requests were rejected, all with status 429")]
async fn rejections_have_status_429(world: &mut World) {
    let statuses = &world.concurrent.rejection_statuses;
    assert!(!statuses.is_empty());
    assert!(statuses.iter().all(|status| *status == 429), "{statuses:?}");
}

#[given("a queued request for slot 0, then one with a higher priority")]
async fn requests_of_two_priorities(world: &mut World) {
    for (number, priority) in [(0, 0), (1, 7)] {
        let request = completion(json!({
            "prompt": token_ids(number, 5).collect::<Value>(), "n_predict": 20, "id_slot": 0, "priority": priority,
        }));
        let client = world.client().await;
        let response =
            tokio::spawn(async move { read_response(client.completion(&request).await).await });
        world.concurrent.pending_responses.push(response);
        until(world, |stats| stats.waiting == number as usize + 1).await;
    }
}

#[then("the request with the higher priority finishes first")]
async fn higher_priority_first(world: &mut World) {
    let [low, high] =
        <[_; 2]>::try_from(std::mem::take(&mut world.concurrent.pending_responses)).unwrap();
    assert_eq!(high.await.unwrap().status, 200);
    assert!(!low.is_finished());
    assert_eq!(low.await.unwrap().status, 200);
}

fn concurrent_request(slot: i32) -> Value {
    json!({
        "prompt": "A songbird in the north", "n_predict": 90, "temperature": 0, "ignore_eos": true,
        "id_slot": slot,
    })
}

#[given("a concurrent request whose text is known")]
async fn request_with_known_text(world: &mut World) {
    let client = world.client().await;
    let alone = read_response(client.completion(&completion(concurrent_request(-1))).await).await;
    world.concurrent.texts_alone.push(alone.text());
    world.concurrent.stats_before = Some(world.stats().await);
    let request = completion(concurrent_request(0));
    let response =
        tokio::spawn(async move { read_response(client.completion(&request).await).await });
    world.concurrent.pending_responses.push(response);
    until(world, |stats| stats.slots[0].is_some()).await;
}

#[given(regex = "^a request (in the queue|in prefill|in decode) for (a stream|a whole response)$")]
async fn request_in_stage(world: &mut World, stage: String, form: String) {
    let mut body = endless(form == "a stream");
    match stage.as_str() {
        "in the queue" => body["id_slot"] = 0.into(),
        "in prefill" => body["prompt"] = token_ids(9, 500).collect(),
        _ => {}
    }
    hold_request(world, body).await;
    until(world, |stats| match stage.as_str() {
        "in the queue" => stats.waiting == 1,
        "in prefill" => stats.slots[1].is_some(),
        _ => stats.slots[1].is_some_and(|slot| slot.generated_tokens > 1),
    })
    .await;
}

#[then("that request is cancelled, and no other")]
async fn only_that_request_is_cancelled(world: &mut World) {
    let before = world
        .concurrent
        .stats_before
        .take()
        .unwrap()
        .counters
        .cancelled;
    until(world, |stats| {
        let others = stats.slots[1..].iter().flatten().count() + stats.waiting;
        stats.counters.cancelled == before + 1 && others == 0
    })
    .await;
}

#[then("the concurrent request's text is the same as alone")]
async fn concurrent_text_is_the_same(world: &mut World) {
    let response = world
        .concurrent
        .pending_responses
        .pop()
        .unwrap()
        .await
        .unwrap();
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.text(), world.concurrent.texts_alone[0]);
}

#[then("no cache block is referenced")]
async fn no_block_is_referenced(world: &mut World) {
    until(world, |stats| stats.blocks.referenced == 0).await;
}

#[then("all slots become idle")]
async fn slots_become_idle(world: &mut World) {
    until(world, |stats| stats.slots.iter().all(Option::is_none)).await;
}

/// Polls the engine's statistics until the condition holds. If it never does, the test runner's timeout ends the wait.
async fn until(world: &World, condition: impl Fn(&Stats) -> bool) {
    let client = world.client().await;
    while !condition(&world.stats().await) {
        // A request between two polls gives the engine time to run.
        read_response(client.health(None, None).await).await;
    }
}

#[when("a client sends part of its body and then stalls")]
async fn stalled_body(world: &mut World) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = world.address().await;
    let address = address.trim_start_matches("http://").to_owned();
    let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "POST /completion HTTP/1.1\r\nhost: {address}\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    world.response = Response {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: serde_json::from_str(body).unwrap(),
        ..Response::default()
    };
}
