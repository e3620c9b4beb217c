//! What is asked of a model and what it answers, in the words of text: every surface of the API is
//! translated to a [`GenerateRequest`] and from [`GenerateEvent`]s.

use std::time::Duration;

use serde_json::Value;

use super::{RequestOwner, SystemPrompt};
use crate::cancel::Cancelled;
pub use crate::engine::WhenFull;
pub use crate::grammar::{GrammarError, GrammarKind, GrammarSource, Relaxation};
use crate::sampling::SamplingParameters;
use crate::text::{Conversation, SpecialTokens, TemplateError};
use crate::token::TokenId;

/// A checked request for one continuation.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// What comes before it, instead of what comes before the prompts of all.
    pub system_prompt: Option<SystemPrompt>,
    /// How.
    pub options: GenerateOptions,
}

/// A checked request for continuations of several prompts, or several of each.
#[derive(Debug, Clone)]
pub struct BatchRequest {
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// Continuations of each prompt.
    pub choices: u32,
    /// What comes before the prompts, instead of the system prompt of all requests.
    pub system_prompt: Option<SystemPrompt>,
    /// How they are continued; the seed is that of each prompt's first choice.
    pub options: GenerateOptions,
}

/// How a prompt is to be continued.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None` is as many as the model's trained context has, 0 evaluates the prompt
    /// only. It is exceeded to finish a character whose bytes span tokens.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; they are not part of the answer. None is empty.
    pub stop: Vec<String>,
    /// Whether end-of-generation tokens are never chosen.
    pub ignore_end: bool,
    /// How a token is chosen.
    pub sampling: SamplingParameters,
    /// What is added to the logits of tokens, of every token where it is a text; minus infinity is "never".
    pub logit_bias: Vec<(PromptPiece, f32)>,
    /// What the text must follow; where functions may be called, a text that calls none, which only a schema can say.
    pub grammar: Option<GrammarSource>,
    /// What the answer may call; the prompt is a conversation.
    pub tools: Option<ToolUse>,
    /// What the penalties look at instead of the prompt.
    pub penalty_prompt: Option<Vec<PromptPiece>>,
    /// The slot the request insists on: it waits until that one is free.
    pub slot: Option<usize>,
    /// What happens when prompt or continuation outgrow the context.
    pub when_full: WhenFull,
    /// Whether a prompt that does not fit is refused even if a part of the text may be dropped.
    pub whole_prompt: bool,
    /// Whether what earlier requests computed is used.
    pub read_cache: bool,
    /// Only requests of the same salt use each other's computations.
    pub cache_salt: Option<String>,
    /// How strong adapters count, by their numbers, those that are not named not at all; `None` is as for all requests.
    pub adapters: Option<Vec<(usize, f32)>>,
    /// Waiting requests of a higher one are begun first.
    pub priority: i32,
    /// How long it may take, waiting included.
    pub timeout: Option<Duration>,
    /// Whether the prompt is told, too; where log-probabilities are, with those of its tokens.
    pub echo: bool,
    /// Whether the client reads the answer as it comes (shown by `/slots`).
    pub stream: bool,
    /// Where lines end the generation.
    pub lines: LineLimits,
    /// Which progress events there are.
    pub progress: ProgressEvents,
    /// The key that it was made with; [`GenerateRequest::within`] sets it.
    pub owner: RequestOwner,
}

/// Where lines end a generation, as if the limit of tokens were reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineLimits {
    /// A line that is indented by fewer spaces and tabs is not written. The first line and empty lines are not looked at.
    pub least_indent: usize,
    /// The first line break that comes later than this after the first token is the last.
    pub time: Option<Duration>,
}

/// Which [`GenerateEvent::Progress`] there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProgressEvents {
    /// One for each evaluated part of the prompt.
    pub prompt: bool,
    /// One before each text.
    pub text: bool,
}

/// Functions that an answer may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// Which.
    pub functions: Vec<Function>,
    /// Whether it must call one.
    pub required: bool,
    /// Whether it may call several, if the model can.
    pub several: bool,
}

/// A function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// What it is called.
    pub name: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
    /// Whether a constraint of the schema that cannot be enforced refuses the request.
    pub strict: bool,
}

/// What the operator allows a caller, whatever its request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateLimits {
    /// Most tokens of a generation.
    pub max_tokens: Option<usize>,
    /// How long a request may take.
    pub timeout: Option<Duration>,
    /// Whether a part of a text may be dropped when the context is full.
    pub context_shift: bool,
    /// Highest priority; a higher one is lowered.
    pub max_priority: i32,
    /// The caller's key.
    pub owner: RequestOwner,
}

impl GenerateLimits {
    /// Everything is allowed.
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
    /// The request as the operator allows it.
    pub fn within(self, limits: &GenerateLimits) -> Self {
        Self {
            options: self.options.within(limits),
            ..self
        }
    }
}

impl GenerateOptions {
    /// The options as the operator allows them.
    pub fn within(mut self, limits: &GenerateLimits) -> Self {
        self.max_tokens = least(self.max_tokens, limits.max_tokens);
        self.timeout = least(self.timeout, limits.timeout);
        self.priority = self.priority.min(limits.max_priority);
        self.owner = limits.owner;
        if !limits.context_shift {
            self.when_full = WhenFull::Stop;
        }
        self
    }
}

/// The smaller of two limits.
fn least<T: Ord>(asked: Option<T>, allowed: Option<T>) -> Option<T> {
    [asked, allowed].into_iter().flatten().min()
}

/// The text or the tokens before the continuation.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Texts (special tokens in them are parsed) and ids, one after the other. The model's
    /// beginning-of-text token is put before it if it begins with a text and the model asks for it.
    Pieces(Vec<PromptPiece>),
    /// A conversation, to be written by the model's chat template, open for the assistant's answer.
    Chat(Conversation),
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
    /// The text, with ids in it that are taken as they are.
    pub content: Vec<PromptPiece>,
    /// Whether the names of special tokens in the text stand for these tokens.
    pub special: SpecialTokens,
    /// Whether the beginning-of-text token comes first, if the model wants one before a prompt.
    pub add_beginning: bool,
}

/// A token of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerToken {
    /// Which.
    pub token: TokenId,
    /// How probable it was, and which were the most probable, if that was asked for.
    pub logprobs: Option<(TokenLogprob, Vec<TokenLogprob>)>,
}

/// How probable a token was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Which.
    pub token: TokenId,
    /// What it spells: perhaps a part of a character.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability; minus infinity if it had none.
    pub logprob: f64,
}

/// What a running generation tells, in this order: a `Prompt` if it was asked for, any number of `Text`, one `Finished`;
/// `Progress` anywhere before the last.
#[derive(Debug, Clone)]
pub enum GenerateEvent {
    /// The prompt, without a beginning-of-text token that was put before it.
    Prompt {
        /// As its tokens spell it.
        text: String,
        /// With log-probabilities if they were asked for; a token that nothing is before has none.
        tokens: Vec<AnswerToken>,
    },
    /// Text that is decided: whole characters, nothing that may still become a stop string.
    Text {
        /// Never empty.
        text: String,
        /// The tokens generated since the last event. A character or a held-back word may span several.
        tokens: Vec<AnswerToken>,
    },
    /// How far it is, if [`GenerateOptions::progress`] asks for it.
    Progress(GenerationProgress),
    /// The end; nothing follows.
    Finished(Summary),
}

/// How far a generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationProgress {
    /// Tokens of the prompt, the beginning-of-text token included.
    pub prompt_tokens: usize,
    /// Of these, those whose keys and values came from the cache.
    pub cached_tokens: usize,
    /// Of these, those that are evaluated or came from the cache.
    pub processed_tokens: usize,
    /// Tokens generated; 0 while the prompt is evaluated.
    pub generated_tokens: usize,
    /// Durations so far.
    pub timings: Timings,
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
    /// The end-of-generation token, if one was chosen and log-probabilities are told.
    pub end_token: Option<AnswerToken>,
    /// Of these, those of a thought; whoever reads the text finds them out.
    pub thought_tokens: usize,
    /// Whether the context was too small: a part of the text was dropped, or the text ended there.
    pub truncated: bool,
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

impl From<Cancelled> for GenerateError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
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
    /// The system prompt leaves no room for others.
    #[error(
        "the system prompt has {prompt_tokens} tokens, which leaves no room in the context of {context_tokens}"
    )]
    SystemPromptTooLong {
        /// Its tokens.
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
    /// No such adapter.
    #[error("there is no adapter {adapter}: the server has {adapters}")]
    UnknownAdapter {
        /// The adapter asked for.
        adapter: usize,
        /// Adapters there are.
        adapters: usize,
    },
    /// What is meant cannot be told.
    #[error("the adapter {0} is named twice")]
    AdapterTwice(usize),
    /// The vocabulary has no tokens for it.
    #[error("this model has no fill-in-the-middle tokens: it cannot fill a gap")]
    NoInfill,
    /// An encoder only makes embeddings.
    #[error("this model is an encoder: it makes embeddings and does not go on with texts")]
    Encoder,
    /// A graph that others exported tells nothing of them.
    #[error(
        "what this model's graph computes before its logits is not known: it makes no embeddings"
    )]
    NoHiddenStates,
    /// The chat template refused the messages, or has a fault.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The grammar is none, or too large.
    #[error("Failed to parse {kind}: {error}")]
    Grammar {
        /// Which one.
        kind: GrammarKind,
        /// Why.
        error: GrammarError,
    },
    /// The text cannot follow its grammar any further.
    #[error("{error}")]
    Unfollowable {
        /// Which one.
        kind: GrammarKind,
        /// Why.
        error: GrammarError,
    },
    /// An option is larger than it may be.
    #[error("{option}: {problem}")]
    OptionTooLong {
        /// The field.
        option: &'static str,
        /// How large it is, and the limit.
        problem: String,
    },
    /// The answer has more text and log-probabilities than it may.
    #[error(
        "the answer is larger than {limit_bytes} bytes: ask for fewer tokens, choices or log-probabilities"
    )]
    AnswerTooLarge {
        /// Bytes that the answers of a request may have.
        limit_bytes: usize,
    },
    /// The client left, or the server stops.
    #[error("the request was cancelled before it was queued")]
    Cancelled,
    /// As many requests are prepared or wait for that as may.
    #[error("{waiting} requests wait for their preparation already: try again later")]
    PreparationsFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// As many requests wait as may.
    #[error("{waiting} requests wait already: try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// It took longer than it may.
    #[error("the request took longer than {} seconds", timeout.as_secs_f64())]
    DeadlinePassed {
        /// What it may take.
        timeout: Duration,
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
