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
    LoadedModel, Prompt, PromptPiece,
};
use crate::cancel::CancelFlag;
use crate::engine::{
    AdapterScales, CacheNamespace, PrefixCacheOptions, Reservation, SequenceRequest,
};
use crate::grammar::{Constraint, ReasoningRule, Tokenization};
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
    prefix_cache: PrefixCacheOptions,
    adapters: AdapterScales,
    /// The field `prompt` has the tokens of `penalty_prompt`, or is empty.
    sampler_inputs: SamplerInputs,
    /// The compiled grammar; each sequence has a deep clone.
    constraint: Option<Arc<Constraint>>,
    /// Number of most probable tokens to return per prompt token; `None` computes no prompt log probabilities.
    prompt_logprobs: Option<usize>,
    budget: OutputBudget,
}

/// A tokenized prompt, which all its choices share.
struct PreparedPrompt {
    tokens: Arc<[TokenId]>,
    /// Number of tokens before the request's prompt: those of the system prompt, or 1 for an added beginning-of-text
    /// token.
    prefix_tokens: usize,
    /// Reasoning that may follow the prompt.
    reasoning: Option<PromptReasoning>,
    reasoning_rule: Option<ReasoningRule>,
    /// Control tokens of tool calls and reasoning that stay in the output text, where the parser finds them.
    visible_tokens: Vec<TokenId>,
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
        let prompts = prompts
            .into_iter()
            .map(|prompt| self.prepare_prompt(prompt, &options, &system, cancel))
            .collect::<Result<Vec<PreparedPrompt>, GenerateError>>()?;
        let shared = self.shared_state(options, &system, cancel)?;
        let mut generations = Vec::with_capacity(count);
        for prompt in &prompts {
            for choice in 0..choices {
                cancel.check()?;
                generations.push(self.submit_choice(&shared, prompt, choice, &mut reservation)?);
            }
        }
        Ok(generations)
    }

    /// Renders and tokenizes a prompt.
    fn prepare_prompt(
        &self,
        prompt: Prompt,
        options: &GenerateOptions,
        system: &TokenizedSystemPrompt,
        cancel: &CancelFlag,
    ) -> Result<PreparedPrompt, GenerateError> {
        let (pieces, reasoning) = match prompt {
            Prompt::Pieces(pieces) => (pieces, None),
            Prompt::Chat(conversation) => {
                let is_constrained = options.is_constrained();
                let (text, reasoning) =
                    self.render_prompt(&conversation, is_constrained, cancel)?;
                (vec![PromptPiece::Text(text)], reasoning)
            }
        };
        let (tokens, prefix_tokens) = self.prompt_tokens(&pieces, system, cancel)?;
        let context_tokens = self.details.context_tokens;
        if options.reject_oversized_prompt && tokens.len() >= context_tokens {
            return Err(GenerateError::PromptTooLong {
                prompt_tokens: tokens.len(),
                context_tokens,
            });
        }
        let mut visible_tokens = Vec::new();
        if options.tools.is_some() {
            visible_tokens = self.control_tokens(&self.template.tool_call_format().marker_text());
        }
        let mut reasoning_rule = None;
        if let Some(reasoning) = &reasoning {
            visible_tokens.extend(self.control_tokens(&reasoning.markers.marker_text()));
            reasoning_rule = self.reasoning_rule(reasoning, options.is_constrained());
        }
        Ok(PreparedPrompt {
            tokens: tokens.into(),
            prefix_tokens,
            reasoning,
            reasoning_rule,
            visible_tokens,
        })
    }

    /// Resolves the options and compiles the grammar.
    fn shared_state(
        &self,
        mut options: GenerateOptions,
        system: &TokenizedSystemPrompt,
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
        if let Some(tools) = &options.tools {
            options.grammar = Some(self.call_grammar(tools, options.grammar.take()));
        }
        Ok(SharedState {
            constraint: self.constraint(&options, &sampler_inputs, cancel)?,
            prefix_cache: PrefixCacheOptions {
                max_reused_tokens: match options.read_cache {
                    true => usize::MAX,
                    false => system.tokens.len(),
                },
                namespace: self.request_namespace(&options, &adapters),
            },
            prompt_logprobs: match options.echo {
                true => options.sampling.logprobs.map(|logprobs| logprobs.top),
                false => None,
            },
            options: Arc::new(options),
            adapters,
            sampler_inputs,
            budget: OutputBudget::new(MAX_OUTPUT_BYTES),
        })
    }

    fn request_namespace(
        &self,
        options: &GenerateOptions,
        adapters: &AdapterScales,
    ) -> CacheNamespace {
        let salt = options.cache_salt.as_deref();
        self.cache_namespace_of(options.owner.cache_namespace, salt, adapters)
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
        let request = self.sequence_request(shared, prompt, seed)?;
        let (sequence, events) = self
            .engine
            .submit_reserved(request, reservation)
            .map_err(|error| self.generate_error(&error))?;
        let tokens = Arc::clone(&prompt.tokens);
        let record = SlotRecord::new(sequence, Arc::clone(options), seed, tokens);
        let parser = self.output_parser(options.tools.as_ref(), prompt.reasoning.as_ref());
        let constraint = shared.constraint.as_ref();
        let relaxations = constraint.map(|constraint| constraint.relaxations().to_vec());
        let generation = Generation::new(
            events,
            Arc::clone(&self.tokenizer),
            self.text_stream(options, prompt),
            record,
            options.echo.then_some(prompt.prefix_tokens),
            seed,
            Arc::clone(&self.slots),
        );
        Ok(generation
            .with_parser(parser)
            .with_relaxations(relaxations.unwrap_or_default())
            .with_output_budget(shared.budget.clone()))
    }

    /// Returns the engine's request for one choice of a prompt.
    fn sequence_request(
        &self,
        shared: &SharedState,
        prompt: &PreparedPrompt,
        seed: u32,
    ) -> Result<SequenceRequest, GenerateError> {
        let options = &shared.options;
        let constraint = shared.constraint.as_deref().map(Constraint::deep_clone);
        let max_tokens = options.max_tokens;
        Ok(SequenceRequest {
            prompt: prompt.tokens.to_vec(),
            max_tokens: max_tokens.unwrap_or(self.details.trained_context_tokens),
            eog_tokens: Arc::clone(&self.eog_tokens),
            sampler: sampler(shared, prompt, seed),
            constraint: self
                .constrain_after_reasoning(prompt.reasoning_rule.as_ref(), constraint)?,
            // Requests with prompt log probabilities get exactly the requested number of tokens.
            stop: Box::new(TextStopRule::new(
                self.text_stream(options, prompt),
                shared.prompt_logprobs.is_none(),
                options.lines.time_limit,
            )),
            slot: options.slot,
            prefix_cache: shared.prefix_cache,
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
        })
    }

    fn text_stream(&self, options: &GenerateOptions, prompt: &PreparedPrompt) -> TextStream {
        TextStream::new(Arc::clone(&self.tokenizer), options.stop.clone())
            .with_visible_tokens(&prompt.visible_tokens)
            .with_min_indent(options.lines.min_indent)
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

    /// Returns the compiled grammar of a request. If logit biases forbid tokens other than EOG tokens, any tokenization
    /// of the text is allowed, not only the tokenizer's.
    fn constraint(
        &self,
        options: &GenerateOptions,
        inputs: &SamplerInputs,
        cancel: &CancelFlag,
    ) -> Result<Option<Arc<Constraint>>, GenerateError> {
        let Some(grammar) = &options.grammar else {
            return Ok(None);
        };
        let is_forbidden = |(token, amount): &(TokenId, f32)| {
            *amount == f32::NEG_INFINITY && !self.eog_tokens.contains(token)
        };
        let tokenization = match inputs.logit_bias.iter().any(is_forbidden) {
            true => Tokenization::Any,
            false => Tokenization::Canonical,
        };
        // A compiled grammar does not depend on the adapters.
        let CacheNamespace(scope) = self.request_namespace(options, &AdapterScales::default());
        cancel.check()?;
        let compiled = self
            .grammar_compiler()
            .and_then(|compiler| compiler.compile_cached(grammar, tokenization, scope, cancel));
        cancel.check()?;
        compiled.map(Some).map_err(|error| GenerateError::Grammar {
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

/// Returns the sampler of one choice. Penalties count the tokens of the prompt, or of `penalty_prompt` instead.
fn sampler(shared: &SharedState, prompt: &PreparedPrompt, seed: u32) -> Sampler {
    let mut inputs = shared.sampler_inputs.clone();
    if shared.options.penalty_prompt.is_none() {
        inputs.prompt = prompt.tokens.to_vec();
    }
    Sampler::new(shared.options.sampling.clone(), seed, inputs)
}
