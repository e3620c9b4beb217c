//! From a path to a loaded model: first what a look at the header shows, then the slow part.

use std::hash::RandomState;
use std::path::Path;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use half::f16;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::adapters::{self, AdapterOptions, Adapters};
pub use super::files::{ModelFiles, ModelSource, vocabulary};
use super::saved_slots::SlotLocks;
use super::slots::SlotRecords;
use super::system_prompt::SystemTokens;
use super::{LoadedModel, ModelDetails, Pooling, SystemPrompt};
use crate::engine::{self, EngineOptions, ModelRunner, RunError, WarmUp};
pub use crate::file_bytes::FileAccess;
use crate::gguf;
pub use crate::gguf::quant::Target;
use crate::graph::imported::{ImportedAttention, PastElement};
use crate::machine;
use crate::runtime::{Decoder, Device, Encoder, PastPresent};
pub use crate::runtime::{DeviceChoice, DeviceOptions, SessionOptions, forbid_telemetry};
use crate::text::{ChatTemplate, Tokenizer, Vocabulary, predefined, predefined_names};
use crate::token::TokenId;

/// Tokens of a cache block: a power of two that wastes half a block per sequence on average.
pub const BLOCK_TOKENS: usize = 32;

/// Most tokens that a context may be asked to have.
pub const MAX_CONTEXT_TOKENS: usize = 1 << 20;

/// Checks that a file that was fetched is a complete GGUF file. The error says what is wrong with it.
pub fn check_gguf(path: &Path) -> Result<(), String> {
    gguf::check(path).map_err(|error| error.to_string())
}

/// How a model is to be loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The name in answers, instead of the path.
    pub alias: Option<String>,
    /// Tokens a sequence may have; `None` is what the model was trained with.
    pub context_tokens: Option<usize>,
    /// Sequences that run at once.
    pub parallel: usize,
    /// Requests that may wait beside them.
    pub queue: usize,
    /// Most tokens of a step.
    pub step_tokens: usize,
    /// Most tokens that one sequence has in a step.
    pub batch_tokens: usize,
    /// How long a step may take while a sequence waits for its next token.
    pub step_duration: Duration,
    /// Share of the time that prompts have at least while sequences decode: greater than 0, less than 1.
    pub prefill_share: f64,
    /// How large the key-value cache is.
    pub cache: CacheSize,
    /// How the file comes into memory.
    pub access: FileAccess,
    /// Whether nothing is swapped out once it is loaded.
    pub lock_memory: bool,
    /// Who computes.
    pub session: SessionOptions,
    /// What matrices of floats are multiplied as, if not as they are.
    pub quantize: Option<Target>,
    /// A template instead of the file's.
    pub chat_template: Option<String>,
    /// What comes before every prompt.
    pub system_prompt: SystemPrompt,
    /// How embeddings are made instead of how the file says.
    pub pooling: Option<Pooling>,
    /// What is added to its products.
    pub adapters: AdapterOptions,
}

/// How large the key-value cache is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSize {
    /// Every slot can fill its context.
    AllContexts,
    /// So many tokens.
    Tokens(usize),
    /// As many tokens as fit into so many bytes.
    Bytes(u64),
}

/// A model whose header was found to be in order.
pub struct Inspected {
    source: ModelSource,
    adapters: Adapters,
    details: ModelDetails,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    system: SystemTokens,
    engine: EngineOptions,
    session: SessionOptions,
    lock_memory: bool,
}

impl LoadOptions {
    /// Checks what can be known before the file is here, loading ONNX Runtime's library.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
        self.session.check_library()?;
        if let Some(source) = &self.chat_template {
            ChatTemplate::new(Some(source), "", "")?;
        }
        let context_tokens = self.context_tokens.unwrap_or(1);
        let blocks = match self.cache {
            CacheSize::Tokens(tokens) => tokens / BLOCK_TOKENS,
            // How much they take depends on the model.
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

/// The Jinja template that a text means: itself, or the one of which it is the name.
///
/// # Errors
/// It is neither; all names are told.
pub fn chat_template(text: String) -> anyhow::Result<String> {
    if text.contains('{') {
        return Ok(text);
    }
    match predefined(&text) {
        Some(template) => Ok(template.to_owned()),
        None => {
            let names = predefined_names().collect::<Vec<_>>().join(", ");
            anyhow::bail!("\"{text}\" is no Jinja template and the name of none; names: {names}")
        }
    }
}

/// What a model's texts go through.
pub struct ModelText {
    /// Cuts them into tokens.
    pub tokenizer: Tokenizer,
    /// Writes conversations.
    pub template: ChatTemplate,
    /// How the token is spelt that begins a text.
    pub beginning: String,
    /// How the token is spelt that ends one.
    pub end: String,
}

impl ModelText {
    /// That of the model at `path`, which has so many `tokens`, with this vocabulary and the chat template `source`.
    ///
    /// # Errors
    /// What is wrong, with the file's path.
    pub fn new(
        path: &Path,
        tokens: usize,
        vocabulary: Vocabulary,
        source: Option<&str>,
    ) -> anyhow::Result<Self> {
        let end = vocabulary.end;
        let tokenizer = Tokenizer::new(vocabulary)
            .with_context(|| format!("{}: the vocabulary cannot be used", path.display()))?;
        ensure!(
            tokenizer.vocabulary_size() <= tokens,
            "{}: the tokenizer has {} tokens, the model {tokens}",
            path.display(),
            tokenizer.vocabulary_size(),
        );
        let text_of = |token: Option<TokenId>| {
            let bytes = token.and_then(|token| tokenizer.token_bytes(token));
            String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
        };
        let (beginning, end) = (text_of(tokenizer.beginning()), text_of(end));
        let template = ChatTemplate::new(source, &beginning, &end)
            .with_context(|| format!("{}: the chat template cannot be used", path.display()))?;
        Ok(Self {
            tokenizer,
            template,
            beginning,
            end,
        })
    }
}

/// Opens the model at `path`, a GGUF file, a folder or a graph, and checks everything that can be known without computing.
///
/// # Errors
/// What is wrong, with the file's path.
pub fn inspect(path: &Path, options: LoadOptions) -> anyhow::Result<Inspected> {
    let named = || path.display().to_string();
    let ModelFiles {
        file: source,
        vocabulary,
        chat_template,
        pooling,
    } = ModelFiles::open_any(path, options.access)?;
    let (source, adapters) = changed(source, &options)?;
    let written = options.chat_template.as_ref().or(chat_template.as_ref());
    // Half of the time to start: the tokenizer's tables, and beside them the runtime's library.
    let (text, devices) = rayon::join(
        || {
            let written = written.map(String::as_str);
            ModelText::new(source.path(), source.vocabulary(), vocabulary, written)
        },
        || devices(&source, &options.session),
    );
    let ModelText {
        tokenizer,
        template,
        beginning: beginning_text,
        end: end_text,
    } = text?;
    let devices = devices?;
    let generates = source.generates();
    let trained_context = source.trained_context();
    let context_tokens = options.context_tokens.unwrap_or(trained_context);
    ensure!(
        context_tokens <= MAX_CONTEXT_TOKENS,
        "a context of {context_tokens} tokens is more than {MAX_CONTEXT_TOKENS}"
    );
    let context_tokens = context_tokens.min(source.longest_context().unwrap_or(usize::MAX));
    if context_tokens > trained_context {
        tracing::warn!(
            context_tokens,
            trained = trained_context,
            "the context is longer than the model was trained for: expect worse text at its end"
        );
    }
    let system = SystemTokens::new(options.system_prompt.clone(), &tokenizer, context_tokens)?;
    let cache = match generates {
        true => (options.cache, source.cache_bytes_per_token()),
        // It keeps nothing.
        false => (CacheSize::AllContexts, 0),
    };
    let weight_bytes = source.weight_bytes(context_tokens);
    let blocks = blocks(options.parallel, context_tokens, cache, weight_bytes)?;
    let engine = EngineOptions {
        whole_prompts: !generates,
        ..options.engine(context_tokens, blocks)
    };
    engine.check().map_err(anyhow::Error::msg)?;
    Ok(Inspected {
        details: ModelDetails {
            name: options.alias.unwrap_or_else(named),
            path: path.to_owned(),
            architecture: source.family().to_owned(),
            generates,
            embeds: source.embeds(),
            vocabulary_size: source.vocabulary(),
            hidden_size: source.hidden(),
            context_tokens,
            trained_context_tokens: trained_context,
            parameters: source.parameters(),
            file_bytes: source.file_bytes(),
            chat_template: template.source().to_owned(),
            beginning_text,
            end_text,
            pooling: options.pooling.or(pooling).unwrap_or(match generates {
                true => Pooling::Last,
                // As sentence-transformers does.
                false => Pooling::Mean,
            }),
            loaded_at: SystemTime::now(),
            slots: options.parallel,
            cache_tokens: match generates {
                true => engine.blocks * BLOCK_TOKENS,
                false => 0,
            },
            device: names(&devices),
            attention: source.attention(),
            // `tests/golden_model.rs` and `tests/exports.rs` hold it; of GPUs nothing is known.
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

/// The device of each session that the model is computed in.
///
/// # Errors
/// The library or a device cannot be used.
fn devices(source: &ModelSource, session: &SessionOptions) -> anyhow::Result<Vec<Device>> {
    // Before the server listens: a wrong library cannot be retried.
    session.check_library()?;
    let options = &session.devices;
    let layers = match source {
        ModelSource::Tensors(file) => match file.architecture.decoder() {
            Some(shape) => shape.layers,
            None => return options.only_cpu("an encoder"),
        },
        ModelSource::Imported(_) => return options.only_cpu("a graph that was exported"),
    };
    let divided = options.divide(&session.library, layers)?;
    let all_on_cpu = divided.iter().all(|part| part.device == Device::Cpu);
    if let (DeviceChoice::Auto, Some(1..), true) = (options.choice, options.layers, all_on_cpu) {
        tracing::warn!("--n-gpu-layers: no GPU can be had, all layers are on the CPU");
    }
    Ok(divided.into_iter().map(|part| part.device).collect())
}

fn names(devices: &[Device]) -> String {
    let names: Vec<String> = devices.iter().map(Device::to_string).collect();
    names.join(", ")
}

/// The model as it is to be: quantised, with adapters.
///
/// # Errors
/// An adapter that does not fit; a graph that others exported, which stays as it is.
fn changed(source: ModelSource, options: &LoadOptions) -> anyhow::Result<(ModelSource, Adapters)> {
    let file = match source {
        ModelSource::Tensors(file) => file,
        ModelSource::Imported(model) => {
            let AdapterOptions { files, base, .. } = &options.adapters;
            ensure!(
                options.quantize.is_none() && files.is_empty() && base.is_none(),
                "{}: a graph that was exported is neither quantised nor changed by adapters",
                model.path.display()
            );
            return Ok((ModelSource::Imported(model), Adapters::default()));
        }
    };
    let file = match options.quantize {
        Some(target) => file.quantised(target),
        None => file,
    };
    let (file, adapters) = adapters::open(file, &options.adapters, options.access)?;
    Ok((ModelSource::Tensors(file), adapters))
}

/// Who computes a model, with a cache of `blocks` blocks for sequences of up to `context_tokens` tokens. `progress` hears the
/// share that is done, from 0 to 1.
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
                PastElement::F32 => Box::new(PastPresent::<f32>::load(
                    model,
                    session,
                    blocks,
                    BLOCK_TOKENS,
                    progress,
                )?),
                PastElement::F16 => Box::new(PastPresent::<f16>::load(
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

/// Whether loading failed because the model computes nothing: the same file fails again.
pub fn cannot_compute(error: &anyhow::Error) -> bool {
    error.downcast_ref::<RunError>().is_some()
}

/// The blocks of the cache, if they fit into the machine beside the weights, and a context into them.
fn blocks(
    parallel: usize,
    context_tokens: usize,
    (cache, token_bytes): (CacheSize, u64),
    weight_bytes: u64,
) -> anyhow::Result<usize> {
    let block_bytes = token_bytes * BLOCK_TOKENS as u64;
    let blocks = match cache {
        CacheSize::AllContexts => {
            EngineOptions::blocks_for_all(parallel, context_tokens, BLOCK_TOKENS)
        }
        CacheSize::Tokens(tokens) => tokens / BLOCK_TOKENS,
        CacheSize::Bytes(bytes) => {
            let blocks = bytes / block_bytes;
            let context_bytes = token_bytes * context_tokens as u64;
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
        "a key-value cache of {} tokens takes {} and the weights at least {}, but {} of memory are available: \
         make the context smaller, run fewer sequences at once, or share a smaller cache among them",
        blocks.saturating_mul(BLOCK_TOKENS),
        ByteSize(cache_bytes).display().iec(),
        ByteSize(weight_bytes).display().iec(),
        ByteSize(available).display().iec(),
    );
    Ok(blocks)
}

/// Bytes that this process may still take: the machine's, or its control group's. No limit, where the system
/// does not tell.
fn available_memory() -> u64 {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(memory) else {
        return u64::MAX;
    };
    let group = system.cgroup_limits().map(|limits| limits.free_memory);
    system.available_memory().min(group.unwrap_or(u64::MAX))
}

impl Inspected {
    /// What is known before loading.
    pub fn details(&self) -> &ModelDetails {
        &self.details
    }

    /// Loads: seconds of work on this thread. `progress` hears the share that is done, from 0 to 1.
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
            token: tokenizer.beginning().unwrap_or(TokenId(0)),
            generates: details.generates,
            embeds: details.embeds,
        };
        let computed = warm_up.run(&mut *runner, &options);
        computed.with_context(|| format!("{}: the warm-up step failed", details.path.display()))?;
        if lock_memory {
            match machine::lock_memory() {
                Ok(()) => tracing::info!("the program's memory stays: nothing is swapped out"),
                Err(error) => tracing::warn!(%error, "the program's memory cannot be locked"),
            }
        }
        let slots = options.parallel;
        let engine = engine::start(runner, options, Instant::now).map_err(anyhow::Error::msg)?;
        details.loaded_at = SystemTime::now();
        Ok(LoadedModel {
            details,
            end_tokens: tokenizer.end_of_generation().into(),
            tokenizer: Arc::new(tokenizer),
            template,
            engine,
            system: RwLock::new(Arc::new(system)),
            slots: Arc::new(SlotRecords::new(slots)),
            slot_locks: SlotLocks::new(slots),
            source,
            adapters,
            identity: OnceLock::new(),
            grammars: OnceLock::new(),
            salts: [RandomState::new(), RandomState::new()],
        })
    }
}
