//! Property test: random requests arrive, and some of their clients disconnect.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Arrival {
    repeating: bool,
    /// Number of leading prompt tokens that are taken from one of two shared texts.
    shared_tokens: usize,
    text: u32,
    own: Vec<u32>,
    max_tokens: usize,
    /// Number of tokens after which the client disconnects.
    disconnects_after: Option<usize>,
    max_reused_tokens: usize,
    priority: i32,
    context_overflow: ContextOverflow,
}

impl Arrival {
    fn prompt(&self) -> Vec<u32> {
        let shared = prompt(self.text, self.shared_tokens as u32);
        let repeating: &[u32] = if self.repeating { &[REPEATING] } else { &[] };
        [repeating, &shared, &self.own].concat()
    }

    fn request(&self) -> SequenceRequest {
        let plain = request(&self.prompt(), self.max_tokens);
        SequenceRequest {
            prefix_cache: PrefixCacheOptions {
                max_reused_tokens: self.max_reused_tokens,
                ..plain.prefix_cache
            },
            priority: self.priority,
            context_overflow: self.context_overflow,
            ..plain
        }
    }

    fn expected(&self) -> (Vec<u32>, EndReason) {
        oracle(&self.prompt(), self.max_tokens, None, self.context_overflow)
    }
}

fn context_overflow() -> impl Strategy<Value = ContextOverflow> {
    prop_oneof![
        Just(ContextOverflow::Stop),
        prop::option::of(0usize..45).prop_map(|keep| ContextOverflow::Shift { keep }),
    ]
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (
        (any::<bool>(), 0usize..25, 0u32..2),
        prop::collection::vec(2u32..97, 1..12),
        prop_oneof![0usize..12, 0usize..60],
        prop::option::weighted(0.3, 0usize..6),
        prop_oneof![Just(0), 1usize..30, Just(usize::MAX)],
        -1..2i32,
        context_overflow(),
    )
        .prop_map(
            |(
                (repeating, shared_tokens, text),
                own,
                max_tokens,
                disconnects_after,
                max_reused_tokens,
                priority,
                context_overflow,
            )| {
                Arrival {
                    repeating,
                    shared_tokens,
                    text,
                    own,
                    max_tokens,
                    disconnects_after,
                    max_reused_tokens,
                    priority,
                    context_overflow,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// For any arrivals, cache size and failed steps, each sequence has the same output as alone and ends once, and no
    /// block is lost.
    #[test]
    fn sequences_do_not_affect_each_other(
        arrivals in prop::collection::vec(arrival(), 1..24),
        parallel in 1usize..6,
        spare_tokens in 0usize..10,
        batch_tokens in 1usize..10,
        speculative_row_budget in 0usize..16,
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
        runner.speculative_row_budget = speculative_row_budget;
        let engine = start(Box::new(runner), options, Instant::now).unwrap();
        let submitted: Vec<SequenceEvents> = arrivals
            .iter()
            .map(|arrival| engine.submit(arrival.request()).unwrap().1)
            .collect();
        for (arrival, mut events) in arrivals.iter().zip(submitted) {
            match (arrival.disconnects_after, fails_every) {
                (Some(tokens), _) => {
                    for _ in 0..=tokens {
                        if events.blocking_recv().is_none() {
                            break;
                        }
                    }
                }
                (None, None) => check(events, arrival.expected()),
                (None, Some(_)) => {
                    let (received, end) = collect(events);
                    let (expected, reason) = arrival.expected();
                    match end {
                        SequenceEvent::Failed(_) => prop_assert!(expected.starts_with(&received)),
                        SequenceEvent::Ended { reason: actual, .. } => {
                            prop_assert_eq!((received, actual), (expected, reason));
                        }
                        other => prop_assert!(false, "{:?} is not an end event", other),
                    }
                }
            }
        }
        // Two more sequences ensure that sequences of disconnected clients are cancelled and the block pool is checked.
        for _ in 0..2 {
            collect(engine.submit(request(&[2], 1)).unwrap().1);
        }
        let stats = engine.stats();
        prop_assert_eq!(stats.blocks.referenced, 0);
        prop_assert_eq!(stats.death_reason, None);
        let counters = stats.counters;
        let ends = counters.completed + counters.cancelled + counters.failed;
        prop_assert_eq!(ends, arrivals.len() as u64 + 2);
    }
}
