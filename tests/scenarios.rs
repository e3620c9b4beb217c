//! Runs the scenarios of `features/` over HTTP, through the generated client, mostly with a real model. Every response
//! is validated against the OpenAPI document (`scenarios/response_validation.rs`).
//!
//! `cargo test --test scenarios` runs all; `--list` and `--exact NAME` serve test runners that run each scenario as its
//! own test.

// The type of the server's endpoint nests one level for each middleware.
#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "a failed step fails its scenario")]
#![expect(clippy::print_stdout, reason = "a test harness prints its results")]

mod common;
#[path = "scenarios/concurrency.rs"]
mod concurrency;
#[path = "scenarios/constrained_output.rs"]
mod constrained_output;
#[path = "scenarios/embeddings.rs"]
mod embeddings;
#[path = "scenarios/lora.rs"]
mod lora;
#[path = "scenarios/messages.rs"]
mod messages;
#[path = "scenarios/repeated_requests.rs"]
mod repeated_requests;
#[path = "scenarios/requests.rs"]
mod requests;
#[path = "scenarios/response_assertions.rs"]
mod response_assertions;
#[path = "scenarios/response_validation.rs"]
mod response_validation;
#[path = "scenarios/responses.rs"]
mod responses;
#[path = "scenarios/server_steps.rs"]
mod server_steps;
#[path = "scenarios/servers.rs"]
mod servers;
#[path = "scenarios/text_completions.rs"]
mod text_completions;
#[path = "scenarios/tools.rs"]
mod tools;
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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        if !has("--ignored") {
            names().iter().for_each(|name| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let selected: Vec<String> = match has("--exact") {
        true => arguments
            .iter()
            .filter(|argument| !argument.starts_with('-'))
            .cloned()
            .collect(),
        false => Vec::new(),
    };
    run(selected)
}

/// Runs the scenarios with these names, or all scenarios if `names` is empty.
#[tokio::main]
async fn run(selected: Vec<String>) -> ExitCode {
    let all = selected.is_empty();
    let writer = World::cucumber()
        .with_default_cli()
        // Scenarios share a server, and some use all of its slots.
        .max_concurrent_scenarios(1)
        .fail_on_skipped()
        .after(|feature, _, scenario, result, _| {
            record_failure(&full_name(feature, &scenario.name), result);
            std::future::ready(()).boxed_local()
        })
        .filter_run(features(), move |feature, _, scenario| {
            all || selected.contains(&full_name(feature, &scenario.name))
        })
        .await;
    let scenarios = writer.scenarios_stats();
    let failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    failures.iter().for_each(|failure| println!("{failure}"));
    let violations = response_validation::violations();
    violations
        .iter()
        .for_each(|violation| println!("a response violates the OpenAPI document: {violation}"));
    let failed = scenarios.failed + scenarios.skipped + usize::from(!violations.is_empty());
    println!("{} passed, {failed} failed", scenarios.passed);
    let ran = scenarios.passed > 0 && !Stats::<World>::execution_has_failed(&writer);
    match failed == 0 && ran {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The failed scenarios with their errors, printed again at the end of the log.
static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn record_failure(name: &str, result: &ScenarioFinished) {
    let error = match result {
        ScenarioFinished::StepFailed(_, _, error) => error.to_string(),
        ScenarioFinished::StepSkipped => "a step without a definition".to_owned(),
        ScenarioFinished::BeforeHookFailed(_) | ScenarioFinished::StepPassed => return,
    };
    FAILURES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(format!("failed: {name}: {error}"));
}

fn features() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/features"))
}

/// The names of all scenarios as `--exact` accepts them; outlines are expanded with their examples.
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
