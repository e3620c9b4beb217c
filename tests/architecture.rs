//! Checks the module table of ARCHITECTURE.md: each module may use only the modules and crates listed here.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and the modules that it may use, besides itself and [`EVERYWHERE`].
const MODULES: &[(&str, &[&str])] = &[
    (
        "main",
        &[
            "cli", "config", "terminal", "server", "api", "web", "model", "hub", "platform",
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
            "platform",
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

/// Words that must not occur in a module's code, and the reason.
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
            None => assert!(
                name == "ortolan" || replaced.insert(name),
                "{name} occurs twice"
            ),
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
    let modules: BTreeSet<&str> = MODULES.iter().map(|(module, _)| *module).collect();
    let mut violations = Vec::new();
    for source in sources() {
        let allowed = MODULES
            .iter()
            .find(|(module, _)| *module == source.module)
            .map(|(_, allowed)| *allowed)
            .unwrap_or_else(|| panic!("the table has no module {}", source.module));
        for (number, line) in source.code_lines() {
            for name in names_after(line, "crate::").chain(names_after(line, "ortolan::")) {
                let is_allowed =
                    name == source.module || EVERYWHERE.contains(&name) || allowed.contains(&name);
                if modules.contains(name) && !is_allowed {
                    violations.push(format!("{}:{number} uses {name}", source.path.display()));
                }
            }
        }
    }
    assert_eq!(violations, Vec::<String>::new());
}

#[test]
fn restricted_crates_are_used_only_in_their_modules() {
    let mut violations = Vec::new();
    for source in sources() {
        for (number, line) in source.code_lines() {
            for (name, modules) in RESTRICTED_CRATES {
                let is_used = line.contains(&format!("{name}::"))
                    && starts_a_path(line, &format!("{name}::"));
                if is_used && !modules.contains(&source.module.as_str()) {
                    violations.push(format!("{}:{number} uses {name}", source.path.display()));
                }
            }
        }
    }
    assert_eq!(violations, Vec::<String>::new());
}

#[test]
fn forbidden_words_do_not_occur() {
    let mut violations = Vec::new();
    for source in sources() {
        for (module, words, reason) in FORBIDDEN_WORDS {
            if source.module != *module {
                continue;
            }
            for (number, line) in source.code_lines() {
                for word in words.iter().filter(|word| line.contains(**word)) {
                    violations.push(format!(
                        "{}:{number} has {word}: {reason}",
                        source.path.display()
                    ));
                }
            }
        }
    }
    assert_eq!(violations, Vec::<String>::new());
}

#[test]
fn unsafe_code_is_only_in_runtime_file_mapping_and_main() {
    let allowed = ["runtime/", "file_bytes.rs", "main.rs"];
    let violations: Vec<String> = sources()
        .filter(|source| {
            source
                .code_lines()
                .any(|(_, line)| line.contains("unsafe "))
        })
        .map(|source| source.path.display().to_string().replace('\\', "/"))
        .filter(|path| !allowed.iter().any(|prefix| path.starts_with(prefix)))
        .collect();
    assert_eq!(violations, Vec::<String>::new());
}

/// A file under `src` and the top-level module that it belongs to.
struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

impl Source {
    /// Numbers and text of the lines of production code: comments and everything from `#[cfg(test)]` on are left out.
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
    assert!(files.len() > 20, "only {} sources found", files.len());
    files
        .into_iter()
        .filter(|path| !path.ends_with("lib.rs") && !is_test(path))
        .map(move |path| {
            let relative = path.strip_prefix(&root).unwrap().to_owned();
            let first = relative.components().next().unwrap();
            Source {
                module: first
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

/// Whether a file contains only tests: `…tests.rs`, or any file in a folder `tests`.
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

/// The identifiers that follow `prefix` in the line, including those of a braced list.
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

/// Whether some occurrence of `prefix` is not the tail of a longer identifier or path.
fn starts_a_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}
