//! Request preparation: renders chat templates, tokenizes prompts, compiles grammars and submits sequence requests to
//! the engine. All prompts and choices of a request share the compiled grammar and options. [`super::preparation_pool`]
//! provides the threads.

use std::sync::Arc;

use super::generation::{MAX_OUTPUT_BYTES, OutputBudget, TextStopRule};
use super::reasoning::PromptReasoning;
use super::slots::SlotRecord;
use super::system_prompt::TokenizedSystemPrompt;
use super::{
    BatchRequest, ContextOverflow, GenerateError, GenerateOptions, GenerateRequest, Generation,
    GrammarSource, LoadedModel, PromptPiece,
};
use crate::cancel::CancelFlag;
use crate::engine::{AdapterScales, PrefixCacheOptions, Reservation, SequenceRequest};
use crate::grammar::{Constraint, Tokenization};
use crate::sampling::{
    InfillVocabulary, Sampler, SamplerInputs, SequenceBreakers, Stage, TokenPieces,
};
use crate::text::{SpecialTokens, TextStream, Tokenizer};
use crate::token::TokenId;

/// Maximum number of tokens with a logit bias. Every step adds the biases to the logits; responses and `/slots` list
/// them.
const MAX_BIAS_TOKENS: usize = 4096;
/// Maximum total bytes of stop strings and sequence breakers. Every generated token is compared with them; responses
/// and `/slots` list them.
const MAX_OPTION_TEXT_BYTES: usize = 256 << 10;

/// State that all prompts and choices of a request share.
struct SharedState {
    options: Arc<GenerateOptions>,
    system: Arc<TokenizedSystemPrompt>,
    adapters: AdapterScales,
    /// The field `prompt` has the tokens of `penalty_prompt`, or is empty.
    sampler_inputs: SamplerInputs,
    constraint: Option<Constraint>,
    /// Control tokens that tool calls contain, so that they stay in the output text.
    call_tokens: Vec<TokenId>,
    /// Number of most probable tokens to return per prompt token; `None` computes no prompt log probabilities.
    prompt_logprobs: Option<usize>,
    budget: OutputBudget,
}

/// A tokenized prompt, with the reasoning that follows it.
struct PreparedPrompt {
    tokens: Vec<TokenId>,
    /// Number of tokens before the request's prompt: those of the system prompt, or 1 for an added beginning-of-text
    /// token.
    prefix_tokens: usize,
    reasoning: Option<PromptReasoning>,
}

/// The bytes of text tokens. Control tokens have no bytes.
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
    /// Starts one generation; see [`Self::generate_batch`].
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

    /// Starts `choices` generations for each prompt and returns them ordered by prompt, then by choice. Reserves their
    /// places in the engine's queue before any other work.
    ///
    /// # Errors
    /// If the queue is full, the request is invalid, or `cancel` is set.
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
            return Err(GenerateError::GenerationUnsupported);
        }
        let count = prompts.len().saturating_mul(choices as usize);
        let mut reservation = self
            .engine
            .reserve(count)
            .map_err(|error| self.generate_error(&error))?;
        let system = match system_prompt {
            Some(prompt) => Arc::new(self.tokenize_system_prompt(prompt, cancel)?),
            None => self.tokenized_system_prompt(),
        };
        let prepared = prompts.into_iter().map(|prompt| {
            let (prompt, reasoning) = self.render_prompt(prompt, &options, cancel)?;
            let (tokens, prefix_tokens) = self.prompt_tokens(&prompt, &system, cancel)?;
            let context_tokens = self.details.context_tokens;
            if options.reject_oversized_prompt && tokens.len() >= context_tokens {
                return Err(GenerateError::PromptTooLong {
                    prompt_tokens: tokens.len(),
                    context_tokens,
                });
            }
            Ok(PreparedPrompt {
                tokens,
                prefix_tokens,
                reasoning,
            })
        });
        let prepared: Vec<PreparedPrompt> = prepared.collect::<Result<_, GenerateError>>()?;
        let shared = self.shared_state(options, system, cancel)?;
        let mut generations = Vec::with_capacity(count);
        for prompt in &prepared {
            for choice in 0..choices {
                cancel.check()?;
                generations.push(self.submit_choice(&shared, prompt, choice, &mut reservation)?);
            }
        }
        Ok(generations)
    }

    fn shared_state(
        &self,
        mut options: GenerateOptions,
        system: Arc<TokenizedSystemPrompt>,
        cancel: &CancelFlag,
    ) -> Result<SharedState, GenerateError> {
        let texts = options.stop.iter().chain(&options.sampling.dry.breakers);
        let bytes: usize = texts.map(String::len).sum();
        if bytes > MAX_OPTION_TEXT_BYTES {
            return Err(GenerateError::OptionTooLarge {
                option: "stop",
                problem: format!(
                    "stop strings and sequence breakers have {bytes} bytes; the maximum is {MAX_OPTION_TEXT_BYTES}"
                ),
            });
        }
        let adapters = self.adapters.resolve_scales(options.adapters.as_deref())?;
        options.adapters = Some(adapters.iter().collect());
        let sampler_inputs = self.sampler_inputs(&mut options, cancel)?;
        let mut call_tokens = Vec::new();
        if let Some(tools) = &options.tools {
            options.grammar = Some(self.call_grammar(tools, options.grammar.take()));
            call_tokens = self.control_tokens(&self.template.tool_call_format().marker_text());
        }
        let constraint = options.grammar.as_ref();
        let constraint =
            constraint.map(|grammar| self.constraint(grammar, &sampler_inputs, cancel));
        Ok(SharedState {
            constraint: constraint.transpose()?,
            prompt_logprobs: match options.echo {
                true => options.sampling.logprobs.map(|logprobs| logprobs.top),
                false => None,
            },
            options: Arc::new(options),
            system,
            adapters,
            sampler_inputs,
            call_tokens,
            budget: OutputBudget::new(MAX_OUTPUT_BYTES),
        })
    }

    /// Submits one choice of a prompt to the engine. The seed is the requested seed plus `choice`, or random.
    fn submit_choice(
        &self,
        shared: &SharedState,
        prompt: &PreparedPrompt,
        choice: u32,
        reservation: &mut Reservation,
    ) -> Result<Generation, GenerateError> {
        let options = &shared.options;
        let seed = match options.sampling.seed {
            Some(seed) => seed.wrapping_add(choice),
            None => rand::random(),
        };
        let reasoning = prompt.reasoning.as_ref();
        let mut visible_tokens = shared.call_tokens.clone();
        if let Some(reasoning) = reasoning {
            visible_tokens.extend(self.control_tokens(&reasoning.markers.marker_text()));
        }
        let stream = || {
            TextStream::new(Arc::clone(&self.tokenizer), options.stop.clone())
                .with_visible_tokens(&visible_tokens)
                .with_min_indent(options.lines.min_indent)
        };
        let constraint = shared.constraint.as_ref().map(Constraint::deep_clone);
        let constraint = self.constrain_after_reasoning(reasoning, constraint)?;
        let relaxations = constraint.as_ref().map(Constraint::relaxations);
        let relaxations = relaxations.unwrap_or_default().to_vec();
        let mut sampler_inputs = shared.sampler_inputs.clone();
        if options.penalty_prompt.is_none() {
            sampler_inputs.prompt = prompt.tokens.clone();
        }
        let request = SequenceRequest {
            sampler: Sampler::new(options.sampling.clone(), seed, sampler_inputs),
            prompt: prompt.tokens.clone(),
            max_tokens: options
                .max_tokens
                .unwrap_or(self.details.trained_context_tokens),
            end_tokens: Arc::clone(&self.eog_tokens),
            constraint,
            // Requests with prompt log probabilities get exactly the requested number of tokens.
            stop: Box::new(TextStopRule::new(
                stream(),
                shared.prompt_logprobs.is_none(),
                options.lines.time_limit,
            )),
            slot: options.slot,
            prefix_cache: PrefixCacheOptions {
                max_reused_tokens: match options.read_cache {
                    true => usize::MAX,
                    false => shared.system.tokens.len(),
                },
                namespace: self.cache_namespace_of(
                    options.owner.cache_namespace,
                    options.cache_salt.as_deref(),
                    &shared.adapters,
                ),
            },
            adapters: shared.adapters.clone(),
            context_overflow: match options.context_overflow {
                ContextOverflow::Shift { keep: Some(keep) } => ContextOverflow::Shift {
                    keep: Some(keep.saturating_add(prompt.prefix_tokens)),
                },
                other => other,
            },
            priority: options.priority,
            timeout: options.timeout,
            pooling: None,
            prompt_logprobs: shared.prompt_logprobs,
            report_prefill: options.progress.prompt || options.progress.text,
        };
        let (sequence, events) = self
            .engine
            .submit_reserved(request, reservation)
            .map_err(|error| self.generate_error(&error))?;
        let record = SlotRecord::new(sequence, Arc::clone(options), seed, prompt.tokens.clone());
        let parser = self.output_parser(options.tools.as_ref(), reasoning);
        let generation = Generation::new(
            events,
            Arc::clone(&self.tokenizer),
            stream(),
            record,
            options.echo.then_some(prompt.prefix_tokens),
            seed,
            Arc::clone(&self.slots),
        );
        let generation = generation.with_parser(parser).with_relaxations(relaxations);
        Ok(generation.with_output_budget(shared.budget.clone()))
    }

    /// Returns the sampler's token lists, except for the prompt. Replaces texts in the options by their tokens.
    fn sampler_inputs(
        &self,
        options: &mut GenerateOptions,
        cancel: &CancelFlag,
    ) -> Result<SamplerInputs, GenerateError> {
        let mut bias = Vec::new();
        for (piece, amount) in &options.logit_bias {
            let tokens = self.encode_prompt_pieces(std::slice::from_ref(piece), cancel)?;
            bias.extend(tokens.into_iter().map(|token| (token, *amount)));
            if bias.len() > MAX_BIAS_TOKENS {
                return Err(GenerateError::OptionTooLarge {
                    option: "logit_bias",
                    problem: format!("more than {MAX_BIAS_TOKENS} biased tokens"),
                });
            }
        }
        let as_option = |(token, amount): &(TokenId, f32)| (PromptPiece::Token(*token), *amount);
        options.logit_bias = bias.iter().map(as_option).collect();
        if options.ignore_eos {
            let forbid = |token: &TokenId| (*token, f32::NEG_INFINITY);
            bias.extend(self.eog_tokens.iter().map(forbid));
        }
        let mut penalty_tokens = Vec::new();
        if let Some(pieces) = &mut options.penalty_prompt {
            penalty_tokens = self.encode_prompt_pieces(pieces, cancel)?;
            let context_tokens = self.details.context_tokens;
            if penalty_tokens.len() > context_tokens {
                return Err(GenerateError::OptionTooLarge {
                    option: "penalty_prompt",
                    problem: format!(
                        "{} tokens exceed the context of {context_tokens} tokens",
                        penalty_tokens.len()
                    ),
                });
            }
            *pieces = penalty_tokens
                .iter()
                .copied()
                .map(PromptPiece::Token)
                .collect();
        }
        let newline = self.tokenizer.encode("\n", SpecialTokens::Literal);
        let uses_infill = options.sampling.chain.contains(&Stage::Infill);
        let dry = &options.sampling.dry;
        Ok(SamplerInputs {
            prompt: penalty_tokens,
            logit_bias: bias,
            newline: newline.last().copied(),
            dry_breakers: match dry.multiplier > 0.0 {
                true => self.sequence_breakers(&dry.breakers),
                false => SequenceBreakers::default(),
            },
            infill: uses_infill.then(|| InfillVocabulary {
                eog_tokens: Arc::clone(&self.eog_tokens),
                pieces: Arc::new(TextPieces(Arc::clone(&self.tokenizer))),
            }),
        })
    }

    /// Compiles the grammar. If logit biases forbid tokens other than EOG tokens, any tokenization of the text is
    /// allowed, not only the tokenizer's.
    fn constraint(
        &self,
        grammar: &GrammarSource,
        inputs: &SamplerInputs,
        cancel: &CancelFlag,
    ) -> Result<Constraint, GenerateError> {
        let is_forbidden = |(token, amount): &(TokenId, f32)| {
            *amount == f32::NEG_INFINITY && !self.eog_tokens.contains(token)
        };
        let tokenization = match inputs.logit_bias.iter().any(is_forbidden) {
            true => Tokenization::Any,
            false => Tokenization::Canonical,
        };
        cancel.check()?;
        let compiled = self
            .grammar_compiler()
            .and_then(|compiler| compiler.compile_cancellable(grammar, tokenization, cancel));
        cancel.check()?;
        compiled.map_err(|error| GenerateError::Grammar {
            kind: grammar.kind(),
            error,
        })
    }

    fn sequence_breakers(&self, texts: &[String]) -> SequenceBreakers {
        let contains_breaker = |token: &TokenId| {
            let bytes = self.tokenizer.token_bytes(*token).unwrap_or_default();
            let contains = |text: &String| memchr::memmem::find(bytes, text.as_bytes()).is_some();
            texts.iter().any(contains)
        };
        let sequences = texts
            .iter()
            .map(|text| self.tokenizer.encode(text, SpecialTokens::Literal));
        SequenceBreakers {
            tokens: (0..self.details.vocabulary_size as u32)
                .map(TokenId)
                .filter(contains_breaker)
                .collect(),
            sequences: sequences.filter(|tokens| tokens.len() > 1).collect(),
        }
    }
}
