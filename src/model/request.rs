//! Requests to a model and events of a generation. The API layer converts each API's requests into
//! [`GenerateRequest`]s, and [`GenerateEvent`]s into that API's responses.

use std::time::Duration;

use serde_json::Value;

use super::RequestOwner;
use crate::cancel::Cancelled;
pub use crate::engine::ContextOverflow;
pub use crate::grammar::{GrammarError, GrammarKind, GrammarSource, Relaxation};
use crate::sampling::SamplingParameters;
use crate::text::{Conversation, SpecialTokens, TemplateError};
use crate::token::TokenId;

/// A validated request to generate one continuation of a prompt.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The text or tokens to continue.
    pub prompt: Prompt,
    /// System prompt of this request; `None` uses the server's system prompt.
    pub system_prompt: Option<SystemPrompt>,
    /// Limits, sampling and constraints.
    pub options: GenerateOptions,
}

/// A validated request with several prompts or several choices per prompt.
#[derive(Debug, Clone)]
pub struct BatchRequest {
    /// Prompts. Each choice of each prompt is an independent sequence.
    pub prompts: Vec<Prompt>,
    /// Number of continuations per prompt.
    pub choices: u32,
    /// System prompt of this request; `None` uses the server's system prompt.
    pub system_prompt: Option<SystemPrompt>,
    /// Options of all continuations. Choice `i` of each prompt uses `seed + i`.
    pub options: GenerateOptions,
}

/// A system prompt, with the prefixes of turns for clients that write the prompt as a dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemPrompt {
    /// Text of the system prompt; empty if no system prompt is set.
    pub prompt: String,
    /// Prefix of a user's turn.
    pub user_name: String,
    /// Prefix of the assistant's turn.
    pub assistant_name: String,
}

/// Options of a generation: limits, sampling, constraints, caching and scheduling.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Maximum number of tokens to generate; `None` uses the trained context length, 0 only evaluates the prompt. A few
    /// more tokens are generated if a character's bytes span several tokens.
    pub max_tokens: Option<usize>,
    /// Non-empty stop strings. The output text does not contain them.
    pub stop: Vec<String>,
    /// Whether sampling excludes the end-of-generation tokens.
    pub ignore_eos: bool,
    /// Temperature, samplers, penalties, seed and log probabilities.
    pub sampling: SamplingParameters,
    /// Values to add to the logits of tokens. The value of a text applies to all tokens of the text; negative infinity
    /// forbids a token.
    pub logit_bias: Vec<(PromptPiece, f32)>,
    /// Grammar of the generated text. With `tools`, only a JSON Schema is allowed; it applies to responses without a
    /// tool call.
    pub grammar: Option<GrammarSource>,
    /// Functions that the model may call. Requires [`Prompt::Chat`].
    pub tools: Option<ToolOptions>,
    /// Text whose tokens the penalties count instead of the prompt's tokens.
    pub penalty_prompt: Option<Vec<PromptPiece>>,
    /// Slot to run in; the request waits until the slot is free. `None` allows any slot.
    pub slot: Option<usize>,
    /// Whether to stop generating or to drop older tokens when the sequence exceeds the context.
    pub context_overflow: ContextOverflow,
    /// Whether to reject a prompt that exceeds the context even if `context_overflow` allows dropping tokens.
    pub reject_oversized_prompt: bool,
    /// Whether the request reuses cached blocks of the whole prompt; otherwise only those of the system prompt.
    pub read_cache: bool,
    /// Cache salt: only requests with the same salt share cached blocks.
    pub cache_salt: Option<String>,
    /// Adapter numbers with scales; adapters that are not listed are off. `None` uses the server's scales.
    pub adapters: Option<Vec<(usize, f32)>>,
    /// Scheduling priority; waiting requests with a higher value start first.
    pub priority: i32,
    /// Time limit of the request, including the time in the queue.
    pub timeout: Option<Duration>,
    /// Whether to send [`GenerateEvent::Prompt`], with log probabilities of the prompt tokens if requested.
    pub echo: bool,
    /// Whether the response is streamed; only shown by `/slots`.
    pub stream: bool,
    /// Limits on indentation and time that end the generation at a line break.
    pub lines: LineLimits,
    /// Which progress events to send.
    pub progress: ProgressEvents,
    /// API key and cache namespace of the request; [`GenerateRequest::with_limits`] sets them.
    pub owner: RequestOwner,
}

/// Limits that end a generation at a line break, with [`FinishReason::TokenLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineLimits {
    /// Minimum number of spaces and tabs that indent a line. The generation ends before a line with fewer; the first
    /// line and empty lines are exempt.
    pub min_indent: usize,
    /// Time since the first token after which the next line break ends the generation.
    pub time_limit: Option<Duration>,
}

/// Which [`GenerateEvent::Progress`] events a generation sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProgressEvents {
    /// An event after each prefill chunk.
    pub prompt: bool,
    /// An event before each text event.
    pub text: bool,
}

/// Functions that the model may call, and whether it must call one or may call several.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOptions {
    /// Definitions of the functions.
    pub functions: Vec<FunctionDefinition>,
    /// Whether the model must call a function.
    pub required: bool,
    /// Whether a response may have several tool calls, if the model's tool-call format supports them.
    pub parallel: bool,
}

/// Name and argument schema of a function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionDefinition {
    /// Name that tool calls contain.
    pub name: String,
    /// JSON Schema of the arguments object.
    pub parameters: Value,
    /// Whether to reject the request if a constraint of the schema cannot be enforced.
    pub strict: bool,
}

/// Limits that the operator sets on all requests of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateLimits {
    /// Maximum number of generated tokens per generation.
    pub max_tokens: Option<usize>,
    /// Maximum duration of a request.
    pub timeout: Option<Duration>,
    /// Whether context shift (dropping older tokens when the context is full) is allowed.
    pub context_shift: bool,
    /// Maximum priority; higher priorities are reduced to this value.
    pub max_priority: i32,
    /// API key and cache namespace of the caller.
    pub owner: RequestOwner,
}

impl GenerateLimits {
    /// No limits and no API key.
    pub const NONE: Self = Self {
        max_tokens: None,
        timeout: None,
        context_shift: true,
        max_priority: i32::MAX,
        owner: RequestOwner {
            key: None,
            cache_namespace: None,
        },
    };
}

impl GenerateRequest {
    /// Applies the operator's limits and sets the owner.
    pub fn with_limits(self, limits: &GenerateLimits) -> Self {
        Self {
            options: self.options.with_limits(limits),
            ..self
        }
    }
}

impl GenerateOptions {
    /// Whether the generated text must match a grammar or may contain tool calls.
    pub fn is_constrained(&self) -> bool {
        self.grammar.is_some() || self.tools.is_some()
    }

    /// Applies the operator's limits and sets the owner.
    pub fn with_limits(mut self, limits: &GenerateLimits) -> Self {
        self.max_tokens = smaller_limit(self.max_tokens, limits.max_tokens);
        self.timeout = smaller_limit(self.timeout, limits.timeout);
        self.priority = self.priority.min(limits.max_priority);
        self.owner = limits.owner;
        if !limits.context_shift {
            self.context_overflow = ContextOverflow::Stop;
        }
        self
    }
}

/// Returns the smaller of two optional limits.
fn smaller_limit<T: Ord>(requested: Option<T>, allowed: Option<T>) -> Option<T> {
    [requested, allowed].into_iter().flatten().min()
}

/// Text, tokens or conversation to continue.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Texts and token ids, concatenated. Special tokens in texts are parsed. If the first piece is a text and the
    /// model adds a beginning-of-text token, that token is prepended.
    Pieces(Vec<PromptPiece>),
    /// A conversation. The chat template renders it up to the start of the assistant's message.
    Chat(Conversation),
}

/// A text or a token id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPiece {
    /// Text to tokenize.
    Text(String),
    /// Token id that is used unchanged.
    Token(TokenId),
}

/// Arguments of [`super::LoadedModel::tokenize`].
#[derive(Debug, Clone)]
pub struct TokenizeRequest {
    /// Texts to tokenize and token ids to use unchanged.
    pub content: Vec<PromptPiece>,
    /// Whether special tokens in texts are parsed or tokenized as plain text.
    pub special: SpecialTokens,
    /// Whether to prepend the beginning-of-text token if the model adds one to prompts.
    pub add_bos: bool,
}

/// A generated token, or a prompt token that is echoed.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputToken {
    /// Token id.
    pub token: TokenId,
    /// If requested: log probability of the token, then those of the most probable tokens at this position.
    pub logprobs: Option<(TokenLogprob, Vec<TokenLogprob>)>,
}

/// Log probability of a token at a position.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub token: TokenId,
    /// Bytes of the token, which may be a partial UTF-8 character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the probability; negative infinity for probability 0.
    pub logprob: f64,
}

/// An event of a generation. Order: `Prompt` if requested, any number of `Text`, then one `Finished`. `Progress` occurs
/// anywhere before `Finished`.
#[derive(Debug, Clone)]
pub enum GenerateEvent {
    /// The prompt without the system prompt or an added beginning-of-text token.
    Prompt {
        /// Decoded text of the tokens.
        text: String,
        /// Prompt tokens, with log probabilities if requested. The first token of a sequence has no log probability.
        tokens: Vec<OutputToken>,
    },
    /// New text: complete characters that cannot be part of a stop string.
    Text {
        /// Non-empty text.
        text: String,
        /// Tokens generated since the last text event. Several tokens share an event if a character spans them or their
        /// text was held back.
        tokens: Vec<OutputToken>,
    },
    /// Token counts and timings so far, if enabled by [`GenerateOptions::progress`].
    Progress(GenerationProgress),
    /// The last event: the generation ended without an error.
    Finished(GenerationSummary),
}

/// Token counts and durations of a running generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationProgress {
    /// Number of prompt tokens, including the beginning-of-text token.
    pub prompt_tokens: usize,
    /// Number of prompt tokens whose keys and values came from the prefix cache.
    pub cached_tokens: usize,
    /// Number of prompt tokens that are evaluated or cached.
    pub processed_tokens: usize,
    /// Number of generated tokens; 0 during prefill.
    pub generated_tokens: usize,
    /// Durations of the phases until now.
    pub timings: Timings,
}

/// Finish reason, token counts and durations of a finished generation.
#[derive(Debug, Clone)]
pub struct GenerationSummary {
    /// Cause of the end.
    pub reason: FinishReason,
    /// Slot that the sequence ran in.
    pub slot: usize,
    /// Number of prompt tokens, including the beginning-of-text token.
    pub prompt_tokens: usize,
    /// Number of prompt tokens whose keys and values came from the prefix cache.
    pub cached_tokens: usize,
    /// Number of generated tokens, without the end-of-generation token.
    pub generated_tokens: usize,
    /// End-of-generation token, if the model sampled one and log probabilities are requested.
    pub eog_token: Option<OutputToken>,
    /// Number of generated tokens that are reasoning. 0 until the API layer has parsed the text.
    pub reasoning_tokens: usize,
    /// Whether the context was too small: tokens were dropped, or the generation ended at the limit.
    pub truncated: bool,
    /// Seed of the sampler, random unless requested.
    pub seed: u32,
    /// Durations of the phases.
    pub timings: Timings,
}

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model generated an end-of-generation token.
    EndOfText,
    /// The text contains this stop string.
    StopString(String),
    /// The generation reached `max_tokens` or a limit of [`LineLimits`].
    TokenLimit,
    /// The sequence fills the context.
    ContextFull,
}

/// Durations of the phases of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submission to the first step that computes tokens of the sequence.
    pub queue_wait: Duration,
    /// From that first step to the first generated token, or to the end of prefill if no token is generated.
    pub prompt: Duration,
    /// From the first generated token to the last.
    pub decode: Duration,
}

impl From<Cancelled> for GenerateError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Why a request was rejected or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerateError {
    /// The prompt has too many tokens for the context.
    #[error(
        "the prompt of {prompt_tokens} tokens is too long for the context of {context_tokens} tokens"
    )]
    PromptTooLong {
        /// Number of prompt tokens.
        prompt_tokens: usize,
        /// Context length in tokens.
        context_tokens: usize,
    },
    /// The context has no room for a prompt token and a generated token after the system prompt.
    #[error(
        "the system prompt of {prompt_tokens} tokens leaves no room in the context of {context_tokens} tokens"
    )]
    SystemPromptTooLong {
        /// Number of tokens of the system prompt.
        prompt_tokens: usize,
        /// Context length in tokens.
        context_tokens: usize,
    },
    /// The prompt has no tokens and the model has no beginning-of-text token.
    #[error("the prompt is empty: it needs at least one token")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error("token {} is not in the vocabulary of {vocabulary_size} tokens", token.0)]
    UnknownToken {
        /// The token id.
        token: TokenId,
        /// Vocabulary size in tokens.
        vocabulary_size: usize,
    },
    /// The requested slot does not exist.
    #[error("slot not found: {slot} (the server has {slots})")]
    UnknownSlot {
        /// The requested slot.
        slot: usize,
        /// Number of slots.
        slots: usize,
    },
    /// The requested adapter does not exist.
    #[error("adapter not found: {adapter} (the server has {adapters})")]
    UnknownAdapter {
        /// The requested adapter.
        adapter: usize,
        /// Number of adapters.
        adapters: usize,
    },
    /// The request sets two scales for this adapter number.
    #[error("adapter {0} occurs more than once")]
    DuplicateAdapter(usize),
    /// The vocabulary has no fill-in-the-middle tokens.
    #[error("infill is not supported: this model has no fill-in-the-middle tokens")]
    InfillUnsupported,
    /// The model is an encoder, which only computes embeddings.
    #[error(
        "text generation is not supported: this model is an encoder and only computes embeddings"
    )]
    GenerationUnsupported,
    /// The imported graph has no output for hidden states.
    #[error(
        "embeddings are not supported: this model's exported graph has no output for hidden states"
    )]
    EmbeddingsUnsupported,
    /// The chat template rejected the messages or failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The grammar is invalid, too large or not supported.
    #[error("Failed to parse {kind}: {error}")]
    Grammar {
        /// Format of the grammar.
        kind: GrammarKind,
        /// The cause.
        error: GrammarError,
    },
    /// The grammar allows no token after the generated text.
    #[error("{error}")]
    ConstraintFailed {
        /// Format of the grammar.
        kind: GrammarKind,
        /// The cause.
        error: GrammarError,
    },
    /// A request option exceeds a size limit.
    #[error("{option}: {problem}")]
    OptionTooLarge {
        /// Name of the request field.
        option: &'static str,
        /// Message with the size and the limit.
        problem: String,
    },
    /// The generated text and log probabilities exceed the size limit.
    #[error(
        "the response is larger than {limit_bytes} bytes: request fewer tokens, choices or log probabilities"
    )]
    OutputTooLarge {
        /// Limit for all generations of a request together.
        limit_bytes: usize,
    },
    /// The client disconnected, or the server is stopping, before the request was queued.
    #[error("the request was cancelled before it was queued")]
    Cancelled,
    /// The queue of the preparation pool is full.
    #[error("the preparation queue is full: {waiting} requests are waiting; try again later")]
    PreparationQueueFull {
        /// Number of waiting requests.
        waiting: usize,
    },
    /// The engine's queue is full.
    #[error("the queue is full: {waiting} requests are waiting; try again later")]
    QueueFull {
        /// Number of waiting requests.
        waiting: usize,
    },
    /// The request exceeded its time limit.
    #[error("the request took longer than {} seconds", timeout.as_secs_f64())]
    DeadlinePassed {
        /// The time limit.
        timeout: Duration,
    },
    /// The engine has stopped because of this error.
    #[error("the engine has stopped: {0}")]
    EngineEnded(String),
    /// The server is shutting down.
    #[error("the server is stopping")]
    Stopping,
    /// A step of the engine failed.
    #[error("the computation failed: {0}")]
    Failed(String),
}
