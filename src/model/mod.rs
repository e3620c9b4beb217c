//! The model layer: generation, embeddings, tokenization, slots and adapters. [`request`] has the request and event
//! types; [`load`] opens and loads model files. HTTP and JSON belong to `api` and `server`.

mod adapters;
mod caller;
mod embedding;
mod files;
mod generation;
pub mod load;
mod memory;
mod preparation;
mod preparation_pool;
mod prompts;
mod reasoning;
pub mod request;
mod saved_slots;
mod slots;
mod system_prompt;
mod tokenizer_vocabulary;
mod tools;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::SystemTime;

pub use adapters::{AdapterOptions, AdapterState};
pub use caller::{Caller, KeyId, RequestOwner};
pub use embedding::{Embedding, PendingEmbedding};
pub use generation::Generation;
pub use memory::MemoryEstimate;
pub use preparation_pool::{PreparationPermit, PreparationPool};
pub use request::{
    BatchRequest, ContextOverflow, FinishReason, FunctionDefinition, GenerateError, GenerateEvent,
    GenerateLimits, GenerateOptions, GenerateRequest, GenerationProgress, GenerationSummary,
    GrammarError, GrammarKind, GrammarSource, LineLimits, OutputToken, ProgressEvents, Prompt,
    PromptPiece, Relaxation, SystemPrompt, Timings, TokenLogprob, TokenizeRequest, ToolOptions,
};
use saved_slots::SlotLocks;
pub use saved_slots::{
    SavedSlotError, SlotFileLimits, SlotFolder, SlotReport, remove_partial_slot_files,
};
pub use slots::{Slot, SlotCounts};
pub use tokenizer_vocabulary::TokenizerVocabulary;

use adapters::Adapters;
use files::ModelSource;
use slots::SlotRecords;
use system_prompt::TokenizedSystemPrompt;

use crate::cancel::CancelFlag;
use crate::engine::{AdapterScales, CacheNamespace, EngineHandle, Stats, SubmitError};
pub use crate::engine::{Pooling, SlotError};
use crate::grammar::GrammarCompiler;
use crate::text::{ChatTemplate, Tokenizer};
use crate::token::TokenId;

/// Tokens per cache block, a power of two. On average, half a block per sequence is unused.
pub const BLOCK_TOKENS: usize = 32;

/// State of the server's model since the start of the process.
#[derive(Clone)]
pub enum ModelState {
    /// The model is being downloaded or loaded.
    Loading {
        /// Progress from 0 to 1.
        done: f32,
    },
    /// The model serves requests.
    Ready(Arc<LoadedModel>),
    /// Download or load failed, with the cause. The server does not retry.
    Failed(String),
}

/// Properties of the served model that do not change after loading.
#[derive(Debug, Clone)]
pub struct ModelDetails {
    /// Model name in responses: the alias, or the path as the operator gave it.
    pub name: String,
    /// Path of the model file or folder.
    pub path: PathBuf,
    /// Model family, as in GGUF's `general.architecture`.
    pub architecture: String,
    /// Whether the model generates text; `false` for encoders, which only compute embeddings.
    pub generates: bool,
    /// Whether the model computes embeddings; `false` for an imported graph without an output for hidden states.
    pub embeds: bool,
    /// Vocabulary size in tokens.
    pub vocabulary_size: usize,
    /// Dimension of a hidden state and of an embedding.
    pub hidden_size: usize,
    /// Maximum length of a sequence in tokens, prompt and generated tokens together.
    pub context_tokens: usize,
    /// Context length in tokens that the model was trained with.
    pub trained_context_tokens: usize,
    /// Number of weights.
    pub parameters: u64,
    /// Total size of the model files in bytes.
    pub file_bytes: u64,
    /// Jinja source of the chat template.
    pub chat_template: String,
    /// Text of the beginning-of-text (BOS) token; empty if there is no BOS token.
    pub bos_text: String,
    /// Text of the end-of-text (EOS) token; empty if there is no EOS token.
    pub eos_text: String,
    /// How the hidden states of a prompt are pooled into an embedding.
    pub pooling: Pooling,
    /// Time at which loading finished.
    pub loaded_at: SystemTime,
    /// Number of slots: the maximum number of sequences that run concurrently.
    pub slots: usize,
    /// Capacity of the key-value cache in tokens.
    pub cache_tokens: usize,
    /// Comma-separated names of the devices that compute the model.
    pub device: String,
    /// How attention accesses cached keys and values.
    pub attention: Attention,
    /// Whether a request with the same seed generates the same text in any batch.
    pub deterministic: bool,
}

/// How attention accesses the keys and values of a sequence's earlier tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Paged attention over cache blocks. A step computes all sequences in one batch.
    Paged,
    /// `past` and `present` tensors of an imported graph. A step computes the sequences one by one.
    PastPresent,
    /// No cache (encoders). A step concatenates whole sequences into one tensor.
    Packed,
}

/// A loaded model with its tokenizer, chat template and running engine.
pub struct LoadedModel {
    details: ModelDetails,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    engine: EngineHandle,
    eog_tokens: Arc<[TokenId]>,
    slots: Arc<SlotRecords>,
    slot_locks: SlotLocks,
    system: RwLock<Arc<TokenizedSystemPrompt>>,
    adapters: Adapters,
    source: ModelSource,
    /// Digest of the model, which saved slots contain. Computed at first use because it reads the whole model.
    identity: OnceLock<String>,
    namespace_hashers: [RandomState; 2],
    /// Created for the first grammar because it iterates over the whole vocabulary.
    grammar_compiler: OnceLock<Result<GrammarCompiler, GrammarError>>,
}

impl LoadedModel {
    /// Properties of the model.
    pub fn details(&self) -> &ModelDetails {
        &self.details
    }

    /// Maximum number of generations that run or wait in the queue.
    pub fn max_generations(&self) -> usize {
        let options = self.engine.options();
        options.parallel + options.queue
    }

    fn grammar_compiler(&self) -> Result<&GrammarCompiler, GrammarError> {
        let compiler = self.grammar_compiler.get_or_init(|| {
            GrammarCompiler::new(Arc::new(TokenizerVocabulary(Arc::clone(&self.tokenizer))))
        });
        compiler.as_ref().map_err(Clone::clone)
    }

    fn generate_error(&self, error: &SubmitError) -> GenerateError {
        match *error {
            SubmitError::QueueFull { waiting } => GenerateError::QueueFull { waiting },
            SubmitError::TooLong {
                prompt_tokens,
                context_tokens,
            } => GenerateError::PromptTooLong {
                prompt_tokens,
                context_tokens,
            },
            SubmitError::Empty => GenerateError::EmptyPrompt,
            SubmitError::UnknownSlot(slot) => GenerateError::UnknownSlot {
                slot,
                slots: self.details.slots,
            },
            SubmitError::Stopped => match self.engine.stats().death_reason {
                Some(cause) => GenerateError::EngineEnded(cause),
                None => GenerateError::Stopping,
            },
        }
    }

    /// Returns the cache namespace for an API key, a salt and adapter scales. The hash keys are random per process, so
    /// that clients cannot construct collisions between namespaces.
    fn cache_namespace_of(
        &self,
        key: Option<KeyId>,
        salt: Option<&str>,
        adapters: &AdapterScales,
    ) -> CacheNamespace {
        let adapters: Vec<(usize, u32)> = adapters
            .iter()
            .map(|(adapter, scale)| (adapter, scale.to_bits()))
            .collect();
        if key.is_none() && salt.is_none() && adapters.is_empty() {
            return CacheNamespace::default();
        }
        let hash = |state: &RandomState| state.hash_one((key, salt, &adapters));
        let [high, low] = self.namespace_hashers.each_ref().map(hash);
        CacheNamespace(u128::from(high) << 64 | u128::from(low))
    }

    /// Tokenizes texts; token ids pass through unchanged.
    ///
    /// # Errors
    /// If a token id is not in the vocabulary, or `cancel` is set.
    pub fn tokenize(
        &self,
        request: &TokenizeRequest,
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let tokens = self.encode_pieces(&request.content, request.special, cancel)?;
        let adds_bos = request.add_bos && self.tokenizer.adds_bos();
        let bos = self.tokenizer.bos().filter(|_| adds_bos);
        Ok(bos.into_iter().chain(tokens).collect())
    }

    /// Returns the bytes of a token, possibly a partial character; empty if the id is not in the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.tokenizer.token_bytes(token).unwrap_or_default()
    }

    /// Decodes tokens to text. Fails if an id is not in the vocabulary.
    pub fn detokenize(&self, tokens: &[TokenId]) -> Result<String, GenerateError> {
        self.tokenizer
            .decode(tokens)
            .map_err(|unknown| self.unknown_token(unknown.0))
    }

    /// Returns the state of each slot with its running or last sequence.
    pub fn slots(&self) -> Vec<Slot> {
        self.slots.with_stats(&self.engine.stats())
    }

    /// Returns a snapshot of the engine's statistics.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Returns the numbers of idle and processing slots.
    ///
    /// # Errors
    /// If the engine has stopped. The error is the cause.
    pub fn health(&self) -> Result<SlotCounts, String> {
        let stats = self.engine.stats();
        match stats.death_reason {
            Some(cause) => Err(cause),
            None => {
                let processing = stats.slots.iter().flatten().count();
                Ok(SlotCounts {
                    idle: stats.slots.len() - processing,
                    processing,
                })
            }
        }
    }

    /// Ends all generations after the current step.
    pub fn stop(&self) {
        self.engine.stop();
    }
}
