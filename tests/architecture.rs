//! Holds the table of floors in ARCHITECTURE.md: no module names one that its row does not allow.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A floor and the floors that it may name (itself, `token` and `cancel` aside).
const FLOORS: &[(&str, &[&str])] = &[
    (
        "main",
        &[
            "cli", "config", "terminal", "server", "api", "web", "model", "hub", "machine",
            "logging", "commands",
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
            "machine",
            "file_bytes",
        ],
    ),
    ("terminal", &["model", "hub"]),
    ("logging", &["cli"]),
    ("cli", &["file_bytes"]),
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
            "machine",
            "file_bytes",
            "atomic_file",
        ],
    ),
    ("engine", &["cache", "sampling", "grammar"]),
    ("runtime", &["engine", "graph", "machine"]),
    ("graph", &["gguf", "safetensors", "file_bytes", "machine"]),
    ("text", &[]),
    ("cache", &[]),
    ("sampling", &[]),
    ("grammar", &[]),
    ("gguf", &["file_bytes"]),
    ("safetensors", &["file_bytes"]),
    ("hub", &["atomic_file", "file_bytes"]),
    ("machine", &[]),
    ("token", &[]),
    ("cancel", &[]),
    ("file_bytes", &[]),
    ("atomic_file", &[]),
];

/// Floors that every other one may name.
const EVERYWHERE: &[&str] = &["token", "cancel"];

/// Crates that only some floors may name.
const GUESTS: &[(&str, &[&str])] = &[
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
    ("memmap2", &["file_bytes", "machine"]),
    ("safetensors", &["safetensors"]),
    ("prost", &["graph"]),
    ("prometheus", &["metrics"]),
    ("jsonschema", &["api", "grammar"]),
    ("clap", &["cli"]),
    ("toml", &["cli"]),
    ("rustix", &["machine"]),
    ("indicatif", &["terminal"]),
    ("opentelemetry", &["logging", "server"]),
    ("tracing_opentelemetry", &["logging", "server"]),
];

/// What is not there by design.
const ABSENT: &[(&str, &[&str], &str)] = &[
    (
        "engine",
        &["http", "json", "okenizer"],
        "the engine deals in ids: no HTTP, no JSON, no text",
    ),
    (
        "cache",
        &["f16", "f32", "Tensor"],
        "the cache knows block numbers, not what is in them",
    ),
    (
        "engine",
        &["Instant::now", "SystemTime::now", "rand::"],
        "clock and chance are passed in",
    ),
    (
        "sampling",
        &["Instant::now", "SystemTime::now", "rand::random"],
        "clock and chance are passed in",
    ),
    (
        "text",
        &["Instant::now", "SystemTime::now", "rand::"],
        "clock and chance are passed in",
    ),
];

/// Crates of the registry whose place others take (`replacements/`): they are vulnerable or unmaintained.
const REPLACED: &[&str] = &["quick-xml", "paste"];

#[test]
fn replaced_crates_and_other_registries_are_not_in_the_lock_file() {
    const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    let mut replaced = BTreeSet::new();
    for package in lock.split("[[package]]\n").skip(1) {
        let field = |name: &str| package.lines().find(|line| line.starts_with(name));
        let name = field("name = ").unwrap().split('"').nth(1).unwrap();
        match field("source = ") {
            None => assert!(
                name == "ortolan" || replaced.insert(name),
                "{name} stands twice"
            ),
            Some(source) => {
                assert_eq!(source, REGISTRY, "{name}");
                assert!(!REPLACED.contains(&name), "{name} is the registry's");
            }
        }
    }
    assert_eq!(replaced, REPLACED.iter().copied().collect());
}

#[test]
fn no_floor_names_one_above_it() {
    let known: BTreeSet<&str> = FLOORS.iter().map(|(floor, _)| *floor).collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let allowed = FLOORS
            .iter()
            .find(|(floor, _)| *floor == source.floor)
            .map(|(_, allowed)| *allowed)
            .unwrap_or_else(|| panic!("{} is no floor of the table", source.floor));
        for (number, line) in source.code_lines() {
            for name in names_after(line, "crate::").chain(names_after(line, "ortolan::")) {
                let fine =
                    name == source.floor || EVERYWHERE.contains(&name) || allowed.contains(&name);
                if known.contains(name) && !fine {
                    wrong.push(format!("{}:{number} names {name}", source.path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn each_guest_stays_in_its_rooms() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in source.code_lines() {
            for (guest, rooms) in GUESTS {
                let named = line.contains(&format!("{guest}::"))
                    && words_before(line, &format!("{guest}::"));
                if named && !rooms.contains(&source.floor.as_str()) {
                    wrong.push(format!("{}:{number} names {guest}", source.path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn what_is_absent_by_design_is_absent() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (floor, absent, why) in ABSENT {
            if source.floor != *floor {
                continue;
            }
            for (number, line) in source.code_lines() {
                for word in absent.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!(
                        "{}:{number} has {word}: {why}",
                        source.path.display()
                    ));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn unsafe_code_is_in_the_runtime_where_files_are_mapped_and_before_there_are_threads() {
    let rooms = ["runtime/", "file_bytes.rs", "main.rs"];
    let wrong: Vec<String> = sources()
        .filter(|source| {
            source
                .code_lines()
                .any(|(_, line)| line.contains("unsafe "))
        })
        .map(|source| source.path.display().to_string().replace('\\', "/"))
        .filter(|path| !rooms.iter().any(|room| path.starts_with(room)))
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

/// A file under `src`, and the floor it belongs to.
struct Source {
    path: PathBuf,
    floor: String,
    text: String,
}

impl Source {
    /// Lines with code that is shipped: no comments, nothing from the file's tests on.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.contains("#[cfg(test)]"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line))
    }
}

fn sources() -> impl Iterator<Item = Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 20, "the sources were found");
    files
        .into_iter()
        .filter(|path| !path.ends_with("lib.rs") && !is_test(path))
        .map(move |path| {
            let relative = path.strip_prefix(&root).unwrap().to_owned();
            let first = relative.components().next().unwrap();
            Source {
                floor: first
                    .as_os_str()
                    .to_str()
                    .unwrap()
                    .trim_end_matches(".rs")
                    .to_owned(),
                text: fs::read_to_string(&path).unwrap(),
                path: relative,
            }
        })
}

/// Tests in files of their own: `…tests.rs`, or anything in a folder `tests`.
fn is_test(path: &Path) -> bool {
    path.to_string_lossy().ends_with("tests.rs")
        || path.components().any(|part| part.as_os_str() == "tests")
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The identifiers that follow `prefix` in the line, those of a braced list too.
fn names_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).flat_map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        let list = rest
            .strip_prefix('{')
            .map(|rest| rest.split('}').next().unwrap_or(rest));
        list.unwrap_or(rest)
            .split(if list.is_some() { ',' } else { ';' })
            .map(|name| {
                name.trim()
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or("")
            })
    })
}

/// Whether some occurrence of `word` is not the tail of a longer identifier or path.
fn words_before(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}
