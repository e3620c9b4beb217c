//! Options from the command line, environment variables and an options file. Option names are those of llama.cpp's
//! server, both of 2024 and of today. `config` validates combinations of options.

mod adapters;
mod commands;
mod computing;
mod file;
mod model;
mod serving;
mod short_names;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::error::{Error, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};

pub use adapters::{AdapterFile, AdapterFiles};
pub use commands::{Command, ExportArgs, InspectArgs, QuantizeArgs};
pub use computing::{BatchingArgs, CacheType, ComputingArgs, FlashAttention, SplitMode};
pub use model::{LoadMode, ModelArgs};
pub use serving::ServingArgs;

/// Default of `--ctx-size` in llama.cpp's server of 2024.
const DEFAULT_CONTEXT_TOKENS: usize = 512;

/// The parsed command line.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// Start the server.
    Serve(Box<Cli>),
    /// Run a command on model files.
    Command(Command),
}

impl Invocation {
    /// Parses a command line whose first argument is the program's name.
    ///
    /// # Errors
    /// If the arguments are invalid, or request the help or the version.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let args: Vec<OsString> = args.into_iter().collect();
        match Command::from_args(&args) {
            Some(command) => command.map(Self::Command),
            None => Cli::from_args(args).map(|cli| Self::Serve(Box::new(cli))),
        }
    }
}

/// Serve a language model over HTTP, with the APIs of llama.cpp's server, OpenAI and Anthropic.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Precedence: command line, then environment variables, then the file of --config. \
                  API documentation: http://HOST:PORT/docs while the server runs."
)]
pub struct Cli {
    /// TOML file with options by their long names, such as `ctx-size = 4096`
    #[arg(long, value_name = "FILE", env = "ORTOLAN_CONFIG")]
    pub config: Option<PathBuf>,

    /// Model file, prompts and adapters.
    #[command(flatten, next_help_heading = "Model")]
    pub model: ModelArgs,

    /// Batching, cache size, and defaults of requests.
    #[command(flatten, next_help_heading = "Batching")]
    pub batching: BatchingArgs,

    /// Threads, devices and ONNX Runtime.
    #[command(flatten, next_help_heading = "Threads and devices")]
    pub computing: ComputingArgs,

    /// Address, keys, endpoints and limits.
    #[command(flatten, next_help_heading = "HTTP server")]
    pub serving: ServingArgs,

    /// Logs and traces.
    #[command(flatten, next_help_heading = "Logging and tracing")]
    pub logging: LoggingArgs,
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct LoggingArgs {
    /// Format of log lines, which go to standard error; RUST_LOG selects them
    #[arg(long, value_enum, default_value_t = LogFormat::Json, env = "ORTOLAN_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// Write log lines as JSON: the default; accepted for compatibility with llama.cpp
    #[arg(
        long,
        conflicts_with = "log_format",
        env = "LLAMA_ARG_LOG_JSONL",
        value_parser = FalseyValueParser::new()
    )]
    pub log_jsonl: bool,

    /// URL of a trace collector that accepts OTLP over HTTP, such as http://127.0.0.1:4318 [default: none]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// No effect: there is no log file; accepted for compatibility with llama.cpp
    #[arg(long)]
    pub log_disable: bool,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line
    Json,
    /// Human-readable text
    Text,
}

/// Options of llama.cpp's server of 2024 that are not supported yet.
const UNSUPPORTED_YET: &[&str] = &["--mmproj", "--grp-attn-n", "--grp-attn-w"];

impl Cli {
    /// Parses a command line whose first argument is the program's name. Also reads environment variables and the
    /// options file.
    ///
    /// # Errors
    /// If the arguments are invalid, or request the help or the version.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let args = short_names::expand(args.into_iter().collect(), &Self::command())?;
        let mut args = adapters::join_lora_scaled(args);
        // Options of the file are inserted after the program's name.
        let index = args.len().min(1);
        args.splice(index..index, file::args(&args)?);
        let unsupported = args.iter().skip(1).filter_map(|arg| {
            let name = arg.to_str()?.split('=').next()?;
            UNSUPPORTED_YET.contains(&name).then_some(name)
        });
        match unsupported.into_iter().next() {
            Some(name) => Err(error(
                ErrorKind::UnknownArgument,
                format!("{name} is not supported yet: leave it out"),
            )),
            None => Self::parse_with_clap(args),
        }
    }

    /// Parses with clap. The help lists the commands. A command in `args` is an error, because
    /// [`Invocation::from_args`] has already handled a command at the start of the command line.
    fn parse_with_clap(args: Vec<OsString>) -> Result<Self, Error> {
        let mut command = Self::command()
            .subcommands(Command::all())
            .args_conflicts_with_subcommands(true);
        let mut matches = command.try_get_matches_from_mut(args)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// Returns an error in clap's format.
fn error(kind: ErrorKind, message: String) -> Error {
    Cli::command().error(kind, message)
}

#[cfg(test)]
mod tests;
