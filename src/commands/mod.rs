//! The commands other than serving, one module per command.

mod export;
mod inspect;
mod output_file;
mod quantize;

use std::io::{ErrorKind, Write};

use crate::cli::Command;

/// Runs a command and writes its text output to `out`.
///
/// # Errors
/// If the command fails.
pub fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = match command {
        Command::Inspect(args) => inspect::run(&args)?,
        Command::Quantize(args) => quantize::run(&args)?,
        Command::Export(args) => export::run(&args)?,
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reading program, such as `head`, closed the pipe.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
