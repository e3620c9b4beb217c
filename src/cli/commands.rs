//! What the program does instead of serving. Its commands stand first on the line, and read neither the environment nor
//! a file with options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::Error;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::model::DEFAULT_CONTEXT_TOKENS;
use super::short_names;

/// A line that begins with a command.
#[derive(Parser)]
#[command(name = "ortolan", version, max_term_width = 100)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// What is done with a model's file.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Show what a model's file holds, whether it can be served, and the memory it will need
    Inspect(InspectArgs),

    /// Write a GGUF file whose matrices are blocks of 4 or 8 bits
    Quantize(QuantizeArgs),

    /// Write a folder with the model's ONNX graph, for other programs
    Export(ExportArgs),
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct InspectArgs {
    /// A GGUF file, the first of a set, or a folder as the hub has them
    #[arg(value_name = "FILE")]
    pub path: PathBuf,

    /// Name every tensor
    #[arg(long)]
    pub tensors: bool,

    /// Write JSON, for programs
    #[arg(long)]
    pub json: bool,

    /// Tokens of each context that the memory is told for, as the server's; 0 is what the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = DEFAULT_CONTEXT_TOKENS)]
    pub ctx_size: usize,

    /// Sequences at once that the memory is told for, as the server's; also -np
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub parallel: usize,
}

/// What is written of what, as llama.cpp's program of that name has it.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct QuantizeArgs {
    /// The GGUF file, or the first of a set
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// The file to write: one, whole or not at all
    #[arg(value_name = "OUT")]
    pub output: PathBuf,

    /// What matrices become; norms, biases and other vectors stay as they are
    #[arg(value_enum, value_name = "TYPE", ignore_case = true)]
    pub kind: QuantizedType,

    /// What the output matrix becomes instead; the embedding matrix, where it serves as such
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        ignore_case = true,
        visible_alias = "output-type"
    )]
    pub output_tensor_type: Option<MatrixType>,

    /// What the embedding matrix becomes instead
    #[arg(long, value_enum, value_name = "TYPE", ignore_case = true)]
    pub token_embedding_type: Option<MatrixType>,

    /// Write over OUT, if there is such a file
    #[arg(long)]
    pub force: bool,
}

/// What is written where.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ExportArgs {
    /// The model: a GGUF file, the first of a set, or a folder as the hub has them
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,

    /// The folder to write; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,

    /// Tokens that a sequence may have; 0 is what the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub ctx_size: usize,

    /// Write into DIR even if it is not empty, over files of the same names
    #[arg(long)]
    pub force: bool,
}

/// A type of blocks that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizedType {
    /// 4 bits and a scale for each 32: 4.5 bits a weight.
    #[value(name = "q4_0")]
    Q4_0,
    /// 8 bits and a scale for each 32: 8.5 bits a weight.
    #[value(name = "q8_0")]
    Q8_0,
}

/// The same, and floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MatrixType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// As TYPE's.
    #[value(name = "q4_0")]
    Q4_0,
    /// As TYPE's.
    #[value(name = "q8_0")]
    Q8_0,
}

impl Command {
    /// All of them, as clap describes them.
    pub(super) fn all() -> Vec<clap::Command> {
        Line::command().get_subcommands().cloned().collect()
    }

    /// Reads a line whose first word behind the program's name is a command's; `None`: it is not.
    pub(super) fn read(words: &[OsString]) -> Option<Result<Self, Error>> {
        let first = words.get(1)?.to_str()?;
        if !Self::has_subcommand(first) {
            return None;
        }
        let line = Line::command();
        let command = line.find_subcommand(first).unwrap_or(&line);
        let words = short_names::replaced(words.to_vec(), command);
        let line = words.and_then(Line::try_parse_from);
        Some(line.map(|line| line.command))
    }
}
