//! What the program does with a model's file beside serving it: a file for each command.

mod export;
mod inspect;
mod new_file;
mod quantize;

use std::io::{ErrorKind, Write};

use crate::cli::Command;

/// Does what the command says; what people read goes to `out`.
///
/// # Errors
/// Why it cannot be done.
pub fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = match command {
        Command::Inspect(args) => inspect::run(&args)?,
        Command::Quantize(args) => quantize::run(&args)?,
        Command::Export(args) => export::run(&args)?,
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
