//! Options of the server: where it listens, whom it answers, and what.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use clap::builder::FalseyValueParser;

/// How to serve.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ServingArgs {
    /// The name or address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "LLAMA_ARG_HOST")]
    pub host: String,

    /// The port to listen on; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "LLAMA_ARG_PORT")]
    pub port: u16,

    /// Threads that read requests and write answers [default: one per core but one, or --parallel + 2]
    #[arg(long, value_name = "N", env = "LLAMA_ARG_THREADS_HTTP")]
    pub threads_http: Option<usize>,

    /// Serve the files of this folder instead of the page at the root, without a key; hidden files are not served
    #[arg(long, value_name = "DIR", env = "LLAMA_ARG_STATIC_PATH")]
    pub path: Option<PathBuf>,

    /// Follow symbolic links in the folder of --path that lead outside it or to hidden files
    #[arg(
        long,
        requires = "path",
        env = "ORTOLAN_PATH_FOLLOW_LINKS",
        value_parser = FalseyValueParser::new()
    )]
    pub path_follow_links: bool,

    /// An origin whose web pages may ask, beside the server's own and localhost; repeatable, * is all
    #[arg(long, value_name = "ORIGIN", env = "ORTOLAN_CORS_ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,

    /// A name that requests may give in `Host`, beside localhost and --host: app.example, app.example:8443,
    /// *.app.example, .app.example (with its subdomains) or * (all); repeatable; for proxies that keep `Host`
    #[arg(long, value_name = "HOST", env = "ORTOLAN_ALLOWED_HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,

    /// A key that lets requests in, sent as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; repeatable. Every user of
    /// the machine can read it in the list of processes: prefer --api-key-file
    #[arg(
        long,
        value_name = "KEY",
        value_delimiter = ',',
        env = "LLAMA_API_KEY",
        hide_env_values = true
    )]
    pub api_key: Vec<String>,

    /// File with one API key per line; # starts a comment. Read again when it changes; its keys are refused while it cannot
    /// be read
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,

    /// A file with operators' keys, as --api-key-file: they see the requests of all keys, and may change the system
    /// prompt and the adapters of all [default: the key, if there is only one]
    #[arg(long, value_name = "FILE", env = "ORTOLAN_OPERATOR_KEY_FILE")]
    pub operator_key_file: Option<PathBuf>,

    /// Give each key a prefix cache of its own, so that no key can measure which prompts others sent
    #[arg(long, env = "ORTOLAN_CACHE_PER_KEY", value_parser = FalseyValueParser::new())]
    pub cache_per_key: bool,

    /// Highest priority of a request without an operator's key; a higher one is lowered [default: 0 with several keys,
    /// no limit without keys]
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "ORTOLAN_MAX_PRIORITY")]
    pub max_priority: Option<i32>,

    /// The certificate to serve HTTPS with, PEM, its chain behind it; it is read again when it changes
    #[arg(long, value_name = "FILE", requires = "ssl_key_file", env = "LLAMA_ARG_SSL_CERT_FILE")]
    pub ssl_cert_file: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "ssl_cert_file", env = "LLAMA_ARG_SSL_KEY_FILE")]
    pub ssl_key_file: Option<PathBuf>,

    /// Answer /slots, which shows users' prompts; on, unless it is disabled
    #[arg(long, env = "LLAMA_ARG_ENDPOINT_SLOTS", value_parser = FalseyValueParser::new())]
    pub slots: bool,

    /// Answer 501 to /slots; also --no-slots
    #[arg(
        long,
        alias = "no-slots",
        conflicts_with = "slots",
        env = "LLAMA_ARG_NO_ENDPOINT_SLOTS",
        value_parser = FalseyValueParser::new()
    )]
    pub slots_endpoint_disable: bool,

    /// The folder in which clients may save what their slots have computed
    #[arg(long, value_name = "DIR", env = "LLAMA_ARG_SLOT_SAVE_PATH")]
    pub slot_save_path: Option<PathBuf>,

    /// Maximum number of saved slots; with API keys, per key
    #[arg(long, value_name = "N", default_value_t = 64, env = "ORTOLAN_SLOT_SAVE_MAX_FILES")]
    pub slot_save_max_files: usize,

    /// Maximum size of all saved slots, as in 16GiB; with API keys, per key
    #[arg(long, value_name = "SIZE", default_value = "16GiB", env = "ORTOLAN_SLOT_SAVE_MAX_BYTES")]
    pub slot_save_max_bytes: ByteSize,

    /// Answer /embedding; also --embeddings
    #[arg(
        long,
        alias = "embeddings",
        env = "LLAMA_ARG_EMBEDDINGS",
        value_parser = FalseyValueParser::new()
    )]
    pub embedding: bool,

    /// Answer POST /props, and let every key change the system prompt and the adapters of all
    #[arg(long, env = "LLAMA_ARG_ENDPOINT_PROPS", value_parser = FalseyValueParser::new())]
    pub props: bool,

    /// Answer /metrics, for Prometheus
    #[arg(long, env = "LLAMA_ARG_ENDPOINT_METRICS", value_parser = FalseyValueParser::new())]
    pub metrics: bool,

    /// Seconds without a byte after which a client that sends or reads is given up; also -to
    #[arg(long, value_name = "SECONDS", default_value_t = 600, env = "LLAMA_ARG_TIMEOUT")]
    pub timeout: u64,

    /// Connections at once; a new one takes the place of the one that has been idle longest
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20),
        env = "ORTOLAN_MAX_CONNECTIONS"
    )]
    pub max_connections: u32,

    /// Connections at once of one address, or of one IPv6 network (/64) [default: half of --max-connections]; behind a
    /// proxy: as many as --max-connections
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1 << 20),
        env = "ORTOLAN_CONNECTIONS_PER_ADDRESS"
    )]
    pub connections_per_address: Option<u32>,

    /// Refuse bodies with fields that have no effect, instead of naming these in the header x-ortolan-ignored
    #[arg(long, env = "ORTOLAN_STRICT", value_parser = FalseyValueParser::new())]
    pub strict: bool,

    /// Refuse OpenAI's requests that name another model than the one that is served, instead of answering them by it
    #[arg(long, env = "ORTOLAN_STRICT_MODEL_NAMES", value_parser = FalseyValueParser::new())]
    pub strict_model_names: bool,

    /// Responses of /v1/responses that are kept, to be gone on with; 0 keeps none
    #[arg(long, value_name = "N", default_value_t = 256, env = "ORTOLAN_RESPONSES_KEPT")]
    pub responses_kept: usize,

    /// Seconds that a request may take, waiting included [default: no limit]
    #[arg(long, value_name = "SECONDS", env = "ORTOLAN_REQUEST_TIMEOUT")]
    pub request_timeout: Option<f64>,

    /// Seconds that running answers may go on after Ctrl-C; a second Ctrl-C stops at once
    #[arg(long, value_name = "SECONDS", default_value_t = 30, env = "ORTOLAN_STOP_TIMEOUT")]
    pub stop_timeout: u64,
}
