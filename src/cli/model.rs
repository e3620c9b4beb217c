//! Options of the model: its file or download, chat template, adapters and memory.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use clap::builder::FalseyValueParser;

use super::DEFAULT_CONTEXT_TOKENS;
use super::adapters::{ADAPTERS, AdapterFiles};
use super::commands::QUANTIZED_TYPES;
use super::values::{NamedValue, one_of};
use crate::file_bytes::FileAccess;
use crate::gguf::quant::QuantizeTarget;
use crate::model::Pooling;

/// Heading in `--help` of the options that shape prompts.
const PROMPTS: &str = "Chat template and system prompt";

/// Model file, prompts and adapters.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ModelArgs {
    /// Model: a GGUF file, or a folder as model hubs have it
    ///
    /// With --model-url or --hf-repo: path to which the downloaded file is written.
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present_any = ["model_url", "hf_repo"],
        env = "LLAMA_ARG_MODEL"
    )]
    pub model: Option<PathBuf>,

    /// URL to download the model from, unless it is already on disk; also -mu
    #[arg(long, value_name = "URL", conflicts_with = "hf_repo", env = "LLAMA_ARG_MODEL_URL")]
    pub model_url: Option<String>,

    /// Model hub repository to download the model from, unless it is already on disk; also -hf, -hfr
    ///
    /// Selects the first file whose name ends with QUANT; without QUANT, the first Q4_K_M file, else the first Q4_0
    /// file, else the first GGUF file.
    #[arg(long, value_name = "USER/REPO[:QUANT]", env = "LLAMA_ARG_HF_REPO")]
    pub hf_repo: Option<String>,

    /// File of the repository to download; also -hff
    #[arg(long, value_name = "FILE", requires = "hf_repo", env = "LLAMA_ARG_HF_FILE")]
    pub hf_file: Option<String>,

    /// Access token, sent only to the model hub; also -hft
    #[arg(long, value_name = "TOKEN", env = "HF_TOKEN", hide_env_values = true)]
    pub hf_token: Option<String>,

    /// URL of the model hub
    #[arg(long, value_name = "URL", default_value = "https://huggingface.co", env = "HF_ENDPOINT")]
    pub hf_endpoint: String,

    /// Folder of downloaded models [default: ~/.cache/ortolan/models]
    #[arg(long, value_name = "FOLDER", env = "LLAMA_CACHE")]
    pub model_cache: Option<PathBuf>,

    /// Maximum size of a downloaded model file, such as 128GiB
    #[arg(long, value_name = "SIZE", default_value = "128GiB", env = "ORTOLAN_MODEL_MAX_BYTES")]
    pub model_max_bytes: ByteSize,

    /// Do not access the network; fail if the model is not on disk
    #[arg(long, env = "LLAMA_ARG_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,

    /// Model name in responses [default: the model's path]
    #[arg(short, long, value_name = "NAME", env = "LLAMA_ARG_ALIAS")]
    pub alias: Option<String>,

    /// Chat template to use instead of the model's: Jinja source, or the name of a built-in template such as chatml
    #[arg(long, value_name = "TEMPLATE", env = "LLAMA_ARG_CHAT_TEMPLATE", help_heading = PROMPTS)]
    pub chat_template: Option<String>,

    /// File with a Jinja chat template that replaces the model's own
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "chat_template",
        env = "LLAMA_ARG_CHAT_TEMPLATE_FILE",
        help_heading = PROMPTS
    )]
    pub chat_template_file: Option<PathBuf>,

    /// No effect: chat templates are always Jinja; accepted for compatibility with llama.cpp
    #[arg(long, env = "LLAMA_ARG_JINJA", value_parser = FalseyValueParser::new(), help_heading = PROMPTS)]
    pub jinja: bool,

    /// File with a system prompt that precedes every prompt; also -spf
    ///
    /// Either plain text, or JSON with the fields `prompt`, `anti_prompt` and `assistant_name`.
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_SYSTEM_PROMPT_FILE", help_heading = PROMPTS)]
    pub system_prompt_file: Option<PathBuf>,

    /// Pooling of hidden states into an embedding [default: the model's own, else last]
    #[arg(long, value_parser = one_of(POOLINGS), value_name = "TYPE", env = "LLAMA_ARG_POOLING")]
    pub pooling: Option<Pooling>,

    /// Adapters in the order of their ids.
    #[command(flatten)]
    pub adapters: AdapterFiles,

    /// Model to take the weights from that LoRA adapters modify, instead of the served model
    ///
    /// Its tensor shapes must be those of the served model. Usually it is the higher-precision model that the adapters
    /// were trained on.
    #[arg(long, value_name = "FILE", env = "ORTOLAN_LORA_BASE", help_heading = ADAPTERS)]
    pub lora_base: Option<PathBuf>,

    /// Start with all adapter scales at 0, until a request or POST /lora-adapters sets them
    #[arg(
        long,
        env = "ORTOLAN_LORA_INIT_WITHOUT_APPLY",
        value_parser = FalseyValueParser::new(),
        help_heading = ADAPTERS
    )]
    pub lora_init_without_apply: bool,

    /// Context size of a sequence in tokens, prompt and output; 0: the model's training context
    #[arg(short, long, value_name = "N", default_value_t = DEFAULT_CONTEXT_TOKENS, env = "LLAMA_ARG_CTX_SIZE")]
    pub ctx_size: usize,

    /// Quantize F32, F16 and BF16 matrices to TYPE while loading; quantized ones are left unchanged
    #[arg(
        long,
        value_parser = one_of(QUANTIZED_TYPES),
        value_name = "TYPE",
        ignore_case = true,
        env = "ORTOLAN_QUANTIZE"
    )]
    pub quantize: Option<QuantizeTarget>,

    /// Lock all memory once the model is loaded, so that none of it is swapped out
    #[arg(long, env = "LLAMA_ARG_MLOCK", value_parser = FalseyValueParser::new())]
    pub mlock: bool,

    /// Read the model file into memory instead of mapping it
    #[arg(long, env = "LLAMA_ARG_NO_MMAP", value_parser = FalseyValueParser::new())]
    pub no_mmap: bool,

    /// How the model file is loaded into memory; replaces --mlock and --no-mmap
    #[arg(
        long,
        value_parser = one_of(LOAD_MODES),
        value_name = "MODE",
        conflicts_with_all = ["mlock", "no_mmap"],
        env = "LLAMA_ARG_LOAD_MODE"
    )]
    pub load_mode: Option<LoadMode>,
}

/// How model files are loaded into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadMode {
    /// Whether files are mapped or read.
    pub access: FileAccess,
    /// Whether memory is locked after loading.
    pub lock_memory: bool,
}

#[rustfmt::skip]
const LOAD_MODES: &[NamedValue<LoadMode>] = &[
    ("auto", "Same as mmap", LoadMode { access: FileAccess::Map, lock_memory: false }),
    ("none", "Read the file", LoadMode { access: FileAccess::Read, lock_memory: false }),
    ("mmap", "Map the file", LoadMode { access: FileAccess::Map, lock_memory: false }),
    ("mlock", "Read the file and lock memory", LoadMode { access: FileAccess::Read, lock_memory: true }),
    ("mmap+mlock", "Map the file and lock memory", LoadMode { access: FileAccess::Map, lock_memory: true }),
];

const POOLINGS: &[NamedValue<Pooling>] = &[
    ("mean", "Mean over all tokens", Pooling::Mean),
    ("cls", "Hidden state of the first token", Pooling::First),
    ("last", "Hidden state of the last token", Pooling::Last),
];
