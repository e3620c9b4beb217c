//! The engine with a scripted runner: its «model» reads the whole sequence back from the blocks, so a
//! block that is given away, mixed up or cut short changes the text.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::sampling::{Sampler, SamplingParameters};
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
}

impl ScriptedRunner {
    fn new(options: &EngineOptions) -> Self {
        Self {
            cache: vec![None; options.blocks * options.block_tokens],
            options: options.clone(),
            poison: None,
        }
    }
}

impl ModelRunner for ScriptedRunner {
    fn run(&mut self, plan: &StepPlan, logits: &mut Logits) -> Result<(), RunError> {
        let EngineOptions {
            step_tokens,
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
        let mut rows = Vec::new();
        for (index, chunk) in plan.chunks.iter().enumerate() {
            assert!(
                plan.chunks[..index]
                    .iter()
                    .all(|other| other.sequence != chunk.sequence)
            );
            assert!(!chunk.tokens.is_empty());
            if self
                .poison
                .is_some_and(|poison| chunk.tokens.contains(&poison))
            {
                return Err(RunError("poisoned".to_owned()));
            }
            let end = chunk.past + chunk.tokens.len();
            assert!(end <= context_tokens);
            let place = |position: usize| {
                chunk.blocks[position / block_tokens].index() * block_tokens
                    + position % block_tokens
            };
            for (offset, token) in chunk.tokens.iter().enumerate() {
                self.cache[place(chunk.past + offset)] = Some(token.0);
            }
            let read: Vec<u32> = (0..end)
                .map(|position| self.cache[place(position)].expect("what is read was written"))
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
        sampler: Sampler::new(greedy, 0, &prompt, Vec::new()),
        prompt,
        max_tokens,
        end_tokens: [END].into(),
        stop: Box::new(StopAt(None)),
        slot: None,
    }
}

/// What the script says to a prompt, by itself: the tokens, and why they end.
fn oracle(
    prompt: &[u32],
    max_tokens: usize,
    stop: Option<TokenId>,
    context: usize,
) -> (Vec<u32>, EndReason) {
    let mut tokens = prompt.to_vec();
    let generated = |tokens: &[u32]| tokens[prompt.len()..].to_vec();
    if max_tokens == 0 {
        return (Vec::new(), EndReason::TokenLimit);
    }
    loop {
        let token = next_token(&tokens);
        if TokenId(token) == END {
            return (generated(&tokens), EndReason::EndToken);
        }
        tokens.push(token);
        let count = tokens.len() - prompt.len();
        let reason = if Some(TokenId(token)) == stop {
            EndReason::StopRule
        } else if tokens.len() >= context {
            EndReason::ContextFull
        } else if count >= max_tokens && (TokenId(token) != HALF || count >= max_tokens + 3) {
            EndReason::TokenLimit
        } else {
            continue;
        };
        return (generated(&tokens), reason);
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
            SequenceEvent::Started { .. } => assert!(tokens.is_empty()),
            SequenceEvent::Token(token) => tokens.push(token.0),
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
        check(events, oracle(&prompt, max_tokens, None, 40));
    }
    assert_eq!(engine.stats().blocks_free, 30);
}

#[test]
fn a_limit_is_exceeded_to_finish_a_character() {
    // A prompt after which the script's second token begins a character.
    let prompt = (2..10_000)
        .map(|seed| vec![seed % 97, seed / 97])
        .find(|prompt| {
            let (tokens, _) = oracle(prompt, 20, None, 40);
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
    let (whole, _) = oracle(&prompt, 8, None, 40);
    let stop = TokenId(whole[3]);
    let engine = engine(options());
    let (_, events) = engine
        .submit(Job {
            stop: Box::new(StopAt(Some(stop))),
            ..job(&prompt, 8)
        })
        .unwrap();
    check(events, oracle(&prompt, 8, Some(stop), 40));
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
            Ok((_, events)) => check(events, oracle(&[2 + n], 30, None, 40)),
            Err(error) => assert_eq!(error, SubmitError::QueueFull { waiting: 2 }),
        }
    }
    let (_, events) = engine.submit(job(&[2], 1)).unwrap();
    check(events, oracle(&[2], 1, None, 40));
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
        .find(|prompt| !oracle(prompt, 5, None, 40).0.contains(&96))
        .unwrap();
    let (_, events) = engine.submit(job(&prompt, 5)).unwrap();
    check(events, oracle(&prompt, 5, None, 40));
    assert_eq!(engine.stats().blocks_free, 30);
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

#[derive(Debug, Clone)]
struct Arrival {
    prompt: Vec<u32>,
    max_tokens: usize,
    /// Leaves after so many tokens.
    leaves_after: Option<usize>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (
        prop::collection::vec(2u32..97, 1..36),
        0usize..12,
        prop::option::weighted(0.3, 0usize..4),
    )
        .prop_map(|(prompt, max_tokens, leaves_after)| Arrival {
            prompt,
            max_tokens,
            leaves_after,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever arrives and leaves: each that stays gets what it would get alone, and no block is lost.
    #[test]
    fn sequences_do_not_disturb_each_other(
        arrivals in prop::collection::vec(arrival(), 1..20),
        parallel in 1usize..6,
        spare_tokens in 0usize..10,
        spare_blocks in 0usize..20,
    ) {
        let options = EngineOptions {
            parallel,
            step_tokens: parallel + spare_tokens,
            blocks: 10 + spare_blocks,
            ..options()
        };
        let blocks = options.blocks;
        let engine = engine(options);
        let submitted: Vec<_> = arrivals
            .iter()
            .map(|arrival| engine.submit(job(&arrival.prompt, arrival.max_tokens)).unwrap().1)
            .collect();
        for (arrival, mut events) in arrivals.iter().zip(submitted) {
            match arrival.leaves_after {
                Some(tokens) => {
                    for _ in 0..=tokens {
                        if events.blocking_recv().is_none() {
                            break;
                        }
                    }
                }
                None => check(events, oracle(&arrival.prompt, arrival.max_tokens, None, 40)),
            }
        }
        // By the time a last one is through, those that left were forgotten.
        let (_, events) = engine.submit(job(&[2], 1)).unwrap();
        check(events, oracle(&[2], 1, None, 40));
        prop_assert_eq!(engine.stats().blocks_free, blocks);
    }
}
