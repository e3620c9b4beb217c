//! The in-process servers of the scenarios: with a loaded model, started once and shared by scenarios, or fixed in a
//! state such as loading.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ortolan::api::{self, ApiSettings, BodyRules, Endpoints, ResponseStore};
use ortolan::file_bytes::FileAccess;
use ortolan::model::load::{CacheSize, LoadOptions, inspect};
use ortolan::model::{
    AdapterOptions, GenerateLimits, LoadedModel, ModelState, PreparationPool, SlotFileLimits,
    SlotFolder, SystemPrompt,
};
use ortolan::runtime::{DeviceOptions, SessionOptions};
use ortolan::server::{ApiKeys, ConnectionLimits, ServeOptions, Server};
use ortolan::web::{self, Pages};
use tempfile::TempDir;
use tokio::sync::{OnceCell, watch};

use crate::common::gguf::Value;
use crate::{common, response_validation};

pub(crate) const SLOTS: usize = 4;
pub(crate) const QUEUE_LENGTH: usize = 16;
/// Maximum time without a byte from the client; then the server rejects the request or closes the connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// The folder of saved slots, shared by all servers.
pub(crate) fn slot_folder() -> &'static Path {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    FOLDER.path()
}

fn all_endpoints() -> Endpoints {
    Endpoints {
        slots: true,
        metrics: true,
        embedding: true,
        change_props: true,
        slot_files: Some(SlotFolder {
            path: slot_folder().to_owned(),
            limits: SlotFileLimits {
                max_files: 1000,
                max_bytes: 1 << 34,
            },
        }),
    }
}

/// A server with a loaded model.
#[derive(Clone)]
pub(crate) struct ModelServer {
    pub(crate) address: SocketAddr,
    pub(crate) model: Arc<LoadedModel>,
}

impl std::fmt::Debug for ModelServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the server at {}", self.address)
    }
}

#[derive(Clone, Copy)]
struct ServerSize {
    parallel: usize,
    context_tokens: usize,
    cache: CacheSize,
}

/// The server of scenarios that do not select another one.
pub(crate) async fn default_server() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: SLOTS,
        context_tokens: 512,
        cache: CacheSize::AllContexts,
    };
    start_default_model(&SERVER, size).await
}

/// Eight slots that share a KV cache of one context.
pub(crate) async fn small_cache() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: 8,
        context_tokens: 512,
        cache: CacheSize::Tokens(512),
    };
    start_default_model(&SERVER, size).await
}

/// Eight slots with long contexts.
pub(crate) async fn long_context() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: 8,
        context_tokens: 2048,
        cache: CacheSize::Tokens(8192),
    };
    start_default_model(&SERVER, size).await
}

/// One slot with a context of 64 tokens, for scenarios that change the server's state.
pub(crate) async fn exclusive() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: 1,
        context_tokens: 64,
        cache: CacheSize::AllContexts,
    };
    start_default_model(&SERVER, size).await
}

/// Contexts of 64 tokens.
pub(crate) async fn short_context() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: 2,
        context_tokens: 64,
        cache: CacheSize::AllContexts,
    };
    start_default_model(&SERVER, size).await
}

/// A new server for the model of `server`, with all optional endpoints disabled.
pub(crate) async fn without_optional_endpoints(server: ModelServer) -> ModelServer {
    let endpoints = Endpoints {
        slots: false,
        metrics: false,
        embedding: false,
        change_props: false,
        slot_files: None,
    };
    let settings = ApiSettings {
        endpoints,
        ..settings(ModelState::Ready(Arc::clone(&server.model)))
    };
    let address = serve(ApiKeys::default(), settings).await;
    ModelServer { address, ..server }
}

/// A new server for the model of `server`, with these limits.
pub(crate) async fn with_limits(server: ModelServer, limits: GenerateLimits) -> ModelServer {
    let settings = ApiSettings {
        limits,
        ..settings(ModelState::Ready(Arc::clone(&server.model)))
    };
    let address = serve(ApiKeys::default(), settings).await;
    ModelServer { address, ..server }
}

/// A server whose model stays in this state.
pub(crate) async fn in_state(state: ModelState) -> SocketAddr {
    serve(ApiKeys::default(), settings(state)).await
}

/// A tiny generated model with infill tokens.
pub(crate) async fn tiny_model() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    start_tiny_model(&SERVER, &[]).await
}

/// The tiny model with mean pooling.
pub(crate) async fn tiny_mean_pooling() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    start_tiny_model(&SERVER, &[("llama.pooling_type", Value::U32(1))]).await
}

/// The tiny model with a BOS token before each text.
pub(crate) async fn tiny_with_bos() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let add_bos = ("tokenizer.ggml.add_bos_token", Value::Bool(true));
    start_tiny_model(&SERVER, &[add_bos]).await
}

/// The default model with two LoRA adapters at scale 0.
pub(crate) async fn with_adapters() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let folder = tempfile::tempdir().unwrap();
    let adapter = |name: &str, weight: &str, sizes: [u64; 2], seed| {
        let path = folder.path().join(name);
        let weights = (0..30).map(|layer| (format!("blk.{layer}.{weight}.weight"), sizes));
        common::lora::write(&path, "llama", 8, &weights.collect::<Vec<_>>(), seed);
        (path, 0.0)
    };
    let adapters = AdapterOptions {
        files: vec![
            adapter("first.gguf", "attn_q", [576, 576], 1),
            adapter("second.gguf", "ffn_down", [1536, 576], 2),
        ],
        ..AdapterOptions::default()
    };
    let size = ServerSize {
        parallel: SLOTS,
        context_tokens: 256,
        cache: CacheSize::AllContexts,
    };
    let overrides = Overrides {
        adapters,
        ..Overrides::default()
    };
    start_with_overrides(&SERVER, common::model(), size, overrides).await
}

/// The default model split across two sessions, as it would be across two devices.
pub(crate) async fn split_layers() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: SLOTS,
        context_tokens: 512,
        cache: CacheSize::AllContexts,
    };
    let devices = DeviceOptions {
        tensor_split: vec![3.0, 2.0],
        ..DeviceOptions::default()
    };
    let overrides = Overrides {
        devices,
        ..Overrides::default()
    };
    start_with_overrides(&SERVER, common::model(), size, overrides).await
}

/// The embedding model, an encoder.
pub(crate) async fn encoder() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: 4,
        context_tokens: 1024,
        cache: CacheSize::AllContexts,
    };
    start_model(&SERVER, common::embedding_model(), size).await
}

/// A base model without instruction tuning, of another family.
pub(crate) async fn base_model() -> ModelServer {
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let size = ServerSize {
        parallel: SLOTS,
        context_tokens: 1024,
        cache: CacheSize::AllContexts,
    };
    start_model(&SERVER, common::gemma(), size).await
}

/// An ONNX model that `tool` exported.
pub(crate) async fn exported(tool: &str) -> ModelServer {
    static GENAI: OnceCell<ModelServer> = OnceCell::const_new();
    static OPTIMUM: OnceCell<ModelServer> = OnceCell::const_new();
    let (cell, folder) = match tool {
        "onnxruntime-genai" => (&GENAI, "genai"),
        "optimum" => (&OPTIMUM, "optimum"),
        other => panic!("no model exported by {other}"),
    };
    let size = ServerSize {
        parallel: SLOTS,
        context_tokens: 128,
        cache: CacheSize::AllContexts,
    };
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports");
    start_model(cell, exports.join(folder), size).await
}

/// The tiny model with a chat template that has reasoning markers.
pub(crate) async fn tiny_reasoning() -> ModelServer {
    const TEMPLATE: &str = "{% for message in messages %}\
        <s>{{ message.role }}\n\
        {% if message.reasoning_content %}{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}\
        {{ message.content }}\
        {% endfor %}<s>assistant{{ '\n' }}\
        {% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}";
    static SERVER: OnceCell<ModelServer> = OnceCell::const_new();
    let folder = tempfile::tempdir().unwrap();
    let metadata = [
        ("llama.context_length", Value::U32(1024)),
        ("tokenizer.chat_template", Value::Text(TEMPLATE)),
    ];
    let model = common::tiny::model(folder.path(), &metadata);
    let size = ServerSize {
        parallel: 2,
        context_tokens: 1024,
        cache: CacheSize::AllContexts,
    };
    start_model(&SERVER, model, size).await
}

async fn start_tiny_model(
    cell: &OnceCell<ModelServer>,
    metadata: &[(&str, Value<'_>)],
) -> ModelServer {
    let size = ServerSize {
        parallel: 2,
        context_tokens: 256,
        cache: CacheSize::AllContexts,
    };
    let folder = tempfile::tempdir().unwrap();
    let model = common::tiny::model(folder.path(), metadata);
    start_model(cell, model, size).await
}

async fn start_default_model(cell: &OnceCell<ModelServer>, size: ServerSize) -> ModelServer {
    start_model(cell, common::model(), size).await
}

async fn start_model(
    cell: &OnceCell<ModelServer>,
    model: PathBuf,
    size: ServerSize,
) -> ModelServer {
    let overrides = Overrides::default();
    start_with_overrides(cell, model, size, overrides).await
}

/// Load options that differ from the defaults.
#[derive(Default)]
struct Overrides {
    adapters: AdapterOptions,
    devices: DeviceOptions,
}

async fn start_with_overrides(
    cell: &OnceCell<ModelServer>,
    model: PathBuf,
    size: ServerSize,
    overrides: Overrides,
) -> ModelServer {
    let Overrides { adapters, devices } = overrides;
    let server = cell.get_or_init(async || {
        let loaded = tokio::task::spawn_blocking(move || {
            let options = LoadOptions {
                alias: Some("smollm2".to_owned()),
                context_tokens: Some(size.context_tokens),
                parallel: size.parallel,
                queue: QUEUE_LENGTH,
                step_tokens: 256,
                batch_tokens: 256,
                step_duration: Duration::from_millis(100),
                prefill_share: 0.5,
                cache: size.cache,
                access: FileAccess::Map,
                lock_memory: false,
                session: SessionOptions {
                    devices,
                    ..SessionOptions::new(common::onnxruntime())
                },
                quantize: None,
                chat_template: None,
                pooling: None,
                adapters,
                system_prompt: SystemPrompt::default(),
            };
            let inspected = inspect(&model, options);
            inspected.unwrap().load(&|_| ()).unwrap()
        });
        let model = Arc::new(loaded.await.unwrap());
        let state = ModelState::Ready(Arc::clone(&model));
        let address = serve(ApiKeys::default(), settings(state)).await;
        ModelServer { address, model }
    });
    server.await.clone()
}

/// A new server for the model of `server` that requires one of these API keys.
pub(crate) async fn with_api_keys(server: ModelServer, keys: ApiKeys) -> ModelServer {
    let state = ModelState::Ready(Arc::clone(&server.model));
    let address = serve(keys, settings(state)).await;
    ModelServer { address, ..server }
}

/// A new server for the model of `server`, with `/slots` disabled.
pub(crate) async fn without_slots(server: ModelServer) -> ModelServer {
    let state = ModelState::Ready(Arc::clone(&server.model));
    let endpoints = Endpoints {
        slots: false,
        ..all_endpoints()
    };
    let settings = ApiSettings {
        endpoints,
        ..settings(state)
    };
    let address = serve(ApiKeys::default(), settings).await;
    ModelServer { address, ..server }
}

/// A new server for the model of `server` that rejects other model names in requests.
pub(crate) async fn with_strict_names(server: ModelServer) -> ModelServer {
    let settings = ApiSettings {
        strict_model_names: true,
        ..settings(ModelState::Ready(Arc::clone(&server.model)))
    };
    let address = serve(ApiKeys::default(), settings).await;
    ModelServer { address, ..server }
}

/// API settings with all endpoints enabled and no limits.
fn settings(state: ModelState) -> ApiSettings {
    let (_, model) = watch::channel(state);
    let preparations = PreparationPool::new(SLOTS + QUEUE_LENGTH).unwrap();
    ApiSettings {
        endpoints: all_endpoints(),
        bodies: BodyRules {
            idle_timeout: IDLE_TIMEOUT,
            strict: false,
        },
        responses: Arc::new(ResponseStore::new(16)),
        ..ApiSettings::new(model, Arc::new(preparations))
    }
}

async fn serve(keys: ApiKeys, settings: ApiSettings) -> SocketAddr {
    let server = Server::bind(ServeOptions {
        host: "127.0.0.1".to_owned(),
        port: 0,
        allowed_origins: Vec::new(),
        allowed_hosts: Vec::new(),
        keys: Arc::new(keys),
        tls: None,
        connection_limits: ConnectionLimits {
            total: 1024,
            per_address: 1024,
        },
        idle_timeout: IDLE_TIMEOUT,
        stop_timeout: Duration::from_secs(1),
    });
    let server = server.await.unwrap();
    let address = server.address();
    let routes = api::routes(settings);
    tokio::spawn(server.serve(
        web::with_pages(
            response_validation::validated(routes),
            api::document::has,
            &Pages::BuiltIn,
        ),
        std::future::pending(),
        std::future::pending(),
    ));
    address
}
