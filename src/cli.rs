//! The command line and the environment: the names of the 2024 contract for what is built, today's spellings
//! beside them.

use std::ffi::OsString;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::builder::FalseyValueParser;
use clap::{CommandFactory, Parser, ValueEnum};

/// The contract's default for `--ctx-size`.
const DEFAULT_CONTEXT_TOKENS: usize = 512;

/// Serve a language model over HTTP: the 2024 contract of llama.cpp's server and OpenAI's API, computed by
/// ONNX Runtime, many requests in every step.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "A flag counts before its environment variable. Documentation of the routes: \
                  http://HOST:PORT/docs while it runs."
)]
pub struct Cli {
    /// The model, a GGUF file; with --model-url or --hf-repo, where to store it
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present_any = ["model_url", "hf_repo"],
        help_heading = "Model",
        env = "LLAMA_ARG_MODEL"
    )]
    pub model: Option<PathBuf>,

    /// Fetch the model from this address, unless it is here already; also -mu
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "hf_repo",
        help_heading = "Model",
        env = "LLAMA_ARG_MODEL_URL"
    )]
    pub model_url: Option<String>,

    /// Fetch the model from this repository of the hub, unless it is here already: of the files that end with
    /// QUANT, or Q4_K_M, or Q4_0, or of all, the first; also -hf, -hfr
    #[arg(
        long,
        value_name = "USER/REPO[:QUANT]",
        help_heading = "Model",
        env = "LLAMA_ARG_HF_REPO"
    )]
    pub hf_repo: Option<String>,

    /// The file of that repository; also -hff
    #[arg(
        long,
        value_name = "FILE",
        requires = "hf_repo",
        help_heading = "Model",
        env = "LLAMA_ARG_HF_FILE"
    )]
    pub hf_file: Option<String>,

    /// The token that the hub is shown, and nobody else; also -hft
    #[arg(
        long,
        value_name = "TOKEN",
        help_heading = "Model",
        env = "HF_TOKEN",
        hide_env_values = true
    )]
    pub hf_token: Option<String>,

    /// Another hub
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://huggingface.co",
        help_heading = "Model",
        env = "HF_ENDPOINT"
    )]
    pub hf_endpoint: String,

    /// Where fetched models are kept [default: ~/.cache/ortolan/models]
    #[arg(
        long,
        value_name = "FOLDER",
        help_heading = "Model",
        env = "LLAMA_CACHE"
    )]
    pub model_cache: Option<PathBuf>,

    /// Ask nobody for a model: what is here is served, or nothing
    #[arg(long, help_heading = "Model", env = "LLAMA_ARG_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,

    /// The model's name in answers, instead of its path
    #[arg(
        short,
        long,
        value_name = "NAME",
        help_heading = "Model",
        env = "LLAMA_ARG_ALIAS"
    )]
    pub alias: Option<String>,

    /// A chat template instead of the model's own: Jinja, or a name that llama.cpp's server knows, as chatml
    #[arg(
        long,
        value_name = "TEMPLATE",
        help_heading = "Model",
        env = "LLAMA_ARG_CHAT_TEMPLATE"
    )]
    pub chat_template: Option<String>,

    /// A file with what comes before every prompt: JSON with `prompt`, `anti_prompt` and `assistant_name`, or a text;
    /// also -spf
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Model",
        env = "LLAMA_ARG_SYSTEM_PROMPT_FILE"
    )]
    pub system_prompt_file: Option<PathBuf>,

    /// How a text's hidden states become its embedding [default: as the model says, else last]
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        help_heading = "Model",
        env = "LLAMA_ARG_POOLING"
    )]
    pub pooling: Option<Pooling>,

    /// The file of a Jinja chat template instead
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "chat_template",
        help_heading = "Model",
        env = "LLAMA_ARG_CHAT_TEMPLATE_FILE"
    )]
    pub chat_template_file: Option<PathBuf>,

    /// Read chat templates as Jinja; always on, accepted as in llama.cpp's server
    #[arg(long, help_heading = "Model", env = "LLAMA_ARG_JINJA", value_parser = FalseyValueParser::new())]
    pub jinja: bool,

    /// Tokens a sequence may have, prompt and answer; 0 is what the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = DEFAULT_CONTEXT_TOKENS, help_heading = "Model", env = "LLAMA_ARG_CTX_SIZE")]
    pub ctx_size: usize,

    /// Sequences that run at once (slots); also -np
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        help_heading = "Batching",
        env = "LLAMA_ARG_N_PARALLEL"
    )]
    pub parallel: usize,

    /// Requests that may wait beside them; more are told to come back later [default: 4 × parallel + 64]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Batching",
        env = "ORTOLAN_QUEUE"
    )]
    pub queue: Option<usize>,

    /// Most tokens computed in one step; also -ub
    #[arg(
        long,
        value_name = "N",
        default_value_t = 512,
        help_heading = "Batching",
        env = "LLAMA_ARG_UBATCH"
    )]
    pub ubatch_size: usize,

    /// Most tokens of one request in a step
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 2048,
        help_heading = "Batching",
        env = "LLAMA_ARG_BATCH"
    )]
    pub batch_size: usize,

    /// Milliseconds that a step may take while somebody waits for the next token: prompts are cut so
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 100,
        help_heading = "Batching",
        env = "ORTOLAN_STEP_MS"
    )]
    pub step_ms: u64,

    /// Tokens of the key-value cache for all sequences together [default: room for all slots' contexts]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Batching",
        env = "ORTOLAN_CACHE_TOKENS"
    )]
    pub cache_tokens: Option<usize>,

    /// Memory of the key-value cache instead, as in 512MiB or 2GiB
    #[arg(
        long,
        value_name = "SIZE",
        conflicts_with = "cache_tokens",
        help_heading = "Batching",
        env = "ORTOLAN_MEMORY_BUDGET"
    )]
    pub memory_budget: Option<ByteSize>,

    /// End a text where its context ends, instead of dropping its older half
    #[arg(long, help_heading = "Batching", env = "LLAMA_ARG_NO_CONTEXT_SHIFT", value_parser = FalseyValueParser::new())]
    pub no_context_shift: bool,

    /// Batch continuously; always on, accepted as in 2024; also -cb
    #[arg(long, help_heading = "Batching", env = "LLAMA_ARG_CONT_BATCHING", value_parser = FalseyValueParser::new())]
    pub cont_batching: bool,

    /// Most tokens a request may generate, whatever it says; -1 is no limit
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, help_heading = "Batching", env = "LLAMA_ARG_N_PREDICT", visible_alias = "predict")]
    pub n_predict: i64,

    /// Threads that compute [default: one per core]
    #[arg(
        short,
        long,
        value_name = "N",
        help_heading = "Computing",
        env = "LLAMA_ARG_THREADS"
    )]
    pub threads: Option<usize>,

    /// Where to compute
    #[arg(long, value_enum, default_value_t = Device::Auto, help_heading = "Computing", env = "LLAMA_ARG_DEVICE")]
    pub device: Device,

    /// Layers on a GPU; only 0 until GPUs are supported; also -ngl
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Computing",
        env = "LLAMA_ARG_N_GPU_LAYERS",
        visible_alias = "gpu-layers"
    )]
    pub n_gpu_layers: usize,

    /// ONNX Runtime's shared library [default: where `make setup` puts it, or beside this program]
    #[arg(
        long,
        value_name = "PATH",
        env = "ORT_DYLIB_PATH",
        help_heading = "Computing"
    )]
    pub onnxruntime: Option<PathBuf>,

    /// The name or address to listen on
    #[arg(
        long,
        value_name = "HOST",
        default_value = "127.0.0.1",
        help_heading = "Serving",
        env = "LLAMA_ARG_HOST"
    )]
    pub host: String,

    /// The port to listen on; 0 takes any that is free
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8080,
        help_heading = "Serving",
        env = "LLAMA_ARG_PORT"
    )]
    pub port: u16,

    /// A folder whose files are served in the place of the page at the root; they need no key
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Serving",
        env = "LLAMA_ARG_STATIC_PATH"
    )]
    pub path: Option<PathBuf>,

    /// An origin whose web pages may ask, beside the server's own and localhost; repeatable, * is all
    #[arg(
        long,
        value_name = "ORIGIN",
        help_heading = "Serving",
        env = "ORTOLAN_CORS_ORIGIN",
        value_delimiter = ','
    )]
    pub cors_origin: Vec<String>,

    /// A key that lets requests in, sent as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; repeatable
    #[arg(
        long,
        value_name = "KEY",
        value_delimiter = ',',
        env = "LLAMA_API_KEY",
        hide_env_values = true,
        help_heading = "Serving"
    )]
    pub api_key: Vec<String>,

    /// A file with a key in each line, # before remarks; it is read anew when it changes
    #[arg(
        long,
        value_name = "FILE",
        env = "LLAMA_ARG_API_KEY_FILE",
        help_heading = "Serving"
    )]
    pub api_key_file: Option<PathBuf>,

    /// The certificate to serve HTTPS with, PEM, its chain behind it; it is read anew when it changes
    #[arg(
        long,
        value_name = "FILE",
        requires = "ssl_key_file",
        env = "LLAMA_ARG_SSL_CERT_FILE",
        help_heading = "Serving"
    )]
    pub ssl_cert_file: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "ssl_cert_file",
        env = "LLAMA_ARG_SSL_KEY_FILE",
        help_heading = "Serving"
    )]
    pub ssl_key_file: Option<PathBuf>,

    /// Answer 501 to /slots, which shows users' prompts; also --no-slots
    #[arg(long, alias = "no-slots", help_heading = "Serving", env = "LLAMA_ARG_NO_ENDPOINT_SLOTS", value_parser = FalseyValueParser::new())]
    pub slots_endpoint_disable: bool,

    /// The folder in which clients may save what their slots have computed
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Serving",
        env = "LLAMA_ARG_SLOT_SAVE_PATH"
    )]
    pub slot_save_path: Option<PathBuf>,

    /// Answer /embedding; also --embeddings
    #[arg(long, alias = "embeddings", help_heading = "Serving", env = "LLAMA_ARG_EMBEDDINGS", value_parser = FalseyValueParser::new())]
    pub embedding: bool,

    /// Let clients change the system prompt by POST /props
    #[arg(long, help_heading = "Serving", env = "LLAMA_ARG_ENDPOINT_PROPS", value_parser = FalseyValueParser::new())]
    pub props: bool,

    /// Answer /metrics, for Prometheus
    #[arg(long, help_heading = "Serving", env = "LLAMA_ARG_ENDPOINT_METRICS", value_parser = FalseyValueParser::new())]
    pub metrics: bool,

    /// Seconds without a byte after which a client that sends or reads is given up; also -to
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        help_heading = "Serving",
        env = "LLAMA_ARG_TIMEOUT"
    )]
    pub timeout: u64,

    /// Seconds that a request may take, waiting included [default: no limit]
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "Serving",
        env = "ORTOLAN_REQUEST_TIMEOUT"
    )]
    pub request_timeout: Option<f64>,

    /// Seconds that running answers may go on after Ctrl-C; a second Ctrl-C stops at once
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        help_heading = "Serving",
        env = "ORTOLAN_STOP_TIMEOUT"
    )]
    pub stop_timeout: u64,

    /// How log lines are written
    #[arg(long, value_enum, default_value_t = LogFormat::Json, help_heading = "Logging", env = "ORTOLAN_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// No log file; there is none, accepted as in 2024
    #[arg(long, help_heading = "Logging")]
    pub log_disable: bool,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best there is: today the CPU.
    Auto,
    /// The CPU.
    Cpu,
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

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The contract's short names of two letters and more, which clap would read as one-letter options in a row.
const LONG_SHORT_NAMES: &[(&str, &str)] = &[
    ("-np", "--parallel"),
    ("-spf", "--system-prompt-file"),
    ("-ub", "--ubatch-size"),
    ("-cb", "--cont-batching"),
    ("-ngl", "--n-gpu-layers"),
    ("-to", "--timeout"),
    ("-mu", "--model-url"),
    ("-hf", "--hf-repo"),
    ("-hfr", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-hft", "--hf-token"),
];

/// Options of the contract that are not built yet.
const LATER: &[&str] = &[
    "-tb",
    "--threads-batch",
    "--threads-http",
    "-mg",
    "--main-gpu",
    "-ts",
    "--tensor-split",
    "--mlock",
    "--no-mmap",
    "--numa",
    "--lora",
    "--lora-base",
    "--mmproj",
    "--grp-attn-n",
    "--grp-attn-w",
];

impl Cli {
    /// Reads a command line, its first word being the program.
    ///
    /// # Errors
    /// What is wrong with it, or the help that it asks for.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().map(expanded).collect();
        let later = words.iter().skip(1).filter_map(|word| {
            let name = word.to_str()?.split('=').next()?;
            LATER.contains(&name).then_some(name)
        });
        if let Some(later) = later.into_iter().next() {
            return Err(Self::command().error(
                clap::error::ErrorKind::UnknownArgument,
                format!("{later} is not built yet; leave it out"),
            ));
        }
        Self::try_parse_from(words)
    }
}

fn expanded(word: OsString) -> OsString {
    // What is no UTF-8 is a path.
    let Some(text) = word.to_str() else {
        return word;
    };
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match LONG_SHORT_NAMES.iter().find(|(short, _)| *short == name) {
        None => word,
        Some((_, long)) => match value {
            Some(value) => format!("{long}={value}").into(),
            None => (*long).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, String> {
        let words = std::iter::once("ortolan").chain(line.split_whitespace());
        Cli::read(words.map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contracts_names_are_understood() {
        let short =
            read("-m a.gguf -c 128 -np 3 -ub 64 -b 256 -n -1 -ngl 0 -cb -t 2 -a name -to 9")
                .unwrap();
        let long = read(
            "--model a.gguf --ctx-size 128 --parallel=3 --ubatch-size 64 --batch-size 256 --n-predict=-1 \
             --n-gpu-layers 0 --cont-batching --threads 2 --alias name --timeout 9",
        );
        assert_eq!(Ok(short.clone()), long);
        assert_eq!((short.parallel, short.ctx_size), (3, 128));
    }

    #[test]
    fn defaults_are_the_contracts() {
        let cli = read("-m a.gguf").unwrap();
        assert_eq!((cli.ctx_size, cli.parallel, cli.n_predict), (512, 1, -1));
        assert_eq!(
            (cli.batch_size, cli.ubatch_size, cli.timeout),
            (2048, 512, 600)
        );
        assert_eq!(
            (cli.host.as_str(), cli.port, cli.log_format),
            ("127.0.0.1", 8080, LogFormat::Json)
        );
    }

    #[test]
    fn the_cache_has_one_size() {
        let budget = read("-m a.gguf --memory-budget 2GiB")
            .unwrap()
            .memory_budget;
        assert_eq!(budget, Some(ByteSize::gib(2)));
        assert!(read("-m a.gguf --memory-budget 2GiB --cache-tokens 1").is_err());
        assert!(read("-m a.gguf --memory-budget plenty").is_err());
    }

    #[test]
    fn the_model_comes_from_one_place() {
        for line in [
            "-mu http://a/b.gguf -m b.gguf",
            "-hfr a/b -hff c.gguf",
            "-hf a/b:Q8_0",
            "--hf-repo=a/b --offline",
        ] {
            read(line).unwrap();
        }
        for line in ["-hf a/b -mu http://a/b.gguf", "-m a.gguf -hff c.gguf"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_not_built_yet_is_refused_by_name() {
        for line in [
            "-m a.gguf --mmproj secret",
            "-m a.gguf -tb 4",
            "-m a.gguf --lora=x",
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains("not built yet"), "{error}");
        }
        assert!(
            read("-m a.gguf --nonsense")
                .unwrap_err()
                .contains("--nonsense")
        );
        assert!(read("").unwrap_err().contains("--model"));
    }
}
