//! Options of the model: where it is, how it is read, what it is told.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

use super::AdapterFiles;
use super::commands::QuantizedType;

/// The contract's default for `--ctx-size`.
pub(super) const DEFAULT_CONTEXT_TOKENS: usize = 512;

/// Which model, and how.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ModelArgs {
    /// The model, a GGUF file; with --model-url or --hf-repo, where to store it
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present_any = ["model_url", "hf_repo"],
        env = "LLAMA_ARG_MODEL"
    )]
    pub model: Option<PathBuf>,

    /// Fetch the model from this address, unless it is here already; also -mu
    #[arg(long, value_name = "URL", conflicts_with = "hf_repo", env = "LLAMA_ARG_MODEL_URL")]
    pub model_url: Option<String>,

    /// Fetch the model from this repository of the hub, unless it is here already: of the files that end with
    /// QUANT, or Q4_K_M, or Q4_0, or of all, the first; also -hf, -hfr
    #[arg(long, value_name = "USER/REPO[:QUANT]", env = "LLAMA_ARG_HF_REPO")]
    pub hf_repo: Option<String>,

    /// The file of that repository; also -hff
    #[arg(long, value_name = "FILE", requires = "hf_repo", env = "LLAMA_ARG_HF_FILE")]
    pub hf_file: Option<String>,

    /// The token that the hub is shown, and nobody else; also -hft
    #[arg(long, value_name = "TOKEN", env = "HF_TOKEN", hide_env_values = true)]
    pub hf_token: Option<String>,

    /// Another hub
    #[arg(long, value_name = "URL", default_value = "https://huggingface.co", env = "HF_ENDPOINT")]
    pub hf_endpoint: String,

    /// Where fetched models are kept [default: ~/.cache/ortolan/models]
    #[arg(long, value_name = "FOLDER", env = "LLAMA_CACHE")]
    pub model_cache: Option<PathBuf>,

    /// Maximum size of a downloaded model file, as in 128GiB
    #[arg(long, value_name = "SIZE", default_value = "128GiB", env = "ORTOLAN_MODEL_MAX_BYTES")]
    pub model_max_bytes: ByteSize,

    /// Ask nobody for a model: what is here is served, or nothing
    #[arg(long, env = "LLAMA_ARG_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,

    /// The model's name in answers, instead of its path
    #[arg(short, long, value_name = "NAME", env = "LLAMA_ARG_ALIAS")]
    pub alias: Option<String>,

    /// A chat template instead of the model's own: Jinja, or a name that llama.cpp's server knows, as chatml
    #[arg(long, value_name = "TEMPLATE", env = "LLAMA_ARG_CHAT_TEMPLATE")]
    pub chat_template: Option<String>,

    /// The file of a Jinja chat template instead
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "chat_template",
        env = "LLAMA_ARG_CHAT_TEMPLATE_FILE"
    )]
    pub chat_template_file: Option<PathBuf>,

    /// Read chat templates as Jinja; always on, accepted as in llama.cpp's server
    #[arg(long, env = "LLAMA_ARG_JINJA", value_parser = FalseyValueParser::new())]
    pub jinja: bool,

    /// A file with what comes before every prompt: JSON with `prompt`, `anti_prompt` and `assistant_name`, or a text;
    /// also -spf
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_SYSTEM_PROMPT_FILE")]
    pub system_prompt_file: Option<PathBuf>,

    /// How a text's hidden states become its embedding [default: as the model says, else last]
    #[arg(long, value_enum, value_name = "TYPE", env = "LLAMA_ARG_POOLING")]
    pub pooling: Option<Pooling>,

    /// What is added to its products.
    #[command(flatten)]
    pub adapters: AdapterFiles,

    /// A model of the same sizes whose weights stand in the place of those that adapters change: that of higher precision
    /// which they were trained on, say
    #[arg(long, value_name = "FILE", env = "ORTOLAN_LORA_BASE")]
    pub lora_base: Option<PathBuf>,

    /// Let adapters count for nothing until a request or POST /lora-adapters says otherwise
    #[arg(long, env = "ORTOLAN_LORA_INIT_WITHOUT_APPLY", value_parser = FalseyValueParser::new())]
    pub lora_init_without_apply: bool,

    /// Tokens a sequence may have, prompt and answer; 0 is what the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = DEFAULT_CONTEXT_TOKENS, env = "LLAMA_ARG_CTX_SIZE")]
    pub ctx_size: usize,

    /// Multiply with matrices of floats (F32, F16, BF16) as blocks of TYPE, made while the model loads; what is quantised
    /// already stays as it is
    #[arg(long, value_enum, value_name = "TYPE", ignore_case = true, env = "ORTOLAN_QUANTIZE")]
    pub quantize: Option<QuantizedType>,

    /// Keep everything in memory once the model is loaded: nothing is swapped out
    #[arg(long, env = "LLAMA_ARG_MLOCK", value_parser = FalseyValueParser::new())]
    pub mlock: bool,

    /// Read the model's file into memory instead of mapping it
    #[arg(long, env = "LLAMA_ARG_NO_MMAP", value_parser = FalseyValueParser::new())]
    pub no_mmap: bool,

    /// How the file comes into memory, instead of --mlock and --no-mmap: auto is mmap
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        conflicts_with_all = ["mlock", "no_mmap"],
        env = "LLAMA_ARG_LOAD_MODE"
    )]
    pub load_mode: Option<LoadMode>,
}

/// Which hidden states become an embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pooling {
    /// The mean of all tokens'.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
}

/// How a file comes into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// Mapped.
    Auto,
    /// Read.
    None,
    /// Mapped.
    Mmap,
    /// Read, and nothing is swapped out.
    Mlock,
    /// Mapped, and nothing is swapped out.
    #[value(name = "mmap+mlock")]
    MmapMlock,
}
