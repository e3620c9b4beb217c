//! Tests of the engine with a scripted runner. The runner reads the whole sequence back from the cache blocks to choose
//! the next token, so a lost, mixed-up or truncated block changes the text. This file has the runner, the expected
//! output of a sequence that runs alone, and tests of single sequences.

mod fairness;
mod forced;
mod output_checks;
mod prompt_logprobs;
mod properties;
mod shared_resources;
mod slot_actions;
mod speculative;
mod steps;
mod whole_prompts;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::*;
use crate::sampling::{SampledToken, Sampler, SamplerInputs, SamplingParameters};
use crate::token::TokenId;

const VOCABULARY: usize = 97;
const END: TokenId = TokenId(0);
/// A token whose text ends within a multi-byte character.
const PARTIAL_CHARACTER: TokenId = TokenId(1);

/// A prompt that begins with this token makes the scripted runner generate a repeating text.
const REPEATING: u32 = 96;

/// Returns the next token of a sequence: a hash of all its tokens. A repeating text cycles through five tokens, except
/// at every 11th position.
fn next_token(tokens: &[u32]) -> u32 {
    if let [REPEATING, .., last] = tokens
        && !tokens.len().is_multiple_of(11)
    {
        return 2 + (last + 1) % 5;
    }
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for token in tokens {
        hash = (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3);
    }
    ((hash >> 20) % VOCABULARY as u64) as u32
}

/// A runner whose next token is [`next_token`]. The hidden state of a token is the token id and the position.
struct ScriptedRunner {
    options: EngineOptions,
    cache: Vec<Option<u32>>,
    /// Fails every step in which this token is computed.
    poison: Option<TokenId>,
    /// Fails every n-th step.
    fails_every: Option<usize>,
    /// If set, each step waits for a message until the sender is dropped.
    gate: Option<Receiver<()>>,
    steps: usize,
    speculative_row_budget: usize,
}

impl ScriptedRunner {
    fn new(options: &EngineOptions) -> Self {
        Self {
            cache: vec![None; options.blocks * options.block_tokens],
            options: options.clone(),
            poison: None,
            fails_every: None,
            gate: None,
            steps: 0,
            speculative_row_budget: 1,
        }
    }

    /// Returns whether the step fails. A failed step copies no block and invalidates the cache contents that it was to
    /// write.
    fn fails(&mut self, plan: &StepPlan) -> bool {
        self.steps += 1;
        let computes = |token| {
            plan.chunks
                .iter()
                .any(|chunk| chunk.tokens.contains(&token))
        };
        let fails = self.poison.is_some_and(computes)
            || self
                .fails_every
                .is_some_and(|every| self.steps.is_multiple_of(every));
        if fails {
            for chunk in &plan.chunks {
                for position in chunk.past..chunk.past + chunk.tokens.len() {
                    let index = self.cache_index(chunk, position);
                    self.cache[index] = None;
                }
            }
        }
        fails
    }

    fn cache_index(&self, chunk: &Chunk, position: usize) -> usize {
        let block_tokens = self.options.block_tokens;
        chunk.blocks[position / block_tokens].index() * block_tokens + position % block_tokens
    }
}

impl ModelRunner for ScriptedRunner {
    fn outputs(&self) -> Outputs {
        Outputs::new(VOCABULARY, 2)
    }

    fn speculative_row_budget(&self) -> usize {
        self.speculative_row_budget
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let EngineOptions {
            step_tokens,
            batch_tokens,
            context_tokens,
            block_tokens,
            parallel,
            ..
        } = self.options;
        assert!(
            plan.tokens() <= step_tokens,
            "the step is within its budget"
        );
        assert!((1..=parallel).contains(&plan.chunks.len()));
        if let Some(gate) = &self.gate {
            // An error means that the sender was dropped: continue.
            let _ = gate.recv();
        }
        if self.fails(plan) {
            return Err(RunError("poisoned".to_owned()));
        }
        for BlockCopy { from, to } in &plan.copies {
            let start = |block: &BlockId| block.index() * block_tokens;
            let from = start(from)..start(from) + block_tokens;
            self.cache.copy_within(from, start(to));
        }
        let mut rows = Vec::new();
        let mut hidden = Vec::new();
        for (index, chunk) in plan.chunks.iter().enumerate() {
            assert!(
                plan.chunks[..index]
                    .iter()
                    .all(|other| other.sequence != chunk.sequence)
            );
            assert!((1..=batch_tokens).contains(&chunk.tokens.len()));
            let end = chunk.past + chunk.tokens.len();
            assert!(end <= context_tokens);
            for (offset, token) in chunk.tokens.iter().enumerate() {
                let index = self.cache_index(chunk, chunk.past + offset);
                self.cache[index] = Some(token.0);
            }
            let read: Vec<u32> = (0..end)
                .map(|position| {
                    self.cache[self.cache_index(chunk, position)]
                        .expect("the position was written before")
                })
                .collect();
            let wanted = chunk.hidden.count(chunk.tokens.len());
            let last = read.iter().enumerate().skip(end - wanted);
            hidden.extend(last.flat_map(|(position, token)| [*token as f32, position as f32]));
            let wanted = chunk.logits.count(chunk.tokens.len());
            rows.extend((end - wanted..end).map(|last| next_token(&read[..=last])));
        }
        outputs
            .hidden
            .resize(hidden.len() / 2)
            .copy_from_slice(&hidden);
        let values = outputs.logits.resize(rows.len());
        values.fill(0.0);
        for (row, token) in rows.into_iter().enumerate() {
            values[row * VOCABULARY + token as usize] = 10.0;
        }
        Ok(())
    }

    /// Returns one byte per token; 255 for a position that was not written.
    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError> {
        let size = self.options.block_tokens;
        let tokens = &self.cache[block.index() * size..][..size];
        Ok(tokens
            .iter()
            .map(|token| token.map_or(255, |token| token as u8))
            .collect())
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        let size = self.options.block_tokens;
        let tokens = &mut self.cache[block.index() * size..][..size];
        let written = bytes
            .iter()
            .map(|byte| (*byte != 255).then_some(u32::from(*byte)));
        tokens
            .iter_mut()
            .zip(written)
            .for_each(|(token, written)| *token = written);
        Ok(())
    }
}

/// Stops at the given token, and reports that [`PARTIAL_CHARACTER`] ends within a character.
struct StopAt(Option<TokenId>);

impl StopRule for StopAt {
    fn after_token(&mut self, token: TokenId) -> StopDecision {
        match token {
            token if Some(token) == self.0 => StopDecision::Stop,
            PARTIAL_CHARACTER => StopDecision::MidCharacter,
            _ => StopDecision::Continue,
        }
    }
}

fn options() -> EngineOptions {
    EngineOptions {
        parallel: 3,
        queue: 100,
        step_tokens: 8,
        batch_tokens: 7,
        step_duration: Duration::from_secs(1),
        prefill_share: 0.5,
        whole_prompts: false,
        context_tokens: 40,
        blocks: 30,
        block_tokens: 4,
    }
}

/// Returns an engine whose steps each wait for a message from the returned sender, until the sender is dropped.
fn gated_engine(speculative_row_budget: usize) -> (EngineHandle, Sender<()>) {
    let options = options();
    let (step_gate, gate) = channel();
    let mut runner = Box::new(ScriptedRunner::new(&options));
    runner.gate = Some(gate);
    runner.speculative_row_budget = speculative_row_budget;
    let engine = start(runner, options, Instant::now).unwrap();
    (engine, step_gate)
}

fn engine(options: EngineOptions) -> EngineHandle {
    let runner = Box::new(ScriptedRunner::new(&options));
    start(runner, options, Instant::now).unwrap()
}

fn request(prompt: &[u32], max_tokens: usize) -> SequenceRequest {
    let prompt: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    let greedy = SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::openai()
    };
    SequenceRequest {
        sampler: Sampler::new(greedy, 0, SamplerInputs::default()),
        prompt,
        max_tokens,
        eog_tokens: [END].into(),
        constraint: None,
        stop: Box::new(StopAt(None)),
        slot: None,
        prefix_cache: PrefixCacheOptions {
            max_reused_tokens: usize::MAX,
            namespace: CacheNamespace(0),
        },
        adapters: AdapterScales::default(),
        context_overflow: ContextOverflow::Stop,
        priority: 0,
        timeout: None,
        pooling: None,
        prompt_logprobs: None,
        report_prefill: false,
    }
}

/// Returns the expected output of a sequence that runs alone: the generated tokens and the end reason.
fn oracle(
    prompt: &[u32],
    max_tokens: usize,
    stop: Option<TokenId>,
    context_overflow: ContextOverflow,
) -> (Vec<u32>, EndReason) {
    let context = options().context_tokens;
    let mut text: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    let mut generated = Vec::new();
    if max_tokens == 0 {
        return (generated, EndReason::TokenLimit);
    }
    let keep = match context_overflow {
        ContextOverflow::Stop => None,
        ContextOverflow::Shift { keep } => {
            Some(context_shift::kept_tokens(keep, prompt.len(), context))
        }
    };
    if let Some(keep) = keep.filter(|_| prompt.len() >= context) {
        context_shift::truncate_prompt(&mut text, keep, context);
    }
    loop {
        let numbers: Vec<u32> = text.iter().map(|token| token.0).collect();
        let token = TokenId(next_token(&numbers));
        if token == END {
            return (generated, EndReason::EogToken);
        }
        text.push(token);
        generated.push(token.0);
        let limit = max_tokens.saturating_add(if token == PARTIAL_CHARACTER { 3 } else { 0 });
        let reason = if Some(token) == stop {
            EndReason::StopRule
        } else if generated.len() >= limit {
            EndReason::TokenLimit
        } else if text.len() >= context {
            match keep {
                None => EndReason::ContextFull,
                Some(keep) => {
                    context_shift::shift(&mut text, keep);
                    continue;
                }
            }
        } else {
            continue;
        };
        return (generated, reason);
    }
}

/// Receives all events of a sequence. Returns the tokens and the last event.
fn collect(mut events: SequenceEvents) -> (Vec<u32>, SequenceEvent) {
    let mut tokens = Vec::new();
    loop {
        match events
            .blocking_recv()
            .expect("the last event is an end event")
        {
            SequenceEvent::Started { .. } => {}
            SequenceEvent::Token(token) => tokens.push(token.token.0),
            end => {
                assert!(events.blocking_recv().is_none(), "no event follows the end");
                return (tokens, end);
            }
        }
    }
}

#[track_caller]
fn check(events: SequenceEvents, (tokens, reason): (Vec<u32>, EndReason)) {
    let (received, end) = collect(events);
    assert_eq!(received, tokens);
    assert!(
        matches!(end, SequenceEvent::Ended { reason: actual, .. } if actual == reason),
        "{end:?}, not {reason:?}"
    );
}

#[test]
fn a_sequence_has_the_expected_output() {
    let engine = engine(options());
    for (prompt, max_tokens) in [
        (vec![5, 6, 7], 6),
        ((2..30).collect(), 4),     // prefill takes several steps
        (vec![9], 0),               // only evaluates the prompt
        (vec![3; 39], 5),           // reaches the end of the context first
        (vec![11, 12], usize::MAX), // ends with an end token or at the end of the context
    ] {
        let (_, events) = engine.submit(request(&prompt, max_tokens)).unwrap();
        check(
            events,
            oracle(&prompt, max_tokens, None, ContextOverflow::Stop),
        );
    }
    assert_eq!(engine.stats().blocks.referenced, 0);
}

#[test]
fn the_token_limit_is_exceeded_to_complete_a_character() {
    // A prompt whose second generated token ends within a character.
    let prompt = (2..10_000)
        .map(|seed| vec![seed % 97, seed / 97])
        .find(|prompt| {
            let (tokens, _) = oracle(prompt, 20, None, ContextOverflow::Stop);
            tokens.len() > 4 && tokens[1] == PARTIAL_CHARACTER.0 && tokens[2] != PARTIAL_CHARACTER.0
        })
        .unwrap();
    let engine = engine(options());
    let (_, events) = engine.submit(request(&prompt, 2)).unwrap();
    let (tokens, _) = collect(events);
    assert_eq!(tokens.len(), 3);
}

#[test]
fn a_stop_rule_ends_the_sequence_with_its_token() {
    let prompt = [5, 6, 7];
    let (tokens, _) = oracle(&prompt, 8, None, ContextOverflow::Stop);
    let stop = TokenId(tokens[3]);
    let engine = engine(options());
    let (_, events) = engine
        .submit(SequenceRequest {
            stop: Box::new(StopAt(Some(stop))),
            ..request(&prompt, 8)
        })
        .unwrap();
    check(
        events,
        oracle(&prompt, 8, Some(stop), ContextOverflow::Stop),
    );
}

#[test]
fn requests_that_can_never_run_are_refused() {
    let engine = engine(options());
    let refused = |request| engine.submit(request).err().unwrap();
    assert_eq!(refused(request(&[], 1)), SubmitError::Empty);
    let too_long = SubmitError::TooLong {
        prompt_tokens: 40,
        context_tokens: 40,
    };
    assert_eq!(refused(request(&[2; 40], 1)), too_long);
    let unknown_slot = SequenceRequest {
        slot: Some(3),
        ..request(&[2], 1)
    };
    assert_eq!(refused(unknown_slot), SubmitError::UnknownSlot(3));
    // A context of one token has no room for a generated token, even with context shift.
    let tiny = start(
        Box::new(ScriptedRunner::new(&options())),
        EngineOptions {
            context_tokens: 1,
            ..options()
        },
        Instant::now,
    )
    .unwrap();
    let shifting = SequenceRequest {
        context_overflow: ContextOverflow::Shift { keep: None },
        ..request(&[2, 3], 1)
    };
    assert!(matches!(
        tiny.submit(shifting),
        Err(SubmitError::TooLong { .. })
    ));
    // A prompt that fills the context can be evaluated.
    let (_, events) = engine.submit(request(&[2; 40], 0)).unwrap();
    check(events, (Vec::new(), EndReason::TokenLimit));
}

#[test]
fn the_queue_is_bounded_and_its_requests_are_all_answered() {
    let engine = engine(EngineOptions {
        queue: 2,
        ..options()
    });
    // More requests than can run and wait; some may end before the last is submitted. All accepted requests are
    // answered.
    let outcomes: Vec<_> = (0..50)
        .map(|n| engine.submit(request(&[2 + n], 30)))
        .collect();
    for (n, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok((_, events)) => check(events, oracle(&[2 + n], 30, None, ContextOverflow::Stop)),
            Err(error) => assert_eq!(error, SubmitError::QueueFull { waiting: 2 }),
        }
    }
    let (_, events) = engine.submit(request(&[2], 1)).unwrap();
    check(events, oracle(&[2], 1, None, ContextOverflow::Stop));
}

#[test]
fn a_failed_step_ends_only_its_sequences() {
    let options = options();
    let mut runner = ScriptedRunner::new(&options);
    runner.poison = Some(TokenId(96));
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    let (_, events) = engine.submit(request(&[96], 5)).unwrap();
    assert_eq!(
        collect(events).1,
        SequenceEvent::Failed("poisoned".to_owned())
    );
    let prompt = (2..90)
        .map(|n| [n])
        .find(|prompt| {
            !oracle(prompt, 5, None, ContextOverflow::Stop)
                .0
                .contains(&96)
        })
        .unwrap();
    let (_, events) = engine.submit(request(&prompt, 5)).unwrap();
    check(events, oracle(&prompt, 5, None, ContextOverflow::Stop));
    assert_eq!(engine.stats().blocks.referenced, 0);
}

#[test]
fn a_request_can_require_a_slot() {
    let engine = engine(options());
    for slot in [2, 0, 2] {
        let (_, mut events) = engine
            .submit(SequenceRequest {
                slot: Some(slot),
                ..request(&[7], 2)
            })
            .unwrap();
        assert_eq!(
            events.blocking_recv(),
            Some(SequenceEvent::Started { slot })
        );
    }
}

#[test]
fn stopping_the_engine_ends_all_sequences() {
    let engine = engine(options());
    let (_, events) = engine.submit(request(&[5], usize::MAX)).unwrap();
    engine.stop();
    let (_, end) = collect(events);
    assert!(matches!(
        end,
        SequenceEvent::Failed(_) | SequenceEvent::Ended { .. }
    ));
}

#[test]
fn a_runner_that_panics_is_reported() {
    struct PanickingRunner;
    impl ModelRunner for PanickingRunner {
        fn outputs(&self) -> Outputs {
            Outputs::new(VOCABULARY, 2)
        }

        fn run(&mut self, _: &StepPlan, _: &mut Outputs) -> Result<(), RunError> {
            panic!("on purpose")
        }

        fn read_block(&mut self, _: BlockId) -> Result<Vec<u8>, RunError> {
            panic!("on purpose")
        }

        fn write_block(&mut self, _: BlockId, _: &[u8]) -> Result<(), RunError> {
            panic!("on purpose")
        }
    }
    let engine = start(Box::new(PanickingRunner), options(), Instant::now).unwrap();
    let (_, mut events) = engine.submit(request(&[5], 3)).unwrap();
    while events.blocking_recv().is_some() {}
    // The channel closes while the thread unwinds, possibly before the statistics are updated.
    while engine.stats().death_reason.is_none() {
        std::thread::yield_now();
    }
    assert_eq!(
        engine.stats().death_reason.as_deref(),
        Some("the engine's thread panicked")
    );
    assert!(matches!(
        engine.submit(request(&[5], 3)),
        Err(SubmitError::Stopped)
    ));
}

/// Returns a prompt of `tokens` tokens that differs from the prompts of other seeds.
fn prompt(seed: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|n| 2 + (seed * 31 + n * 7) % 95).collect()
}
