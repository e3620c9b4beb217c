//! Options of what runs at once, and on what.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

/// How many sequences share the steps, and how.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct BatchingArgs {
    /// Sequences that run at once (slots); also -np
    #[arg(long, value_name = "N", default_value_t = 1, env = "LLAMA_ARG_N_PARALLEL")]
    pub parallel: usize,

    /// Requests that may wait beside them; more are told to come back later [default: 4 × parallel + 64]
    #[arg(long, value_name = "N", env = "ORTOLAN_QUEUE")]
    pub queue: Option<usize>,

    /// Most tokens computed in one step; also -ub
    #[arg(long, value_name = "N", default_value_t = 512, env = "LLAMA_ARG_UBATCH")]
    pub ubatch_size: usize,

    /// Most tokens of one request in a step
    #[arg(short, long, value_name = "N", default_value_t = 2048, env = "LLAMA_ARG_BATCH")]
    pub batch_size: usize,

    /// Milliseconds that a step may take while sequences decode; longer if --prefill-share needs it
    #[arg(long, value_name = "MS", default_value_t = 100, env = "ORTOLAN_STEP_MS")]
    pub step_ms: u64,

    /// Share of the time that waiting prompts get at least while sequences decode, between 0 and 1
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = prefill_share,
        default_value_t = 0.5,
        env = "ORTOLAN_PREFILL_SHARE"
    )]
    pub prefill_share: f64,

    /// Tokens of the key-value cache for all sequences together [default: room for all slots' contexts]
    #[arg(long, value_name = "N", env = "ORTOLAN_CACHE_TOKENS")]
    pub cache_tokens: Option<usize>,

    /// Memory of the key-value cache instead, as in 512MiB or 2GiB
    #[arg(
        long,
        value_name = "SIZE",
        conflicts_with = "cache_tokens",
        env = "ORTOLAN_MEMORY_BUDGET"
    )]
    pub memory_budget: Option<ByteSize>,

    /// End a text where its context ends, instead of dropping its older half
    #[arg(long, env = "LLAMA_ARG_NO_CONTEXT_SHIFT", value_parser = FalseyValueParser::new())]
    pub no_context_shift: bool,

    /// Batch continuously; always on, accepted as in 2024; also -cb
    #[arg(long, env = "LLAMA_ARG_CONT_BATCHING", value_parser = FalseyValueParser::new())]
    pub cont_batching: bool,

    /// Most tokens a request may generate, whatever it says; -1 is no limit
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_PREDICT",
        visible_alias = "predict"
    )]
    pub n_predict: i64,

    /// The temperature of a request that names none [default: 0.8, on /v1 1.0]
    #[arg(
        long,
        value_name = "T",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_TEMP",
        visible_alias = "temp"
    )]
    pub temperature: Option<f32>,

    /// The seed of a request that names none; -1 is another for each
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_SEED"
    )]
    pub seed: i64,
}

/// Where a step is computed, and by how many.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ComputingArgs {
    /// Threads that compute [default: one per core]
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_THREADS")]
    pub threads: Option<usize>,

    /// Threads that compute steps with a part of a prompt [default: as --threads]; another number takes the memory
    /// of the weights once more; also -tb
    #[arg(long, value_name = "N", env = "LLAMA_ARG_THREADS_BATCH")]
    pub threads_batch: Option<usize>,

    /// What is done about memory that some cores reach sooner than others; without a word, distribute
    #[arg(
        long,
        value_enum,
        value_name = "STRATEGY",
        num_args = 0..=1,
        default_missing_value = "distribute",
        env = "LLAMA_ARG_NUMA"
    )]
    pub numa: Option<Numa>,

    /// Where to compute
    #[arg(long, value_enum, default_value_t = Device::Auto, env = "LLAMA_ARG_DEVICE")]
    pub device: Device,

    /// Layers on GPUs, the last ones; the CPU has those before them, with 0 all; also -ngl [default: all]
    #[arg(
        long,
        value_name = "N",
        value_parser = gpu_layers,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_GPU_LAYERS",
        visible_alias = "gpu-layers"
    )]
    pub n_gpu_layers: Option<usize>,

    /// The device that computes the logits, of several; without --tensor-split it computes all; also -mg
    #[arg(long, value_name = "N", env = "LLAMA_ARG_MAIN_GPU")]
    pub main_gpu: Option<usize>,

    /// Each device's share of the layers, as in 3,2; on the CPU each share has a session of its own; also -ts
    #[arg(long, value_name = "SHARES", value_delimiter = ',', env = "LLAMA_ARG_TENSOR_SPLIT")]
    pub tensor_split: Vec<f32>,

    /// How layers are split among devices: by whole layers, or not at all; also -sm
    #[arg(long, value_enum, value_name = "MODE", env = "LLAMA_ARG_SPLIT_MODE")]
    pub split_mode: Option<SplitMode>,

    /// Element type of cached keys, always f16; accepted as in llama.cpp's server; also -ctk
    #[arg(long, value_enum, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_K")]
    pub cache_type_k: Option<CacheType>,

    /// Element type of cached values, always f16; accepted as in llama.cpp's server; also -ctv
    #[arg(long, value_enum, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_V")]
    pub cache_type_v: Option<CacheType>,

    /// Flash attention; accepted as in llama.cpp's server, without effect; also -fa
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        num_args = 0..=1,
        default_missing_value = "on",
        env = "LLAMA_ARG_FLASH_ATTN"
    )]
    pub flash_attn: Option<FlashAttention>,

    /// Share one key-value cache among all sequences; always on, accepted as in llama.cpp's server; also -kvu
    #[arg(long, env = "LLAMA_ARG_KV_UNIFIED", value_parser = FalseyValueParser::new())]
    pub kv_unified: bool,

    /// ONNX Runtime's shared library [default: where `make setup` puts it, or beside this program]
    #[arg(long, value_name = "PATH", env = "ORT_DYLIB_PATH")]
    pub onnxruntime: Option<PathBuf>,
}

/// What is done where some cores reach some memory sooner than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Numa {
    /// Threads on all nodes in turn.
    Distribute,
    /// Threads only on the cores of the node where the program started.
    Isolate,
    /// As many threads as `numactl` left cores.
    Numactl,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The first that can be had of CUDA, CoreML, CPU.
    Auto,
    /// The CPU.
    #[value(alias = "none")]
    Cpu,
    /// GPUs of NVIDIA's, with a library of ONNX Runtime that has CUDA.
    Cuda,
    /// What CoreML chooses of a Mac's devices.
    Coreml,
}

/// How layers are split among devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitMode {
    /// One device has them all.
    None,
    /// Each device has some of the layers.
    Layer,
}

/// Element type of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheType {
    /// Half precision.
    F16,
}

/// Values of `--flash-attn`, which llama.cpp spells in several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlashAttention {
    /// On.
    #[value(aliases = ["1", "true", "enabled"])]
    On,
    /// Off.
    #[value(aliases = ["0", "false", "disabled"])]
    Off,
    /// As the backend likes.
    #[value(alias = "-1")]
    Auto,
}

/// A number of layers; today's servers have words for all of them.
fn gpu_layers(text: &str) -> Result<usize, String> {
    match text {
        "all" | "auto" | "-1" => Ok(usize::MAX),
        number => number
            .parse()
            .map_err(|_| format!("\"{number}\" is no number of layers, nor \"all\"")),
    }
}

/// A share of the time that leaves some for both sides.
fn prefill_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| *share > 0.0 && *share < 1.0)
        .ok_or_else(|| "not a number greater than 0 and less than 1".to_owned())
}
