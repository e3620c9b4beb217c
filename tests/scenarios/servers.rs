//! The servers that the scenarios speak to, in this process: some with the real model, shared by all, and
//! some in states that a real one leaves at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ortolan::api::{self, ApiSettings, BodyRules, Defaults, Endpoints, KeyPolicy, ResponseStore};
use ortolan::model::load::{
    CacheSize, DeviceOptions, FileAccess, LoadOptions, SessionOptions, inspect,
};
use ortolan::model::{
    AdapterOptions, GenerateLimits, LoadedModel, ModelState, Preparations, SlotFileLimits,
    SlotFolder, SystemPrompt,
};
use ortolan::server::{ConnectionLimits, Keys, ServeOptions, Server};
use ortolan::web::{self, Pages};
use tempfile::TempDir;
use tokio::sync::{OnceCell, watch};

use crate::common::gguf::Value;
use crate::{common, witness};

pub(crate) const SLOTS: usize = 4;
pub(crate) const QUEUE: usize = 16;
/// How long a client may be silent.
const IDLE: Duration = Duration::from_secs(3);

/// Where slots are saved, of all servers.
pub(crate) fn slot_files() -> &'static Path {
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
            path: slot_files().to_owned(),
            limits: SlotFileLimits {
                files: 1000,
                bytes: 1 << 34,
            },
        }),
    }
}

/// A server with the real model.
#[derive(Clone)]
pub(crate) struct RealServer {
    pub(crate) address: SocketAddr,
    pub(crate) model: Arc<LoadedModel>,
}

impl std::fmt::Debug for RealServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the server at {}", self.address)
    }
}

/// Its size.
#[derive(Clone, Copy)]
struct Size {
    parallel: usize,
    context_tokens: usize,
    cache: CacheSize,
}

/// The one that scenarios speak to if they name no other.
pub(crate) async fn usual() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: SLOTS,
        context_tokens: 512,
        cache: CacheSize::AllContexts,
    };
    shared(&SERVER, size).await
}

/// Eight slots that share a cache in which one context has room.
pub(crate) async fn crowded() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: 8,
        context_tokens: 512,
        cache: CacheSize::Tokens(512),
    };
    shared(&SERVER, size).await
}

/// Eight slots with long contexts.
pub(crate) async fn long() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: 8,
        context_tokens: 2048,
        cache: CacheSize::Tokens(8192),
    };
    shared(&SERVER, size).await
}

/// Contexts of 64 tokens, and nobody else asks it.
pub(crate) async fn private() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: 1,
        context_tokens: 64,
        cache: CacheSize::AllContexts,
    };
    shared(&SERVER, size).await
}

/// Contexts of 64 tokens.
pub(crate) async fn short() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: 2,
        context_tokens: 64,
        cache: CacheSize::AllContexts,
    };
    shared(&SERVER, size).await
}

/// One that answers nothing that can be switched off.
pub(crate) async fn answering_little(server: RealServer) -> RealServer {
    let none = Endpoints {
        slots: false,
        metrics: false,
        embedding: false,
        change_props: false,
        slot_files: None,
    };
    let settings = ApiSettings {
        endpoints: none,
        ..settings(ModelState::Ready(Arc::clone(&server.model)))
    };
    let address = serve(Keys::default(), settings).await;
    RealServer { address, ..server }
}

/// The model of another server, with limits.
pub(crate) async fn limited(server: RealServer, limits: GenerateLimits) -> RealServer {
    let settings = ApiSettings {
        limits,
        ..settings(ModelState::Ready(Arc::clone(&server.model)))
    };
    let address = serve(Keys::default(), settings).await;
    RealServer { address, ..server }
}

/// A server whose model never changes its state.
pub(crate) async fn in_state(state: ModelState) -> SocketAddr {
    serve(Keys::default(), settings(state)).await
}

/// A model of the tests' own with the tokens of an infill.
pub(crate) async fn tiny() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    of_tiny_model(&SERVER, &[]).await
}

/// The same, with a file that wants the mean of all hidden states.
pub(crate) async fn tiny_of_means() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    of_tiny_model(&SERVER, &[("llama.pooling_type", Value::U32(1))]).await
}

/// The same, with a file that wants a token before each text.
pub(crate) async fn tiny_with_beginnings() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let wanted = ("tokenizer.ggml.add_bos_token", Value::Bool(true));
    of_tiny_model(&SERVER, &[wanted]).await
}

/// The real model with two adapters.
pub(crate) async fn adapted() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
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
    let size = Size {
        parallel: SLOTS,
        context_tokens: 256,
        cache: CacheSize::AllContexts,
    };
    let changed = Changed {
        adapters,
        ..Changed::default()
    };
    of_changed_model(&SERVER, common::model(), size, changed).await
}

/// A server whose layers two sessions share, as they would be shared by two devices.
pub(crate) async fn divided() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: SLOTS,
        context_tokens: 512,
        cache: CacheSize::AllContexts,
    };
    let devices = DeviceOptions {
        shares: vec![3.0, 2.0],
        ..DeviceOptions::default()
    };
    let changed = Changed {
        devices,
        ..Changed::default()
    };
    of_changed_model(&SERVER, common::model(), size, changed).await
}

/// A server with an encoder.
pub(crate) async fn encoder() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: 4,
        context_tokens: 1024,
        cache: CacheSize::AllContexts,
    };
    of_model(&SERVER, common::embedding_model(), size).await
}

/// A server with a model that was only taught to go on with texts, of another family.
pub(crate) async fn base() -> RealServer {
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let size = Size {
        parallel: SLOTS,
        context_tokens: 1024,
        cache: CacheSize::AllContexts,
    };
    of_model(&SERVER, common::gemma(), size).await
}

/// A server with a graph that this tool exported.
pub(crate) async fn exported(tool: &str) -> RealServer {
    static GENAI: OnceCell<RealServer> = OnceCell::const_new();
    static OPTIMUM: OnceCell<RealServer> = OnceCell::const_new();
    let (cell, folder) = match tool {
        "onnxruntime-genai" => (&GENAI, "genai"),
        "optimum" => (&OPTIMUM, "optimum"),
        other => panic!("nothing here was exported by {other}"),
    };
    let size = Size {
        parallel: SLOTS,
        context_tokens: 128,
        cache: CacheSize::AllContexts,
    };
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports");
    of_model(cell, exports.join(folder), size).await
}

/// The same as the tiny one, with a chat template that knows of thoughts.
pub(crate) async fn tiny_thinker() -> RealServer {
    const TEMPLATE: &str = "{% for message in messages %}\
        <s>{{ message.role }}\n\
        {% if message.reasoning_content %}{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}\
        {{ message.content }}\
        {% endfor %}<s>assistant{{ '\n' }}\
        {% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}";
    static SERVER: OnceCell<RealServer> = OnceCell::const_new();
    let folder = tempfile::tempdir().unwrap();
    let more = [
        ("llama.context_length", Value::U32(1024)),
        ("tokenizer.chat_template", Value::Text(TEMPLATE)),
    ];
    let model = common::tiny::model(folder.path(), &more);
    let size = Size {
        parallel: 2,
        context_tokens: 1024,
        cache: CacheSize::AllContexts,
    };
    of_model(&SERVER, model, size).await
}

async fn of_tiny_model(cell: &OnceCell<RealServer>, more: &[(&str, Value<'_>)]) -> RealServer {
    let size = Size {
        parallel: 2,
        context_tokens: 256,
        cache: CacheSize::AllContexts,
    };
    let folder = tempfile::tempdir().unwrap();
    let model = common::tiny::model(folder.path(), more);
    of_model(cell, model, size).await
}

async fn shared(cell: &OnceCell<RealServer>, size: Size) -> RealServer {
    of_model(cell, common::model(), size).await
}

async fn of_model(cell: &OnceCell<RealServer>, model: PathBuf, size: Size) -> RealServer {
    let changed = Changed::default();
    of_changed_model(cell, model, size, changed).await
}

/// How a model is otherwise than its file is.
#[derive(Default)]
struct Changed {
    adapters: AdapterOptions,
    devices: DeviceOptions,
}

async fn of_changed_model(
    cell: &OnceCell<RealServer>,
    model: PathBuf,
    size: Size,
    changed: Changed,
) -> RealServer {
    let Changed { adapters, devices } = changed;
    let server = cell.get_or_init(async || {
        let loaded = tokio::task::spawn_blocking(move || {
            let options = LoadOptions {
                alias: Some("smollm2".to_owned()),
                context_tokens: Some(size.context_tokens),
                parallel: size.parallel,
                queue: QUEUE,
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
        let address = serve(Keys::default(), settings(state)).await;
        RealServer { address, model }
    });
    server.await.clone()
}

/// The model of another server, for those who have one of these keys.
pub(crate) async fn locked(server: RealServer, keys: Keys) -> RealServer {
    let state = ModelState::Ready(Arc::clone(&server.model));
    let address = serve(keys, settings(state)).await;
    RealServer { address, ..server }
}

/// The model of another server, which does not show its slots.
pub(crate) async fn hiding_slots(server: RealServer) -> RealServer {
    let state = ModelState::Ready(Arc::clone(&server.model));
    let endpoints = Endpoints {
        slots: false,
        ..all_endpoints()
    };
    let settings = ApiSettings {
        endpoints,
        ..settings(state)
    };
    let address = serve(Keys::default(), settings).await;
    RealServer { address, ..server }
}

/// The model of another server, which is answered for by its name alone.
pub(crate) async fn strict_about_names(server: RealServer) -> RealServer {
    let settings = ApiSettings {
        strict_model_names: true,
        ..settings(ModelState::Ready(Arc::clone(&server.model)))
    };
    let address = serve(Keys::default(), settings).await;
    RealServer { address, ..server }
}

/// Everything is answered, and nothing is limited.
fn settings(state: ModelState) -> ApiSettings {
    let (_, model) = watch::channel(state);
    ApiSettings {
        model,
        preparations: Arc::new(Preparations::new(SLOTS + QUEUE).unwrap()),
        endpoints: all_endpoints(),
        limits: GenerateLimits::NONE,
        defaults: Defaults::default(),
        bodies: BodyRules {
            idle: IDLE,
            strict: false,
        },
        responses: Arc::new(ResponseStore::new(16)),
        strict_model_names: false,
        key_policy: KeyPolicy::default(),
    }
}

async fn serve(keys: Keys, settings: ApiSettings) -> SocketAddr {
    let server = Server::bind(ServeOptions {
        host: "127.0.0.1".to_owned(),
        port: 0,
        origins: Vec::new(),
        hosts: Vec::new(),
        keys: Arc::new(keys),
        tls: None,
        connections: ConnectionLimits {
            total: 1024,
            per_address: 1024,
        },
        idle: IDLE,
        stop_deadline: Duration::from_secs(1),
    });
    let server = server.await.unwrap();
    let address = server.address();
    let routes = api::routes(settings);
    tokio::spawn(server.serve(
        web::beside(witness::watch(routes), api::document::has, &Pages::Own),
        std::future::pending(),
        std::future::pending(),
    ));
    address
}
