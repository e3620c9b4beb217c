//! Loads a model in two steps. [`inspect`] checks files and options without computing; [`InspectedModel::load`] creates
//! the ONNX Runtime sessions and starts the engine.

use std::hash::RandomState;
use std::path::Path;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use half::f16;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::adapters::{self, AdapterOptions, Adapters};
pub use super::files::{ModelSource, OpenedModel, vocabulary};
use super::saved_slots::SlotLocks;
use super::slots::SlotRecords;
use super::system_prompt::TokenizedSystemPrompt;
use super::{BLOCK_TOKENS, LoadedModel, ModelDetails, Pooling, SystemPrompt};
use crate::engine::{self, EngineOptions, ModelRunner, RunError, WarmUp};
use crate::file_bytes::FileAccess;
use crate::gguf;
use crate::gguf::quant::QuantizeTarget;
use crate::graph::imported::{ImportedAttention, PastElementType};
use crate::platform;
use crate::runtime::{Decoder, Device, DeviceChoice, Encoder, PastPresent, SessionOptions};
use crate::text::{ChatTemplate, Tokenizer, Vocabulary, predefined, predefined_names};
use crate::token::TokenId;

/// Maximum value of `--ctx-size`, in tokens.
pub const MAX_CONTEXT_TOKENS: usize = 1 << 20;

/// Checks that a file is a complete GGUF file. The error describes the defect.
pub fn check_gguf(path: &Path) -> Result<(), String> {
    gguf::check(path).map_err(|error| error.to_string())
}

/// Options for loading a model. [`LoadOptions::check`] validates those that do not depend on the model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Name of the model in responses; `None` uses the path.
    pub alias: Option<String>,
    /// Context length in tokens; `None` uses the trained context length.
    pub context_tokens: Option<usize>,
    /// Number of slots: the maximum number of sequences that run concurrently.
    pub parallel: usize,
    /// Maximum number of queued sequences.
    pub queue: usize,
    /// Maximum number of tokens per step.
    pub step_tokens: usize,
    /// Maximum number of tokens per sequence and step.
    pub batch_tokens: usize,
    /// Target for the maximum duration of a step while sequences decode.
    pub step_duration: Duration,
    /// Minimum fraction of the time for prefill while sequences decode, between 0 and 1 exclusive.
    pub prefill_share: f64,
    /// Capacity of the key-value cache.
    pub cache: CacheSize,
    /// Whether model files are memory-mapped or read into memory.
    pub access: FileAccess,
    /// Whether to lock the memory of the process after loading, so that it is not swapped out.
    pub lock_memory: bool,
    /// Devices, threads and library of the ONNX Runtime sessions.
    pub session: SessionOptions,
    /// Type to quantize float matrices to; `None` keeps their type.
    pub quantize: Option<QuantizeTarget>,
    /// Jinja source of the chat template; `None` uses the template of the model files.
    pub chat_template: Option<String>,
    /// System prompt of requests that set none.
    pub system_prompt: SystemPrompt,
    /// Pooling of embeddings; `None` uses the pooling that the model files specify.
    pub pooling: Option<Pooling>,
    /// Low-rank (LoRA) adapters to load with the model.
    pub adapters: AdapterOptions,
}

/// Size of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSize {
    /// Enough tokens for the full context of every slot.
    AllContexts,
    /// Number of tokens.
    Tokens(usize),
    /// Maximum number of bytes.
    Bytes(u64),
}

/// A model whose files and options are valid, before its sessions are created.
pub struct InspectedModel {
    source: ModelSource,
    adapters: Adapters,
    details: ModelDetails,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    system: TokenizedSystemPrompt,
    engine: EngineOptions,
    session: SessionOptions,
    lock_memory: bool,
}

impl LoadOptions {
    /// Checks the options that do not depend on the model files, and loads the ONNX Runtime library.
    ///
    /// # Errors
    /// If an option is invalid or the library cannot be loaded.
    pub fn check(&self) -> anyhow::Result<()> {
        self.session.check_library()?;
        if let Some(source) = &self.chat_template {
            ChatTemplate::new(Some(source), "", "")?;
        }
        let context_tokens = self.context_tokens.unwrap_or(1);
        let blocks = match self.cache {
            CacheSize::Tokens(tokens) => tokens / BLOCK_TOKENS,
            // Here the number of blocks depends on the model, so the smallest valid one is checked.
            CacheSize::AllContexts | CacheSize::Bytes(_) => context_tokens.div_ceil(BLOCK_TOKENS),
        };
        let engine = self.engine(context_tokens, blocks);
        engine.check().map_err(anyhow::Error::msg)
    }

    fn engine(&self, context_tokens: usize, blocks: usize) -> EngineOptions {
        EngineOptions {
            parallel: self.parallel,
            queue: self.queue,
            step_tokens: self.step_tokens,
            context_tokens,
            batch_tokens: self.batch_tokens,
            step_duration: self.step_duration,
            prefill_share: self.prefill_share,
            whole_prompts: false,
            blocks,
            block_tokens: BLOCK_TOKENS,
        }
    }
}

/// Returns the template for a value of `--chat-template`: a Jinja template or the name of a predefined one.
///
/// # Errors
/// If the text is neither. The message lists the names.
pub fn resolve_chat_template(text: String) -> anyhow::Result<String> {
    if text.contains('{') {
        return Ok(text);
    }
    match predefined(&text) {
        Some(template) => Ok(template.to_owned()),
        None => {
            let names = predefined_names().collect::<Vec<_>>().join(", ");
            anyhow::bail!("\"{text}\" is neither a Jinja template nor a predefined name: {names}")
        }
    }
}

/// The tokenizer and the chat template of a model.
pub struct TextProcessor {
    /// Tokenizer of the vocabulary.
    pub tokenizer: Tokenizer,
    /// Template that renders conversations as prompts.
    pub template: ChatTemplate,
    /// Text of the beginning-of-text token; empty if the vocabulary has no such token.
    pub bos_text: String,
    /// Text of the end-of-text token; empty if the vocabulary has no such token.
    pub eos_text: String,
}

impl TextProcessor {
    /// Creates the tokenizer and the chat template. `source` is the Jinja source, `path` the model's path for error
    /// messages, and `model_tokens` the number of rows of the embedding matrix.
    ///
    /// # Errors
    /// If the vocabulary or the chat template is invalid, or the vocabulary has more than `model_tokens` tokens.
    pub fn new(
        path: &Path,
        model_tokens: usize,
        vocabulary: Vocabulary,
        source: Option<&str>,
    ) -> anyhow::Result<Self> {
        let eos = vocabulary.eos;
        let tokenizer = Tokenizer::new(vocabulary)
            .with_context(|| format!("{}: invalid vocabulary", path.display()))?;
        ensure!(
            tokenizer.vocabulary_size() <= model_tokens,
            "{}: the tokenizer has {} tokens, but the model only {model_tokens}",
            path.display(),
            tokenizer.vocabulary_size(),
        );
        let text_of = |token: Option<TokenId>| {
            let bytes = token.and_then(|token| tokenizer.token_bytes(token));
            String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
        };
        let (bos_text, eos_text) = (text_of(tokenizer.bos()), text_of(eos));
        let template = ChatTemplate::new(source, &bos_text, &eos_text)
            .with_context(|| format!("cannot load {}", path.display()))?;
        Ok(Self {
            tokenizer,
            template,
            bos_text,
            eos_text,
        })
    }
}

/// Opens the model at `path` (a GGUF file, a folder or an ONNX graph) and checks files and options without computing.
///
/// # Errors
/// If a file or an option is invalid, or the memory is too small. The message has the path.
pub fn inspect(path: &Path, options: LoadOptions) -> anyhow::Result<InspectedModel> {
    let display_path = || path.display().to_string();
    let OpenedModel {
        file: source,
        vocabulary,
        chat_template,
        pooling,
    } = OpenedModel::open_any(path, options.access)?;
    let (source, adapters) = apply(source, &options)?;
    let jinja = options.chat_template.as_ref().or(chat_template.as_ref());
    // These two steps take most of the start time, so they run in parallel.
    let (text, devices) = rayon::join(
        || {
            let jinja = jinja.map(String::as_str);
            TextProcessor::new(source.path(), source.vocabulary_size(), vocabulary, jinja)
        },
        || session_devices(&source, &options.session),
    );
    let TextProcessor {
        tokenizer,
        template,
        bos_text,
        eos_text,
    } = text?;
    let devices = devices?;
    let generates = source.generates();
    let trained_context_tokens = source.trained_context_tokens();
    let context_tokens = options.context_tokens.unwrap_or(trained_context_tokens);
    ensure!(
        context_tokens <= MAX_CONTEXT_TOKENS,
        "a context of {context_tokens} tokens is too long: the maximum is {MAX_CONTEXT_TOKENS}"
    );
    let context_tokens = context_tokens.min(source.max_context_tokens().unwrap_or(usize::MAX));
    if context_tokens > trained_context_tokens {
        tracing::warn!(
            context_tokens,
            trained = trained_context_tokens,
            "the context is longer than the trained context: expect lower quality beyond it"
        );
    }
    let system =
        TokenizedSystemPrompt::new(options.system_prompt.clone(), &tokenizer, context_tokens)?;
    let cache = match generates {
        true => (options.cache, source.cache_bytes_per_token()),
        // An encoder has no cache.
        false => (CacheSize::AllContexts, 0),
    };
    let weight_bytes = source.weight_bytes(context_tokens);
    let blocks = cache_blocks(options.parallel, context_tokens, cache, weight_bytes)?;
    let engine = EngineOptions {
        whole_prompts: !generates,
        ..options.engine(context_tokens, blocks)
    };
    engine.check().map_err(anyhow::Error::msg)?;
    Ok(InspectedModel {
        details: ModelDetails {
            name: options.alias.unwrap_or_else(display_path),
            path: path.to_owned(),
            architecture: source.family().to_owned(),
            generates,
            embeds: source.embeds(),
            vocabulary_size: source.vocabulary_size(),
            hidden_size: source.hidden_size(),
            context_tokens,
            trained_context_tokens,
            parameters: source.parameters(),
            file_bytes: source.file_bytes(),
            chat_template: template.source().to_owned(),
            bos_text,
            eos_text,
            pooling: options.pooling.or(pooling).unwrap_or(match generates {
                true => Pooling::Last,
                // The default of sentence-transformers.
                false => Pooling::Mean,
            }),
            loaded_at: SystemTime::now(),
            slots: options.parallel,
            cache_tokens: match generates {
                true => engine.blocks * BLOCK_TOKENS,
                false => 0,
            },
            device: device_names(&devices),
            attention: source.attention(),
            // `tests/golden_model.rs` and `tests/exports.rs` test this for CPUs; GPUs are untested.
            deterministic: devices.iter().all(|device| *device == Device::Cpu),
        },
        session: options.session,
        lock_memory: options.lock_memory,
        source,
        adapters,
        tokenizer,
        template,
        system,
        engine,
    })
}

/// Returns the device of each session. A model whose layers are split between devices has several sessions.
///
/// # Errors
/// If the ONNX Runtime library cannot be loaded or a device is not available.
fn session_devices(source: &ModelSource, session: &SessionOptions) -> anyhow::Result<Vec<Device>> {
    // Checked before the server listens, because a process cannot load another library later.
    session.check_library()?;
    let options = &session.devices;
    let layers = match source {
        ModelSource::Tensors(file) => match file.architecture.decoder() {
            Some(shape) => shape.layers,
            None => return options.require_cpu("an encoder"),
        },
        ModelSource::Imported(_) => return options.require_cpu("an imported graph"),
    };
    let stages = options.assign_layers(&session.library, layers)?;
    let all_on_cpu = stages.iter().all(|stage| stage.device == Device::Cpu);
    if let (DeviceChoice::Auto, Some(1..), true) =
        (options.choice, options.offloaded_layers, all_on_cpu)
    {
        tracing::warn!("--n-gpu-layers: no GPU is available, all layers run on the CPU");
    }
    Ok(stages.into_iter().map(|stage| stage.device).collect())
}

fn device_names(devices: &[Device]) -> String {
    let names: Vec<String> = devices.iter().map(Device::to_string).collect();
    names.join(", ")
}

/// Applies the quantization and adapter options to the model.
///
/// # Errors
/// If an adapter does not fit the model, or one of these options is set for an imported graph.
fn apply(source: ModelSource, options: &LoadOptions) -> anyhow::Result<(ModelSource, Adapters)> {
    let file = match source {
        ModelSource::Tensors(file) => file,
        ModelSource::Imported(model) => {
            let AdapterOptions { files, base, .. } = &options.adapters;
            ensure!(
                options.quantize.is_none() && files.is_empty() && base.is_none(),
                "{}: quantization and adapters are not supported for exported graphs",
                model.path.display()
            );
            return Ok((ModelSource::Imported(model), Adapters::default()));
        }
    };
    let file = match options.quantize {
        Some(target) => file.quantized_to(target),
        None => file,
    };
    let (file, adapters) = adapters::open(file, &options.adapters, options.access)?;
    Ok((ModelSource::Tensors(file), adapters))
}

/// Creates the model runner with a cache of `blocks` blocks, for sequences of up to `context_tokens` tokens. `progress`
/// receives the fraction that is loaded, from 0 to 1.
pub fn runner(
    source: &ModelSource,
    session: &SessionOptions,
    context_tokens: usize,
    blocks: usize,
    progress: &dyn Fn(f32),
) -> anyhow::Result<Box<dyn ModelRunner>> {
    Ok(match source {
        ModelSource::Tensors(file) if source.generates() => Box::new(Decoder::load(
            file,
            session,
            context_tokens,
            blocks,
            BLOCK_TOKENS,
            progress,
        )?),
        ModelSource::Tensors(file) => Box::new(Encoder::load(file, session, progress)?),
        ModelSource::Imported(model) => match model.attention {
            ImportedAttention::Paged => Box::new(Decoder::load_imported(
                model,
                session,
                blocks,
                BLOCK_TOKENS,
                progress,
            )?),
            ImportedAttention::PastPresent { element, .. } => match element {
                PastElementType::F32 => Box::new(PastPresent::<f32>::load(
                    model,
                    session,
                    blocks,
                    BLOCK_TOKENS,
                    progress,
                )?),
                PastElementType::F16 => Box::new(PastPresent::<f16>::load(
                    model,
                    session,
                    blocks,
                    BLOCK_TOKENS,
                    progress,
                )?),
            },
        },
    })
}

/// Whether loading failed because a step of the model failed. A retry would fail in the same way.
pub fn is_compute_failure(error: &anyhow::Error) -> bool {
    error.downcast_ref::<RunError>().is_some()
}

/// Returns the number of cache blocks.
///
/// # Errors
/// If the cache is too small for one context, or cache and weights exceed the available memory.
fn cache_blocks(
    parallel: usize,
    context_tokens: usize,
    (cache, bytes_per_token): (CacheSize, u64),
    weight_bytes: u64,
) -> anyhow::Result<usize> {
    let block_bytes = bytes_per_token * BLOCK_TOKENS as u64;
    let blocks = match cache {
        CacheSize::AllContexts => {
            EngineOptions::blocks_for_all(parallel, context_tokens, BLOCK_TOKENS)
        }
        CacheSize::Tokens(tokens) => tokens / BLOCK_TOKENS,
        CacheSize::Bytes(bytes) => {
            let blocks = bytes / block_bytes;
            let context_bytes = bytes_per_token * context_tokens as u64;
            ensure!(
                blocks >= context_tokens.div_ceil(BLOCK_TOKENS) as u64,
                "a cache of {} has no room for one context of {context_tokens} tokens, which takes {}",
                ByteSize(bytes).display().iec(),
                ByteSize(context_bytes).display().iec(),
            );
            blocks as usize
        }
    };
    let cache_bytes = (blocks as u64).saturating_mul(block_bytes);
    let available = available_memory();
    ensure!(
        cache_bytes.saturating_add(weight_bytes) <= available,
        "not enough memory: the key-value cache of {} tokens takes {}, the weights at least {}, but {} are available; \
         reduce the context (--ctx-size), the number of slots (--parallel) or the cache (--cache-tokens)",
        blocks.saturating_mul(BLOCK_TOKENS),
        ByteSize(cache_bytes).display().iec(),
        ByteSize(weight_bytes).display().iec(),
        ByteSize(available).display().iec(),
    );
    Ok(blocks)
}

/// Returns the available memory in bytes: the smaller value of the machine's and the control group's. Returns
/// `u64::MAX` if the system does not report it.
fn available_memory() -> u64 {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(memory) else {
        return u64::MAX;
    };
    let group = system.cgroup_limits().map(|limits| limits.free_memory);
    system.available_memory().min(group.unwrap_or(u64::MAX))
}

impl InspectedModel {
    /// Properties of the model.
    pub fn details(&self) -> &ModelDetails {
        &self.details
    }

    /// Creates the sessions and starts the engine. Blocks this thread for seconds. `progress` receives the fraction
    /// that is loaded, from 0 to 1.
    pub fn load(self, progress: &dyn Fn(f32)) -> anyhow::Result<LoadedModel> {
        let Self {
            source,
            adapters,
            mut details,
            tokenizer,
            template,
            system,
            engine: options,
            session,
            lock_memory,
        } = self;
        let mut runner = runner(
            &source,
            &session,
            options.context_tokens,
            options.blocks,
            progress,
        )?;
        let warm_up = WarmUp {
            token: tokenizer.bos().unwrap_or(TokenId(0)),
            generates: details.generates,
            embeds: details.embeds,
        };
        let computed = warm_up.run(&mut *runner, &options);
        computed.with_context(|| format!("{}: the warm-up step failed", details.path.display()))?;
        if lock_memory {
            match platform::lock_memory() {
                Ok(()) => tracing::info!("locked the memory of the process"),
                Err(error) => tracing::warn!(%error, "cannot lock the memory of the process"),
            }
        }
        let slots = options.parallel;
        let engine = engine::start(runner, options, Instant::now).map_err(anyhow::Error::msg)?;
        details.loaded_at = SystemTime::now();
        Ok(LoadedModel {
            details,
            eog_tokens: tokenizer.eog_tokens().into(),
            tokenizer: Arc::new(tokenizer),
            template,
            engine,
            system: RwLock::new(Arc::new(system)),
            slots: Arc::new(SlotRecords::new(slots)),
            slot_locks: SlotLocks::new(slots),
            source,
            adapters,
            identity: OnceLock::new(),
            grammar_compiler: OnceLock::new(),
            namespace_hashers: [RandomState::new(), RandomState::new()],
        })
    }
}
