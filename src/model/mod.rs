//! A loaded model, in the words of text: generate, tokenize, detokenize. What is asked and answered is
//! in [`request`]; how a path becomes a model is in [`load`]. HTTP is somebody else's.

mod adapters;
mod embedding;
mod files;
mod generation;
mod grammar_words;
pub mod load;
mod memory;
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
pub use embedding::{Embedding, PendingEmbedding};
pub use generation::Generation;
pub use grammar_words::GrammarWords;
pub use memory::MemoryNeed;
pub use request::{
    AnswerToken, FinishReason, Function, GenerateError, GenerateEvent, GenerateLimits,
    GenerateOptions, GenerateRequest, GenerationProgress, GrammarError, GrammarKind, GrammarSource,
    LineLimits, ProgressEvents, Prompt, PromptPiece, Relaxation, Summary, Timings, TokenLogprob,
    TokenizeRequest, ToolUse, WhenFull,
};
pub use saved_slots::{SavedSlotError, SlotReport};
pub use slots::{Slot, SlotCounts};

pub use system_prompt::SystemPrompt;

use adapters::Adapters;
use files::ModelSource;
use generation::TextStop;
use slots::{SlotRecord, SlotRecords};
use system_prompt::SystemTokens;

use crate::engine::{AdapterScales, EngineHandle, Job, PrefixRoot, PrefixUse, Stats, SubmitError};
pub use crate::engine::{Pooling, SlotError};
use crate::grammar::{Constraint, Cutting, GrammarCompiler};
use crate::sampling::{InfillTokens, Sampler, SamplerTokens, SequenceBreakers, Stage, TokenPieces};
use crate::text::{ChatTemplate, SpecialTokens, TextStream, Tokenizer};
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
    system: RwLock<Arc<SystemTokens>>,
    adapters: Adapters,
    source: ModelSource,
    /// Made when it is first asked for: it reads the whole file.
    identity: OnceLock<String>,
    salts: [RandomState; 2],
    /// Made when the first grammar comes: it walks the whole vocabulary.
    grammars: OnceLock<Result<GrammarCompiler, GrammarError>>,
}

/// What the tokens that are text spell.
struct TextPieces(Arc<Tokenizer>);

impl TokenPieces for TextPieces {
    fn bytes(&self, token: TokenId) -> &[u8] {
        match self.0.is_control(token) {
            true => &[],
            false => self.0.token_bytes(token).unwrap_or_default(),
        }
    }
}

impl LoadedModel {
    /// What is known about it.
    pub fn details(&self) -> &ModelDetails {
        &self.details
    }

    /// Starts a generation. The prompt is rendered and tokenized here and now; nothing is waited for.
    pub fn generate(&self, request: GenerateRequest) -> Result<Generation, GenerateError> {
        let GenerateRequest {
            prompt,
            system_prompt,
            mut options,
        } = request;
        if !self.details.generates {
            return Err(GenerateError::Encoder);
        }
        let (prompt, thoughts) = self.opened(prompt, &options)?;
        let system = match system_prompt {
            Some(words) => Arc::new(self.system_tokens(words)?),
            None => self.system_prompt(),
        };
        let (prompt, before) = self.prompt_tokens(&prompt, &system)?;
        if options.whole_prompt && prompt.len() >= self.details.context_tokens {
            return Err(GenerateError::PromptTooLong {
                prompt_tokens: prompt.len(),
                context_tokens: self.details.context_tokens,
            });
        }
        let adapters = self.adapters.scales(options.adapters.as_deref())?;
        options.adapters = Some(adapters.iter().collect());
        let seed = *options.sampling.seed.get_or_insert_with(rand::random);
        let tokens = self.sampler_tokens(&mut options, &prompt)?;
        let reader = self.answer_reader(options.tools.as_ref(), thoughts.as_ref());
        let mut shown = Vec::new();
        if let Some(thoughts) = &thoughts {
            shown.extend(self.control_tokens(&thoughts.syntax.texts()));
        }
        if let Some(tools) = &options.tools {
            options.grammar = Some(self.call_grammar(tools, options.grammar.take()));
            shown.extend(self.control_tokens(&self.template.tool_syntax().texts()));
        }
        let stream = || {
            TextStream::new(Arc::clone(&self.tokenizer), options.stop.clone())
                .showing(&shown)
                .indented(options.lines.least_indent)
        };
        let score = match options.echo {
            true => options.sampling.logprobs.map(|wanted| wanted.top),
            false => None,
        };
        let constraint = options.grammar.as_ref();
        let constraint = constraint.map(|grammar| self.constraint(grammar, &tokens));
        let constraint = self.after_thought(thoughts.as_ref(), constraint.transpose()?)?;
        let relaxations = constraint.as_ref().map(Constraint::relaxations);
        let relaxations = relaxations.unwrap_or_default().to_vec();
        let job = Job {
            sampler: Sampler::new(options.sampling.clone(), seed, tokens),
            prompt: prompt.clone(),
            max_tokens: options
                .max_tokens
                .unwrap_or(self.details.trained_context_tokens),
            end_tokens: Arc::clone(&self.end_tokens),
            constraint,
            // Who measures tokens wants as many as it asked for.
            stop: Box::new(TextStop::new(stream(), score.is_none(), options.lines.time)),
            slot: options.slot,
            prefix: PrefixUse {
                readable: match options.read_cache {
                    true => usize::MAX,
                    false => system.tokens.len(),
                },
                root: self.prefix_root(options.cache_salt.as_deref(), &adapters),
            },
            adapters,
            when_full: match options.when_full {
                WhenFull::Shift { keep: Some(keep) } => WhenFull::Shift {
                    keep: Some(keep.saturating_add(before)),
                },
                other => other,
            },
            priority: options.priority,
            timeout: options.timeout,
            embed: None,
            score,
            report_prefill: options.progress.prompt || options.progress.text,
        };
        let (task, events) = self
            .engine
            .submit(job)
            .map_err(|error| self.refusal(&error))?;
        let stream = stream();
        let echo = options.echo.then_some(before);
        let record = SlotRecord::new(task, Arc::new(options), prompt);
        let generation = Generation::new(
            events,
            Arc::clone(&self.tokenizer),
            stream,
            record,
            echo,
            seed,
            Arc::clone(&self.slots),
        );
        Ok(generation.read_by(reader).relaxed(relaxations))
    }

    /// How many generations may run or wait at once.
    pub fn places(&self) -> usize {
        let options = self.engine.options();
        options.parallel + options.queue
    }

    /// What the sampler is told in ids. Texts among the options become their tokens.
    fn sampler_tokens(
        &self,
        options: &mut GenerateOptions,
        prompt: &[TokenId],
    ) -> Result<SamplerTokens, GenerateError> {
        let mut bias = Vec::new();
        for (piece, amount) in &options.logit_bias {
            let tokens = self.piece_tokens(std::slice::from_ref(piece))?;
            bias.extend(tokens.into_iter().map(|token| (token, *amount)));
        }
        let shown = |(token, amount): &(TokenId, f32)| (PromptPiece::Token(*token), *amount);
        options.logit_bias = bias.iter().map(shown).collect();
        if options.ignore_end {
            let never = |token: &TokenId| (*token, f32::NEG_INFINITY);
            bias.extend(self.end_tokens.iter().map(never));
        }
        let before = match &mut options.penalty_prompt {
            None => prompt.to_vec(),
            Some(pieces) => {
                let tokens = self.piece_tokens(pieces)?;
                *pieces = tokens.iter().copied().map(PromptPiece::Token).collect();
                tokens
            }
        };
        let newline = self.tokenizer.encode("\n", SpecialTokens::Literal);
        let fills = options.sampling.chain.contains(&Stage::Infill);
        let dry = &options.sampling.dry;
        Ok(SamplerTokens {
            before,
            bias,
            newline: newline.last().copied(),
            breakers: match dry.multiplier > 0.0 {
                true => self.sequence_breakers(&dry.breakers),
                false => SequenceBreakers::default(),
            },
            infill: fills.then(|| InfillTokens {
                ends: Arc::clone(&self.end_tokens),
                pieces: Arc::new(TextPieces(Arc::clone(&self.tokenizer))),
            }),
        })
    }

    /// What the continuation must follow. Where tokens are forbidden, the text is not held to the tokenizer's way
    /// of cutting it: it may have another.
    fn constraint(
        &self,
        grammar: &GrammarSource,
        tokens: &SamplerTokens,
    ) -> Result<Constraint, GenerateError> {
        let never = |(token, amount): &(TokenId, f32)| {
            *amount == f32::NEG_INFINITY && !self.end_tokens.contains(token)
        };
        let cutting = match tokens.bias.iter().any(never) {
            true => Cutting::Free,
            false => Cutting::Canonical,
        };
        let compiled = self
            .grammar_compiler()
            .and_then(|compiler| compiler.compile(grammar, cutting));
        compiled.map_err(|error| GenerateError::Grammar {
            kind: grammar.kind(),
            error,
        })
    }

    fn grammar_compiler(&self) -> Result<&GrammarCompiler, GrammarError> {
        let compiler = self.grammars.get_or_init(|| {
            GrammarCompiler::new(Arc::new(GrammarWords(Arc::clone(&self.tokenizer))))
        });
        compiler.as_ref().map_err(Clone::clone)
    }

    fn sequence_breakers(&self, texts: &[String]) -> SequenceBreakers {
        let breaks = |token: &TokenId| {
            let bytes = self.tokenizer.token_bytes(*token).unwrap_or_default();
            let has = |text: &String| memchr::memmem::find(bytes, text.as_bytes()).is_some();
            texts.iter().any(has)
        };
        let sequences = texts
            .iter()
            .map(|text| self.tokenizer.encode(text, SpecialTokens::Literal));
        SequenceBreakers {
            tokens: (0..self.details.vocabulary_size as u32)
                .map(TokenId)
                .filter(breaks)
                .collect(),
            sequences: sequences.filter(|tokens| tokens.len() > 1).collect(),
        }
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

    /// Where the chains of a salt begin that these adapters shape. The hash has a key of this process: nobody outside
    /// can make two of them meet.
    fn prefix_root(&self, salt: Option<&str>, adapters: &AdapterScales) -> PrefixRoot {
        let adapters: Vec<(usize, u32)> = adapters
            .iter()
            .map(|(adapter, scale)| (adapter, scale.to_bits()))
            .collect();
        if salt.is_none() && adapters.is_empty() {
            return PrefixRoot::default();
        }
        let hash = |key: &RandomState| key.hash_one((salt, &adapters));
        let [high, low] = self.salts.each_ref().map(hash);
        PrefixRoot(u128::from(high) << 64 | u128::from(low))
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// If there is an id that is not in the vocabulary.
    pub fn tokenize(&self, request: &TokenizeRequest) -> Result<Vec<TokenId>, GenerateError> {
        let tokens = self.encoded(&request.content, request.special)?;
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
