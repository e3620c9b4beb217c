//! From the command line to the options of each floor, and where to find what was not named.

use std::env;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::api::{BodyRules, Defaults, Endpoints, KeyPolicy};
use crate::cli::{
    self, BatchingArgs, Cli, ComputingArgs, Device, LoadMode, ModelArgs, Numa, ServingArgs,
    SplitMode,
};
use crate::file_bytes::read_text_limited;
use crate::hub::{self, Download, HubOptions, Wanted};
use crate::machine::{Placement, Strategy};
use crate::model::load::{
    self, CacheSize, DeviceChoice, DeviceOptions, FileAccess, LoadOptions, SessionOptions, Target,
};
use crate::model::{
    self, AdapterOptions, GenerateLimits, SlotFileLimits, SlotFolder, SystemPrompt,
};
use crate::server::{AllowedHost, ConnectionLimits, KeySources, Keys, ServeOptions, Tls};
use crate::web::{Folder, Pages};

/// Most threads that compute: more than any machine has cores.
const MAX_THREADS: usize = 1024;

/// Most bytes of a file with a chat template or a system prompt; the longest known templates have a twentieth.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// How long to wait before a download is tried again.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// The whole configuration, each part defined where it is used.
#[derive(Debug)]
pub struct Config {
    /// Where the model is.
    pub model: ModelSource,
    /// How to load it.
    pub load: LoadOptions,
    /// Where to serve.
    pub serve: ServeOptions,
    /// Requests that may wait to be prepared.
    pub preparations_waiting: usize,
    /// What is answered of what not every server answers.
    pub endpoints: Endpoints,
    /// What generations may take, whatever a request says.
    pub limits: GenerateLimits,
    /// What API keys share.
    pub key_policy: KeyPolicy,
    /// What a body may be.
    pub bodies: BodyRules,
    /// Most responses that are kept.
    pub responses_kept: usize,
    /// Whether other models' names are refused.
    pub strict_model_names: bool,
    /// Where the page comes from.
    pub pages: Pages,
    /// What requests ask for that name nothing.
    pub defaults: Defaults,
    /// Threads that read requests and write answers.
    pub http_threads: usize,
    /// On which cores the program is, if that was asked for.
    pub placement: Option<Placement>,
}

/// Where the model is.
#[derive(Debug)]
pub enum ModelSource {
    /// Here.
    File(PathBuf),
    /// Elsewhere, or some of it.
    Download(Box<Download>),
}

impl Config {
    /// Completes a command line.
    ///
    /// # Errors
    /// Values that do not fit together, or no ONNX Runtime anywhere.
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
            "--n-predict {}: at least -1",
            batching.n_predict
        );
        if batching.cont_batching {
            tracing::info!("--cont-batching: batching is always continuous");
        }
        if computing.flash_attn.is_some() {
            tracing::info!("--flash-attn: it has no effect, attention has one implementation here");
        }
        ensure!(
            computing.split_mode != Some(SplitMode::None) || computing.tensor_split.is_empty(),
            "--split-mode none: it cannot be used with --tensor-split"
        );
        let placement = computing
            .numa
            .map(|numa| placement(numa, computing.threads));
        let max_tokens = usize::try_from(batching.n_predict).ok();
        let context_shift = !batching.no_context_shift;
        let defaults = defaults(&batching)?;
        let http_threads = threads("--threads-http", serving.threads_http)?;
        let http_threads = http_threads.unwrap_or_else(|| usual_http_threads(batching.parallel));
        let (endpoints, pages) = (
            endpoints(&serving)?,
            pages(serving.path.as_deref(), serving.path_follow_links)?,
        );
        let timeout = request_timeout(serving.request_timeout)?;
        let (strict, strict_model_names) = (serving.strict, serving.strict_model_names);
        let responses_kept = serving.responses_kept;
        let key_policy = KeyPolicy {
            cache_per_key: serving.cache_per_key,
            max_priority: serving.max_priority,
        };
        let serve = serve_options(serving)?;
        let model_source = model_source(&model)?;
        let load = load_options(model, &batching, &computing, placement.as_ref())?;
        if load.alias.is_none() && serve.keys.has_clients() {
            tracing::warn!(
                "every API key reads the path of the model, which is its name (see --alias)"
            );
        }
        Ok(Self {
            http_threads,
            model: model_source,
            preparations_waiting: load.parallel.saturating_add(load.queue),
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
                idle: serve.idle,
                strict,
            },
            responses_kept,
            strict_model_names,
            serve,
            pages,
        })
    }
}

/// Which devices compute; what can be told of them without a model is checked.
fn devices(computing: &ComputingArgs, library: &Path) -> anyhow::Result<DeviceOptions> {
    let choice = match computing.device {
        Device::Auto => DeviceChoice::Auto,
        Device::Cpu => DeviceChoice::Cpu,
        Device::Cuda => DeviceChoice::Cuda,
        Device::Coreml => DeviceChoice::CoreMl,
    };
    if let (DeviceChoice::Cpu, Some(layers @ 1..)) = (choice, computing.n_gpu_layers) {
        tracing::warn!("--n-gpu-layers {layers}: with --device cpu all layers are on the CPU");
    }
    let options = DeviceOptions {
        choice,
        layers: computing.n_gpu_layers,
        shares: computing.tensor_split.clone(),
        main: computing.main_gpu,
    };
    options.check(library)?;
    Ok(options)
}

fn placement(numa: Numa, threads: Option<usize>) -> Placement {
    let strategy = match numa {
        Numa::Distribute => Strategy::Distribute,
        Numa::Isolate => Strategy::Isolate,
        Numa::Numactl => Strategy::Inherit,
    };
    let placement = Placement::new(strategy, threads);
    let (cores, nodes) = (placement.cores.0.len(), placement.turns.len().max(1));
    tracing::info!(
        threads = placement.threads,
        cores,
        nodes,
        "--numa: this many threads compute, on these cores"
    );
    placement
}

/// A number of threads that can be.
fn threads(option: &str, threads: Option<usize>) -> anyhow::Result<Option<usize>> {
    if let Some(threads) = threads {
        ensure!(
            (1..=MAX_THREADS).contains(&threads),
            "{option} {threads}: from 1 to {MAX_THREADS}"
        );
    }
    Ok(threads)
}

/// The contract's default for `--threads-http`.
fn usual_http_threads(parallel: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (cores - 1).max(parallel.saturating_add(2)).min(MAX_THREADS)
}

/// What requests ask for that name nothing.
fn defaults(batching: &BatchingArgs) -> anyhow::Result<Defaults> {
    let temperature = batching.temperature.map(f64::from);
    if let Some(temperature) = temperature {
        ensure!(
            temperature.is_finite(),
            "--temperature {temperature}: it is no number"
        );
    }
    let seed = match batching.seed {
        -1 => None,
        seed => {
            let seed = u32::try_from(seed);
            Some(
                seed.with_context(|| format!("--seed {}: from -1 to {}", batching.seed, u32::MAX))?,
            )
        }
    };
    Ok(Defaults { temperature, seed })
}

fn load_options(
    model: ModelArgs,
    batching: &BatchingArgs,
    computing: &ComputingArgs,
    placement: Option<&Placement>,
) -> anyhow::Result<LoadOptions> {
    let (maps, lock_memory) = match model.load_mode {
        None => (!model.no_mmap, model.mlock),
        Some(LoadMode::Auto | LoadMode::Mmap) => (true, false),
        Some(LoadMode::None) => (false, false),
        Some(LoadMode::Mlock) => (false, true),
        Some(LoadMode::MmapMlock) => (true, true),
    };
    let adapters = model.adapters.0.into_iter();
    let adapters = AdapterOptions {
        files: adapters.map(|file| (file.path, file.scale)).collect(),
        base: model.lora_base,
        idle: model.lora_init_without_apply,
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
        access: match maps {
            true => FileAccess::Map,
            false => FileAccess::Read,
        },
        lock_memory,
        session: SessionOptions {
            devices: devices(computing, &library)?,
            library,
            threads: compute_threads.or(placement.map(|placement| placement.threads)),
            batch_threads: threads("--threads-batch", computing.threads_batch)?,
            thread_cores: placement.map_or_else(Vec::new, |placement| placement.turns.clone()),
            products: None,
        },
        chat_template: match (model.chat_template, model.chat_template_file) {
            (Some(text), _) => Some(load::chat_template(text).context("--chat-template")?),
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
        quantize: model.quantize.map(|kind| match kind {
            cli::QuantizedType::Q4_0 => Target::Q4_0,
            cli::QuantizedType::Q8_0 => Target::Q8_0,
        }),
        adapters,
        pooling: model.pooling.map(|pooling| match pooling {
            cli::Pooling::Mean => model::Pooling::Mean,
            cli::Pooling::Cls => model::Pooling::First,
            cli::Pooling::Last => model::Pooling::Last,
        }),
    })
}

fn serve_options(serving: ServingArgs) -> anyhow::Result<ServeOptions> {
    ensure!(serving.timeout > 0, "--timeout 0: at least a second");
    let tls = match (serving.ssl_cert_file, serving.ssl_key_file) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::new(certificate, key)?)),
        // Neither: the command line has both or none.
        _ => None,
    };
    let hosts = serving.allowed_hosts.iter().map(|host| host.trim().parse());
    let hosts: Result<Vec<AllowedHost>, String> = hosts.collect();
    let total = serving.max_connections as usize;
    let per_address = serving.connections_per_address.map(|most| most as usize);
    Ok(ServeOptions {
        host: serving.host,
        port: serving.port,
        origins: origins(&serving.cors_origin)?,
        hosts: hosts.map_err(|error| anyhow::anyhow!("--allowed-hosts: {error}"))?,
        keys: Arc::new(Keys::new(KeySources {
            given: serving.api_key,
            file: serving.api_key_file,
            operator_file: serving.operator_key_file,
        })?),
        tls,
        idle: Duration::from_secs(serving.timeout),
        connections: ConnectionLimits {
            total,
            per_address: per_address.unwrap_or(total.div_ceil(2)),
        },
        stop_deadline: Duration::from_secs(serving.stop_timeout),
    })
}

/// The origins as browsers write them: in small letters, without a slash at the end.
fn origins(given: &[String]) -> anyhow::Result<Vec<String>> {
    let origins = given.iter().map(|origin| {
        let origin = origin.trim();
        let written = origin.strip_suffix('/').unwrap_or(origin).to_ascii_lowercase();
        let is_origin = match written.split_once("://") {
            Some((scheme, host)) => {
                !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '@', '?', '#'])
            }
            None => ["*", "null"].contains(&&*written),
        };
        ensure!(
            is_origin,
            "--cors-origin: invalid origin '{origin}': expected a scheme and a host as in https://app.example, or *"
        );
        Ok(written)
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
            files: serving.slot_save_max_files,
            bytes: serving.slot_save_max_bytes.as_u64(),
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
        return Ok(Pages::Own);
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
        "{option} {}: it is no folder",
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
        "--request-timeout {seconds}: more than 0 seconds"
    );
    Ok(timeout)
}

fn model_source(cli: &ModelArgs) -> anyhow::Result<ModelSource> {
    let store = cli.model.clone();
    let download = match (&cli.model_url, &cli.hf_repo) {
        (Some(url), _) => Download::of_url(url, store, hub_options(cli)?).context("--model-url")?,
        (None, Some(name)) => {
            let (name, quant) = match name.split_once(':') {
                Some((name, quant)) => (name, Some(quant.to_owned())),
                None => (name.as_str(), None),
            };
            let wanted = match (cli.hf_file.clone(), quant) {
                (Some(file), None) => Wanted::File(file),
                (None, Some(quant)) => Wanted::Quant(quant),
                (None, None) => Wanted::Usual,
                (Some(file), Some(quant)) => {
                    anyhow::bail!("--hf-file {file}: --hf-repo says \"{quant}\" already")
                }
            };
            let options = hub_options(cli)?;
            Download::of_repository(name, wanted, store, options).context("--hf-repo")?
        }
        (None, None) => {
            let missing = "--model, --model-url or --hf-repo says what to serve";
            return Ok(ModelSource::File(store.context(missing)?));
        }
    };
    Ok(match download.found()? {
        Some(file) => ModelSource::File(file),
        None => ModelSource::Download(Box::new(download)),
    })
}

fn hub_options(cli: &ModelArgs) -> anyhow::Result<HubOptions> {
    let endpoint = hub::web_address(&cli.hf_endpoint).map_err(anyhow::Error::msg);
    let folder = cli.model_cache.clone();
    let folder = folder.or_else(|| Some(cache_folder()?.join("ortolan").join("models")));
    Ok(HubOptions {
        endpoint: endpoint.context("--hf-endpoint")?,
        token: cli.hf_token.clone().filter(|token| !token.is_empty()),
        folder: folder.context("--model-cache: there is no home folder to have one in")?,
        offline: cli.offline,
        pause: FETCH_PAUSE,
        max_bytes: cli.model_max_bytes.as_u64(),
        check: load::check_gguf,
    })
}

/// The system prompt of a file: what a request would send as `system_prompt`, with or without that name around it, or a
/// text.
fn system_prompt(path: &Path) -> anyhow::Result<SystemPrompt> {
    let text = read_text_limited(path, MAX_TEXT_BYTES)?;
    if !text.trim_start().starts_with('{') {
        return Ok(SystemPrompt {
            prompt: text,
            ..SystemPrompt::default()
        });
    }
    /// The file's form.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Words {
        prompt: String,
        #[serde(default)]
        anti_prompt: String,
        #[serde(default)]
        assistant_name: String,
    }
    let mut json: serde_json::Value = serde_json::from_str(&text)?;
    let within = json.get_mut("system_prompt").map(serde_json::Value::take);
    let words: Words = serde_json::from_value(within.unwrap_or(json))?;
    Ok(SystemPrompt {
        prompt: words.prompt,
        user_name: words.anti_prompt,
        assistant_name: words.assistant_name,
    })
}

/// The library's file name on this system.
const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else if cfg!(windows) {
    "onnxruntime.dll"
} else {
    "libonnxruntime.so"
};

fn find_onnxruntime() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("where this program is cannot be found out")?;
    let places = places(&program, cache_folder());
    match places.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => {
            let looked: Vec<String> = places
                .iter()
                .map(|path| format!("\n  {}", path.display()))
                .collect();
            anyhow::bail!(
                "ONNX Runtime's shared library is not found. Run `make setup` in the repository, or name it by \
                 --onnxruntime PATH or ORT_DYLIB_PATH. Looked at:{}",
                looked.concat()
            )
        }
    }
}

/// The user's cache.
fn cache_folder() -> Option<PathBuf> {
    let named = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let usual = || Some(env::home_dir()?.join(".cache"));
    named.map(PathBuf::from).or_else(usual)
}

/// Where the library may lie: beside the program, in the repository it was built in or that is the
/// working directory, in the user's cache.
fn places(program: &Path, cache: Option<PathBuf>) -> Vec<PathBuf> {
    let fetched = |root: &Path| root.join(".cache").join("onnxruntime").join(LIBRARY);
    // target/release/ortolan
    let repository = program.ancestors().nth(3);
    [
        program.parent().map(|folder| folder.join(LIBRARY)),
        Some(fetched(Path::new("."))),
        repository.map(fetched),
        cache.map(|cache| cache.join("ortolan").join(LIBRARY)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_looked_for_where_it_may_be() {
        let places = places(
            Path::new("/src/ortolan/target/release/ortolan"),
            Some(PathBuf::from("/home/ada/.cache")),
        );
        let wanted = [
            "/src/ortolan/target/release",
            "./.cache/onnxruntime",
            "/src/ortolan/.cache/onnxruntime",
            "/home/ada/.cache/ortolan",
        ];
        assert_eq!(places, wanted.map(|folder| Path::new(folder).join(LIBRARY)));
    }
}
