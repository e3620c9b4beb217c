//! Validates command line options and converts them into the options of each module. Also finds defaults such as the
//! path of ONNX Runtime.

use std::env;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::api::{BodyRules, Endpoints, KeyPolicy, RequestDefaults};
use crate::cli::{BatchingArgs, Cli, ComputingArgs, LoadMode, ModelArgs, ServingArgs, SplitMode};
use crate::file_bytes::{FileAccess, read_text_limited};
use crate::hub::{self, Download, FileSelector, HubOptions};
use crate::model::load::{self, CacheSize, LoadOptions};
use crate::model::{AdapterOptions, GenerateLimits, SlotFileLimits, SlotFolder, SystemPrompt};
use crate::platform::{NumaStrategy, Placement};
use crate::runtime::{DeviceChoice, DeviceOptions, SessionOptions};
use crate::server::{AllowedHost, ApiKeySources, ApiKeys, ConnectionLimits, ServeOptions, Tls};
use crate::web::{Folder, Pages};

/// Maximum number of threads of a thread pool, more than the cores of common machines.
const MAX_THREADS: usize = 1024;

/// Maximum size in bytes of a chat template or system prompt file. The longest known chat templates have about 50 KB.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Delay before a failed download is retried.
const DOWNLOAD_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Options of the server, grouped by the module that defines them.
#[derive(Debug)]
pub struct Config {
    /// The model to serve.
    pub model: ModelSource,
    /// Options for loading the model, such as context size, cache size and devices.
    pub load: LoadOptions,
    /// Address, TLS, keys and connection limits.
    pub serve: ServeOptions,
    /// Maximum number of requests that wait for preparation (template, tokenizer, grammar).
    pub max_waiting_preparations: usize,
    /// Endpoints that can be enabled or disabled.
    pub endpoints: Endpoints,
    /// Limits of requests: generated tokens, duration and context shift.
    pub limits: GenerateLimits,
    /// Whether API keys share the prefix cache, and the maximum priority of their requests.
    pub key_policy: KeyPolicy,
    /// Idle timeout of request bodies, and whether fields without effect are rejected.
    pub bodies: BodyRules,
    /// Maximum number of stored responses of `/v1/responses`.
    pub max_stored_responses: usize,
    /// Whether requests that name another model are rejected.
    pub strict_model_names: bool,
    /// The web page to serve: built-in, or from a folder.
    pub pages: Pages,
    /// Sampling defaults of requests that set none.
    pub defaults: RequestDefaults,
    /// Number of HTTP threads.
    pub http_threads: usize,
    /// Assignment of threads to cores; `None` without `--numa`.
    pub placement: Option<Placement>,
}

/// Where the model is.
#[derive(Debug)]
pub enum ModelSource {
    /// A local file or folder.
    File(PathBuf),
    /// A model that must be downloaded, at least in part.
    Download(Box<Download>),
}

impl Config {
    /// Builds the configuration from the command line.
    ///
    /// # Errors
    /// If values are invalid or conflicting, files are unreadable, or ONNX Runtime is not found.
    pub fn new(cli: Cli) -> anyhow::Result<Self> {
        let Cli {
            config: _,
            model,
            batching,
            computing,
            serving,
            logging: _,
        } = cli;
        ensure!(
            batching.n_predict >= -1,
            "--n-predict {}: must be at least -1",
            batching.n_predict
        );
        if batching.cont_batching {
            tracing::info!("--cont-batching has no effect: batching is always continuous");
        }
        if computing.flash_attn.is_some() {
            tracing::info!("--flash-attn has no effect: there is one attention kernel");
        }
        ensure!(
            computing.split_mode != Some(SplitMode::None) || computing.tensor_split.is_empty(),
            "--split-mode none: cannot be used with --tensor-split"
        );
        let placement = computing
            .numa
            .map(|strategy| placement(strategy, computing.threads));
        let max_tokens = usize::try_from(batching.n_predict).ok();
        let context_shift = !batching.no_context_shift;
        let defaults = defaults(&batching)?;
        let http_threads = threads("--threads-http", serving.threads_http)?;
        let http_threads = http_threads.unwrap_or_else(|| default_http_threads(batching.parallel));
        let (endpoints, pages) = (
            endpoints(&serving)?,
            pages(serving.path.as_deref(), serving.path_follow_links)?,
        );
        let timeout = request_timeout(serving.request_timeout)?;
        let (strict, strict_model_names) = (serving.strict, serving.strict_model_names);
        let max_stored_responses = serving.responses_kept;
        let key_policy = KeyPolicy {
            cache_per_key: serving.cache_per_key,
            max_priority: serving.max_priority,
        };
        let serve = serve_options(serving)?;
        let model_source = model_source(&model)?;
        let load = load_options(model, &batching, &computing, placement.as_ref())?;
        if load.alias.is_none() && serve.keys.has_client_keys() {
            tracing::warn!(
                "the model's name is its path, and every API key can read it: set another name with --alias"
            );
        }
        Ok(Self {
            http_threads,
            model: model_source,
            max_waiting_preparations: load.parallel.saturating_add(load.queue),
            load,
            placement,
            endpoints,
            limits: GenerateLimits {
                max_tokens,
                timeout,
                context_shift,
                ..GenerateLimits::NONE
            },
            key_policy,
            defaults,
            bodies: BodyRules {
                idle_timeout: serve.idle_timeout,
                strict,
            },
            max_stored_responses,
            strict_model_names,
            serve,
            pages,
        })
    }
}

/// Converts the device options and validates them as far as possible without a model.
fn devices(computing: &ComputingArgs, library: &Path) -> anyhow::Result<DeviceOptions> {
    let choice = computing.device;
    if let (DeviceChoice::Cpu, Some(layers @ 1..)) = (choice, computing.n_gpu_layers) {
        tracing::warn!("--n-gpu-layers {layers}: with --device cpu all layers are on the CPU");
    }
    let options = DeviceOptions {
        choice,
        offloaded_layers: computing.n_gpu_layers,
        tensor_split: computing.tensor_split.clone(),
        main_gpu: computing.main_gpu,
    };
    options.check(library)?;
    Ok(options)
}

fn placement(strategy: NumaStrategy, threads: Option<usize>) -> Placement {
    let placement = Placement::new(strategy, threads);
    let (cores, nodes) = (placement.cores.0.len(), placement.thread_cores.len().max(1));
    tracing::info!(
        threads = placement.threads,
        cores,
        nodes,
        "--numa: compute threads are assigned to cores"
    );
    placement
}

/// Validates the number of threads that `option` sets.
fn threads(option: &str, threads: Option<usize>) -> anyhow::Result<Option<usize>> {
    if let Some(threads) = threads {
        ensure!(
            (1..=MAX_THREADS).contains(&threads),
            "{option} {threads}: must be from 1 to {MAX_THREADS}"
        );
    }
    Ok(threads)
}

/// Returns the default of `--threads-http`, the same as in llama.cpp's server.
fn default_http_threads(parallel: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (cores - 1).max(parallel.saturating_add(2)).min(MAX_THREADS)
}

/// Validates the sampling defaults of requests that set none.
fn defaults(batching: &BatchingArgs) -> anyhow::Result<RequestDefaults> {
    let temperature = batching.temperature.map(f64::from);
    if let Some(temperature) = temperature {
        ensure!(
            temperature.is_finite(),
            "--temperature {temperature}: must be a finite number"
        );
    }
    let seed = match batching.seed {
        -1 => None,
        seed => {
            let seed = u32::try_from(seed);
            Some(seed.with_context(|| {
                format!("--seed {}: must be from -1 to {}", batching.seed, u32::MAX)
            })?)
        }
    };
    Ok(RequestDefaults { temperature, seed })
}

fn load_options(
    model: ModelArgs,
    batching: &BatchingArgs,
    computing: &ComputingArgs,
    placement: Option<&Placement>,
) -> anyhow::Result<LoadOptions> {
    let load_mode = model.load_mode.unwrap_or(LoadMode {
        access: match model.no_mmap {
            true => FileAccess::Read,
            false => FileAccess::Map,
        },
        lock_memory: model.mlock,
    });
    let adapters = model.adapters.0.into_iter();
    let adapters = AdapterOptions {
        files: adapters.map(|file| (file.path, file.scale)).collect(),
        base: model.lora_base,
        init_without_apply: model.lora_init_without_apply,
    };
    let compute_threads = threads("--threads", computing.threads)?;
    let library = match &computing.onnxruntime {
        Some(path) => path.clone(),
        None => find_onnxruntime()?,
    };
    Ok(LoadOptions {
        alias: model.alias,
        context_tokens: Some(model.ctx_size).filter(|tokens| *tokens > 0),
        parallel: batching.parallel,
        queue: batching
            .queue
            .unwrap_or(batching.parallel.saturating_mul(4).saturating_add(64)),
        step_tokens: batching.ubatch_size,
        batch_tokens: batching.batch_size,
        step_duration: Duration::from_millis(batching.step_ms),
        prefill_share: batching.prefill_share,
        cache: match (batching.cache_tokens, batching.memory_budget) {
            (Some(tokens), _) => CacheSize::Tokens(tokens),
            (None, Some(budget)) => CacheSize::Bytes(budget.as_u64()),
            (None, None) => CacheSize::AllContexts,
        },
        access: load_mode.access,
        lock_memory: load_mode.lock_memory,
        session: SessionOptions {
            devices: devices(computing, &library)?,
            library,
            threads: compute_threads.or(placement.map(|placement| placement.threads)),
            batch_threads: threads("--threads-batch", computing.threads_batch)?,
            thread_cores: placement
                .map_or_else(Vec::new, |placement| placement.thread_cores.clone()),
            matmul_operator: None,
        },
        chat_template: match (model.chat_template, model.chat_template_file) {
            (Some(text), _) => Some(load::resolve_chat_template(text).context("--chat-template")?),
            (None, Some(path)) => Some(
                read_text_limited(&path, MAX_TEXT_BYTES)
                    .with_context(|| format!("--chat-template-file {}", path.display()))?,
            ),
            (None, None) => None,
        },
        system_prompt: match model.system_prompt_file {
            Some(path) => system_prompt(&path)
                .with_context(|| format!("--system-prompt-file {}", path.display()))?,
            None => SystemPrompt::default(),
        },
        quantize: model.quantize,
        adapters,
        pooling: model.pooling,
    })
}

fn serve_options(serving: ServingArgs) -> anyhow::Result<ServeOptions> {
    ensure!(
        serving.timeout > 0,
        "--timeout 0: must be at least 1 second"
    );
    let tls = match (serving.ssl_cert_file, serving.ssl_key_file) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::new(certificate, key)?)),
        // Neither is set: clap requires both or none.
        _ => None,
    };
    let hosts = serving.allowed_hosts.iter().map(|host| host.trim().parse());
    let hosts: Result<Vec<AllowedHost>, String> = hosts.collect();
    let total = serving.max_connections as usize;
    let per_address = serving.connections_per_address.map(|limit| limit as usize);
    Ok(ServeOptions {
        host: serving.host,
        port: serving.port,
        allowed_origins: origins(&serving.cors_origin)?,
        allowed_hosts: hosts.map_err(|error| anyhow::anyhow!("--allowed-hosts: {error}"))?,
        keys: Arc::new(ApiKeys::new(ApiKeySources {
            keys: serving.api_key,
            file: serving.api_key_file,
            operator_file: serving.operator_key_file,
        })?),
        tls,
        idle_timeout: Duration::from_secs(serving.timeout),
        connection_limits: ConnectionLimits {
            total,
            per_address: per_address.unwrap_or(total.div_ceil(2)),
        },
        stop_timeout: Duration::from_secs(serving.stop_timeout),
    })
}

/// Normalizes origins to the form of browsers' `Origin` headers: lowercase, without a trailing slash.
fn origins(values: &[String]) -> anyhow::Result<Vec<String>> {
    let origins = values.iter().map(|origin| {
        let origin = origin.trim();
        let normalized = origin.strip_suffix('/').unwrap_or(origin).to_ascii_lowercase();
        let is_origin = match normalized.split_once("://") {
            Some((scheme, host)) => {
                !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '@', '?', '#'])
            }
            None => ["*", "null"].contains(&&*normalized),
        };
        ensure!(
            is_origin,
            "--cors-origin: invalid origin '{origin}': expected a scheme and a host such as https://app.example, or *"
        );
        Ok(normalized)
    });
    origins.collect()
}

fn endpoints(serving: &ServingArgs) -> anyhow::Result<Endpoints> {
    if let Some(folder) = &serving.slot_save_path {
        check_folder("--slot-save-path", folder)?;
    }
    let slot_files = serving.slot_save_path.clone().map(|path| SlotFolder {
        path,
        limits: SlotFileLimits {
            max_files: serving.slot_save_max_files,
            max_bytes: serving.slot_save_max_bytes.as_u64(),
        },
    });
    Ok(Endpoints {
        slots: !serving.slots_endpoint_disable,
        metrics: serving.metrics,
        embedding: serving.embedding,
        change_props: serving.props,
        slot_files,
    })
}

fn pages(folder: Option<&Path>, follow_links: bool) -> anyhow::Result<Pages> {
    let Some(folder) = folder else {
        return Ok(Pages::BuiltIn);
    };
    check_folder("--path", folder)?;
    Ok(Pages::Folder(Folder {
        path: folder.to_owned(),
        follow_links,
    }))
}

fn check_folder(option: &str, folder: &Path) -> anyhow::Result<()> {
    ensure!(
        folder.is_dir(),
        "{option} {}: not a folder",
        folder.display()
    );
    Ok(())
}

fn request_timeout(seconds: Option<f64>) -> anyhow::Result<Option<Duration>> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    let timeout = Duration::try_from_secs_f64(seconds).ok();
    let timeout = timeout.filter(|timeout| !timeout.is_zero());
    ensure!(
        timeout.is_some(),
        "--request-timeout {seconds}: must be more than 0 seconds"
    );
    Ok(timeout)
}

fn model_source(cli: &ModelArgs) -> anyhow::Result<ModelSource> {
    let store = cli.model.clone();
    let download = match (&cli.model_url, &cli.hf_repo) {
        (Some(url), _) => {
            Download::from_url(url, store, hub_options(cli)?).context("--model-url")?
        }
        (None, Some(name)) => {
            let (name, quant) = match name.split_once(':') {
                Some((name, quant)) => (name, Some(quant.to_owned())),
                None => (name.as_str(), None),
            };
            let wanted = match (cli.hf_file.clone(), quant) {
                (Some(file), None) => FileSelector::Path(file),
                (None, Some(quant)) => FileSelector::Quantization(quant),
                (None, None) => FileSelector::Default,
                (Some(file), Some(quant)) => {
                    anyhow::bail!("--hf-file {file}: cannot be used with \":{quant}\" in --hf-repo")
                }
            };
            let options = hub_options(cli)?;
            Download::from_repository(name, wanted, store, options).context("--hf-repo")?
        }
        (None, None) => {
            let missing = "no model: set --model, --model-url or --hf-repo";
            return Ok(ModelSource::File(store.context(missing)?));
        }
    };
    Ok(match download.find_local()? {
        Some(file) => ModelSource::File(file),
        None => ModelSource::Download(Box::new(download)),
    })
}

fn hub_options(cli: &ModelArgs) -> anyhow::Result<HubOptions> {
    let endpoint = hub::parse_http_url(&cli.hf_endpoint).map_err(anyhow::Error::msg);
    let folder = cli.model_cache.clone();
    let folder = folder.or_else(|| Some(cache_folder()?.join("ortolan").join("models")));
    Ok(HubOptions {
        endpoint: endpoint.context("--hf-endpoint")?,
        token: cli.hf_token.clone().filter(|token| !token.is_empty()),
        folder: folder.context("no home folder found for downloaded models: set --model-cache")?,
        offline: cli.offline,
        retry_delay: DOWNLOAD_RETRY_DELAY,
        max_bytes: cli.model_max_bytes.as_u64(),
        check: load::check_gguf,
    })
}

/// Reads a system prompt file: plain text, or JSON in the form of a request's `system_prompt`, with or without an
/// enclosing object that has the field `system_prompt`.
fn system_prompt(path: &Path) -> anyhow::Result<SystemPrompt> {
    let text = read_text_limited(path, MAX_TEXT_BYTES)?;
    if !text.trim_start().starts_with('{') {
        return Ok(SystemPrompt {
            prompt: text,
            ..SystemPrompt::default()
        });
    }
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct SystemPromptJson {
        prompt: String,
        #[serde(default)]
        anti_prompt: String,
        #[serde(default)]
        assistant_name: String,
    }
    let mut json: serde_json::Value = serde_json::from_str(&text)?;
    let inner = json.get_mut("system_prompt").map(serde_json::Value::take);
    let fields: SystemPromptJson = serde_json::from_value(inner.unwrap_or(json))?;
    Ok(SystemPrompt {
        prompt: fields.prompt,
        user_name: fields.anti_prompt,
        assistant_name: fields.assistant_name,
    })
}

/// File name of ONNX Runtime's shared library on this platform.
const LIBRARY_NAME: &str = if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else if cfg!(windows) {
    "onnxruntime.dll"
} else {
    "libonnxruntime.so"
};

fn find_onnxruntime() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("cannot determine the path of this program")?;
    let candidates = library_candidates(&program, cache_folder());
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => {
            let searched: Vec<String> = candidates
                .iter()
                .map(|path| format!("\n  {}", path.display()))
                .collect();
            anyhow::bail!(
                "ONNX Runtime's shared library was not found. Run `make setup` in the repository, or set its path with \
                 --onnxruntime PATH or ORT_DYLIB_PATH. Searched:{}",
                searched.concat()
            )
        }
    }
}

/// Returns the user's cache folder: `$XDG_CACHE_HOME`, or `~/.cache`.
fn cache_folder() -> Option<PathBuf> {
    let configured = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let default = || Some(env::home_dir()?.join(".cache"));
    configured.map(PathBuf::from).or_else(default)
}

/// Returns the paths to search for ONNX Runtime, in this order: next to the program, in the working directory if it is
/// a checkout of this repository, in the checkout in which the program was built, in the user's cache folder.
fn library_candidates(program: &Path, cache: Option<PathBuf>) -> Vec<PathBuf> {
    let in_repository = |root: &Path| root.join(".cache").join("onnxruntime").join(LIBRARY_NAME);
    // The program is `target/release/ortolan` in its checkout.
    let repository = program.ancestors().nth(3);
    [
        program.parent().map(|folder| folder.join(LIBRARY_NAME)),
        Some(in_repository(Path::new("."))),
        repository.map(in_repository),
        cache.map(|cache| cache.join("ortolan").join(LIBRARY_NAME)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_searched_next_to_the_program_in_repositories_and_in_the_cache() {
        let candidates = library_candidates(
            Path::new("/src/ortolan/target/release/ortolan"),
            Some(PathBuf::from("/home/ada/.cache")),
        );
        let folders = [
            "/src/ortolan/target/release",
            "./.cache/onnxruntime",
            "/src/ortolan/.cache/onnxruntime",
            "/home/ada/.cache/ortolan",
        ];
        assert_eq!(
            candidates,
            folders.map(|folder| Path::new(folder).join(LIBRARY_NAME))
        );
    }
}
