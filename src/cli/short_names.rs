//! Options with a short name of several letters, as llama.cpp writes them: `-ngl 99`, `-ctk f16`. clap knows short
//! names of one letter only and would read `-ctk` as `-c tk`, so these words are replaced or refused before clap
//! sees them.

use std::ffi::OsString;

use clap::error::{Error, ErrorKind};
use clap::{Arg, Command};

/// llama.cpp's short names of two letters and more that exist here, with the long names that clap knows.
const SERVED: &[(&str, &str)] = &[
    ("-cb", "--cont-batching"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-dev", "--device"),
    ("-fa", "--flash-attn"),
    ("-gan", "--grp-attn-n"),
    ("-gaw", "--grp-attn-w"),
    ("-hf", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-hfr", "--hf-repo"),
    ("-hft", "--hf-token"),
    ("-kvu", "--kv-unified"),
    ("-lm", "--load-mode"),
    ("-mg", "--main-gpu"),
    ("-mm", "--mmproj"),
    ("-mu", "--model-url"),
    ("-ngl", "--n-gpu-layers"),
    ("-np", "--parallel"),
    ("-sm", "--split-mode"),
    ("-spf", "--system-prompt-file"),
    ("-tb", "--threads-batch"),
    ("-to", "--timeout"),
    ("-ts", "--tensor-split"),
    ("-ub", "--ubatch-size"),
];

/// llama.cpp's other short names of two letters and more, of 2024 and of today, with their long names and what to do
/// instead. A name that is in neither table is refused too; these get a better message.
const NOT_SERVED: &[(&str, &str, &str)] = &[
    ("-ag", "--agent", ""),
    ("-no-ag", "--no-agent", ""),
    ("-bs", "--backend-sampling", ""),
    ("-Cb", "--cpu-mask-batch", ""),
    ("-cd", "--ctx-size-draft", ""),
    ("-cl", "--cache-list", ""),
    ("-cmoe", "--cpu-moe", ""),
    ("-cmoed", "--cpu-moe-draft", ""),
    ("-cms", "--checkpoint-min-step", ""),
    ("-Cr", "--cpu-range", "--numa or taskset choose cores"),
    (
        "-cram",
        "--cache-ram",
        "--cache-tokens or --memory-budget set the size of the cache",
    ),
    ("-Crb", "--cpu-range-batch", ""),
    ("-ctkd", "--cache-type-k-draft", ""),
    ("-ctvd", "--cache-type-v-draft", ""),
    ("-ctxcp", "--ctx-checkpoints", ""),
    ("-devd", "--device-draft", ""),
    ("-dkvc", "--dump-kv-cache", ""),
    ("-dr", "--docker-repo", ""),
    (
        "-dt",
        "--defrag-thold",
        "the paged cache needs no defragmentation",
    ),
    ("-fit", "--fit", ""),
    ("-fitc", "--fit-ctx", ""),
    ("-fitt", "--fit-target", ""),
    ("-hfd", "--hf-repo-draft", ""),
    ("-hffv", "--hf-file-v", ""),
    ("-hfrd", "--hf-repo-draft", ""),
    ("-hfrv", "--hf-repo-v", ""),
    ("-hfv", "--hf-repo-v", ""),
    (
        "-jf",
        "--json-schema-file",
        "send json_schema in the request",
    ),
    ("-kvo", "--kv-offload", ""),
    ("-lcd", "--lookup-cache-dynamic", ""),
    ("-lcs", "--lookup-cache-static", ""),
    (
        "-lv",
        "--verbosity",
        "the environment variable RUST_LOG chooses log lines",
    ),
    ("-lzm", "--lazy-mode", ""),
    (
        "-md",
        "--model-draft",
        "prompt lookup drafts tokens without a second model",
    ),
    ("-mmdev", "--mmproj-device", ""),
    ("-mmu", "--mmproj-url", ""),
    ("-mv", "--model-vocoder", ""),
    ("-ncffn", "--n-cpu-ffn", ""),
    ("-ncmoe", "--n-cpu-moe", ""),
    ("-ncmoed", "--n-cpu-moe-draft", ""),
    ("-ngld", "--n-gpu-layers-draft", ""),
    ("-nkvo", "--no-kv-offload", ""),
    (
        "-no-kvu",
        "--no-kv-unified",
        "all sequences share one cache",
    ),
    (
        "-nocb",
        "--no-cont-batching",
        "continuous batching is always on",
    ),
    ("-nr", "--no-repack", ""),
    ("-ot", "--override-tensor", ""),
    ("-otd", "--override-tensor-draft", ""),
    (
        "-rea",
        "--reasoning",
        "send reasoning_effort or chat_template_kwargs in the request",
    ),
    ("-sp", "--special", ""),
    ("-sps", "--slot-prompt-similarity", ""),
    ("-tbd", "--threads-batch-draft", ""),
    ("-td", "--threads-draft", ""),
];

/// The words with long names in the place of llama.cpp's short ones, up to a `--`. The first word is the program.
///
/// # Errors
/// A word that would be read as several options, or as one with a value attached that is a word itself.
pub(super) fn replaced(words: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, Error> {
    let mut only_values = false;
    let mut replaced = Vec::with_capacity(words.len());
    for (index, word) in words.into_iter().enumerate() {
        only_values |= word == "--";
        replaced.push(match word.to_str() {
            Some(text) if index > 0 && !only_values => match long_form(text, command)? {
                Some(long) => long.into(),
                None => word,
            },
            // A word that is not UTF-8 is a path.
            _ => word,
        });
    }
    Ok(replaced)
}

/// The word with the long name; `None` if clap reads the word as it is meant.
fn long_form(word: &str, command: &Command) -> Result<Option<String>, Error> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    if let Some(row) = NOT_SERVED.iter().find(|(_, long, _)| *long == name) {
        return Err(super::error(ErrorKind::UnknownArgument, not_served(*row)));
    }
    let mut letters = name.chars();
    let (Some('-'), Some(first), Some(second)) = (letters.next(), letters.next(), letters.next())
    else {
        return Ok(None);
    };
    if !first.is_ascii_alphabetic() {
        return Ok(None);
    }
    if let Some((_, long)) = SERVED.iter().find(|(short, _)| *short == name) {
        return Ok(Some(match value {
            Some(value) => format!("{long}={value}"),
            None => (*long).to_owned(),
        }));
    }
    let short = command
        .get_arguments()
        .find(|option| option.get_short() == Some(first) && takes_value(option));
    // `-c4096`, `-m/models/a.gguf`: clap's spelling of an option with its value.
    if short.is_some() && !second.is_alphabetic() && second != '-' {
        return Ok(None);
    }
    // `-n-1`
    if short.is_some() && second == '-' && letters.next().is_some_and(|next| next.is_ascii_digit())
    {
        return Ok(None);
    }
    Err(super::error(
        ErrorKind::UnknownArgument,
        refusal(name, short, command),
    ))
}

/// What is wrong with a word of several letters behind one dash, and what to write instead.
fn refusal(name: &str, short: Option<&Arg>, command: &Command) -> String {
    if let Some(row) = NOT_SERVED.iter().find(|(short, ..)| *short == name) {
        return not_served(*row);
    }
    let attached = SERVED.iter().find_map(|(short, _)| {
        let value = name.strip_prefix(short)?;
        let is_number = value.starts_with(|char: char| char.is_ascii_digit());
        is_number.then(|| format!("unexpected argument '{name}': write {short} {value}"))
    });
    if let Some(message) = attached {
        return message;
    }
    let bare = name.trim_start_matches('-');
    let is_long = command.get_arguments().any(|option| {
        let aliases = option.get_all_aliases().unwrap_or_default();
        option.get_long() == Some(bare) || aliases.contains(&bare)
    });
    match short.and_then(Arg::get_short) {
        _ if is_long => format!("unexpected argument '{name}': write --{bare}"),
        Some(letter) => format!(
            "unexpected argument '{name}': there is no such option (-{letter} with a value is written -{letter} {})",
            bare.strip_prefix(letter).unwrap_or(bare)
        ),
        None => format!("unexpected argument '{name}': there is no such option"),
    }
}

fn not_served((short, long, hint): (&str, &str, &str)) -> String {
    let hint = match hint {
        "" => "leave it out",
        hint => hint,
    };
    format!("{short} ({long}) is not supported: {hint}")
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// All short names of both tables, with their long names.
#[cfg(test)]
pub(super) fn names() -> Vec<(&'static str, &'static str)> {
    let not_served = NOT_SERVED.iter().map(|(short, long, _)| (*short, *long));
    SERVED.iter().copied().chain(not_served).collect()
}
