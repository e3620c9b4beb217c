//! What always holds, whatever arrives and leaves.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Arrival {
    singsong: bool,
    /// The first so many tokens are those of one of two texts.
    shared: usize,
    text: u32,
    own: Vec<u32>,
    max_tokens: usize,
    /// Leaves after so many tokens.
    leaves_after: Option<usize>,
    readable: usize,
    priority: i32,
    when_full: WhenFull,
}

impl Arrival {
    fn prompt(&self) -> Vec<u32> {
        let shared = prompt(self.text, self.shared as u32);
        let singsong: &[u32] = if self.singsong { &[SINGSONG] } else { &[] };
        [singsong, &shared, &self.own].concat()
    }

    fn job(&self) -> Job {
        let plain = job(&self.prompt(), self.max_tokens);
        Job {
            prefix: PrefixUse {
                readable: self.readable,
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
        (any::<bool>(), 0usize..25, 0u32..2),
        prop::collection::vec(2u32..97, 1..12),
        prop_oneof![0usize..12, 0usize..60],
        prop::option::weighted(0.3, 0usize..6),
        prop_oneof![Just(0), 1usize..30, Just(usize::MAX)],
        -1..2i32,
        when_full(),
    )
        .prop_map(
            |(
                (singsong, shared, text),
                own,
                max_tokens,
                leaves_after,
                readable,
                priority,
                when_full,
            )| {
                Arrival {
                    singsong,
                    shared,
                    text,
                    own,
                    max_tokens,
                    leaves_after,
                    readable,
                    priority,
                    when_full,
                }
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
        cheap_rows in 0usize..16,
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
        runner.cheap_rows = cheap_rows;
        let engine = start(Box::new(runner), options, Instant::now).unwrap();
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
