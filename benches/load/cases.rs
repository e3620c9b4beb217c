//! The load cases: which requests how many clients send, and which figures are measured.

#![allow(dead_code, reason = "each bench uses some of the cases")]

use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::{Either, join_all, select, try_join_all};

use super::client::{Completion, Request, Target};
use super::common::process::KillOnDrop;

/// A load case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// This number of clients send sequential requests: prompts of 64 tokens, 64 generated tokens.
    Streams(usize),
    /// One client whose prompts and completions are repetitive, as code and lists are.
    Repeating,
    /// Sequential prompts of 512 tokens.
    Prompt,
    /// Eight prompts of 512 tokens arrive while eight sequences decode.
    LongPrompts,
    /// Prompts of 256 tokens, alone and beside one stream.
    PromptBesideStream,
    /// Eight clients send three prompts each; all begin with the same 1,024 tokens.
    SharedPrefix,
    /// Eight clients need three times the size of the cache.
    SmallCache,
    /// One stream, while another program keeps a core busy.
    BusyMachine,
}

/// The server settings that a case requires.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Number of sequences that run concurrently.
    pub(crate) slots: usize,
    /// Context of each slot, in tokens.
    pub(crate) context: usize,
    /// Size of the KV cache in tokens; if absent, all contexts fit.
    pub(crate) cache: Option<usize>,
}

/// A measured value.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

/// The unit of a figure, which also decides whether larger or smaller is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    TokensPerSecond,
    Seconds,
    Mebibytes,
    Requests,
    /// A ratio of two times.
    Times,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TokensPerSecond => "tok/s",
            Self::Seconds => "s",
            Self::Mebibytes => "MiB",
            Self::Requests => "requests",
            Self::Times => "times",
        }
    }

    /// How many times better `ours` is than `theirs`; `None` if the worse value is 0.
    pub(crate) fn advantage(self, ours: f64, theirs: f64) -> Option<f64> {
        let (better, worse) = match self {
            Self::TokensPerSecond => (ours, theirs),
            Self::Seconds | Self::Mebibytes | Self::Requests | Self::Times => (theirs, ours),
        };
        (worse != 0.0).then(|| better / worse)
    }
}

const SHARED_TOKENS: usize = 1024;
const SHARED_ROUNDS: usize = 3;
const CLIENTS: usize = 8;

impl Case {
    pub(crate) const ALL: [Self; 11] = [
        Self::Streams(1),
        Self::Streams(4),
        Self::Streams(16),
        Self::Streams(32),
        Self::Repeating,
        Self::Prompt,
        Self::LongPrompts,
        Self::PromptBesideStream,
        Self::SharedPrefix,
        Self::SmallCache,
        Self::BusyMachine,
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Streams(clients) => format!("streams-{clients}"),
            Self::Repeating => "repeating".to_owned(),
            Self::Prompt => "prompt-512".to_owned(),
            Self::LongPrompts => "long-prompts".to_owned(),
            Self::PromptBesideStream => "prompt-beside-stream".to_owned(),
            Self::SharedPrefix => "shared-prefix".to_owned(),
            Self::SmallCache => "small-cache".to_owned(),
            Self::BusyMachine => "busy-machine".to_owned(),
        }
    }

    pub(crate) fn setting(self) -> Setting {
        let (slots, context, cache) = match self {
            Self::Streams(clients) => (clients, 256, None),
            Self::Repeating => (1, 512, None),
            Self::Prompt => (1, 1024, None),
            Self::LongPrompts => (2 * CLIENTS, 768, None),
            Self::PromptBesideStream => (2, 1024, None),
            Self::SharedPrefix => (CLIENTS, 1280, None),
            Self::SmallCache => (CLIENTS, 1024, Some(1024)),
            Self::BusyMachine => (1, 256, None),
        };
        Setting {
            slots,
            context,
            cache,
        }
    }

    /// Sends the load to `target`, with texts unique to `round`, and returns the figures.
    ///
    /// # Errors
    /// If a request fails in a case that does not count failures.
    pub(crate) async fn run(self, target: &Target, round: usize) -> anyhow::Result<Vec<Figure>> {
        let mut texts = Texts::new(round);
        // Warm-up: one-time work of the first request is not measured.
        target.complete(&texts.request(16, 8)).await?;
        match self {
            Self::Streams(clients) => streams(target, &mut texts, clients).await,
            Self::Repeating => repeating(target, &mut texts).await,
            Self::Prompt => prompt(target, &mut texts).await,
            Self::LongPrompts => long_prompts(target, &mut texts).await,
            Self::PromptBesideStream => prompt_beside_stream(target, &mut texts).await,
            Self::SharedPrefix => shared_prefix(target, &mut texts).await,
            Self::SmallCache => small_cache(target, &mut texts).await,
            Self::BusyMachine => {
                let _busy = start_busy_process()?;
                streams(target, &mut texts, 1).await
            }
        }
    }
}

async fn streams(
    target: &Target,
    texts: &mut Texts,
    clients: usize,
) -> anyhow::Result<Vec<Figure>> {
    let rounds = (12 / clients).max(3);
    let work = (0..clients).map(|_| (0..rounds).map(|_| texts.request(64, 64)).collect());
    output(target, work.collect()).await
}

async fn repeating(target: &Target, texts: &mut Texts) -> anyhow::Result<Vec<Figure>> {
    let request = |_| Request {
        prompt: texts.functions(4),
        tokens: 192,
    };
    output(target, vec![(0..6).map(request).collect()]).await
}

/// Total generated tokens per second; each client sends its requests sequentially.
async fn output(target: &Target, work: Vec<Vec<Request>>) -> anyhow::Result<Vec<Figure>> {
    let start = Instant::now();
    let completions =
        try_join_all(work.iter().map(|requests| sequentially(target, requests))).await?;
    let tokens: u64 = completions
        .iter()
        .flatten()
        .map(|completion| completion.tokens)
        .sum();
    Ok(vec![Figure {
        name: "output",
        unit: Unit::TokensPerSecond,
        value: tokens as f64 / start.elapsed().as_secs_f64(),
    }])
}

async fn prompt(target: &Target, texts: &mut Texts) -> anyhow::Result<Vec<Figure>> {
    let requests: Vec<Request> = (0..5).map(|_| texts.request(512, 1)).collect();
    let completions = sequentially(target, &requests).await?;
    let rates = completions.iter().map(|completion| {
        let seconds = completion.first_token().as_secs_f64();
        completion.prompt_tokens as f64 / seconds
    });
    Ok(vec![Figure {
        name: "prompt",
        unit: Unit::TokensPerSecond,
        value: quantile(rates.collect(), 0.5),
    }])
}

async fn long_prompts(target: &Target, texts: &mut Texts) -> anyhow::Result<Vec<Figure>> {
    let running: Vec<Request> = (0..CLIENTS).map(|_| texts.request(64, 192)).collect();
    let arriving: Vec<Request> = (0..CLIENTS).map(|_| texts.request(512, 16)).collect();
    let running = try_join_all(running.iter().map(|request| target.complete(request)));
    let arriving = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        try_join_all(arriving.iter().map(|request| target.complete(request))).await
    };
    let (running, arriving) = tokio::try_join!(running, arriving)?;
    let gaps: Vec<f64> = running
        .iter()
        .flat_map(Completion::gaps)
        .map(|gap| gap.as_secs_f64())
        .collect();
    let firsts = arriving.iter().map(Completion::first_token);
    Ok(vec![
        seconds("gap, p99", quantile(gaps.clone(), 0.99)),
        seconds("gap, longest", quantile(gaps, 1.0)),
        seconds(
            "first token of long prompts, median",
            quantile(firsts.map(|first| first.as_secs_f64()).collect(), 0.5),
        ),
    ])
}

async fn prompt_beside_stream(target: &Target, texts: &mut Texts) -> anyhow::Result<Vec<Figure>> {
    const PROMPTS: usize = 3;
    const PROMPT_TOKENS: usize = 256;
    let requests = |texts: &mut Texts| -> Vec<Request> {
        let request = |_| texts.request(PROMPT_TOKENS, 1);
        (0..PROMPTS).map(request).collect()
    };
    let median = |completions: &[Completion]| {
        let firsts = completions
            .iter()
            .map(|completion| completion.first_token().as_secs_f64());
        quantile(firsts.collect(), 0.5)
    };
    let alone = median(&sequentially(target, &requests(texts)).await?);
    let (stream, prompts) = (texts.request(32, 960), requests(texts));
    let stream = pin!(target.complete(&stream));
    let prompts = pin!(async {
        // By this time the stream has its first tokens.
        tokio::time::sleep(Duration::from_secs_f64(alone)).await;
        sequentially(target, &prompts).await
    });
    let beside = match select(stream, prompts).await {
        Either::Left((stream, _)) => {
            stream?;
            bail!("the stream ended before the concurrent prompts");
        }
        Either::Right((completions, _)) => median(&completions?),
    };
    Ok(vec![
        seconds("first token alone, median", alone),
        seconds("first token beside a stream, median", beside),
        Figure {
            name: "first token beside a stream",
            unit: Unit::Times,
            value: beside / alone,
        },
    ])
}

async fn shared_prefix(target: &Target, texts: &mut Texts) -> anyhow::Result<Vec<Figure>> {
    let shared = texts.words(SHARED_TOKENS);
    let start = Instant::now();
    let work: Vec<Vec<Request>> = (0..CLIENTS)
        .map(|_| {
            (0..SHARED_ROUNDS)
                .map(|_| Request {
                    prompt: format!("{shared}{}", texts.words(16)),
                    tokens: 32,
                })
                .collect()
        })
        .collect();
    let completions =
        try_join_all(work.iter().map(|requests| sequentially(target, requests))).await?;
    let total = start.elapsed().as_secs_f64();
    let firsts = completions.iter().flatten().map(Completion::first_token);
    Ok(vec![
        seconds(
            "first token, p95",
            quantile(firsts.map(|first| first.as_secs_f64()).collect(), 0.95),
        ),
        seconds("total time", total),
    ])
}

async fn small_cache(target: &Target, texts: &mut Texts) -> anyhow::Result<Vec<Figure>> {
    let requests: Vec<Request> = (0..CLIENTS).map(|_| texts.request(256, 128)).collect();
    let together = join_all(requests.iter().map(|request| target.complete(request))).await;
    let mut differing = 0;
    for (request, completion) in requests.iter().zip(&together) {
        let Ok(completion) = completion else { continue };
        differing += usize::from(target.complete(request).await?.text != completion.text);
    }
    let failed = together
        .iter()
        .filter(|completion| completion.is_err())
        .count();
    let count = |name, count| Figure {
        name,
        unit: Unit::Requests,
        value: count as f64,
    };
    Ok(vec![
        count("failed", failed),
        count("text differs from the request alone", differing),
    ])
}

async fn sequentially(target: &Target, requests: &[Request]) -> anyhow::Result<Vec<Completion>> {
    let mut completions = Vec::with_capacity(requests.len());
    for request in requests {
        completions.push(target.complete(request).await?);
    }
    Ok(completions)
}

fn seconds(name: &'static str, value: f64) -> Figure {
    let unit = Unit::Seconds;
    Figure { name, unit, value }
}

/// The quantile of `values` at `share` (from 0 to 1).
///
/// # Panics
/// If `values` is empty.
pub(crate) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

/// Generates distinct prompts of words that are one token each in most vocabularies.
struct Texts {
    state: u64,
}

impl Texts {
    fn new(round: usize) -> Self {
        Self {
            state: round as u64 + 1,
        }
    }

    fn request(&mut self, prompt_tokens: usize, tokens: usize) -> Request {
        Request {
            prompt: self.words(prompt_tokens),
            tokens,
        }
    }

    /// Similar Python functions: only three words differ.
    fn functions(&mut self, count: usize) -> String {
        let mut function = || {
            let words = self.words(3);
            let words: Vec<&str> = words.split_whitespace().collect();
            let [name, left, right] = [words[0], words[1], words[2]];
            format!(
                "def {name}_{left}({left}, {right}):\n    \"\"\"Returns the {name} of {left} and {right}.\"\"\"\n    \
                 return {name}({left}, {right})\n\n"
            )
        };
        (0..count).map(|_| function()).collect()
    }

    fn words(&mut self, count: usize) -> String {
        const WORDS: [&str; 64] = [
            " the", " of", " and", " to", " in", " that", " it", " was", " for", " on", " are",
            " as", " with", " his", " they", " at", " be", " this", " from", " have", " or", " by",
            " one", " had", " not", " but", " what", " all", " were", " when", " we", " there",
            " can", " an", " your", " which", " their", " said", " if", " do", " will", " each",
            " about", " how", " up", " out", " them", " then", " she", " many", " some", " so",
            " these", " would", " other", " into", " has", " more", " her", " two", " like",
            " him", " see", " time",
        ];
        let mut next = || {
            // Knuth's MMIX generator; only its upper bits are random enough.
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            WORDS[(self.state >> 58) as usize]
        };
        (0..count).map(|_| next()).collect()
    }
}

/// Starts a process that keeps one core busy until it is dropped.
fn start_busy_process() -> anyhow::Result<KillOnDrop> {
    let mut command = Command::new("sh");
    let started = command.args(["-c", "while :; do :; done"]).spawn();
    started.map(KillOnDrop).context("cannot start sh")
}
