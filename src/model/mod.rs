//! A loaded model, in the words of text: generate, tokenize, detokenize. What is asked and answered is
//! in [`request`]; how a path becomes a model is in [`load`]. HTTP is somebody else's.

mod adapters;
mod caller;
mod embedding;
mod files;
mod generation;
mod grammar_words;
pub mod load;
mod memory;
mod preparation;
mod preparations;
mod prompts;
pub mod request;
mod saved_slots;
mod slots;
mod system_prompt;
mod thoughts;
mod tools;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::SystemTime;

pub use adapters::{AdapterOptions, AdapterState};
pub use caller::{Caller, KeyId, RequestOwner};
pub use embedding::{Embedding, PendingEmbedding};
pub use generation::Generation;
pub use grammar_words::GrammarWords;
pub use memory::MemoryNeed;
pub use preparations::{Admitted, Preparations};
pub use request::{
    AnswerToken, BatchRequest, FinishReason, Function, GenerateError, GenerateEvent,
    GenerateLimits, GenerateOptions, GenerateRequest, GenerationProgress, GrammarError,
    GrammarKind, GrammarSource, LineLimits, ProgressEvents, Prompt, PromptPiece, Relaxation,
    Summary, Timings, TokenLogprob, TokenizeRequest, ToolUse, WhenFull,
};
use saved_slots::SlotLocks;
pub use saved_slots::{SavedSlotError, SlotFileLimits, SlotFolder, SlotReport, remove_slot_parts};
pub use slots::{Slot, SlotCounts};

pub use system_prompt::SystemPrompt;

use adapters::Adapters;
use files::ModelSource;
use slots::SlotRecords;
use system_prompt::SystemTokens;

use crate::cancel::CancelFlag;
use crate::engine::{AdapterScales, EngineHandle, PrefixRoot, Stats, SubmitError};
pub use crate::engine::{Pooling, SlotError};
use crate::grammar::GrammarCompiler;
use crate::text::{ChatTemplate, Tokenizer};
use crate::token::TokenId;

/// What a server has of its model, from the first moment on.
#[derive(Clone)]
pub enum ModelState {
    /// Not yet.
    Loading {
        /// The share that is done, from 0 to 1.
        done: f32,
    },
    /// Ready to generate.
    Ready(Arc<LoadedModel>),
    /// It will not be, and why.
    Failed(String),
}

/// What is known about a model.
#[derive(Debug, Clone)]
pub struct ModelDetails {
    /// Its name in answers: the alias, or the path as it was given.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The family, as in `general.architecture`.
    pub architecture: String,
    /// Whether it goes on with texts; an encoder only makes embeddings of them.
    pub generates: bool,
    /// Whether it makes embeddings; the graph of an export may not tell its hidden states.
    pub embeds: bool,
    /// Tokens of the vocabulary.
    pub vocabulary_size: usize,
    /// Numbers of a hidden state, and of an embedding.
    pub hidden_size: usize,
    /// Tokens a sequence may have.
    pub context_tokens: usize,
    /// Tokens of context the model was trained with.
    pub trained_context_tokens: usize,
    /// Weights.
    pub parameters: u64,
    /// The file's size.
    pub file_bytes: u64,
    /// The chat template's source.
    pub chat_template: String,
    /// The beginning-of-text token, as text; empty if there is none.
    pub beginning_text: String,
    /// The end-of-text token, as text; empty if there is none.
    pub end_text: String,
    /// How a prompt's hidden states become its embedding.
    pub pooling: Pooling,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// Sequences that run at once.
    pub slots: usize,
    /// Tokens of the key-value cache.
    pub cache_tokens: usize,
    /// What computes.
    pub device: String,
    /// How it reads what is past.
    pub attention: Attention,
    /// Whether a request's text depends on nothing but the request and its seed.
    pub deterministic: bool,
}

/// How a model reads what is past of its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// In the blocks of the cache, all sequences of a step at once.
    Paged,
    /// In tensors that a graph of others takes, sequence by sequence.
    PastPresent,
    /// It has no past: whole texts, one behind the other.
    Packed,
}

/// A model that is ready.
pub struct LoadedModel {
    details: ModelDetails,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    engine: EngineHandle,
    end_tokens: Arc<[TokenId]>,
    slots: Arc<SlotRecords>,
    slot_locks: SlotLocks,
    system: RwLock<Arc<SystemTokens>>,
    adapters: Adapters,
    source: ModelSource,
    /// Made when it is first asked for: it reads the whole file.
    identity: OnceLock<String>,
    salts: [RandomState; 2],
    /// Made when the first grammar comes: it walks the whole vocabulary.
    grammars: OnceLock<Result<GrammarCompiler, GrammarError>>,
}

impl LoadedModel {
    /// What is known about it.
    pub fn details(&self) -> &ModelDetails {
        &self.details
    }

    /// How many generations may run or wait at once.
    pub fn places(&self) -> usize {
        let options = self.engine.options();
        options.parallel + options.queue
    }

    fn grammar_compiler(&self) -> Result<&GrammarCompiler, GrammarError> {
        let compiler = self.grammars.get_or_init(|| {
            GrammarCompiler::new(Arc::new(GrammarWords(Arc::clone(&self.tokenizer))))
        });
        compiler.as_ref().map_err(Clone::clone)
    }

    fn refusal(&self, error: &SubmitError) -> GenerateError {
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
            SubmitError::Stopped => match self.engine.stats().dead {
                Some(cause) => GenerateError::EngineEnded(cause),
                None => GenerateError::Stopping,
            },
        }
    }

    /// The cache namespace of a key, a salt and adapters. The hash has a key of this process, so that no client can
    /// make two namespaces meet.
    fn prefix_root(
        &self,
        key: Option<KeyId>,
        salt: Option<&str>,
        adapters: &AdapterScales,
    ) -> PrefixRoot {
        let adapters: Vec<(usize, u32)> = adapters
            .iter()
            .map(|(adapter, scale)| (adapter, scale.to_bits()))
            .collect();
        if key.is_none() && salt.is_none() && adapters.is_empty() {
            return PrefixRoot::default();
        }
        let hash = |state: &RandomState| state.hash_one((key, salt, &adapters));
        let [high, low] = self.salts.each_ref().map(hash);
        PrefixRoot(u128::from(high) << 64 | u128::from(low))
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// If there is an id that is not in the vocabulary.
    pub fn tokenize(
        &self,
        request: &TokenizeRequest,
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let tokens = self.encoded(&request.content, request.special, cancel)?;
        let wanted = request.add_beginning && self.tokenizer.adds_beginning();
        let beginning = self.tokenizer.beginning().filter(|_| wanted);
        Ok(beginning.into_iter().chain(tokens).collect())
    }

    /// What a token spells, perhaps a part of a character; nothing if it is not in the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.tokenizer.token_bytes(token).unwrap_or_default()
    }

    /// The text of tokens.
    pub fn detokenize(&self, tokens: &[TokenId]) -> Result<String, GenerateError> {
        self.tokenizer
            .decode(tokens)
            .map_err(|unknown| self.unknown_token(unknown.0))
    }

    /// What each slot does, or did last.
    pub fn slots(&self) -> Vec<Slot> {
        self.slots.join(&self.engine.stats())
    }

    /// The engine's numbers.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// How many slots are free and how many run; why there is nothing to hope for, if the engine is dead.
    pub fn health(&self) -> Result<SlotCounts, String> {
        let stats = self.engine.stats();
        match stats.dead {
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

    /// Ends all generations after the step that runs.
    pub fn stop(&self) {
        self.engine.stop();
    }
}
