//! Reads the options file (`--config`). Each of its options becomes command line arguments, unless the command line or
//! the environment overrides the option.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{Error, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};
use toml::{Table, Value};

use super::Cli;
use crate::file_bytes::read_text_limited;

/// Maximum size of an options file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Converts the options file that `--config` names into command line arguments. Returns no arguments without `--config`.
pub(super) fn args(command_line: &[OsString]) -> Result<Vec<OsString>, Error> {
    let command = Cli::command();
    // Errors of the command line are reported later, when it is parsed together with the file.
    let Ok(matches) = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(command_line)
    else {
        return Ok(Vec::new());
    };
    let Some(path) = matches.get_one::<PathBuf>("config") else {
        return Ok(Vec::new());
    };
    let mut args = Vec::new();
    for (name, value) in table(path)? {
        let invalid = |problem: &str| {
            let message = format!("{}: {name}: {problem}", path.display());
            super::error(ErrorKind::InvalidValue, message)
        };
        if super::UNSUPPORTED_YET.contains(&&*format!("--{name}")) {
            args.push(format!("--{name}").into());
            continue;
        }
        let option =
            option(&command, &name).ok_or_else(|| invalid("unknown option (see --help)"))?;
        if option.get_id() == "config" {
            return Err(invalid("not allowed in an options file"));
        }
        let option_args = option_args(option, &name, value).map_err(invalid)?;
        if !is_overridden(option, &command, &matches) {
            args.extend(option_args);
        }
    }
    Ok(args)
}

fn table(path: &Path) -> Result<Table, Error> {
    let invalid = |problem: &dyn std::fmt::Display| {
        let message = format!("--config {}: {problem}", path.display());
        super::error(ErrorKind::Io, message)
    };
    let text = read_text_limited(path, MAX_FILE_BYTES).map_err(|error| invalid(&error))?;
    text.parse().map_err(|error| invalid(&error))
}

/// Finds the option whose long name or alias is `name`.
fn option<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|option| {
        let aliases = option.get_all_aliases().unwrap_or_default();
        option.get_long() == Some(name) || aliases.contains(&name)
    })
}

/// Whether the command line or the environment sets the option, or another option that conflicts with it.
fn is_overridden(option: &Arg, command: &Command, matches: &ArgMatches) -> bool {
    let is_set = |option: &Arg| {
        let source = matches.value_source(option.get_id().as_str());
        matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    };
    let conflicts = |other: &Arg| command.get_arg_conflicts_with(other).contains(&option);
    is_set(option)
        || command
            .get_arg_conflicts_with(option)
            .into_iter()
            .any(is_set)
        || command
            .get_arguments()
            .any(|other| is_set(other) && conflicts(other))
}

/// Converts one option of the file into command line arguments, one for each value.
fn option_args(option: &Arg, name: &str, value: Value) -> Result<Vec<OsString>, &'static str> {
    let is_flag = matches!(option.get_action(), ArgAction::SetTrue);
    let value = match (value, is_flag) {
        (Value::Boolean(false), true) => return Ok(Vec::new()),
        (Value::Boolean(true), true) => return Ok(vec![format!("--{name}").into()]),
        (_, true) => return Err("expected true or false"),
        (value, false) => value,
    };
    let values = match value {
        // An empty list would add no argument: with `api-key = []` the server would run without authentication.
        Value::Array(values) if values.is_empty() => {
            return Err("the list is empty: leave the option out");
        }
        Value::Array(values) if matches!(option.get_action(), ArgAction::Append) => values,
        value => vec![value],
    };
    let args = values.into_iter().map(|value| {
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(_) => return Err("expected a value, not a boolean"),
            Value::Array(_) => return Err("expected one value, not a list"),
            Value::Table(_) | Value::Datetime(_) => return Err("expected a number or a string"),
        };
        Ok(format!("--{name}={text}").into())
    });
    args.collect()
}
