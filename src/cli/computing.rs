//! Options of batching, the key-value cache, generation limits, threads and devices.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

use super::values::{NamedValue, one_of};
use crate::platform::NumaStrategy;
use crate::runtime::DeviceChoice;

/// Heading in `--help` of the options of the KV cache.
const KV_CACHE: &str = "KV cache";

/// Heading in `--help` of the limits and defaults of requests.
const GENERATION: &str = "Generation";

/// Batching, cache size, and defaults of requests.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct BatchingArgs {
    /// Number of slots: sequences that run concurrently; also -np
    #[arg(long, value_name = "N", default_value_t = 1, env = "LLAMA_ARG_N_PARALLEL")]
    pub parallel: usize,

    /// Maximum number of queued requests; further ones get status 429 [default: 4 × parallel + 64]
    #[arg(long, value_name = "N", env = "ORTOLAN_QUEUE")]
    pub queue: Option<usize>,

    /// Maximum number of tokens computed in one step; also -ub
    #[arg(long, value_name = "N", default_value_t = 512, env = "LLAMA_ARG_UBATCH")]
    pub ubatch_size: usize,

    /// Maximum number of tokens of one request in a step
    #[arg(short, long, value_name = "N", default_value_t = 2048, env = "LLAMA_ARG_BATCH")]
    pub batch_size: usize,

    /// Target step time in milliseconds while sequences decode; exceeded where --prefill-share requires it
    #[arg(long, value_name = "MS", default_value_t = 100, env = "ORTOLAN_STEP_MS")]
    pub step_ms: u64,

    /// Minimum share of time for prefill of waiting prompts while sequences decode, between 0 and 1
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = prefill_share,
        default_value_t = 0.5,
        env = "ORTOLAN_PREFILL_SHARE"
    )]
    pub prefill_share: f64,

    /// Size of the KV cache in tokens, shared by all sequences [default: the contexts of all slots]
    #[arg(long, value_name = "N", env = "ORTOLAN_CACHE_TOKENS", help_heading = KV_CACHE)]
    pub cache_tokens: Option<usize>,

    /// Size of the KV cache in memory, such as 512MiB or 2GiB; replaces --cache-tokens
    #[arg(
        long,
        value_name = "SIZE",
        conflicts_with = "cache_tokens",
        env = "ORTOLAN_MEMORY_BUDGET",
        help_heading = KV_CACHE
    )]
    pub memory_budget: Option<ByteSize>,

    /// End generation when the context is full instead of dropping the older half of the sequence
    #[arg(
        long,
        env = "LLAMA_ARG_NO_CONTEXT_SHIFT",
        value_parser = FalseyValueParser::new(),
        help_heading = KV_CACHE
    )]
    pub no_context_shift: bool,

    /// No effect: batching is always continuous; accepted for compatibility with llama.cpp; also -cb
    #[arg(long, env = "LLAMA_ARG_CONT_BATCHING", value_parser = FalseyValueParser::new())]
    pub cont_batching: bool,

    /// Maximum number of tokens that a request can generate; -1: no limit
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_PREDICT",
        visible_alias = "predict",
        help_heading = GENERATION
    )]
    pub n_predict: i64,

    /// Sampling temperature of requests that do not set one [default: 0.8, on /v1 1.0]
    #[arg(
        long,
        value_name = "T",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_TEMP",
        visible_alias = "temp",
        help_heading = GENERATION
    )]
    pub temperature: Option<f32>,

    /// Random seed of requests that do not set one; -1: a new seed for each request
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_SEED",
        help_heading = GENERATION
    )]
    pub seed: i64,
}

/// Threads, devices and ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ComputingArgs {
    /// Number of compute threads [default: one per core]
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_THREADS")]
    pub threads: Option<usize>,

    /// Number of compute threads in steps with prefill [default: same as --threads]; also -tb
    ///
    /// A value other than that of --threads stores the weights in memory twice.
    #[arg(long, value_name = "N", env = "LLAMA_ARG_THREADS_BATCH")]
    pub threads_batch: Option<usize>,

    /// NUMA strategy [default when given without a value: distribute]
    #[arg(
        long,
        value_parser = one_of(NUMA_STRATEGIES),
        value_name = "STRATEGY",
        num_args = 0..=1,
        default_missing_value = "distribute",
        env = "LLAMA_ARG_NUMA"
    )]
    pub numa: Option<NumaStrategy>,

    /// Device that computes
    #[arg(long, value_parser = one_of(DEVICES), default_value = "auto", env = "LLAMA_ARG_DEVICE")]
    pub device: DeviceChoice,

    /// Number of layers on GPUs, counted from the last; the CPU computes the others [default: all]; also -ngl
    #[arg(
        long,
        value_name = "N",
        value_parser = gpu_layers,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_GPU_LAYERS",
        visible_alias = "gpu-layers"
    )]
    pub n_gpu_layers: Option<usize>,

    /// Index of the device that computes the logits, and without --tensor-split all layers; also -mg
    #[arg(long, value_name = "N", env = "LLAMA_ARG_MAIN_GPU")]
    pub main_gpu: Option<usize>,

    /// Share of the layers for each device, such as 3,2; also -ts
    ///
    /// On the CPU, each share becomes a separate ONNX Runtime session.
    #[arg(long, value_name = "SHARES", value_delimiter = ',', env = "LLAMA_ARG_TENSOR_SPLIT")]
    pub tensor_split: Vec<f32>,

    /// How layers are split among devices; also -sm
    #[arg(long, value_enum, value_name = "MODE", env = "LLAMA_ARG_SPLIT_MODE")]
    pub split_mode: Option<SplitMode>,

    /// Data type of cached keys: always f16; accepted for compatibility with llama.cpp; also -ctk
    #[arg(long, value_enum, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_K", help_heading = KV_CACHE)]
    pub cache_type_k: Option<CacheType>,

    /// Data type of cached values: always f16; accepted for compatibility with llama.cpp; also -ctv
    #[arg(long, value_enum, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_V", help_heading = KV_CACHE)]
    pub cache_type_v: Option<CacheType>,

    /// No effect: there is one attention kernel; accepted for compatibility with llama.cpp; also -fa
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        num_args = 0..=1,
        default_missing_value = "on",
        env = "LLAMA_ARG_FLASH_ATTN"
    )]
    pub flash_attn: Option<FlashAttention>,

    /// No effect: all sequences share one cache; accepted for compatibility with llama.cpp; also -kvu
    #[arg(
        long,
        env = "LLAMA_ARG_KV_UNIFIED",
        value_parser = FalseyValueParser::new(),
        help_heading = KV_CACHE
    )]
    pub kv_unified: bool,

    /// ONNX Runtime shared library [default: next to this program, or where `make setup` installs it]
    #[arg(long, value_name = "PATH", env = "ORT_DYLIB_PATH")]
    pub onnxruntime: Option<PathBuf>,
}

#[rustfmt::skip]
const NUMA_STRATEGIES: &[NamedValue<NumaStrategy>] = &[
    ("distribute", "Spread threads over all nodes, round-robin", NumaStrategy::Distribute),
    ("isolate", "Use only the cores of the node on which the program started", NumaStrategy::Isolate),
    ("numactl", "Use the cores that `numactl` allows, one thread per core", NumaStrategy::Inherit),
];

#[rustfmt::skip]
const DEVICES: &[NamedValue<DeviceChoice>] = &[
    ("auto", "The first available of CUDA, CoreML, CPU", DeviceChoice::Auto),
    ("cpu", "CPU", DeviceChoice::Cpu),
    ("none", "", DeviceChoice::Cpu),
    ("cuda", "NVIDIA GPUs; requires an ONNX Runtime library with CUDA", DeviceChoice::Cuda),
    ("coreml", "Apple's CoreML, which chooses among CPU, GPU and Neural Engine", DeviceChoice::CoreMl),
];

/// How layers are split among devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitMode {
    /// All layers on one device
    None,
    /// Whole layers, divided among the devices
    Layer,
}

/// Data type of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheType {
    /// Half precision
    F16,
}

/// Values of `--flash-attn`, in all of llama.cpp's spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlashAttention {
    /// Enabled
    #[value(aliases = ["1", "true", "enabled"])]
    On,
    /// Disabled
    #[value(aliases = ["0", "false", "disabled"])]
    Off,
    /// Chosen by the device
    #[value(alias = "-1")]
    Auto,
}

/// Parses a number of layers; `all`, `auto` and `-1` mean all layers.
fn gpu_layers(text: &str) -> Result<usize, String> {
    match text {
        "all" | "auto" | "-1" => Ok(usize::MAX),
        number => number
            .parse()
            .map_err(|_| "expected a number of layers or \"all\"".to_owned()),
    }
}

/// Parses a share greater than 0 and less than 1, so that neither prefill nor decode starves.
fn prefill_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| *share > 0.0 && *share < 1.0)
        .ok_or_else(|| "expected a number greater than 0 and less than 1".to_owned())
}
