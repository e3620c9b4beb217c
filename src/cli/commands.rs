//! Commands on model files: `inspect`, `quantize`, `export`. A command is the first argument; commands read neither
//! environment variables nor the options file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::Error;
use clap::{Args, CommandFactory, Parser, Subcommand};

use super::values::{NamedValue, one_of};
use super::{DEFAULT_CONTEXT_TOKENS, short_names};
use crate::gguf::quant::QuantizeTarget;

/// A command line that starts with a command.
#[derive(Parser)]
#[command(name = "ortolan", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// A command on model files.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Show the contents of a model file, whether it can be served, and the memory it needs
    Inspect(InspectArgs),

    /// Write a GGUF file with matrices quantized to 4 or 8 bits
    Quantize(QuantizeArgs),

    /// Write the model's ONNX graph to a folder, for other programs
    Export(ExportArgs),
}

/// Arguments of `inspect`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct InspectArgs {
    /// GGUF file, first shard of a split GGUF file, or model folder as on a model hub
    #[arg(value_name = "FILE")]
    pub path: PathBuf,

    /// List all tensors
    #[arg(long)]
    pub tensors: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Context size in tokens for the memory estimate; 0: the model's training context
    #[arg(short, long, value_name = "N", default_value_t = DEFAULT_CONTEXT_TOKENS)]
    pub ctx_size: usize,

    /// Number of slots for the memory estimate; also -np
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub parallel: usize,
}

/// Arguments of `quantize`, in the order of llama.cpp's `llama-quantize`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct QuantizeArgs {
    /// GGUF file, or first shard of a split GGUF file
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// File to write; it appears only when it is complete
    #[arg(value_name = "OUT")]
    pub output: PathBuf,

    /// Type of the quantized matrices; norms, biases and other vectors are left unchanged
    #[arg(value_parser = one_of(QUANTIZED_TYPES), value_name = "TYPE", ignore_case = true)]
    pub target_type: QuantizeTarget,

    /// Type of the output matrix, or of the embedding matrix where both are the same
    #[arg(
        long,
        value_parser = one_of(MATRIX_TYPES),
        value_name = "TYPE",
        ignore_case = true,
        visible_alias = "output-type"
    )]
    pub output_tensor_type: Option<QuantizeTarget>,

    /// Type of the embedding matrix
    #[arg(long, value_parser = one_of(MATRIX_TYPES), value_name = "TYPE", ignore_case = true)]
    pub token_embedding_type: Option<QuantizeTarget>,

    /// Overwrite OUT if it exists
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `export`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ExportArgs {
    /// GGUF file, first shard of a split GGUF file, or model folder as on a model hub
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,

    /// Output folder; created if it does not exist
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,

    /// Maximum number of tokens of a sequence; 0: the model's training context
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub ctx_size: usize,

    /// Write to DIR even if it is not empty; files of the same names are overwritten
    #[arg(long)]
    pub force: bool,
}

/// The types of `quantize` and `--quantize`.
#[rustfmt::skip]
pub(super) const QUANTIZED_TYPES: &[NamedValue<QuantizeTarget>] = &[
    ("q4_0", "4 bits, with a scale per 32 weights: 4.5 bits per weight", QuantizeTarget::Q4_0),
    ("q8_0", "8 bits, with a scale per 32 weights: 8.5 bits per weight", QuantizeTarget::Q8_0),
];

/// The types of single matrices.
#[rustfmt::skip]
const MATRIX_TYPES: &[NamedValue<QuantizeTarget>] = &[
    ("f32", "Single precision", QuantizeTarget::F32),
    ("f16", "Half precision", QuantizeTarget::F16),
    ("q4_0", "4 bits, with a scale per 32 weights", QuantizeTarget::Q4_0),
    ("q8_0", "8 bits, with a scale per 32 weights", QuantizeTarget::Q8_0),
];

impl Command {
    /// Returns the clap definitions of all commands.
    pub(super) fn all() -> Vec<clap::Command> {
        CommandLine::command().get_subcommands().cloned().collect()
    }

    /// Parses the arguments of a command. Returns `None` if the first argument after the program's name is not a
    /// command.
    pub(super) fn from_args(args: &[OsString]) -> Option<Result<Self, Error>> {
        let first = args.get(1)?.to_str()?;
        if !Self::has_subcommand(first) {
            return None;
        }
        let program = CommandLine::command();
        let command = program.find_subcommand(first).unwrap_or(&program);
        let args = short_names::expand(args.to_vec(), command);
        let line = args.and_then(CommandLine::try_parse_from);
        Some(line.map(|line| line.command))
    }
}
