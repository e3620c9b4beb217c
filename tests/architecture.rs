//! Checks the module table of ARCHITECTURE.md: each module may use only the modules and crates listed here. Within the
//! modules of the table, imports have no cycle.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

#[path = "architecture/cycles.rs"]
mod cycles;
#[path = "architecture/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;

use source::{Source, UsedPath};

/// Each module and the modules that it may use, besides itself and [`EVERYWHERE`].
const MODULES: &[(&str, &[&str])] = &[
    (
        "main",
        &[
            "cli", "config", "terminal", "server", "api", "web", "model", "hub", "platform",
            "runtime", "logging", "commands",
        ],
    ),
    (
        "commands",
        &[
            "cli",
            "terminal",
            "model",
            "text",
            "graph",
            "gguf",
            "safetensors",
            "file_bytes",
            "atomic_file",
        ],
    ),
    (
        "config",
        &[
            "cli",
            "server",
            "api",
            "web",
            "model",
            "hub",
            "runtime",
            "gguf",
            "platform",
            "file_bytes",
        ],
    ),
    ("terminal", &["model", "hub"]),
    ("logging", &["cli"]),
    (
        "cli",
        &["model", "runtime", "gguf", "platform", "file_bytes"],
    ),
    ("server", &["api"]),
    ("api", &["model", "text", "sampling", "metrics"]),
    ("metrics", &["engine"]),
    ("web", &[]),
    (
        "model",
        &[
            "text",
            "engine",
            "runtime",
            "graph",
            "gguf",
            "safetensors",
            "sampling",
            "grammar",
            "platform",
            "file_bytes",
            "atomic_file",
        ],
    ),
    ("engine", &["cache", "sampling", "grammar"]),
    ("runtime", &["engine", "graph", "platform"]),
    ("graph", &["gguf", "safetensors", "file_bytes", "platform"]),
    ("text", &[]),
    ("cache", &[]),
    ("sampling", &[]),
    ("grammar", &[]),
    ("gguf", &["file_bytes"]),
    ("safetensors", &["file_bytes"]),
    ("hub", &["atomic_file", "file_bytes"]),
    ("platform", &[]),
    ("token", &[]),
    ("cancel", &[]),
    ("file_bytes", &[]),
    ("atomic_file", &[]),
];

/// Pairs of modules: the first may re-export types of the second, because its public functions take or return them.
const EXPORTS: &[(&str, &str)] = &[
    ("api", "model"),
    ("model", "engine"),
    ("model", "grammar"),
    ("engine", "cache"),
];

/// Modules that every module may use.
const EVERYWHERE: &[&str] = &["token", "cancel"];

/// External crates and the modules that may use them.
const RESTRICTED_CRATES: &[(&str, &[&str])] = &[
    ("ort", &["runtime"]),
    ("poem", &["server", "api", "web"]),
    ("poem_openapi", &["api"]),
    ("hyper", &["server", "hub"]),
    ("hyper_util", &["server", "hub"]),
    ("tokio_rustls", &["server", "hub"]),
    ("tokenizers", &["text"]),
    ("fancy_regex", &["text"]),
    ("regex_syntax", &["text", "grammar"]),
    ("minijinja", &["text"]),
    ("llguidance", &["grammar"]),
    ("memmap2", &["file_bytes", "platform"]),
    ("safetensors", &["safetensors"]),
    ("prost", &["graph"]),
    ("prometheus", &["metrics"]),
    ("jsonschema", &["api", "grammar"]),
    ("clap", &["cli"]),
    ("toml", &["cli"]),
    ("rustix", &["platform"]),
    ("indicatif", &["terminal"]),
    ("opentelemetry", &["logging", "server"]),
    ("tracing_opentelemetry", &["logging", "server"]),
];

/// A module, the words that must not occur in its code, and the reason.
const FORBIDDEN_WORDS: &[(&str, &[&str], &str)] = &[
    (
        "engine",
        &["http", "json", "okenizer"],
        "the engine handles token ids: no HTTP, no JSON, no text",
    ),
    (
        "cache",
        &["f16", "f32", "Tensor"],
        "the cache manages block ids, not their content",
    ),
    (
        "engine",
        &["Instant::now", "SystemTime::now", "rand::"],
        "time and random numbers are passed in",
    ),
    (
        "sampling",
        &["Instant::now", "SystemTime::now", "rand::random"],
        "time and random numbers are passed in",
    ),
    (
        "text",
        &["Instant::now", "SystemTime::now", "rand::"],
        "time and random numbers are passed in",
    ),
];

/// Vulnerable or unmaintained crates of crates.io that `replacements/` replaces.
const REPLACED: &[&str] = &["quick-xml", "paste"];

#[test]
fn the_lock_file_has_no_replaced_crate_and_no_other_registry() {
    const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    let mut replaced = BTreeSet::new();
    for package in lock.split("[[package]]\n").skip(1) {
        let field = |name: &str| package.lines().find(|line| line.starts_with(name));
        let name = field("name = ").unwrap().split('"').nth(1).unwrap();
        match field("source = ") {
            None if ["ortolan", "ortolan-client"].contains(&name) => {}
            None => assert!(replaced.insert(name), "{name} occurs twice"),
            Some(source) => {
                assert_eq!(source, REGISTRY, "{name}");
                assert!(!REPLACED.contains(&name), "{name} comes from the registry");
            }
        }
    }
    assert_eq!(replaced, REPLACED.iter().copied().collect());
}

#[test]
fn modules_use_only_the_modules_of_their_row() {
    assert_eq!(violations(layer_violations), Vec::<String>::new());
}

#[test]
fn restricted_crates_are_used_only_in_their_modules() {
    assert_eq!(violations(crate_violations), Vec::<String>::new());
}

#[test]
fn imports_between_modules_have_no_cycle() {
    let cycles = cycles::import_cycles(&source::production_sources());
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
}

#[test]
fn forbidden_words_do_not_occur() {
    assert_eq!(violations(word_violations), Vec::<String>::new());
}

#[test]
fn unsafe_code_is_only_in_runtime_file_mapping_and_main() {
    let allowed = ["runtime", "file_bytes", "main"];
    let sources = source::production_sources();
    let unsafe_modules = sources.iter().filter(|source| source.has_word("unsafe "));
    let violations: Vec<_> = unsafe_modules
        .filter(|source| !allowed.contains(&source.layer()))
        .map(|source| &source.path)
        .collect();
    assert_eq!(violations, Vec::<&std::path::PathBuf>::new());
}

#[test]
fn production_code_after_a_test_module_is_checked() {
    let text = "#[cfg(test)]\nmod tests;\n\nuse crate::api::Error;";
    check_layer_violation(text, "4 uses api");
}

#[test]
fn imports_over_several_lines_are_checked() {
    let text = "use crate::{\n    cache::BlockId,\n    model::{\n        LoadedModel,\n    },\n};";
    check_layer_violation(text, "4 uses model");
}

#[test]
fn exports_of_another_module_are_rejected() {
    check_layer_violation("pub use crate::sampling::Sampler;", "1 exports sampling");
    check_layer_violation("pub(crate) use super::grammar::Rule;", "1 exports grammar");
}

#[test]
fn paths_without_an_import_and_in_macros_are_checked() {
    check_layer_violation("fn a() -> super::api::Error {}", "1 uses api");
    check_layer_violation("fn a() { assert!(crate::api::b()); }", "1 uses api");
}

#[test]
fn test_code_and_comments_are_not_checked() {
    let text = "//! crate::api\n#[cfg(test)]\nmod tests { use crate::api::Error; }\n#[cfg(test)]\nuse crate::api::Error;";
    let source = Source::parse("engine.rs".into(), vec!["engine".to_owned()], text);
    assert_eq!(layer_violations(&source), Vec::<String>::new());
}

#[test]
fn an_import_cycle_is_found() {
    check_cycles(
        &[
            ("engine", "mod handle;"),
            ("engine::handle", "use super::worker::Message;"),
            (
                "engine::worker",
                "use super::{\n    scheduler::Scheduler,\n};",
            ),
            (
                "engine::scheduler",
                "fn plan() { assert!(crate::engine::handle::ready()); }",
            ),
            ("engine::stats", "use super::worker::Message;"),
        ],
        &[
            "engine::handle:1 uses engine::worker: engine::handle -> engine::worker -> engine::scheduler -> engine::handle",
            "engine::worker:2 uses engine::scheduler: engine::worker -> engine::scheduler -> engine::handle -> engine::worker",
            "engine::scheduler:1 uses engine::handle: engine::scheduler -> engine::handle -> engine::worker -> engine::scheduler",
        ],
    );
}

#[test]
fn an_import_cycle_through_a_reexport_is_found() {
    check_cycles(
        &[
            (
                "engine",
                "mod step;\npub use step::{Chunk as Part, StepPlan};",
            ),
            ("engine::pooling", "use super::Part;"),
            (
                "engine::step",
                "use super::pooling;\nfn pool() { pooling::rows(); }",
            ),
        ],
        &[
            "engine::pooling:1 uses engine::step: engine::pooling -> engine::step -> engine::pooling",
            "engine::step:1 uses engine::pooling: engine::step -> engine::pooling -> engine::step",
        ],
    );
}

#[test]
fn an_import_cycle_between_descendants_of_siblings_is_found() {
    check_cycles(
        &[
            ("text", "mod tokenizer;"),
            ("text::tokenizer", "mod unigram;"),
            (
                "text::tokenizer::unigram",
                "use crate::text::vocabulary::Vocabulary;",
            ),
            ("text::vocabulary", "use super::tokenizer::Charsmap;"),
        ],
        &[
            "text::tokenizer::unigram:1 uses text::vocabulary: text::tokenizer -> text::vocabulary -> text::tokenizer",
            "text::vocabulary:1 uses text::tokenizer: text::vocabulary -> text::tokenizer -> text::vocabulary",
        ],
    );
}

#[test]
fn a_parent_and_its_descendants_may_use_each_other() {
    check_cycles(
        &[
            ("engine", "mod step;\nuse step::rows::Rows;"),
            ("engine::step", "use super::EngineOptions;"),
            (
                "engine::step::rows",
                "use super::StepPlan;\nuse crate::engine::EngineOptions;",
            ),
        ],
        &[],
    );
}

#[test]
fn test_code_and_other_crates_make_no_import_cycle() {
    check_cycles(
        &[
            ("engine", "mod step;\nmod worker;"),
            (
                "engine::step",
                "use serde::{self, Serialize};\n#[cfg(test)]\nuse super::worker::Worker;",
            ),
            ("engine::worker", "use super::step::StepPlan;"),
        ],
        &[],
    );
}

/// Checks the import cycles of modules with these paths and texts. A module's path also stands for its file.
#[track_caller]
fn check_cycles(modules: &[(&str, &str)], expected: &[&str]) {
    let parse = |&(module, text): &(&str, &str)| {
        let names = module.split("::").map(str::to_owned);
        Source::parse(module.into(), names.collect(), text)
    };
    let sources: Vec<_> = modules.iter().map(parse).collect();
    assert_eq!(cycles::import_cycles(&sources), expected);
}

/// Checks that a file of the engine with this text has exactly this violation.
#[track_caller]
fn check_layer_violation(text: &str, expected: &str) {
    let source = Source::parse("engine.rs".into(), vec!["engine".to_owned()], text);
    assert_eq!(layer_violations(&source), [format!("engine.rs:{expected}")]);
}

/// The violations that `check` finds in the production code.
fn violations(check: fn(&Source) -> Vec<String>) -> Vec<String> {
    source::production_sources()
        .iter()
        .flat_map(check)
        .collect()
}

/// Returns the uses of modules that are not in the row of the file's module, and the exports that are not in [`EXPORTS`].
/// An export makes a module usable where the row does not contain it.
fn layer_violations(source: &Source) -> Vec<String> {
    let row = MODULES.iter().find(|(module, _)| *module == source.layer());
    let (_, allowed) = row.unwrap_or_else(|| panic!("the table has no module {}", source.layer()));
    let is_module = |name: &str| MODULES.iter().any(|(module, _)| *module == name);
    let violation = |path: &UsedPath| {
        let name = path.layer()?;
        let verb = if path.is_exported { "exports" } else { "uses" };
        let is_allowed = name == source.layer()
            || match path.is_exported {
                true => EXPORTS.contains(&(source.layer(), name)),
                false => EVERYWHERE.contains(&name) || allowed.contains(&name),
            };
        let is_violation = is_module(name) && !is_allowed;
        is_violation.then(|| format!("{}:{} {verb} {name}", source.path.display(), path.line))
    };
    source.paths().iter().filter_map(violation).collect()
}

fn crate_violations(source: &Source) -> Vec<String> {
    let violation = |path: &UsedPath| {
        let name = path.external_crate()?;
        let (_, modules) = RESTRICTED_CRATES
            .iter()
            .find(|(restricted, _)| *restricted == name)?;
        let is_violation = !modules.contains(&source.layer());
        is_violation.then(|| format!("{}:{} uses {name}", source.path.display(), path.line))
    };
    source.paths().iter().filter_map(violation).collect()
}

fn word_violations(source: &Source) -> Vec<String> {
    let rows = FORBIDDEN_WORDS
        .iter()
        .filter(|(module, ..)| *module == source.layer());
    rows.flat_map(|(_, words, reason)| {
        let words = words.iter().filter(|word| source.has_word(word));
        words.map(move |word| format!("{} has {word}: {reason}", source.path.display()))
    })
    .collect()
}
