//! `--lora` and `--lora-scaled`: adapter ids follow the order of these options on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::Error;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

/// Heading in `--help` of the options of LoRA adapters.
pub(super) const ADAPTERS: &str = "LoRA adapters";

/// Maximum absolute value of an adapter scale, the same as in requests.
const MAX_SCALE: f32 = 100.0;

/// Adapter files; the index of a file is the id of its adapter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterFiles(pub Vec<AdapterFile>);

/// An adapter's path and its default scale.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// A GGUF file, or a folder in PEFT's format.
    pub path: PathBuf,
    /// Scale for requests without `lora`, from -100 to 100.
    pub scale: f32,
}

impl FromStr for AdapterFile {
    type Err = String;

    /// Parses `FILE:SCALE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, scale) = text
            .rsplit_once(':')
            .ok_or("the scale is missing: expected FILE:SCALE")?;
        let number = scale
            .parse()
            .ok()
            .filter(|scale: &f32| scale.abs() <= MAX_SCALE);
        let error = || {
            format!("invalid scale \"{scale}\": expected a number from -{MAX_SCALE} to {MAX_SCALE}")
        };
        Ok(Self {
            path: path.into(),
            scale: number.ok_or_else(error)?,
        })
    }
}

const LORA: &str = "lora";
const LORA_SCALED: &str = "lora_scaled";

impl Args for AdapterFiles {
    fn augment_args(command: Command) -> Command {
        let option = |id, long_name, value_name, env, help| {
            Arg::new(id)
                .long(long_name)
                .value_name(value_name)
                .env(env)
                .help_heading(ADAPTERS)
                .value_delimiter(',')
                .action(ArgAction::Append)
                .help(help)
        };
        let lora = option(
            LORA,
            "lora",
            "FILE",
            "ORTOLAN_LORA",
            "LoRA adapter: a GGUF file or a PEFT folder; repeatable, with ids from 0 in the order given",
        );
        let lora_scaled = option(
            LORA_SCALED,
            "lora-scaled",
            "FILE:SCALE",
            "ORTOLAN_LORA_SCALED",
            "LoRA adapter with a scale from -100 to 100 instead of 1; also as two arguments: FILE SCALE",
        );
        command.arg(lora.value_parser(value_parser!(PathBuf))).arg(
            lora_scaled
                .value_parser(AdapterFile::from_str)
                .allow_negative_numbers(true),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AdapterFiles {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let indices = |id| matches.indices_of(id).into_iter().flatten();
        let lora = matches.get_many::<PathBuf>(LORA).into_iter().flatten();
        let lora = lora.map(|path| AdapterFile {
            path: path.clone(),
            scale: 1.0,
        });
        let lora_scaled = matches
            .get_many::<AdapterFile>(LORA_SCALED)
            .into_iter()
            .flatten();
        let mut files: Vec<(usize, AdapterFile)> = indices(LORA)
            .zip(lora)
            .chain(indices(LORA_SCALED).zip(lora_scaled.cloned()))
            .collect();
        files.sort_by_key(|(index, _)| *index);
        Ok(Self(files.into_iter().map(|(_, file)| file).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Joins the two values of `--lora-scaled FILE SCALE`, llama.cpp's form of 2024, into `FILE:SCALE`.
pub(super) fn join_lora_scaled(args: Vec<OsString>) -> Vec<OsString> {
    let mut args = args.into_iter().peekable();
    let mut joined = Vec::new();
    while let Some(arg) = args.next() {
        if arg != "--lora-scaled" {
            joined.push(arg);
            continue;
        }
        let file = args.next();
        let is_scale =
            |arg: &OsString| arg.to_str().is_some_and(|text| text.parse::<f32>().is_ok());
        let scale = args.next_if(is_scale);
        joined.push(arg);
        match (file, scale) {
            (Some(mut file), Some(scale)) => {
                file.push(":");
                file.push(scale);
                joined.push(file);
            }
            (file, _) => joined.extend(file),
        }
    }
    joined
}
