//! The engine with a scripted runner: its "model" reads the whole sequence back from the blocks, so a
//! block that is given away, mixed up or cut short changes the text. Here are the script, what it says to a
//! sequence alone, and the life of single sequences.

mod fairness;
mod forced;
mod guesses;
mod numbers;
mod properties;
mod scores;
mod sharing;
mod slots;
mod steps;
mod whole;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::*;
use crate::sampling::{Choice, Sampler, SamplerTokens, SamplingParameters};
use crate::token::TokenId;

const VOCABULARY: usize = 97;
const END: TokenId = TokenId(0);
/// The script chooses this token where a character begins that is not whole.
const HALF: TokenId = TokenId(1);

/// With this token a text begins that soon repeats itself.
const SINGSONG: u32 = 96;

/// The token after a sequence: any function of all of it will do. A singsong goes round and round, but for some tokens.
fn next_token(tokens: &[u32]) -> u32 {
    if let [SINGSONG, .., last] = tokens
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

/// A hidden state is the token and its position.
struct ScriptedRunner {
    options: EngineOptions,
    cache: Vec<Option<u32>>,
    /// Fails every step in which this token is computed.
    poison: Option<TokenId>,
    /// Fails every so many steps.
    fails_every: Option<usize>,
    /// Every step waits for a word, if there is somebody to give it.
    gate: Option<Receiver<()>>,
    steps: usize,
    cheap_rows: usize,
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
            cheap_rows: 1,
        }
    }

    /// Whether the step fails. Then nothing was copied, and what it was to write is spoilt.
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
                    let place = self.place(chunk, position);
                    self.cache[place] = None;
                }
            }
        }
        fails
    }

    fn place(&self, chunk: &Chunk, position: usize) -> usize {
        let block_tokens = self.options.block_tokens;
        chunk.blocks[position / block_tokens].index() * block_tokens + position % block_tokens
    }
}

impl ModelRunner for ScriptedRunner {
    fn outputs(&self) -> Outputs {
        Outputs::new(VOCABULARY, 2)
    }

    fn cheap_rows(&self) -> usize {
        self.cheap_rows
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
            // Nobody is left to give the word: go on.
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
                let place = self.place(chunk, chunk.past + offset);
                self.cache[place] = Some(token.0);
            }
            let read: Vec<u32> = (0..end)
                .map(|position| {
                    self.cache[self.place(chunk, position)].expect("what is read was written")
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

    /// Each token, or 255.
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

/// Stops at a token, and takes [`HALF`] for the beginning of a character.
struct StopAt(Option<TokenId>);

impl StopRule for StopAt {
    fn after(&mut self, token: TokenId) -> Verdict {
        match token {
            token if Some(token) == self.0 => Verdict::Stop,
            HALF => Verdict::MidCharacter,
            _ => Verdict::Continue,
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

/// An engine with so many cheap rows whose steps wait for a word each, and who gives it.
fn engine_in_steps(cheap_rows: usize) -> (EngineHandle, Sender<()>) {
    let options = options();
    let (word, gate) = channel();
    let mut runner = Box::new(ScriptedRunner::new(&options));
    runner.gate = Some(gate);
    runner.cheap_rows = cheap_rows;
    let engine = start(runner, options, Instant::now).unwrap();
    (engine, word)
}

fn engine(options: EngineOptions) -> EngineHandle {
    let runner = Box::new(ScriptedRunner::new(&options));
    start(runner, options, Instant::now).unwrap()
}

fn job(prompt: &[u32], max_tokens: usize) -> Job {
    let prompt: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    let greedy = SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::openai()
    };
    Job {
        sampler: Sampler::new(greedy, 0, SamplerTokens::default()),
        prompt,
        max_tokens,
        end_tokens: [END].into(),
        constraint: None,
        stop: Box::new(StopAt(None)),
        slot: None,
        prefix: PrefixUse {
            readable: usize::MAX,
            root: PrefixRoot(0),
        },
        adapters: AdapterScales::default(),
        when_full: WhenFull::Stop,
        priority: 0,
        timeout: None,
        embed: None,
        score: None,
        report_prefill: false,
    }
}

/// What the script says to a prompt, by itself: the tokens, and why they end.
fn oracle(
    prompt: &[u32],
    max_tokens: usize,
    stop: Option<TokenId>,
    when_full: WhenFull,
) -> (Vec<u32>, EndReason) {
    let context = options().context_tokens;
    let mut text: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    let mut generated = Vec::new();
    if max_tokens == 0 {
        return (generated, EndReason::TokenLimit);
    }
    let keep = match when_full {
        WhenFull::Stop => None,
        WhenFull::Shift { keep } => Some(context::kept(keep, prompt.len(), context)),
    };
    if let Some(keep) = keep.filter(|_| prompt.len() >= context) {
        context::cut(&mut text, keep, context);
    }
    loop {
        let numbers: Vec<u32> = text.iter().map(|token| token.0).collect();
        let token = TokenId(next_token(&numbers));
        if token == END {
            return (generated, EndReason::EndToken);
        }
        text.push(token);
        generated.push(token.0);
        let limit = max_tokens.saturating_add(if token == HALF { 3 } else { 0 });
        let reason = if Some(token) == stop {
            EndReason::StopRule
        } else if generated.len() >= limit {
            EndReason::TokenLimit
        } else if text.len() >= context {
            match keep {
                None => EndReason::ContextFull,
                Some(keep) => {
                    context::shift(&mut text, keep);
                    continue;
                }
            }
        } else {
            continue;
        };
        return (generated, reason);
    }
}

/// Listens to the end: tokens, and the last event.
fn listen(mut events: Events) -> (Vec<u32>, SequenceEvent) {
    let mut tokens = Vec::new();
    loop {
        match events
            .blocking_recv()
            .expect("a sequence's last event is its end")
        {
            SequenceEvent::Started { .. } => {}
            SequenceEvent::Token(choice) => tokens.push(choice.token.0),
            end => {
                assert!(events.blocking_recv().is_none(), "nothing follows the end");
                return (tokens, end);
            }
        }
    }
}

#[track_caller]
fn check(events: Events, (tokens, reason): (Vec<u32>, EndReason)) {
    let (heard, end) = listen(events);
    assert_eq!(heard, tokens);
    assert!(
        matches!(end, SequenceEvent::Ended { reason: found, .. } if found == reason),
        "{end:?}, not {reason:?}"
    );
}

#[test]
fn a_sequence_is_continued_as_the_script_says() {
    let engine = engine(options());
    for (prompt, max_tokens) in [
        (vec![5, 6, 7], 6),
        ((2..30).collect(), 4),     // a prompt of several steps
        (vec![9], 0),               // evaluated only
        (vec![3; 39], 5),           // the context ends first
        (vec![11, 12], usize::MAX), // an end token, or the context
    ] {
        let (_, events) = engine.submit(job(&prompt, max_tokens)).unwrap();
        check(events, oracle(&prompt, max_tokens, None, WhenFull::Stop));
    }
    assert_eq!(engine.stats().blocks.held, 0);
}

#[test]
fn a_limit_is_exceeded_to_finish_a_character() {
    // A prompt after which the script's second token begins a character.
    let prompt = (2..10_000)
        .map(|seed| vec![seed % 97, seed / 97])
        .find(|prompt| {
            let (tokens, _) = oracle(prompt, 20, None, WhenFull::Stop);
            tokens.len() > 4 && tokens[1] == HALF.0 && tokens[2] != HALF.0
        })
        .unwrap();
    let engine = engine(options());
    let (_, events) = engine.submit(job(&prompt, 2)).unwrap();
    let (tokens, _) = listen(events);
    assert_eq!(tokens.len(), 3);
}

#[test]
fn a_stop_rule_ends_at_its_token() {
    let prompt = [5, 6, 7];
    let (whole, _) = oracle(&prompt, 8, None, WhenFull::Stop);
    let stop = TokenId(whole[3]);
    let engine = engine(options());
    let (_, events) = engine
        .submit(Job {
            stop: Box::new(StopAt(Some(stop))),
            ..job(&prompt, 8)
        })
        .unwrap();
    check(events, oracle(&prompt, 8, Some(stop), WhenFull::Stop));
}

#[test]
fn jobs_that_cannot_be_are_refused() {
    let engine = engine(options());
    let refused = |job| engine.submit(job).err().unwrap();
    assert_eq!(refused(job(&[], 1)), SubmitError::Empty);
    let too_long = SubmitError::TooLong {
        prompt_tokens: 40,
        context_tokens: 40,
    };
    assert_eq!(refused(job(&[2; 40], 1)), too_long);
    let elsewhere = Job {
        slot: Some(3),
        ..job(&[2], 1)
    };
    assert_eq!(refused(elsewhere), SubmitError::UnknownSlot(3));
    // Nor can a text of one token go on in a context of one.
    let tiny = start(
        Box::new(ScriptedRunner::new(&options())),
        EngineOptions {
            context_tokens: 1,
            ..options()
        },
        Instant::now,
    )
    .unwrap();
    let shifting = Job {
        when_full: WhenFull::Shift { keep: None },
        ..job(&[2, 3], 1)
    };
    assert!(matches!(
        tiny.submit(shifting),
        Err(SubmitError::TooLong { .. })
    ));
    // A prompt that fills the context can be evaluated.
    let (_, events) = engine.submit(job(&[2; 40], 0)).unwrap();
    check(events, (Vec::new(), EndReason::TokenLimit));
}

#[test]
fn the_queue_is_bounded_and_drains() {
    let engine = engine(EngineOptions {
        queue: 2,
        ..options()
    });
    // More than can run and wait, faster than they end or not: those taken are all answered.
    let outcomes: Vec<_> = (0..50).map(|n| engine.submit(job(&[2 + n], 30))).collect();
    for (n, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok((_, events)) => check(events, oracle(&[2 + n], 30, None, WhenFull::Stop)),
            Err(error) => assert_eq!(error, SubmitError::QueueFull { waiting: 2 }),
        }
    }
    let (_, events) = engine.submit(job(&[2], 1)).unwrap();
    check(events, oracle(&[2], 1, None, WhenFull::Stop));
}

#[test]
fn a_failed_step_ends_its_sequences_and_no_others() {
    let options = options();
    let mut runner = ScriptedRunner::new(&options);
    runner.poison = Some(TokenId(96));
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    let (_, events) = engine.submit(job(&[96], 5)).unwrap();
    assert_eq!(
        listen(events).1,
        SequenceEvent::Failed("poisoned".to_owned())
    );
    let prompt = (2..90)
        .map(|n| [n])
        .find(|prompt| !oracle(prompt, 5, None, WhenFull::Stop).0.contains(&96))
        .unwrap();
    let (_, events) = engine.submit(job(&prompt, 5)).unwrap();
    check(events, oracle(&prompt, 5, None, WhenFull::Stop));
    assert_eq!(engine.stats().blocks.held, 0);
}

#[test]
fn a_slot_can_be_insisted_on() {
    let engine = engine(options());
    for slot in [2, 0, 2] {
        let (_, mut events) = engine
            .submit(Job {
                slot: Some(slot),
                ..job(&[7], 2)
            })
            .unwrap();
        assert_eq!(
            events.blocking_recv(),
            Some(SequenceEvent::Started { slot })
        );
    }
}

#[test]
fn a_stop_tells_everybody() {
    let engine = engine(options());
    let (_, events) = engine.submit(job(&[5], usize::MAX)).unwrap();
    engine.stop();
    let (_, end) = listen(events);
    assert!(matches!(
        end,
        SequenceEvent::Failed(_) | SequenceEvent::Ended { .. }
    ));
}

#[test]
fn a_runner_that_panics_is_reported() {
    struct Panics;
    impl ModelRunner for Panics {
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
    let engine = start(Box::new(Panics), options(), Instant::now).unwrap();
    let (_, mut events) = engine.submit(job(&[5], 3)).unwrap();
    while events.blocking_recv().is_some() {}
    // The channel closes while the thread unwinds; the report is made before it ends.
    while engine.stats().dead.is_none() {
        std::thread::yield_now();
    }
    assert_eq!(
        engine.stats().dead.as_deref(),
        Some("the engine's thread panicked")
    );
    assert!(matches!(
        engine.submit(job(&[5], 3)),
        Err(SubmitError::Stopped)
    ));
}

/// A prompt of so many tokens that is not the beginning of another seed's.
fn prompt(seed: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|n| 2 + (seed * 31 + n * 7) % 95).collect()
}
