//! What is asked of a model and what it answers, in the words of text: every surface of the API is
//! translated to a [`GenerateRequest`] and from [`GenerateEvent`]s.

use std::time::Duration;

use crate::sampling::SamplingParameters;
use crate::text::{ChatMessage, SpecialTokens};
use crate::token::TokenId;

/// A checked request for one continuation.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// Most tokens to generate; `None` is «until the context ends», 0 evaluates the prompt only. It is exceeded
    /// to finish a character whose bytes span tokens.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; they are not part of the answer. None is empty.
    pub stop: Vec<String>,
    /// Whether end-of-generation tokens are never chosen.
    pub ignore_end: bool,
    /// How a token is chosen.
    pub sampling: SamplingParameters,
    /// The slot the request insists on: it waits until that one is free.
    pub slot: Option<usize>,
    /// Whether the client reads the answer as it comes (shown by `/slots`).
    pub stream: bool,
}

/// The text or the tokens before the continuation.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Texts (special tokens in them are parsed) and ids, one after the other. The model's
    /// beginning-of-text token is put before it if it begins with a text and the model asks for it.
    Pieces(Vec<PromptPiece>),
    /// A conversation, to be written by the model's chat template, open for the assistant's answer.
    Chat(Vec<ChatMessage>),
}

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPiece {
    /// To be tokenized with special tokens parsed.
    Text(String),
    /// Taken as it is.
    Token(TokenId),
}

/// What [`super::LoadedModel::tokenize`] is asked for.
#[derive(Debug, Clone)]
pub struct TokenizeRequest {
    /// The text.
    pub content: String,
    /// Whether the names of special tokens in the text stand for these tokens.
    pub special: SpecialTokens,
}

/// What a running generation tells, in this order: any number of `Text`, one `Finished`.
#[derive(Debug, Clone)]
pub enum GenerateEvent {
    /// Text that is decided: whole characters, nothing that may still become a stop string.
    Text {
        /// Never empty.
        text: String,
        /// The tokens generated since the last event. A character or a held-back word may span several.
        tokens: Vec<TokenId>,
    },
    /// The end; nothing follows.
    Finished(Summary),
}

/// Everything there is to say about a finished generation.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Why it ended.
    pub reason: FinishReason,
    /// The slot it ran in.
    pub slot: usize,
    /// Tokens of the prompt, the beginning-of-text token included.
    pub prompt_tokens: usize,
    /// Of these, those whose keys and values came from the cache.
    pub cached_tokens: usize,
    /// Tokens generated, an end-of-generation token not included.
    pub generated_tokens: usize,
    /// The seed that was used: the given one, or the one that was drawn.
    pub seed: u32,
    /// Durations.
    pub timings: Timings,
}

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said so (an end-of-generation token).
    EndOfText,
    /// This stop string appeared.
    StopString(String),
    /// `max_tokens` were generated.
    TokenLimit,
    /// The context is full.
    ContextFull,
}

/// How long a generation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submission to the first step that computed a part of it.
    pub queue_wait: Duration,
    /// From there to the first token (with no token: to the end of the prompt).
    pub prompt: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Why a request was not taken, or ended without an answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerateError {
    /// Longer than a sequence may be.
    #[error(
        "the prompt has {prompt_tokens} tokens, more than the context of {context_tokens} has room for"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens a sequence may have.
        context_tokens: usize,
    },
    /// Nothing to continue, and the model has no beginning-of-text token to begin with.
    #[error("the prompt is empty: it needs at least one token")]
    EmptyPrompt,
    /// Not in the vocabulary.
    #[error("token {} is not in the vocabulary of {vocabulary_size} tokens", token.0)]
    UnknownToken {
        /// The token.
        token: TokenId,
        /// Tokens there are.
        vocabulary_size: usize,
    },
    /// No such slot.
    #[error("there is no slot {slot}: the server has {slots}")]
    UnknownSlot {
        /// The slot asked for.
        slot: usize,
        /// Slots there are.
        slots: usize,
    },
    /// The chat template refused the messages.
    #[error("the model's chat template refuses these messages: {0}")]
    Template(String),
    /// As many requests wait as may.
    #[error("{waiting} requests wait already: try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// The engine ended, and why; nothing will be computed any more.
    #[error("nothing can be computed any more: {0}")]
    EngineEnded(String),
    /// The server is being stopped.
    #[error("the server is stopping")]
    Stopping,
    /// The step failed.
    #[error("the computation failed: {0}")]
    Failed(String),
}
