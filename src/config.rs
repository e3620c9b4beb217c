//! From the command line to the options of each floor, and where to find what was not named.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::api::Endpoints;
use crate::cli::{self, Cli, Device};
use crate::hub::{self, Download, HubOptions, Wanted};
use crate::model::load::{self, CacheSize, LoadOptions};
use crate::model::{self, GenerateLimits, SystemPrompt};
use crate::server::{Keys, ServeOptions, Tls};
use crate::web::Pages;

/// Most threads that compute: more than any machine has cores.
const MAX_THREADS: usize = 1024;

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
    /// What is answered of what not every server answers.
    pub endpoints: Endpoints,
    /// What generations may take, whatever a request says.
    pub limits: GenerateLimits,
    /// How long a client may be silent while it sends a body.
    pub body_idle: Duration,
    /// Where the page comes from.
    pub pages: Pages,
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
        ensure!(
            cli.n_gpu_layers == 0,
            "--n-gpu-layers {}: GPUs are not supported yet, only 0",
            cli.n_gpu_layers
        );
        ensure!(
            cli.n_predict >= -1,
            "--n-predict {}: at least -1",
            cli.n_predict
        );
        if let Some(threads) = cli.threads {
            ensure!(
                (1..=MAX_THREADS).contains(&threads),
                "--threads {threads}: from 1 to {MAX_THREADS}"
            );
        }
        match cli.device {
            Device::Auto | Device::Cpu => {}
        }
        if cli.cont_batching {
            tracing::info!("--cont-batching: batching is always continuous");
        }
        if let Some(folder) = &cli.slot_save_path {
            ensure!(
                folder.is_dir(),
                "--slot-save-path {}: it is no folder",
                folder.display()
            );
        }
        let model = model_source(&cli)?;
        let chat_template = match (cli.chat_template, cli.chat_template_file) {
            (Some(text), _) => Some(load::chat_template(text).context("--chat-template")?),
            (None, Some(path)) => Some(
                fs::read_to_string(&path)
                    .with_context(|| format!("--chat-template-file {}", path.display()))?,
            ),
            (None, None) => None,
        };
        ensure!(cli.timeout > 0, "--timeout 0: at least a second");
        let request_timeout = match cli.request_timeout {
            Some(seconds) => {
                let timeout = Duration::try_from_secs_f64(seconds).ok();
                let timeout = timeout.filter(|timeout| !timeout.is_zero());
                ensure!(
                    timeout.is_some(),
                    "--request-timeout {seconds}: more than 0 seconds"
                );
                timeout
            }
            None => None,
        };
        let tls = match (cli.ssl_cert_file, cli.ssl_key_file) {
            (Some(certificate), Some(key)) => Some(Arc::new(Tls::new(certificate, key)?)),
            // Neither: the command line has both or none.
            _ => None,
        };
        let idle = Duration::from_secs(cli.timeout);
        Ok(Self {
            model,
            load: LoadOptions {
                alias: cli.alias,
                context_tokens: Some(cli.ctx_size).filter(|tokens| *tokens > 0),
                parallel: cli.parallel,
                queue: cli
                    .queue
                    .unwrap_or(cli.parallel.saturating_mul(4).saturating_add(64)),
                step_tokens: cli.ubatch_size,
                batch_tokens: cli.batch_size,
                step_duration: Duration::from_millis(cli.step_ms),
                cache: match (cli.cache_tokens, cli.memory_budget) {
                    (Some(tokens), _) => CacheSize::Tokens(tokens),
                    (None, Some(budget)) => CacheSize::Bytes(budget.as_u64()),
                    (None, None) => CacheSize::AllContexts,
                },
                threads: cli.threads,
                onnxruntime: match cli.onnxruntime {
                    Some(path) => path,
                    None => find_onnxruntime()?,
                },
                chat_template,
                system_prompt: match cli.system_prompt_file {
                    Some(path) => system_prompt(&path)
                        .with_context(|| format!("--system-prompt-file {}", path.display()))?,
                    None => SystemPrompt::default(),
                },
                pooling: cli.pooling.map(|pooling| match pooling {
                    cli::Pooling::Mean => model::Pooling::Mean,
                    cli::Pooling::Cls => model::Pooling::First,
                    cli::Pooling::Last => model::Pooling::Last,
                }),
            },
            serve: ServeOptions {
                host: cli.host,
                port: cli.port,
                origins: cli.cors_origin,
                keys: Arc::new(Keys::new(cli.api_key, cli.api_key_file)?),
                tls,
                idle,
                stop_deadline: Duration::from_secs(cli.stop_timeout),
            },
            endpoints: Endpoints {
                slots: !cli.slots_endpoint_disable,
                metrics: cli.metrics,
                embedding: cli.embedding,
                change_props: cli.props,
                slot_files: cli.slot_save_path,
            },
            limits: GenerateLimits {
                max_tokens: usize::try_from(cli.n_predict).ok(),
                timeout: request_timeout,
                context_shift: !cli.no_context_shift,
            },
            body_idle: idle,
            pages: match cli.path {
                Some(folder) => {
                    ensure!(
                        folder.is_dir(),
                        "--path {}: it is no folder",
                        folder.display()
                    );
                    Pages::Folder(folder)
                }
                None => Pages::Own,
            },
        })
    }
}

fn model_source(cli: &Cli) -> anyhow::Result<ModelSource> {
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
                    anyhow::bail!("--hf-file {file}: --hf-repo says «{quant}» already")
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

fn hub_options(cli: &Cli) -> anyhow::Result<HubOptions> {
    let endpoint = hub::web_address(&cli.hf_endpoint).map_err(anyhow::Error::msg);
    let folder = cli.model_cache.clone();
    let folder = folder.or_else(|| Some(cache_folder()?.join("ortolan").join("models")));
    Ok(HubOptions {
        endpoint: endpoint.context("--hf-endpoint")?,
        token: cli.hf_token.clone().filter(|token| !token.is_empty()),
        folder: folder.context("--model-cache: there is no home folder to have one in")?,
        offline: cli.offline,
        pause: FETCH_PAUSE,
    })
}

/// The system prompt of a file: what a request would send as `system_prompt`, with or without that name around it, or a
/// text.
fn system_prompt(path: &Path) -> anyhow::Result<SystemPrompt> {
    let text = fs::read_to_string(path)?;
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
