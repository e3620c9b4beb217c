//! `--lora` and `--lora-scaled`, which number the adapters in the order in which they stand on the line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::Error;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

/// Largest scale, either way, as in requests.
const MOST_SCALE: f32 = 100.0;

/// The adapters in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterFiles(pub Vec<AdapterFile>);

/// An adapter's file or folder, and how strong it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// Where it is.
    pub path: PathBuf,
    /// How strong it counts for requests that say nothing.
    pub scale: f32,
}

impl FromStr for AdapterFile {
    type Err = String;

    /// `FILE:SCALE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, scale) = text.rsplit_once(':').ok_or("it has no scale: FILE:SCALE")?;
        let number = scale
            .parse()
            .ok()
            .filter(|scale: &f32| scale.abs() <= MOST_SCALE);
        let wrong = || format!("\"{scale}\" is no scale from -{MOST_SCALE} to {MOST_SCALE}");
        Ok(Self {
            path: path.into(),
            scale: number.ok_or_else(wrong)?,
        })
    }
}

const PLAIN: &str = "lora";
const SCALED: &str = "lora_scaled";

impl Args for AdapterFiles {
    fn augment_args(command: Command) -> Command {
        let option = |id, name, value, variable, help| {
            Arg::new(id)
                .long(name)
                .value_name(value)
                .env(variable)
                .value_delimiter(',')
                .action(ArgAction::Append)
                .help(help)
        };
        let plain = option(
            PLAIN,
            "lora",
            "FILE",
            "ORTOLAN_LORA",
            "A LoRA adapter: a GGUF file, or a folder as PEFT saves them; repeatable, and numbered from 0 in this order",
        );
        let scaled = option(
            SCALED,
            "lora-scaled",
            "FILE:SCALE",
            "ORTOLAN_LORA_SCALED",
            "The same, as strong as SCALE says instead of 1; also as two words",
        );
        command.arg(plain.value_parser(value_parser!(PathBuf))).arg(
            scaled
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
        let places = |id| matches.indices_of(id).into_iter().flatten();
        let plain = matches.get_many::<PathBuf>(PLAIN).into_iter().flatten();
        let plain = plain.map(|path| AdapterFile {
            path: path.clone(),
            scale: 1.0,
        });
        let scaled = matches
            .get_many::<AdapterFile>(SCALED)
            .into_iter()
            .flatten();
        let mut files: Vec<(usize, AdapterFile)> = places(PLAIN)
            .zip(plain)
            .chain(places(SCALED).zip(scaled.cloned()))
            .collect();
        files.sort_by_key(|(place, _)| *place);
        Ok(Self(files.into_iter().map(|(_, file)| file).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The line with 2024's `--lora-scaled FILE SCALE` as one word each.
pub(super) fn joined(words: Vec<OsString>) -> Vec<OsString> {
    let mut words = words.into_iter().peekable();
    let mut joined = Vec::new();
    while let Some(word) = words.next() {
        if word != "--lora-scaled" {
            joined.push(word);
            continue;
        }
        let file = words.next();
        let is_scale = |word: &OsString| {
            word.to_str()
                .is_some_and(|word| word.parse::<f32>().is_ok())
        };
        let scale = words.next_if(is_scale);
        joined.push(word);
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
