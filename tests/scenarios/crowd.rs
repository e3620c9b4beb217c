//! The sentences about many clients at once, and about those that leave.

use cucumber::{given, then, when};
use futures_util::StreamExt;
use futures_util::future::join_all;
use ortolan::api::types;
use ortolan::engine::Stats;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::servers;
use crate::world::{Answer, World, streamed, whole};

/// Many clients, and what they were told.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    prompts: Vec<Value>,
    tokens: usize,
    /// How each is continued; greedily, if there is none.
    ways: Vec<Value>,
    alone: Vec<String>,
    together: Vec<String>,
    /// Statuses of refusals.
    refusals: Vec<u16>,
    /// Connections that are held open.
    held: Vec<JoinHandle<()>>,
    /// Clients that wait for their answers.
    waiting: Vec<JoinHandle<Answer>>,
    /// The engine's numbers before.
    before: Option<Stats>,
}

impl Crowd {
    /// The prompts are continued in these ways, in turn.
    pub(crate) fn continue_by(&mut self, ways: Vec<Value>) {
        let ways = ways.into_iter().cycle();
        self.ways = ways.take(self.prompts.len()).collect();
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
    world.crowd.prompts = subjects.map(Value::from).to_vec();
    world.crowd.tokens = 48;
}

/// Token ids of words, of another text for each number.
fn ids(number: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |place| 1000 + (place * 31 + number * 977) % 20_000)
}

#[given("eight prompts, each of a third of the cache with its answer")]
async fn prompts_that_do_not_fit(world: &mut World) {
    world.crowd.prompts = (0..8).map(|number| ids(number, 100).collect()).collect();
    // Of 512 tokens each takes 192.
    world.crowd.tokens = 92;
}

#[given("eight prompts that share their first 1024 tokens")]
async fn prompts_that_begin_alike(world: &mut World) {
    world.crowd.prompts = (1..=8)
        .map(|number| ids(0, 1024).chain(ids(number, 8)).collect())
        .collect();
    world.crowd.tokens = 12;
}

#[given("each with a seed and a way to choose of its own")]
async fn ways_to_choose(world: &mut World) {
    let ways = [
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
    world.crowd.ways = (0..world.crowd.prompts.len())
        .map(|number| {
            let mut way = ways[number % ways.len()].clone();
            way["seed"] = number.into();
            way
        })
        .collect();
}

/// Just so many tokens after the prompt of that number.
fn continuation(crowd: &Crowd, number: usize, from_cache: bool) -> types::CompletionRequest {
    let mut body = json!({
        "prompt": crowd.prompts[number], "n_predict": crowd.tokens, "ignore_eos": true,
        "cache_prompt": from_cache,
    });
    let greedy = json!({"temperature": 0});
    let way = crowd.ways.get(number).unwrap_or(&greedy);
    for (name, value) in way.as_object().unwrap() {
        body[name] = value.clone();
    }
    completion(body)
}

async fn continued(world: &World, number: usize, from_cache: bool) -> String {
    let request = continuation(&world.crowd, number, from_cache);
    let answer = whole(world.client().await.completion(&request).await).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.text()
}

async fn continue_all(world: &mut World, from_cache: bool) {
    world.crowd.before = Some(world.stats().await);
    let texts = (0..world.crowd.prompts.len()).map(|number| continued(world, number, from_cache));
    world.crowd.together = join_all(texts).await;
}

#[when("each is continued alone")]
async fn each_alone(world: &mut World) {
    for number in 0..world.crowd.prompts.len() {
        let text = continued(world, number, false).await;
        world.crowd.alone.push(text);
    }
}

#[when("all are continued at once")]
async fn all_at_once(world: &mut World) {
    continue_all(world, false).await;
}

#[when("all are continued at once, from the cache")]
async fn all_at_once_cached(world: &mut World) {
    continue_all(world, true).await;
}

#[when("all are streamed at once")]
async fn all_streamed(world: &mut World) {
    let texts = (0..world.crowd.prompts.len()).map(|number| {
        let world = &*world;
        async move {
            let mut request = continuation(&world.crowd, number, false);
            request.stream = Some(true);
            let client = world.client().await;
            streamed(client.completion_stream(&request).await)
                .await
                .text()
        }
    });
    world.crowd.together = join_all(texts).await;
}

#[then("the texts are the same")]
async fn texts_are_the_same(world: &mut World) {
    let crowd = &world.crowd;
    assert_eq!(crowd.alone.len(), crowd.prompts.len());
    assert_eq!(crowd.alone, crowd.together);
}

#[then("some of them yielded to others on the way")]
async fn some_yielded(world: &mut World) {
    let before = world.crowd.before.take().unwrap().counters;
    let now = world.stats().await.counters;
    assert!(now.preemptions > before.preemptions);
}

#[then("what they share was computed once")]
async fn computed_once(world: &mut World) {
    let before = world.crowd.before.take().unwrap().counters;
    let now = world.stats().await.counters;
    let computed = now.prompt_tokens - before.prompt_tokens;
    assert_eq!(computed, 1024 + 8 * 8);
    assert_eq!(now.cached_tokens - before.cached_tokens, 7 * 1024);
}

/// A body whose answer only its client's leaving ends.
fn endless(stream: bool) -> Value {
    json!({"prompt": "Once upon a time", "ignore_eos": true, "temperature": 0, "stream": stream})
}

/// Reads a stream of its own; comes back with the first event.
async fn hold_stream(world: &mut World, body: Value) {
    let request = completion(body);
    let client = world.client().await;
    let (began, begun) = tokio::sync::oneshot::channel();
    world.crowd.held.push(tokio::spawn(async move {
        let mut stream = client
            .completion_stream(&request)
            .await
            .unwrap()
            .into_inner()
            .into_inner();
        stream.next().await.unwrap().unwrap();
        began.send(()).unwrap();
        while stream.next().await.is_some() {}
    }));
    begun.await.unwrap();
}

/// Sends a request and reads nothing.
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
    world.crowd.held.push(tokio::spawn(async move {
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

#[given(expr = "a client that reads an endless stream in the slot {int}")]
async fn endless_stream_in(world: &mut World, slot: u32) {
    let mut body = endless(true);
    body["id_slot"] = slot.into();
    hold_stream(world, body).await;
}

#[when("all streams are left")]
#[when("the endless stream is left")]
#[when("it leaves")]
async fn all_leave(world: &mut World) {
    for held in world.crowd.held.drain(..) {
        held.abort();
        // Aborted, or at its end already.
        let _ = held.await;
    }
}

#[when("one request more than may wait arrives")]
async fn one_more_than_may_wait(world: &mut World) {
    let request = completion(endless(false));
    let (refused, mut first) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..=servers::QUEUE {
        let (client, request, refused) = (world.client().await, request.clone(), refused.clone());
        world.crowd.held.push(tokio::spawn(async move {
            let answer = whole(client.completion(&request).await).await;
            // Those that are answered after the scenario's end have nobody to tell.
            let _ = refused.send(answer);
        }));
    }
    // The streams go on for long: what is answered first was not let in.
    world.answer = first.recv().await.unwrap();
}

#[when("sixty-four clients ask at once, and those that are refused ask again")]
async fn sixty_four(world: &mut World) {
    let clients = (0..64).map(|number| {
        let world = &*world;
        async move {
            let prompt: Value = ids(number, 20).collect();
            let request = completion(json!({"prompt": prompt, "n_predict": 8}));
            let client = world.client().await;
            let mut refusals = Vec::new();
            loop {
                let answer = whole(client.completion(&request).await).await;
                if answer.status == 200 {
                    return (refusals, answer.text());
                }
                refusals.push(answer.status);
                let pause = &answer.headers["retry-after"];
                let seconds = pause.to_str().unwrap().parse().unwrap();
                tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
            }
        }
    });
    for (refusals, text) in join_all(clients).await {
        world.crowd.refusals.extend(refusals);
        world.crowd.together.push(text);
    }
}

#[then("all are answered in the end")]
async fn all_answered(world: &mut World) {
    assert_eq!(world.crowd.together.len(), 64);
}

#[then("some were refused, all of them with 429")]
async fn refused_politely(world: &mut World) {
    let refusals = &world.crowd.refusals;
    assert!(!refusals.is_empty());
    assert!(refusals.iter().all(|status| *status == 429), "{refusals:?}");
}

#[given("a client that waits for the slot 0, and then a more urgent one")]
async fn urgent_clients(world: &mut World) {
    for (number, priority) in [(0, 0), (1, 7)] {
        let request = completion(json!({
            "prompt": ids(number, 5).collect::<Value>(), "n_predict": 20, "id_slot": 0, "priority": priority,
        }));
        let client = world.client().await;
        let asked = tokio::spawn(async move { whole(client.completion(&request).await).await });
        world.crowd.waiting.push(asked);
        until(world, |stats| stats.waiting == number as usize + 1).await;
    }
}

#[then("the more urgent one is answered first")]
async fn urgent_first(world: &mut World) {
    let [patient, urgent] = <[_; 2]>::try_from(std::mem::take(&mut world.crowd.waiting)).unwrap();
    assert_eq!(urgent.await.unwrap().status, 200);
    assert!(!patient.is_finished());
    assert_eq!(patient.await.unwrap().status, 200);
}

fn neighbour(slot: i32) -> Value {
    json!({
        "prompt": "A songbird in the north", "n_predict": 90, "temperature": 0, "ignore_eos": true,
        "id_slot": slot,
    })
}

#[given("a neighbour whose text is known")]
async fn known_neighbour(world: &mut World) {
    let client = world.client().await;
    let alone = whole(client.completion(&completion(neighbour(-1))).await).await;
    world.crowd.alone.push(alone.text());
    world.crowd.before = Some(world.stats().await);
    let asked = completion(neighbour(0));
    let asked = tokio::spawn(async move { whole(client.completion(&asked).await).await });
    world.crowd.waiting.push(asked);
    until(world, |stats| stats.slots[0].is_some()).await;
}

#[given(
    regex = "^a client (that waits for the slot|in the prompt|in the middle) of (a stream|a whole answer)$"
)]
async fn client_in(world: &mut World, stage: String, form: String) {
    let mut body = endless(form == "a stream");
    match stage.as_str() {
        "that waits for the slot" => body["id_slot"] = 0.into(),
        "in the prompt" => body["prompt"] = ids(9, 500).collect(),
        _ => {}
    }
    hold_request(world, body).await;
    until(world, |stats| match stage.as_str() {
        "that waits for the slot" => stats.waiting == 1,
        "in the prompt" => stats.slots[1].is_some(),
        _ => stats.slots[1].is_some_and(|slot| slot.generated_tokens > 1),
    })
    .await;
}

#[then("it was cancelled, and nothing else was")]
async fn one_cancelled(world: &mut World) {
    let before = world.crowd.before.take().unwrap().counters.cancelled;
    until(world, |stats| {
        let others = stats.slots[1..].iter().flatten().count() + stats.waiting;
        stats.counters.cancelled == before + 1 && others == 0
    })
    .await;
}

#[then("the neighbour's text is what it is alone")]
async fn neighbour_is_unharmed(world: &mut World) {
    let answer = world.crowd.waiting.pop().unwrap().await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.text(), world.crowd.alone[0]);
}

#[then("no block of the cache is held")]
async fn no_block_is_held(world: &mut World) {
    until(world, |stats| stats.blocks.held == 0).await;
}

#[then("all slots become idle")]
async fn slots_become_idle(world: &mut World) {
    until(world, |stats| stats.slots.iter().all(Option::is_none)).await;
}

/// Looks until the engine's numbers are as wanted; a test that never gets there is ended by its runner.
async fn until(world: &World, wanted: impl Fn(&Stats) -> bool) {
    let client = world.client().await;
    while !wanted(&world.stats().await) {
        // A question between two looks leaves the engine its time.
        whole(client.health(None, None).await).await;
    }
}

#[when("a client sends half of its body and then nothing")]
async fn half_a_body(world: &mut World) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = world.address().await;
    let address = address.trim_start_matches("http://").to_owned();
    let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "POST /completion HTTP/1.1\r\nhost: {address}\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    world.answer = Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: serde_json::from_str(body).unwrap(),
        ..Answer::default()
    };
}
