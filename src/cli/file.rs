//! A file with options: each becomes the words that would say it on the command line, unless something there or in
//! the environment counts before it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{Error, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};
use toml::{Table, Value};

use super::Cli;
use crate::file_bytes::read_text_limited;

/// Most bytes of a file with options.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The words for what the file says that a command line names, if it names one.
pub(super) fn words(line: &[OsString]) -> Result<Vec<OsString>, Error> {
    let command = Cli::command();
    // What is wrong with the line is said when it is read together with the file.
    let Ok(said) = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(line)
    else {
        return Ok(Vec::new());
    };
    let Some(path) = said.get_one::<PathBuf>("config") else {
        return Ok(Vec::new());
    };
    let mut words = Vec::new();
    for (name, value) in table(path)? {
        let wrong = |problem: &str| {
            let message = format!("{}: {name}: {problem}", path.display());
            super::error(ErrorKind::InvalidValue, message)
        };
        if super::LATER.contains(&&*format!("--{name}")) {
            words.push(format!("--{name}").into());
            continue;
        }
        let option = option(&command, &name).ok_or_else(|| wrong("there is no such option"))?;
        if option.get_id() == "config" {
            return Err(wrong("a file cannot name another"));
        }
        let option_words = option_words(option, &name, value).map_err(wrong)?;
        if !counts_after(option, &command, &said) {
            words.extend(option_words);
        }
    }
    Ok(words)
}

fn table(path: &Path) -> Result<Table, Error> {
    let wrong = |problem: &dyn std::fmt::Display| {
        let message = format!("--config {}: {problem}", path.display());
        super::error(ErrorKind::Io, message)
    };
    let text = read_text_limited(path, MAX_FILE_BYTES).map_err(|error| wrong(&error))?;
    text.parse().map_err(|error| wrong(&error))
}

/// The option of that long name.
fn option<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|option| {
        let aliases = option.get_all_aliases().unwrap_or_default();
        option.get_long() == Some(name) || aliases.contains(&name)
    })
}

/// Whether the line or the environment says it, or something that excludes it.
fn counts_after(option: &Arg, command: &Command, said: &ArgMatches) -> bool {
    let is_said = |option: &Arg| {
        let source = said.value_source(option.get_id().as_str());
        matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    };
    let excludes = |other: &Arg| command.get_arg_conflicts_with(other).contains(&option);
    is_said(option)
        || command
            .get_arg_conflicts_with(option)
            .into_iter()
            .any(is_said)
        || command
            .get_arguments()
            .any(|other| is_said(other) && excludes(other))
}

/// The words for one option of the file.
fn option_words(option: &Arg, name: &str, value: Value) -> Result<Vec<OsString>, &'static str> {
    let is_flag = matches!(option.get_action(), ArgAction::SetTrue);
    let value = match (value, is_flag) {
        (Value::Boolean(false), true) => return Ok(Vec::new()),
        (Value::Boolean(true), true) => return Ok(vec![format!("--{name}").into()]),
        (_, true) => return Err("it is true or false"),
        (value, false) => value,
    };
    let values = match value {
        // Without a word it would not count at all: an empty list of keys would open the server.
        Value::Array(values) if values.is_empty() => return Err("the list is empty: leave it out"),
        Value::Array(values) if matches!(option.get_action(), ArgAction::Append) => values,
        value => vec![value],
    };
    let words = values.into_iter().map(|value| {
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(_) => return Err("it is no flag"),
            Value::Array(_) => return Err("it takes one value"),
            Value::Table(_) | Value::Datetime(_) => return Err("it is a number or a text"),
        };
        Ok(format!("--{name}={text}").into())
    });
    words.collect()
}
