//! The command line, the environment and a file with options: the names of the 2024 contract for what is built,
//! today's spellings beside them. What they mean together is `config`'s.

mod adapters;
mod commands;
mod computing;
mod file;
mod model;
mod serving;
mod short_names;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::error::{Error, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};

pub use adapters::{AdapterFile, AdapterFiles};
pub use commands::{Command, ExportArgs, InspectArgs, MatrixType, QuantizeArgs, QuantizedType};
pub use computing::{
    BatchingArgs, CacheType, ComputingArgs, Device, FlashAttention, Numa, SplitMode,
};
pub use model::{LoadMode, ModelArgs, Pooling};
pub use serving::ServingArgs;

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// To serve.
    Serve(Box<Cli>),
    /// Something else.
    Command(Command),
}

impl Invocation {
    /// Reads a command line, its first word being the program.
    ///
    /// # Errors
    /// What is wrong with it, or the help that it asks for.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        match Command::read(&words) {
            Some(command) => command.map(Self::Command),
            None => Cli::read(words).map(|cli| Self::Serve(Box::new(cli))),
        }
    }
}

/// Serve a language model over HTTP: the 2024 contract of llama.cpp's server and OpenAI's API, computed by
/// ONNX Runtime, many requests in every step.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "A flag counts before its environment variable, and that before the file of --config. \
                  Documentation of the routes: http://HOST:PORT/docs while it runs."
)]
pub struct Cli {
    /// A file with options by their long names, as in `ctx-size = 4096`: TOML
    #[arg(long, value_name = "FILE", env = "ORTOLAN_CONFIG")]
    pub config: Option<PathBuf>,

    /// Which model, and how.
    #[command(flatten, next_help_heading = "Model")]
    pub model: ModelArgs,

    /// How many sequences share the steps.
    #[command(flatten, next_help_heading = "Batching")]
    pub batching: BatchingArgs,

    /// Where a step is computed.
    #[command(flatten, next_help_heading = "Computing")]
    pub computing: ComputingArgs,

    /// How to serve.
    #[command(flatten, next_help_heading = "Serving")]
    pub serving: ServingArgs,

    /// What is told about it.
    #[command(flatten, next_help_heading = "Logging")]
    pub logging: LoggingArgs,
}

/// What is told to whoever runs the server.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct LoggingArgs {
    /// How log lines are written
    #[arg(long, value_enum, default_value_t = LogFormat::Json, env = "ORTOLAN_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// Write log lines as JSON: the default, accepted as in llama.cpp's server
    #[arg(
        long,
        conflicts_with = "log_format",
        env = "LLAMA_ARG_LOG_JSONL",
        value_parser = FalseyValueParser::new()
    )]
    pub log_jsonl: bool,

    /// A collector of traces that takes OTLP over HTTP, as http://127.0.0.1:4318 [default: none]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// No log file; there is none, accepted as in 2024
    #[arg(long)]
    pub log_disable: bool,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Options of the contract that are not built yet.
const LATER: &[&str] = &["--mmproj", "--grp-attn-n", "--grp-attn-w"];

impl Cli {
    /// Reads a command line, its first word being the program, with what environment and file add to it.
    ///
    /// # Errors
    /// What is wrong with it, or the help that it asks for.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let words = short_names::replaced(words.into_iter().collect(), &Self::command())?;
        let mut words = adapters::joined(words);
        // Behind the program's name.
        let place = words.len().min(1);
        words.splice(place..place, file::words(&words)?);
        let later = words.iter().skip(1).filter_map(|word| {
            let name = word.to_str()?.split('=').next()?;
            LATER.contains(&name).then_some(name)
        });
        match later.into_iter().next() {
            Some(later) => Err(error(
                ErrorKind::UnknownArgument,
                format!("{later} is not built yet; leave it out"),
            )),
            None => Self::parse(words),
        }
    }

    /// As clap does it, with the commands in the help. They are read before, so that here one is out of place.
    fn parse(words: Vec<OsString>) -> Result<Self, Error> {
        let mut command = Self::command()
            .subcommands(Command::all())
            .args_conflicts_with_subcommands(true);
        let mut matches = command.try_get_matches_from_mut(words)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// A message as clap writes it.
fn error(kind: ErrorKind, message: String) -> Error {
    Cli::command().error(kind, message)
}

#[cfg(test)]
mod tests;
