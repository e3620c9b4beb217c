//! From a path to a loaded model: first what a look at the header shows, then the slow part.

use std::hash::RandomState;
use std::path::Path;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::slots::SlotRecords;
use super::system_prompt::SystemTokens;
use super::{LoadedModel, ModelDetails, Pooling, SystemPrompt};
use crate::engine::{self, EngineOptions};
pub use crate::gguf::FileAccess;
use crate::gguf::{Gguf, Metadata, MetadataError, Optional};
use crate::graph::ModelFile;
use crate::machine;
pub use crate::runtime::SessionOptions;
use crate::runtime::{Decoder, KvCache};
use crate::text::{
    ChatTemplate, NamedInfillTokens, TokenKind, Tokenizer, Vocabulary, predefined, predefined_names,
};
use crate::token::TokenId;

/// Tokens of a cache block: a power of two that wastes half a block per sequence on average.
pub const BLOCK_TOKENS: usize = 32;

/// Most tokens that a context may be asked to have.
pub const MAX_CONTEXT_TOKENS: usize = 1 << 20;

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
    /// How large the key-value cache is.
    pub cache: CacheSize,
    /// How the file comes into memory.
    pub access: FileAccess,
    /// Whether nothing is swapped out once it is loaded.
    pub lock_memory: bool,
    /// Who computes.
    pub session: SessionOptions,
    /// A template instead of the file's.
    pub chat_template: Option<String>,
    /// What comes before every prompt.
    pub system_prompt: SystemPrompt,
    /// How embeddings are made instead of how the file says.
    pub pooling: Option<Pooling>,
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
    file: ModelFile,
    details: ModelDetails,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    system: SystemTokens,
    engine: EngineOptions,
    session: SessionOptions,
    lock_memory: bool,
}

impl LoadOptions {
    /// Checks what can be known before the file is here.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
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
            anyhow::bail!("«{text}» is no Jinja template and the name of none; names: {names}")
        }
    }
}

/// Opens the GGUF file at `path` and checks everything that can be known without computing.
///
/// # Errors
/// What is wrong, with the file's path.
pub fn inspect(path: &Path, options: LoadOptions) -> anyhow::Result<Inspected> {
    let gguf = Gguf::open(path, options.access)?;
    let named = || path.display().to_string();
    let file = ModelFile::new(path.to_owned(), gguf).with_context(named)?;
    let metadata = file.gguf.metadata();
    let vocabulary = vocabulary(metadata).with_context(named)?;
    let end = vocabulary.end;
    let tokenizer = Tokenizer::new(vocabulary)
        .with_context(|| format!("{}: the vocabulary cannot be used", path.display()))?;

    let text_of = |token: Option<TokenId>| {
        let bytes = token.and_then(|token| tokenizer.token_bytes(token));
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    };
    let beginning_text = text_of(tokenizer.beginning());
    let end_text = text_of(end);
    let source = match &options.chat_template {
        Some(source) => Some(source.as_str()),
        None => metadata.string("tokenizer.chat_template").optional()?,
    };
    let template = ChatTemplate::new(source, &beginning_text, &end_text)
        .with_context(|| format!("{}: the chat template cannot be used", path.display()))?;

    let shape = file.architecture.shape();
    let pooling = match options.pooling {
        Some(pooling) => pooling,
        None => pooling(metadata, file.architecture.name()).with_context(named)?,
    };
    let context_tokens = options.context_tokens.unwrap_or(shape.trained_context);
    ensure!(
        context_tokens <= MAX_CONTEXT_TOKENS,
        "a context of {context_tokens} tokens is more than {MAX_CONTEXT_TOKENS}"
    );
    if context_tokens > shape.trained_context {
        tracing::warn!(
            context_tokens,
            trained = shape.trained_context,
            "the context is longer than the model was trained for: expect worse text at its end"
        );
    }
    let system = SystemTokens::new(options.system_prompt.clone(), &tokenizer, context_tokens)?;
    let blocks = blocks(
        &options,
        context_tokens,
        KvCache::bytes_per_token(shape),
        file.gguf.file_bytes(),
    )?;
    let engine = options.engine(context_tokens, blocks);
    engine.check().map_err(anyhow::Error::msg)?;
    Ok(Inspected {
        details: ModelDetails {
            name: options.alias.unwrap_or_else(named),
            path: path.to_owned(),
            architecture: file.architecture.name().to_owned(),
            vocabulary_size: shape.vocabulary,
            hidden_size: shape.hidden,
            context_tokens,
            trained_context_tokens: shape.trained_context,
            parameters: file.parameters(),
            file_bytes: file.gguf.file_bytes(),
            chat_template: template.source().to_owned(),
            beginning_text,
            end_text,
            pooling,
            loaded_at: SystemTime::now(),
            slots: options.parallel,
            cache_tokens: engine.blocks * BLOCK_TOKENS,
            device: "cpu".to_owned(),
            // `tests/golden_model.rs` holds it.
            deterministic: true,
        },
        session: options.session,
        lock_memory: options.lock_memory,
        file,
        tokenizer,
        template,
        system,
        engine,
    })
}

/// The blocks of the cache, if they fit into the machine beside the weights, and a context into them.
fn blocks(
    options: &LoadOptions,
    context_tokens: usize,
    token_bytes: u64,
    weight_bytes: u64,
) -> anyhow::Result<usize> {
    let block_bytes = token_bytes * BLOCK_TOKENS as u64;
    let blocks = match options.cache {
        CacheSize::AllContexts => {
            EngineOptions::blocks_for_all(options.parallel, context_tokens, BLOCK_TOKENS)
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
            file,
            mut details,
            tokenizer,
            template,
            system,
            engine: options,
            session,
            lock_memory,
        } = self;
        let decoder = Decoder::load(
            &file,
            &session,
            options.context_tokens,
            options.blocks,
            options.block_tokens,
            progress,
        )?;
        if lock_memory {
            match machine::lock_memory() {
                Ok(()) => tracing::info!("the program's memory stays: nothing is swapped out"),
                Err(error) => tracing::warn!(%error, "the program's memory cannot be locked"),
            }
        }
        let slots = options.parallel;
        let outputs = decoder.outputs();
        let engine = engine::start(Box::new(decoder), outputs, options, Instant::now)
            .map_err(anyhow::Error::msg)?;
        details.loaded_at = SystemTime::now();
        Ok(LoadedModel {
            details,
            end_tokens: tokenizer.end_of_generation().into(),
            tokenizer: Arc::new(tokenizer),
            template,
            engine,
            system: RwLock::new(Arc::new(system)),
            slots: Arc::new(SlotRecords::new(slots)),
            file: file.gguf,
            identity: OnceLock::new(),
            grammars: OnceLock::new(),
            salts: [RandomState::new(), RandomState::new()],
        })
    }
}

/// How the file says that embeddings are made; of the last token where it says nothing.
fn pooling(metadata: &Metadata, architecture: &str) -> anyhow::Result<Pooling> {
    let key = format!("{architecture}.pooling_type");
    // ggml's numbers (`llama_pooling_type`); 0 is that nothing is pooled.
    match metadata.count(&key).optional()? {
        None | Some(0 | 3) => Ok(Pooling::Last),
        Some(1) => Ok(Pooling::Mean),
        Some(2) => Ok(Pooling::First),
        Some(other) => anyhow::bail!("{key} = {other} is not supported"),
    }
}

/// The vocabulary that a header describes.
///
/// # Errors
/// A key that is missing or of the wrong type.
pub fn vocabulary(metadata: &Metadata) -> Result<Vocabulary, MetadataError> {
    let token = |key: &str| -> Result<Option<TokenId>, MetadataError> {
        let number = metadata
            .count(&format!("tokenizer.ggml.{key}"))
            .optional()?;
        Ok(number
            .and_then(|number| u32::try_from(number).ok())
            .map(TokenId))
    };
    // The second name is the older one.
    let either = |key: &str, older: &str| Ok::<_, MetadataError>(token(key)?.or(token(older)?));
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.to_vec();
    let kinds = match metadata.integers("tokenizer.ggml.token_type").optional()? {
        Some(numbers) => numbers.into_iter().map(token_kind).collect(),
        None => vec![TokenKind::Normal; tokens.len()],
    };
    Ok(Vocabulary {
        model: metadata.string("tokenizer.ggml.model")?.to_owned(),
        pre: metadata
            .string("tokenizer.ggml.pre")
            .optional()?
            .unwrap_or("default")
            .to_owned(),
        tokens,
        kinds,
        merges: metadata
            .strings("tokenizer.ggml.merges")
            .optional()?
            .unwrap_or_default()
            .to_vec(),
        beginning: token("bos_token_id")?,
        end: token("eos_token_id")?,
        end_of_turn: token("eot_token_id")?,
        adds_beginning: metadata
            .flag("tokenizer.ggml.add_bos_token")
            .optional()?
            .unwrap_or(false),
        infill: NamedInfillTokens {
            prefix: either("fim_pre_token_id", "prefix_token_id")?,
            suffix: either("fim_suf_token_id", "suffix_token_id")?,
            middle: either("fim_mid_token_id", "middle_token_id")?,
        },
    })
}

/// The kind with ggml's number (`llama_token_type`).
fn token_kind(number: i64) -> TokenKind {
    match number {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Normal,
    }
}
