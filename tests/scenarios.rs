//! The scenarios of `features/`, over HTTP, through the generated client, against the real model; every
//! answer in them is validated against the document on its way out (`scenarios/witness.rs`).
//!
//! `cargo test --test scenarios` runs all; `--list` and `--exact NAME` serve test runners that want a test
//! per scenario.

// The server's endpoint is a deep type: a layer for each middleware.
#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a test harness is read on the terminal")]

#[path = "scenarios/again.rs"]
mod again;
#[path = "scenarios/answers.rs"]
mod answers;
#[path = "scenarios/asking.rs"]
mod asking;
mod common;
#[path = "scenarios/constrained.rs"]
mod constrained;
#[path = "scenarios/crowd.rs"]
mod crowd;
#[path = "scenarios/embeddings.rs"]
mod embeddings;
#[path = "scenarios/given.rs"]
mod given;
#[path = "scenarios/lora.rs"]
mod lora;
#[path = "scenarios/messages.rs"]
mod messages;
#[path = "scenarios/responses.rs"]
mod responses;
#[path = "scenarios/servers.rs"]
mod servers;
#[path = "scenarios/texts.rs"]
mod texts;
#[path = "scenarios/tools.rs"]
mod tools;
#[path = "scenarios/witness.rs"]
mod witness;
#[path = "scenarios/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use cucumber::World as _;
use cucumber::event::ScenarioFinished;
use cucumber::feature::Ext as _;
use cucumber::gherkin::{Feature, GherkinEnv};
use cucumber::writer::Stats;
use futures_util::FutureExt;
use world::World;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    if has("--list") {
        if !has("--ignored") {
            names().iter().for_each(|name| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = match has("--exact") {
        true => words
            .iter()
            .filter(|word| !word.starts_with('-'))
            .cloned()
            .collect(),
        false => Vec::new(),
    };
    run(wanted)
}

/// Runs the scenarios of these names, all if there are none.
#[tokio::main]
async fn run(wanted: Vec<String>) -> ExitCode {
    let all = wanted.is_empty();
    let ran = World::cucumber()
        .with_default_cli()
        // They share one server, and some fill all of its slots.
        .max_concurrent_scenarios(1)
        .fail_on_skipped()
        .after(|feature, _, scenario, end, _| {
            remember(&full_name(feature, &scenario.name), end);
            std::future::ready(()).boxed_local()
        })
        .filter_run(features(), move |feature, _, scenario| {
            all || wanted.contains(&full_name(feature, &scenario.name))
        })
        .await;
    let scenarios = ran.scenarios_stats();
    let failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    failures.iter().for_each(|failure| println!("{failure}"));
    let broken = witness::complaints();
    broken
        .iter()
        .for_each(|complaint| println!("an answer breaks the document: {complaint}"));
    let failed = scenarios.failed + scenarios.skipped + usize::from(!broken.is_empty());
    println!("{} passed, {failed} failed", scenarios.passed);
    let sound = scenarios.passed > 0 && !Stats::<World>::execution_has_failed(&ran);
    match failed == 0 && sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Which scenarios failed, and how: said once more at the end, where a long log is read first.
static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn remember(name: &str, end: &ScenarioFinished) {
    let how = match end {
        ScenarioFinished::StepFailed(_, _, error) => error.to_string(),
        ScenarioFinished::StepSkipped => "a step that nobody knows".to_owned(),
        ScenarioFinished::BeforeHookFailed(_) | ScenarioFinished::StepPassed => return,
    };
    FAILURES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(format!("failed: {name}: {how}"));
}

fn features() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/features"))
}

/// The names of all scenarios, those of outlines with their examples' values, as `--exact` takes them.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(features()).unwrap() {
        let feature = Feature::parse_path(entry.unwrap().path(), GherkinEnv::default()).unwrap();
        let feature = feature.expand_examples().unwrap();
        let scenarios = feature.scenarios.iter();
        names.extend(scenarios.map(|scenario| full_name(&feature, &scenario.name)));
    }
    names
}

fn full_name(feature: &Feature, scenario: &str) -> String {
    format!("{}: {scenario}", feature.name)
}
