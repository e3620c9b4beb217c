//! A request becomes jobs of the engine: template, tokenization, grammar compilation. What its prompts and choices
//! share is computed once. Where preparations run, and how many at once, is decided in [`super::preparations`].

use std::sync::Arc;

use super::generation::{AnswerBudget, MAX_ANSWER_BYTES, TextStop};
use super::slots::SlotRecord;
use super::system_prompt::SystemTokens;
use super::thoughts::Thoughts;
use super::{
    BatchRequest, GenerateError, GenerateOptions, GenerateRequest, Generation, GrammarSource,
    LoadedModel, PromptPiece, WhenFull,
};
use crate::cancel::CancelFlag;
use crate::engine::{AdapterScales, Job, PrefixUse, Reservation};
use crate::grammar::{Constraint, Cutting};
use crate::sampling::{InfillTokens, Sampler, SamplerTokens, SequenceBreakers, Stage, TokenPieces};
use crate::text::{SpecialTokens, TextStream, Tokenizer};
use crate::token::TokenId;

/// Most tokens that the entries of `logit_bias` become. Every step adds them to the logits, and answers and `/slots` repeat
/// them.
const MAX_BIAS_TOKENS: usize = 4096;
/// Most bytes of all stop strings and sequence breakers. Every token of the text is compared with them, and answers and
/// `/slots` repeat them.
const MAX_OPTION_TEXT_BYTES: usize = 256 << 10;

/// What all generations of a request share.
struct Shared {
    options: Arc<GenerateOptions>,
    system: Arc<SystemTokens>,
    adapters: AdapterScales,
    /// `before` holds the tokens of `penalty_prompt`, if the request has one.
    sampler_tokens: SamplerTokens,
    constraint: Option<Constraint>,
    /// Control tokens that are part of the text, because tool calls are written with them.
    call_tokens: Vec<TokenId>,
    /// Log-probabilities of prompt tokens, if the prompt is scored.
    score: Option<usize>,
    budget: AnswerBudget,
}

/// A prompt as the engine takes it.
struct PreparedPrompt {
    tokens: Vec<TokenId>,
    /// Tokens before the request's own prompt.
    before: usize,
    thoughts: Option<Thoughts>,
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
    /// Starts the generation of a single prompt: see [`Self::generate_batch`].
    pub fn generate(
        &self,
        request: GenerateRequest,
        cancel: &CancelFlag,
    ) -> Result<Generation, GenerateError> {
        let GenerateRequest {
            prompt,
            system_prompt,
            options,
        } = request;
        let mut generations = self.generate_batch(
            BatchRequest {
                prompts: vec![prompt],
                choices: 1,
                system_prompt,
                options,
            },
            cancel,
        )?;
        generations.pop().ok_or(GenerateError::EmptyPrompt)
    }

    /// Starts the generations of all prompts, each with its choices one after the other. The engine's queue is asked for
    /// room before anything is computed.
    ///
    /// # Errors
    /// If the queue is full, the request cannot be served, or `cancel` says that it is no longer wanted.
    pub fn generate_batch(
        &self,
        request: BatchRequest,
        cancel: &CancelFlag,
    ) -> Result<Vec<Generation>, GenerateError> {
        let BatchRequest {
            prompts,
            choices,
            system_prompt,
            options,
        } = request;
        if !self.details.generates {
            return Err(GenerateError::Encoder);
        }
        let count = prompts.len().saturating_mul(choices as usize);
        let mut reservation = self
            .engine
            .reserve(count)
            .map_err(|error| self.refusal(&error))?;
        let system = match system_prompt {
            Some(words) => Arc::new(self.system_tokens(words, cancel)?),
            None => self.system_prompt(),
        };
        let opened = prompts.into_iter().map(|prompt| {
            let (prompt, thoughts) = self.opened(prompt, &options, cancel)?;
            let (tokens, before) = self.prompt_tokens(&prompt, &system, cancel)?;
            let context_tokens = self.details.context_tokens;
            if options.whole_prompt && tokens.len() >= context_tokens {
                return Err(GenerateError::PromptTooLong {
                    prompt_tokens: tokens.len(),
                    context_tokens,
                });
            }
            Ok(PreparedPrompt {
                tokens,
                before,
                thoughts,
            })
        });
        let opened: Vec<PreparedPrompt> = opened.collect::<Result<_, GenerateError>>()?;
        let shared = self.shared(options, system, cancel)?;
        let mut generations = Vec::with_capacity(count);
        for prompt in &opened {
            for choice in 0..choices {
                cancel.check()?;
                generations.push(self.start(&shared, prompt, choice, &mut reservation)?);
            }
        }
        Ok(generations)
    }

    fn shared(
        &self,
        mut options: GenerateOptions,
        system: Arc<SystemTokens>,
        cancel: &CancelFlag,
    ) -> Result<Shared, GenerateError> {
        let texts = options.stop.iter().chain(&options.sampling.dry.breakers);
        let bytes: usize = texts.map(String::len).sum();
        if bytes > MAX_OPTION_TEXT_BYTES {
            return Err(GenerateError::OptionTooLong {
                option: "stop",
                problem: format!(
                    "stop strings and sequence breakers of {bytes} bytes are more than {MAX_OPTION_TEXT_BYTES}"
                ),
            });
        }
        let adapters = self.adapters.scales(options.adapters.as_deref())?;
        options.adapters = Some(adapters.iter().collect());
        let sampler_tokens = self.sampler_tokens(&mut options, cancel)?;
        let mut call_tokens = Vec::new();
        if let Some(tools) = &options.tools {
            options.grammar = Some(self.call_grammar(tools, options.grammar.take()));
            call_tokens = self.control_tokens(&self.template.tool_syntax().texts());
        }
        let constraint = options.grammar.as_ref();
        let constraint =
            constraint.map(|grammar| self.constraint(grammar, &sampler_tokens, cancel));
        Ok(Shared {
            constraint: constraint.transpose()?,
            score: match options.echo {
                true => options.sampling.logprobs.map(|wanted| wanted.top),
                false => None,
            },
            options: Arc::new(options),
            system,
            adapters,
            sampler_tokens,
            call_tokens,
            budget: AnswerBudget::new(MAX_ANSWER_BYTES),
        })
    }

    /// Submits the job of a prompt's choice. A given seed is that of the first choice, the others have the next ones.
    fn start(
        &self,
        shared: &Shared,
        prompt: &PreparedPrompt,
        choice: u32,
        reservation: &mut Reservation,
    ) -> Result<Generation, GenerateError> {
        let options = &shared.options;
        let seed = match options.sampling.seed {
            Some(seed) => seed.wrapping_add(choice),
            None => rand::random(),
        };
        let thoughts = prompt.thoughts.as_ref();
        let mut shown = shared.call_tokens.clone();
        if let Some(thoughts) = thoughts {
            shown.extend(self.control_tokens(&thoughts.syntax.texts()));
        }
        let stream = || {
            TextStream::new(Arc::clone(&self.tokenizer), options.stop.clone())
                .showing(&shown)
                .indented(options.lines.least_indent)
        };
        let constraint = shared.constraint.as_ref().map(Constraint::independent);
        let constraint = self.after_thought(thoughts, constraint)?;
        let relaxations = constraint.as_ref().map(Constraint::relaxations);
        let relaxations = relaxations.unwrap_or_default().to_vec();
        let mut sampler_tokens = shared.sampler_tokens.clone();
        if options.penalty_prompt.is_none() {
            sampler_tokens.before = prompt.tokens.clone();
        }
        let job = Job {
            sampler: Sampler::new(options.sampling.clone(), seed, sampler_tokens),
            prompt: prompt.tokens.clone(),
            max_tokens: options
                .max_tokens
                .unwrap_or(self.details.trained_context_tokens),
            end_tokens: Arc::clone(&self.end_tokens),
            constraint,
            // A scored text has as many tokens as were asked for.
            stop: Box::new(TextStop::new(
                stream(),
                shared.score.is_none(),
                options.lines.time,
            )),
            slot: options.slot,
            prefix: PrefixUse {
                readable: match options.read_cache {
                    true => usize::MAX,
                    false => shared.system.tokens.len(),
                },
                root: self.prefix_root(
                    options.owner.cache_namespace,
                    options.cache_salt.as_deref(),
                    &shared.adapters,
                ),
            },
            adapters: shared.adapters.clone(),
            when_full: match options.when_full {
                WhenFull::Shift { keep: Some(keep) } => WhenFull::Shift {
                    keep: Some(keep.saturating_add(prompt.before)),
                },
                other => other,
            },
            priority: options.priority,
            timeout: options.timeout,
            embed: None,
            score: shared.score,
            report_prefill: options.progress.prompt || options.progress.text,
        };
        let (task, events) = self
            .engine
            .submit_reserved(job, reservation)
            .map_err(|error| self.refusal(&error))?;
        let record = SlotRecord::new(task, Arc::clone(options), seed, prompt.tokens.clone());
        let reader = self.answer_reader(options.tools.as_ref(), thoughts);
        let generation = Generation::new(
            events,
            Arc::clone(&self.tokenizer),
            stream(),
            record,
            options.echo.then_some(prompt.before),
            seed,
            Arc::clone(&self.slots),
        );
        let generation = generation.read_by(reader).relaxed(relaxations);
        Ok(generation.within_budget(shared.budget.clone()))
    }

    /// The tokens that the sampler needs, but for those of the prompt. Texts among the options become their tokens.
    fn sampler_tokens(
        &self,
        options: &mut GenerateOptions,
        cancel: &CancelFlag,
    ) -> Result<SamplerTokens, GenerateError> {
        let mut bias = Vec::new();
        for (piece, amount) in &options.logit_bias {
            let tokens = self.piece_tokens(std::slice::from_ref(piece), cancel)?;
            bias.extend(tokens.into_iter().map(|token| (token, *amount)));
            if bias.len() > MAX_BIAS_TOKENS {
                return Err(GenerateError::OptionTooLong {
                    option: "logit_bias",
                    problem: format!("its entries become more than {MAX_BIAS_TOKENS} tokens"),
                });
            }
        }
        let shown = |(token, amount): &(TokenId, f32)| (PromptPiece::Token(*token), *amount);
        options.logit_bias = bias.iter().map(shown).collect();
        if options.ignore_end {
            let never = |token: &TokenId| (*token, f32::NEG_INFINITY);
            bias.extend(self.end_tokens.iter().map(never));
        }
        let mut before = Vec::new();
        if let Some(pieces) = &mut options.penalty_prompt {
            before = self.piece_tokens(pieces, cancel)?;
            let context_tokens = self.details.context_tokens;
            if before.len() > context_tokens {
                return Err(GenerateError::OptionTooLong {
                    option: "penalty_prompt",
                    problem: format!(
                        "{} tokens are more than the context of {context_tokens}",
                        before.len()
                    ),
                });
            }
            *pieces = before.iter().copied().map(PromptPiece::Token).collect();
        }
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
        cancel: &CancelFlag,
    ) -> Result<Constraint, GenerateError> {
        let never = |(token, amount): &(TokenId, f32)| {
            *amount == f32::NEG_INFINITY && !self.end_tokens.contains(token)
        };
        let cutting = match tokens.bias.iter().any(never) {
            true => Cutting::Free,
            false => Cutting::Canonical,
        };
        cancel.check()?;
        let compiled = self
            .grammar_compiler()
            .and_then(|compiler| compiler.compile_unless(grammar, cutting, cancel));
        cancel.check()?;
        compiled.map_err(|error| GenerateError::Grammar {
            kind: grammar.kind(),
            error,
        })
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
}
