//! The engine with a scripted runner: its «model» reads the whole sequence back from the blocks, so a
//! block that is given away, mixed up or cut short changes the text.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::sampling::{Sampler, SamplerTokens, SamplingParameters};
use crate::token::TokenId;

const VOCABULARY: usize = 97;
const END: TokenId = TokenId(0);
/// The script chooses this token where a character begins that is not whole.
const HALF: TokenId = TokenId(1);

/// The token after a sequence: any function of all of it will do.
fn next_token(tokens: &[u32]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for token in tokens {
        hash = (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3);
    }
    ((hash >> 20) % VOCABULARY as u64) as u32
}

struct ScriptedRunner {
    options: EngineOptions,
    cache: Vec<Option<u32>>,
    /// Fails every step in which this token is computed.
    poison: Option<TokenId>,
    /// Fails every so many steps.
    fails_every: Option<usize>,
    steps: usize,
}

impl ScriptedRunner {
    fn new(options: &EngineOptions) -> Self {
        Self {
            cache: vec![None; options.blocks * options.block_tokens],
            options: options.clone(),
            poison: None,
            fails_every: None,
            steps: 0,
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
    fn run(&mut self, plan: &StepPlan, logits: &mut Logits) -> Result<(), RunError> {
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
        if self.fails(plan) {
            return Err(RunError("poisoned".to_owned()));
        }
        for BlockCopy { from, to } in &plan.copies {
            let start = |block: &BlockId| block.index() * block_tokens;
            let from = start(from)..start(from) + block_tokens;
            self.cache.copy_within(from, start(to));
        }
        let mut rows = Vec::new();
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
            if chunk.logits == LogitRows::Last {
                rows.push(next_token(&read));
            }
        }
        let values = logits.resize(rows.len());
        values.fill(0.0);
        for (row, token) in rows.into_iter().enumerate() {
            values[row * VOCABULARY + token as usize] = 10.0;
        }
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
        context_tokens: 40,
        blocks: 30,
        block_tokens: 4,
    }
}

fn engine(options: EngineOptions) -> EngineHandle {
    let runner = Box::new(ScriptedRunner::new(&options));
    start(runner, VOCABULARY, options, Instant::now).unwrap()
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
            read: true,
            root: PrefixRoot(0),
        },
        when_full: WhenFull::Stop,
        priority: 0,
        timeout: None,
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
        VOCABULARY,
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
    let engine = start(Box::new(runner), VOCABULARY, options, Instant::now).unwrap();
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
        fn run(&mut self, _: &StepPlan, _: &mut Logits) -> Result<(), RunError> {
            panic!("on purpose")
        }
    }
    let engine = start(Box::new(Panics), VOCABULARY, options(), Instant::now).unwrap();
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

#[test]
fn what_was_computed_is_not_computed_again() {
    let engine = engine(options());
    let counted = |job: Job| {
        let before = engine.stats().counters;
        let (_, events) = engine.submit(job).unwrap();
        let (_, end) = listen(events);
        let SequenceEvent::Ended { report, .. } = end else {
            panic!("{end:?}")
        };
        let computed = engine.stats().counters.prompt_tokens - before.prompt_tokens;
        assert_eq!(
            computed as usize,
            report.prompt_tokens - report.cached_tokens
        );
        report.cached_tokens
    };
    let unread = |job: Job| Job {
        prefix: PrefixUse {
            read: false,
            ..job.prefix
        },
        ..job
    };
    let salted = |job: Job| Job {
        prefix: PrefixUse {
            root: PrefixRoot(1),
            ..job.prefix
        },
        ..job
    };
    let first = prompt(1, 22);
    // Who does not read writes all the same.
    assert_eq!(counted(unread(job(&first, 0))), 0);
    assert_eq!(counted(unread(job(&first, 0))), 0);
    // All but the last token, whose logits are wanted.
    assert_eq!(counted(job(&first, 1)), 21);
    // Half a block is of use, too.
    let mut second = first[..18].to_vec();
    second.extend(prompt(5, 10));
    assert_eq!(counted(job(&second, 1)), 18);
    assert_eq!(counted(salted(job(&first, 1))), 0);
    assert_eq!(counted(salted(job(&first, 1))), 21);
}

#[test]
fn an_answer_is_of_use_to_the_next_question() {
    let engine = engine(options());
    let question = prompt(3, 10);
    let (_, events) = engine.submit(job(&question, 8)).unwrap();
    let (answer, _) = listen(events);
    let conversation = [&question[..], &answer, &prompt(4, 5)].concat();
    let (_, events) = engine.submit(job(&conversation, 1)).unwrap();
    let (_, end) = listen(events);
    // The answer's last token was never fed to the model.
    let known = question.len() + answer.len() - 1;
    assert!(
        matches!(end, SequenceEvent::Ended { report, .. } if report.cached_tokens == known),
        "{end:?}, not {known}"
    );
}

#[test]
fn a_prefix_that_several_share_is_computed_once() {
    let options = EngineOptions {
        parallel: 4,
        ..options()
    };
    let engine = engine(options);
    let shared = prompt(1, 24);
    let jobs: Vec<Vec<u32>> = (0..6)
        .map(|seed| [&shared[..], &prompt(seed, 3)].concat())
        .collect();
    let submitted: Vec<Events> = jobs
        .iter()
        .map(|prompt| engine.submit(job(prompt, 4)).unwrap().1)
        .collect();
    for (prompt, events) in jobs.iter().zip(submitted) {
        check(events, oracle(prompt, 4, None, WhenFull::Stop));
    }
    let counters = engine.stats().counters;
    assert!(counters.prompt_tokens <= 24 + 6 * 3, "{counters:?}");
}

#[test]
fn who_came_last_yields_and_comes_back() {
    // Each fits alone, all three do not.
    let options = EngineOptions {
        blocks: 12,
        ..options()
    };
    let engine = engine(options);
    let prompts: Vec<Vec<u32>> = (0..9).map(|seed| prompt(seed, 12)).collect();
    let submitted: Vec<Events> = prompts
        .iter()
        .map(|prompt| engine.submit(job(prompt, 25)).unwrap().1)
        .collect();
    for (prompt, events) in prompts.iter().zip(submitted) {
        check(events, oracle(prompt, 25, None, WhenFull::Stop));
    }
    assert!(engine.stats().counters.preemptions > 0);
}

#[test]
fn a_full_context_loses_its_older_half() {
    let engine = engine(options());
    let mut shifts = 0;
    for keep in [Some(0), Some(5), Some(39), None] {
        let when_full = WhenFull::Shift { keep };
        for seed in 0..4 {
            // Too long from the beginning, and growing long.
            for tokens in [61, 30] {
                let prompt = prompt(seed, tokens);
                let shifting = Job {
                    when_full,
                    ..job(&prompt, 60)
                };
                let (_, events) = engine.submit(shifting).unwrap();
                let expected = oracle(&prompt, 60, None, when_full);
                shifts += usize::from(expected.0.len() > 10);
                check(events, expected);
            }
        }
    }
    assert!(shifts > 0, "some went beyond their context");
    assert!(engine.stats().counters.context_shifts > 0);
}

#[test]
fn a_deadline_ends_who_runs_and_who_waits() {
    let engine = engine(options());
    let late = || Job {
        timeout: Some(Duration::from_nanos(1)),
        ..job(&[5, 6], usize::MAX)
    };
    let submitted: Vec<Events> = (0..5).map(|_| engine.submit(late()).unwrap().1).collect();
    for events in submitted {
        let (_, end) = listen(events);
        assert!(
            matches!(
                end,
                SequenceEvent::Ended {
                    reason: EndReason::DeadlinePassed,
                    ..
                }
            ),
            "{end:?}"
        );
    }
    assert_eq!(engine.stats().counters.expired, 5);
}

/// A machine whose every step waits for a word, after it has told whose chunks it is about to compute.
struct Gated {
    runner: ScriptedRunner,
    begins: std::sync::mpsc::Sender<Vec<SequenceId>>,
    gate: std::sync::mpsc::Receiver<()>,
}

impl ModelRunner for Gated {
    fn run(&mut self, plan: &StepPlan, logits: &mut Logits) -> Result<(), RunError> {
        let sequences = plan.chunks.iter().map(|chunk| chunk.sequence).collect();
        // At the end of the test nobody listens, and the gate stays open.
        let _ = self.begins.send(sequences);
        let _ = self.gate.recv();
        self.runner.run(plan, logits)
    }
}

#[test]
fn who_leaves_is_gone_in_the_next_step() {
    let options = options();
    let (begins, began) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel();
    let runner = Gated {
        runner: ScriptedRunner::new(&options),
        begins,
        gate,
    };
    let engine = start(Box::new(runner), VOCABULARY, options, Instant::now).unwrap();
    let neighbour_prompt = prompt(1, 3);
    let (neighbour, neighbour_events) = engine.submit(job(&neighbour_prompt, 12)).unwrap();
    let (decoding, decoding_events) = engine.submit(endless()).unwrap();
    let (in_prompt, in_prompt_events) = engine.submit(job(&prompt(2, 39), 1)).unwrap();
    let (_, waiting_events) = engine.submit(job(&prompt(3, 3), 1)).unwrap();
    // All three slots run, the second one has a token, the third one is in its prompt.
    while began.recv().unwrap() != [neighbour, decoding, in_prompt] || engine.stats().waiting != 1 {
        go.send(()).unwrap();
    }
    drop((decoding_events, in_prompt_events, waiting_events));
    go.send(()).unwrap();
    assert_eq!(began.recv().unwrap(), [neighbour]);
    let stats = engine.stats();
    assert_eq!((stats.counters.cancelled, stats.waiting), (3, 0));
    let left = stats.slots[0].unwrap();
    assert_eq!(left.sequence, neighbour);
    let tokens = left.prompt_tokens + left.generated_tokens;
    assert_eq!(stats.blocks.held, tokens.div_ceil(4));
    drop((go, began));
    check(
        neighbour_events,
        oracle(&neighbour_prompt, 12, None, WhenFull::Stop),
    );
}

/// A machine on which a step takes a millisecond and two for each token, by a clock that only it moves. Its
/// first step begins when the gate is opened.
struct Timed {
    runner: ScriptedRunner,
    steps: Steps,
    gate: Option<std::sync::mpsc::Receiver<()>>,
}

/// Of each step: its milliseconds, and whose chunks of how many tokens it had.
type Steps = Arc<Mutex<Vec<(u64, Vec<(SequenceId, usize)>)>>>;

thread_local! {
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The engine's thread sees the time pass, others see it stand.
fn machine_time() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + PASSED.get()
}

impl ModelRunner for Timed {
    fn run(&mut self, plan: &StepPlan, logits: &mut Logits) -> Result<(), RunError> {
        if let Some(gate) = self.gate.take() {
            // It is opened by being dropped.
            let _ = gate.recv();
        }
        let milliseconds = 1 + 2 * plan.tokens() as u64;
        PASSED.set(PASSED.get() + Duration::from_millis(milliseconds));
        let chunks = plan
            .chunks
            .iter()
            .map(|chunk| (chunk.sequence, chunk.tokens.len()));
        let mut steps = self.steps.lock().unwrap();
        steps.push((milliseconds, chunks.collect()));
        self.runner.run(plan, logits)
    }
}

fn timed_engine(options: EngineOptions) -> (EngineHandle, Steps, std::sync::mpsc::Sender<()>) {
    let steps = Steps::default();
    let (closed, gate) = std::sync::mpsc::channel();
    let runner = Timed {
        runner: ScriptedRunner::new(&options),
        steps: Arc::clone(&steps),
        gate: Some(gate),
    };
    let engine = start(Box::new(runner), VOCABULARY, options, machine_time).unwrap();
    (engine, steps, closed)
}

/// A job that only its client's leaving ends.
fn endless() -> Job {
    Job {
        end_tokens: [].into(),
        when_full: WhenFull::Shift { keep: Some(0) },
        ..job(&[5, 6, 7], usize::MAX)
    }
}

#[test]
fn who_waits_for_a_token_waits_one_short_step() {
    let (engine, steps, gate) = timed_engine(EngineOptions {
        step_tokens: 600,
        batch_tokens: 600,
        step_duration: Duration::from_millis(100),
        context_tokens: 2000,
        blocks: 3000,
        ..options()
    });
    let (_, mut decoding) = engine.submit(endless()).unwrap();
    assert!(matches!(
        decoding.blocking_recv(),
        Some(SequenceEvent::Started { .. })
    ));
    let submitted: Vec<Events> = (0..2)
        .map(|seed| engine.submit(job(&prompt(seed, 1500), 1)).unwrap().1)
        .collect();
    drop(gate);
    for events in submitted {
        listen(events);
    }
    drop(decoding);
    let steps = steps.lock().unwrap();
    let beside: Vec<_> = steps
        .iter()
        .filter(|(_, chunks)| chunks.len() > 1)
        .collect();
    assert!(beside.len() > 20, "two long prompts take many steps");
    assert!(beside.iter().all(|(milliseconds, _)| *milliseconds <= 101));
    let quick = beside.iter().filter(|(milliseconds, _)| *milliseconds < 90);
    assert!(quick.count() < 5, "the budget is used");
    let both = beside
        .iter()
        .filter(|(_, chunks)| chunks.len() == 3)
        .count();
    assert!(both > beside.len() / 2, "no prompt stands still");
}

#[test]
fn the_higher_priority_is_admitted_first() {
    let (engine, steps, gate) = timed_engine(EngineOptions {
        parallel: 1,
        ..options()
    });
    let (busy, mut events) = engine.submit(endless()).unwrap();
    // It has the slot.
    events.blocking_recv();
    let submitted: Vec<(SequenceId, Events)> = [0, 5, 5, -1, 9]
        .into_iter()
        .map(|priority| {
            let ranked = Job {
                priority,
                ..job(&prompt(3, 5), 2)
            };
            engine.submit(ranked).unwrap()
        })
        .collect();
    drop(events);
    drop(gate);
    let ids: Vec<SequenceId> = submitted.iter().map(|(id, _)| *id).collect();
    for (_, events) in submitted {
        listen(events);
    }
    let mut order: Vec<SequenceId> = Vec::new();
    for (_, chunks) in steps.lock().unwrap().iter() {
        order.extend(chunks.iter().map(|(sequence, _)| *sequence));
    }
    order.dedup();
    assert_eq!(order, [busy, ids[4], ids[1], ids[2], ids[0], ids[3]]);
}

#[derive(Debug, Clone)]
struct Arrival {
    /// The first so many tokens are those of one of two texts.
    shared: usize,
    text: u32,
    own: Vec<u32>,
    max_tokens: usize,
    /// Leaves after so many tokens.
    leaves_after: Option<usize>,
    read: bool,
    priority: i32,
    when_full: WhenFull,
}

impl Arrival {
    fn prompt(&self) -> Vec<u32> {
        let shared = prompt(self.text, self.shared as u32);
        [&shared[..], &self.own].concat()
    }

    fn job(&self) -> Job {
        let plain = job(&self.prompt(), self.max_tokens);
        Job {
            prefix: PrefixUse {
                read: self.read,
                ..plain.prefix
            },
            priority: self.priority,
            when_full: self.when_full,
            ..plain
        }
    }

    fn expected(&self) -> (Vec<u32>, EndReason) {
        oracle(&self.prompt(), self.max_tokens, None, self.when_full)
    }
}

fn when_full() -> impl Strategy<Value = WhenFull> {
    prop_oneof![
        Just(WhenFull::Stop),
        prop::option::of(0usize..45).prop_map(|keep| WhenFull::Shift { keep }),
    ]
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (
        (0usize..25, 0u32..2),
        prop::collection::vec(2u32..97, 1..12),
        prop_oneof![0usize..12, 0usize..60],
        prop::option::weighted(0.3, 0usize..6),
        any::<bool>(),
        -1..2i32,
        when_full(),
    )
        .prop_map(
            |((shared, text), own, max_tokens, leaves_after, read, priority, when_full)| Arrival {
                shared,
                text,
                own,
                max_tokens,
                leaves_after,
                read,
                priority,
                when_full,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever arrives and leaves, however small the cache: each that stays gets what it would get alone,
    /// ends once, and no block is lost.
    #[test]
    fn sequences_do_not_disturb_each_other(
        arrivals in prop::collection::vec(arrival(), 1..24),
        parallel in 1usize..6,
        spare_tokens in 0usize..10,
        batch_tokens in 1usize..10,
        spare_blocks in 0usize..20,
        fails_every in prop::option::weighted(0.3, 2usize..30),
    ) {
        let options = EngineOptions {
            parallel,
            step_tokens: parallel + spare_tokens,
            batch_tokens,
            blocks: 10 + spare_blocks,
            ..options()
        };
        let mut runner = ScriptedRunner::new(&options);
        runner.fails_every = fails_every;
        let engine = start(Box::new(runner), VOCABULARY, options, Instant::now).unwrap();
        let submitted: Vec<Events> = arrivals
            .iter()
            .map(|arrival| engine.submit(arrival.job()).unwrap().1)
            .collect();
        for (arrival, mut events) in arrivals.iter().zip(submitted) {
            match (arrival.leaves_after, fails_every) {
                (Some(tokens), _) => {
                    for _ in 0..=tokens {
                        if events.blocking_recv().is_none() {
                            break;
                        }
                    }
                }
                (None, None) => check(events, arrival.expected()),
                (None, Some(_)) => {
                    let (heard, end) = listen(events);
                    let (expected, reason) = arrival.expected();
                    match end {
                        SequenceEvent::Failed(_) => prop_assert!(expected.starts_with(&heard)),
                        SequenceEvent::Ended { reason: found, .. } => {
                            prop_assert_eq!((heard, found), (expected, reason));
                        }
                        other => prop_assert!(false, "{:?} is no end", other),
                    }
                }
            }
        }
        // By the time two more are through, those that left were forgotten, and the pool was checked.
        for _ in 0..2 {
            listen(engine.submit(job(&[2], 1)).unwrap().1);
        }
        let stats = engine.stats();
        prop_assert_eq!(stats.blocks.held, 0);
        prop_assert_eq!(stats.dead, None);
        let counters = stats.counters;
        let ends = counters.completed + counters.cancelled + counters.failed;
        prop_assert_eq!(ends, arrivals.len() as u64 + 2);
    }
}
