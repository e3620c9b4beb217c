//! Runs cases one after the other, each within its memory and its time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// How long a case may take, be the machine as busy as it is; the next look at it ends the process.
const MOST_CASE: Duration = Duration::from_secs(60);
/// How often people hear of a long run.
const PROGRESS: Duration = Duration::from_secs(20);

/// Counts the bytes that the process has, and the most that it had.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed).saturating_add(bytes);
    MOST.fetch_max(live, Relaxed);
}

// SAFETY: every call goes on to the system's allocator as it came; the counters are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What is counted is the process's, so cases of two kinds must not run at once.
static ALONE: Mutex<()> = Mutex::new(());
/// The case that runs.
static CASE: AtomicU64 = AtomicU64::new(0);

/// The number in the environment, if there is one.
fn set(name: &str) -> Option<u64> {
    let number = std::env::var(name).ok()?;
    Some(number.parse().unwrap_or_else(|_| panic!("{name}={number}")))
}

/// Runs cases of a kind: as many as `FUZZ_CASES` says, from number `FUZZ_FIRST` on, for at most `FUZZ_SECONDS`. A case may
/// take `most_bytes` beside what it is given. One alone is shown.
pub(crate) fn fuzz<S: Strategy>(
    name: &'static str,
    usual_cases: u64,
    most_bytes: usize,
    inputs: S,
    check: impl Fn(S::Value),
) where
    S::Value: Debug,
{
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let first = set("FUZZ_FIRST").unwrap_or(0);
    let cases = set("FUZZ_CASES").unwrap_or(usual_cases);
    let most = Duration::from_secs(set("FUZZ_SECONDS").unwrap_or(u64::MAX));
    let _watch = watch(name, first);
    let (began, mut told) = (Instant::now(), Instant::now());
    for number in first..first + cases {
        if began.elapsed() > most {
            eprintln!("{name}: {} cases in the time there was", number - first);
            return;
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            eprintln!("{name}: {} of {cases} cases", number - first);
        }
        CASE.store(number, Relaxed);
        let mut runner = runner(name, number);
        let input = inputs.new_tree(&mut runner).unwrap();
        if cases == 1 {
            eprintln!("{name}: {:#?}", input.current());
        }
        let outcome = runner.run_one(input, |input| {
            let before = LIVE.load(Relaxed);
            MOST.store(before, Relaxed);
            check(input);
            match MOST.load(Relaxed).saturating_sub(before) {
                bytes if bytes <= most_bytes => Ok(()),
                bytes => Err(TestCaseError::fail(format!("it took {bytes} bytes"))),
            }
        });
        if let Err(error) = outcome {
            panic!("{name}, FUZZ_FIRST={number}: {error}");
        }
    }
    eprintln!("{name}: {cases} cases in {:.0?}", began.elapsed());
}

/// Runs one case, which may take `most_bytes` and the time of a case.
pub(crate) fn within(name: &'static str, most_bytes: usize, check: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _watch = watch(name, 0);
    let before = LIVE.load(Relaxed);
    MOST.store(before, Relaxed);
    check();
    let bytes = MOST.load(Relaxed).saturating_sub(before);
    assert!(bytes <= most_bytes, "{name}: it took {bytes} bytes");
}

/// Every case has its own chance, so that it can be had again by its number.
fn runner(name: &str, number: u64) -> TestRunner {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    for (place, byte) in name.bytes().enumerate() {
        seed[8 + place % 24] ^= byte;
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, rng)
}

/// Ends the process when a case does not end, until the answer is dropped.
fn watch(name: &'static str, first: u64) -> impl Drop {
    struct Watched(Option<std::sync::mpsc::Sender<()>>);
    impl Drop for Watched {
        fn drop(&mut self) {
            self.0.take();
        }
    }
    let (watched, over) = channel();
    CASE.store(first, Relaxed);
    std::thread::spawn(move || {
        let mut seen = None;
        while over.recv_timeout(MOST_CASE) == Err(RecvTimeoutError::Timeout) {
            let case = CASE.load(Relaxed);
            if seen == Some(case) {
                eprintln!("{name}, FUZZ_FIRST={case}: it does not end");
                std::process::abort();
            }
            seen = Some(case);
        }
    });
    Watched(Some(watched))
}
