//! Checks the book in `docs/`: its table of contents, the links and anchors of all Markdown documents, that the options
//! page agrees with `--help`, and the messages of the command that the quick start begins with.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Documents outside the book.
const ROOT_DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
];

/// The commands whose options are documented.
const COMMANDS: &[&str] = &["inspect", "quantize", "export"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The pages of the book, without the table of contents.
fn pages() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter(|path| !path.ends_with("SUMMARY.md"))
        .collect()
}

/// The lines outside fenced code blocks.
fn prose(markdown: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    markdown.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The anchors of the headings, as mdBook and GitHub derive them.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for heading in prose(markdown).filter(|line| line.starts_with('#')) {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter_map(|char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            _ => char.is_alphanumeric().then_some(char),
        });
        let anchor: String = kept.collect();
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let mut candidates = std::iter::once(anchor.clone()).chain(numbered);
        let unused = candidates.find(|candidate| !anchors.contains(candidate));
        anchors.extend(unused);
    }
    anchors
}

/// The targets of the links and images outside code.
fn links(markdown: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for line in prose(markdown) {
        // Every second part is inline code.
        let text: String = line.split('`').step_by(2).collect();
        let ends = text.split("](").skip(1);
        targets.extend(ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    targets
}

/// The problem of a link in `document`; `None` if its target exists.
fn link_problem(document: &Path, link: &str) -> Option<String> {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (link, None),
    };
    if path.contains("://") {
        return None;
    }
    let target = match path {
        "" => document.to_owned(),
        path => document.parent().unwrap().join(path),
    };
    if !target.exists() {
        return Some("file not found".to_owned());
    }
    let is_in_book = document.starts_with(root().join("docs"));
    if is_in_book && path.contains('/') {
        return Some("the target is not part of the book".to_owned());
    }
    let anchor = anchor?;
    let exists = anchors(&read(&target)).contains(anchor);
    (!exists).then(|| "heading not found".to_owned())
}

#[test]
fn the_table_of_contents_lists_every_page_once() {
    let listed = links(&read(&root().join("docs/SUMMARY.md")));
    let paths: BTreeSet<PathBuf> = listed
        .iter()
        .map(|link| root().join("docs").join(link))
        .collect();
    let pages = pages();
    let different: Vec<_> = paths.symmetric_difference(&pages).collect();
    assert!(different.is_empty(), "not in both: {different:?}");
    assert_eq!(listed.len(), paths.len(), "a page is listed twice");
}

#[test]
fn links_and_anchors_exist() {
    let root_documents = ROOT_DOCUMENTS.iter().map(|name| root().join(name));
    let summary = root().join("docs/SUMMARY.md");
    let documents: Vec<PathBuf> = pages()
        .into_iter()
        .chain(root_documents)
        .chain([summary])
        .collect();
    let mut count = 0;
    let mut problems = Vec::new();
    for document in &documents {
        for link in links(&read(document)) {
            count += 1;
            if let Some(problem) = link_problem(document, &link) {
                let name = document.strip_prefix(root()).unwrap().display();
                problems.push(format!("{name}: {link}: {problem}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 50, "only {count} links were found");
}

/// An option, as the help text or the options page describes it.
#[derive(Debug, PartialEq, Eq)]
struct OptionEntry {
    /// The heading above the option, in the help text or on the page.
    group: String,
    /// Long names, including visible aliases.
    names: BTreeSet<String>,
    environment: Option<String>,
    /// The default, or the text that describes it.
    default: Option<String>,
}

/// The long option names in a text.
fn long_names(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '-'));
    words
        .filter(|word| word.strip_prefix("--").is_some_and(|name| !name.is_empty()))
        .map(str::to_owned)
}

/// The text between `start` and the next `]`.
fn bracketed<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    Some(text.split_once(start)?.1.split_once(']')?.0)
}

fn program_output(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ortolan"));
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {:?}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The options in a help text. `group` replaces the headings, and without it "Options" becomes "General".
fn help_options(help: &str, group: Option<&str>) -> Vec<OptionEntry> {
    let mut heading = "";
    let mut blocks: Vec<(&str, String)> = Vec::new();
    for line in help.lines() {
        let text = line.trim_start();
        // A description is indented further than an option.
        let is_option = text.starts_with('-') && line.len() - text.len() <= 6;
        match blocks.last_mut() {
            _ if !line.starts_with(' ') => heading = line.strip_suffix(':').unwrap_or(heading),
            _ if is_option => blocks.push((heading, text.to_owned())),
            Some((_, block)) if !text.is_empty() => {
                block.push(' ');
                block.push_str(text);
            }
            _ => {}
        }
    }
    let entry = |(heading, block): &(&str, String)| OptionEntry {
        group: match (group, *heading) {
            (Some(group), _) => group,
            (None, "Options") => "General",
            (None, heading) => heading,
        }
        .to_owned(),
        names: long_names(block)
            .take(1)
            .chain(bracketed(block, "[alias").into_iter().flat_map(long_names))
            .collect(),
        environment: bracketed(block, "[env: ")
            .map(|name| name.split('=').next().unwrap_or_default().to_owned()),
        default: bracketed(block, "[default: ").map(str::to_owned),
    };
    blocks.iter().map(entry).collect()
}

/// The options in the tables of the options page.
fn documented_options() -> Vec<OptionEntry> {
    let page = read(&root().join("docs/options.md"));
    let mut group = "";
    let mut options = Vec::new();
    for line in prose(&page) {
        if let Some(heading) = line.strip_prefix("## ") {
            group = heading;
        }
        if !line.starts_with("| `-") {
            continue;
        }
        let cells: Vec<&str> = line.split('|').skip(1).map(str::trim).collect();
        let text = |index: usize| {
            let cell = cells.get(index).map(|cell| cell.replace('`', ""));
            cell.filter(|cell| !cell.is_empty())
        };
        options.push(OptionEntry {
            group: group.to_owned(),
            names: long_names(cells[0]).collect(),
            environment: text(3),
            default: text(1),
        });
    }
    options
}

#[test]
fn the_options_page_agrees_with_the_help() {
    let mut expected = help_options(&program_output(&["--help"]), None);
    for command in COMMANDS {
        let help = program_output(&[command, "--help"]);
        expected.extend(help_options(&help, Some(&format!("Command: {command}"))));
    }
    let documented = documented_options();
    let names = |options: &[OptionEntry]| -> BTreeSet<String> {
        let name = |option: &OptionEntry| format!("{}: {:?}", option.group, option.names);
        options.iter().map(name).collect()
    };
    let (expected_names, found_names) = (names(&expected), names(&documented));
    let missing: Vec<_> = expected_names.difference(&found_names).collect();
    let unknown: Vec<_> = found_names.difference(&expected_names).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in docs/options.md: {missing:#?}\nnot in the help: {unknown:#?}"
    );
    assert_eq!(
        documented.len(),
        expected.len(),
        "an option is listed twice"
    );
    for option in &expected {
        let found = documented
            .iter()
            .find(|found| (&found.group, &found.names) == (&option.group, &option.names))
            .unwrap();
        assert_eq!(found.environment, option.environment, "{:?}", option.names);
        // Defaults with spaces are descriptions, which may have other words on the page.
        if let Some(default) = option.default.as_ref().filter(|text| !text.contains(' ')) {
            assert_eq!(found.default.as_ref(), Some(default), "{:?}", option.names);
        }
    }
}

#[cfg(unix)]
#[test]
fn make_serve_reports_a_missing_cargo_before_it_downloads_anything() {
    let output = Command::new("make")
        .args(["serve", "CARGO=/nowhere/cargo", "PYTHON=/nowhere/python"])
        .current_dir(root())
        // `make test` sets them; a nested make reports its folder.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .unwrap();
    let message = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success(), "{message}");
    assert!(
        message.starts_with("build: /nowhere/cargo not found"),
        "{message}"
    );
}
