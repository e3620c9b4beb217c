//! Options of the HTTP server: address, keys, endpoints, limits and timeouts.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use clap::builder::FalseyValueParser;

/// Heading in `--help` of the options that decide which requests have access.
const ACCESS: &str = "Access control";

/// Heading in `--help` of the options that enable, disable or restrict endpoints.
const ENDPOINTS: &str = "Endpoints";

/// Heading in `--help` of the limits on connections and requests.
const LIMITS: &str = "Limits and timeouts";

/// Address, keys, endpoints and limits.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ServingArgs {
    /// Host name or IP address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "LLAMA_ARG_HOST")]
    pub host: String,

    /// Port to listen on; 0: any free port
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "LLAMA_ARG_PORT")]
    pub port: u16,

    /// Number of HTTP threads [default: cores - 1, at least parallel + 2]
    #[arg(long, value_name = "N", env = "LLAMA_ARG_THREADS_HTTP")]
    pub threads_http: Option<usize>,

    /// Folder of files to serve instead of the built-in web page, without an API key; hidden files are not served
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

    /// Origin whose web pages may send requests, besides the server's own and localhost; * allows all; repeatable
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "ORTOLAN_CORS_ORIGIN",
        value_delimiter = ',',
        help_heading = ACCESS
    )]
    pub cors_origin: Vec<String>,

    /// Host name allowed in the `Host` header, besides localhost and --host; repeatable
    ///
    /// Examples: app.example, app.example:8443, *.app.example, .app.example (with its subdomains), * (all). Needed
    /// behind a proxy that keeps the `Host` header.
    #[arg(
        long,
        value_name = "HOST",
        env = "ORTOLAN_ALLOWED_HOSTS",
        value_delimiter = ',',
        help_heading = ACCESS
    )]
    pub allowed_hosts: Vec<String>,

    /// API key that requests must send, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; repeatable
    ///
    /// All users of the machine can read it in the process list: prefer --api-key-file.
    #[arg(
        long,
        value_name = "KEY",
        value_delimiter = ',',
        env = "LLAMA_API_KEY",
        hide_env_values = true,
        help_heading = ACCESS
    )]
    pub api_key: Vec<String>,

    /// File with one API key per line; # starts a comment
    ///
    /// It is read again when it changes. While it cannot be read, its keys are rejected.
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_API_KEY_FILE", help_heading = ACCESS)]
    pub api_key_file: Option<PathBuf>,

    /// File with operator keys, in the format of --api-key-file [default: the API key, if there is only one]
    ///
    /// An operator key sees the requests of all keys, and can change the system prompt and the adapters for all
    /// requests.
    #[arg(long, value_name = "FILE", env = "ORTOLAN_OPERATOR_KEY_FILE", help_heading = ACCESS)]
    pub operator_key_file: Option<PathBuf>,

    /// Separate the prefix cache by API key, so that no key can measure which prompts other keys sent
    #[arg(
        long,
        env = "ORTOLAN_CACHE_PER_KEY",
        value_parser = FalseyValueParser::new(),
        help_heading = ACCESS
    )]
    pub cache_per_key: bool,

    /// Maximum priority of requests without an operator key; higher priorities are lowered to it
    ///
    /// [default: 0 with several keys, no limit without keys]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        env = "ORTOLAN_MAX_PRIORITY",
        help_heading = ACCESS
    )]
    pub max_priority: Option<i32>,

    /// Serve HTTPS with the TLS certificate and chain in this PEM file, which is reloaded when it changes
    #[arg(long, value_name = "FILE", requires = "ssl_key_file", env = "LLAMA_ARG_SSL_CERT_FILE")]
    pub ssl_cert_file: Option<PathBuf>,

    /// PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE", requires = "ssl_cert_file", env = "LLAMA_ARG_SSL_KEY_FILE")]
    pub ssl_key_file: Option<PathBuf>,

    /// Enable /slots, which shows users' prompts; enabled by default
    #[arg(
        long,
        env = "LLAMA_ARG_ENDPOINT_SLOTS",
        value_parser = FalseyValueParser::new(),
        help_heading = ENDPOINTS
    )]
    pub slots: bool,

    /// Disable /slots: it responds with status 501; also --no-slots
    #[arg(
        long,
        alias = "no-slots",
        conflicts_with = "slots",
        env = "LLAMA_ARG_NO_ENDPOINT_SLOTS",
        value_parser = FalseyValueParser::new(),
        help_heading = ENDPOINTS
    )]
    pub slots_endpoint_disable: bool,

    /// Folder for saved slots (tokens and KV cache); enables saving, restoring and erasing slots
    #[arg(long, value_name = "DIR", env = "LLAMA_ARG_SLOT_SAVE_PATH", help_heading = ENDPOINTS)]
    pub slot_save_path: Option<PathBuf>,

    /// Maximum number of saved slots; with API keys, per key
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        env = "ORTOLAN_SLOT_SAVE_MAX_FILES",
        help_heading = ENDPOINTS
    )]
    pub slot_save_max_files: usize,

    /// Maximum total size of saved slots, such as 16GiB; with API keys, per key
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "16GiB",
        env = "ORTOLAN_SLOT_SAVE_MAX_BYTES",
        help_heading = ENDPOINTS
    )]
    pub slot_save_max_bytes: ByteSize,

    /// Enable /embedding; also --embeddings
    #[arg(
        long,
        alias = "embeddings",
        env = "LLAMA_ARG_EMBEDDINGS",
        value_parser = FalseyValueParser::new(),
        help_heading = ENDPOINTS
    )]
    pub embedding: bool,

    /// Enable POST /props, and let every key change the system prompt and the adapters for all requests
    #[arg(
        long,
        env = "LLAMA_ARG_ENDPOINT_PROPS",
        value_parser = FalseyValueParser::new(),
        help_heading = ENDPOINTS
    )]
    pub props: bool,

    /// Enable /metrics, in Prometheus format
    #[arg(
        long,
        env = "LLAMA_ARG_ENDPOINT_METRICS",
        value_parser = FalseyValueParser::new(),
        help_heading = ENDPOINTS
    )]
    pub metrics: bool,

    /// Abort a request whose client sends or reads nothing for this many seconds; also -to
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        env = "LLAMA_ARG_TIMEOUT",
        help_heading = LIMITS
    )]
    pub timeout: u64,

    /// Maximum number of connections; at the limit, a new one replaces the one that was idle longest
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20),
        env = "ORTOLAN_MAX_CONNECTIONS",
        help_heading = LIMITS
    )]
    pub max_connections: u32,

    /// Maximum number of connections per IPv4 address or IPv6 /64 network [default: half of --max-connections]
    ///
    /// Behind a proxy, set it to the value of --max-connections.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1 << 20),
        env = "ORTOLAN_CONNECTIONS_PER_ADDRESS",
        help_heading = LIMITS
    )]
    pub connections_per_address: Option<u32>,

    /// Reject requests with fields that have no effect, instead of listing these in the header x-ortolan-ignored
    #[arg(
        long,
        env = "ORTOLAN_STRICT",
        value_parser = FalseyValueParser::new(),
        help_heading = ENDPOINTS
    )]
    pub strict: bool,

    /// Reject requests that name another model than the served one; by default any name is accepted
    #[arg(
        long,
        env = "ORTOLAN_STRICT_MODEL_NAMES",
        value_parser = FalseyValueParser::new(),
        help_heading = ENDPOINTS
    )]
    pub strict_model_names: bool,

    /// Number of responses of /v1/responses that are stored, for `previous_response_id`; 0: none
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        env = "ORTOLAN_RESPONSES_KEPT",
        help_heading = LIMITS
    )]
    pub responses_kept: usize,

    /// Maximum duration of a request in seconds, including time in the queue [default: no limit]
    #[arg(long, value_name = "SECONDS", env = "ORTOLAN_REQUEST_TIMEOUT", help_heading = LIMITS)]
    pub request_timeout: Option<f64>,

    /// Seconds that running requests have to finish after Ctrl-C; a second Ctrl-C stops immediately
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        env = "ORTOLAN_STOP_TIMEOUT",
        help_heading = LIMITS
    )]
    pub stop_timeout: u64,
}
