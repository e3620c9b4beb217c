//! llama.cpp's short option names of several letters, such as `-ngl 99` and `-ctk f16`. clap supports short names of
//! one letter only and would parse `-ctk` as `-c tk`, so these arguments are replaced or rejected before clap parses.

use std::ffi::OsString;

use clap::error::{Error, ErrorKind};
use clap::{Arg, Command};

/// Supported short names of several letters, with their long names.
const SUPPORTED: &[(&str, &str)] = &[
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

/// Unsupported short names of several letters, of 2024 and of today: short name, long name, and the advice in the error
/// message (if empty, to leave the option out). Names in neither table are rejected with a less specific message.
const UNSUPPORTED: &[(&str, &str, &str)] = &[
    ("-ag", "--agent", ""),
    ("-no-ag", "--no-agent", ""),
    ("-bs", "--backend-sampling", ""),
    ("-Cb", "--cpu-mask-batch", ""),
    ("-cd", "--ctx-size-draft", ""),
    ("-cl", "--cache-list", ""),
    ("-cmoe", "--cpu-moe", ""),
    ("-cmoed", "--cpu-moe-draft", ""),
    ("-cms", "--checkpoint-min-step", ""),
    ("-Cr", "--cpu-range", "select cores with --numa or taskset"),
    (
        "-cram",
        "--cache-ram",
        "set the size of the cache with --cache-tokens or --memory-budget",
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
        "select log lines with the environment variable RUST_LOG",
    ),
    ("-lzm", "--lazy-mode", ""),
    (
        "-md",
        "--model-draft",
        "draft tokens come from prompt lookup, without a draft model",
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

/// Replaces llama.cpp's short names by long names in all arguments before `--`. The first argument is the program's
/// name.
///
/// # Errors
/// If an option is not supported, or clap would parse an argument as several options or as one option with an
/// unintended value.
pub(super) fn expand(args: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, Error> {
    let mut only_values = false;
    let mut expanded = Vec::with_capacity(args.len());
    for (index, arg) in args.into_iter().enumerate() {
        only_values |= arg == "--";
        expanded.push(match arg.to_str() {
            Some(text) if index > 0 && !only_values => match long_form(text, command)? {
                Some(long) => long.into(),
                None => arg,
            },
            // An argument that is not UTF-8 is a path.
            _ => arg,
        });
    }
    Ok(expanded)
}

/// Returns the argument with its long name, or `None` if clap parses `arg` as intended.
fn long_form(arg: &str, command: &Command) -> Result<Option<String>, Error> {
    let (name, value) = match arg.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (arg, None),
    };
    if let Some(row) = UNSUPPORTED.iter().find(|(_, long, _)| *long == name) {
        return Err(super::error(ErrorKind::UnknownArgument, unsupported(*row)));
    }
    let mut letters = name.chars();
    let (Some('-'), Some(first), Some(second)) = (letters.next(), letters.next(), letters.next())
    else {
        return Ok(None);
    };
    if !first.is_ascii_alphabetic() {
        return Ok(None);
    }
    if let Some((_, long)) = SUPPORTED.iter().find(|(short, _)| *short == name) {
        return Ok(Some(match value {
            Some(value) => format!("{long}={value}"),
            None => (*long).to_owned(),
        }));
    }
    let short = command
        .get_arguments()
        .find(|option| option.get_short() == Some(first) && takes_value(option));
    // `-c4096`, `-m/models/a.gguf`: clap parses a value that directly follows the letter.
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
        unknown_argument(name, short, command),
    ))
}

/// Returns the error message for an unknown argument with one dash and several letters. It suggests what to write
/// instead.
fn unknown_argument(name: &str, short: Option<&Arg>, command: &Command) -> String {
    if let Some(row) = UNSUPPORTED.iter().find(|(short, ..)| *short == name) {
        return unsupported(*row);
    }
    let attached = SUPPORTED.iter().find_map(|(short, _)| {
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
            "unexpected argument '{name}': unknown option; to give -{letter} a value, write -{letter} {}",
            bare.strip_prefix(letter).unwrap_or(bare)
        ),
        None => format!("unexpected argument '{name}': unknown option (see --help)"),
    }
}

fn unsupported((short, long, hint): (&str, &str, &str)) -> String {
    let hint = match hint {
        "" => "leave it out",
        hint => hint,
    };
    format!("{short} ({long}) is not supported: {hint}")
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// Returns the short and long names of both tables.
#[cfg(test)]
pub(super) fn names() -> Vec<(&'static str, &'static str)> {
    let unsupported = UNSUPPORTED.iter().map(|(short, long, _)| (*short, *long));
    SUPPORTED.iter().copied().chain(unsupported).collect()
}
