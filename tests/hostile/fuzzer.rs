//! Runs cases one after the other and fails a case that exceeds its limit of memory or time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Interval at which the watchdog checks that the case has changed; otherwise it aborts the process. Long, for busy
/// machines.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(60);
/// Interval of progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(20);

/// The system's allocator with counters for the allocated bytes and their peak.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count_allocation(bytes: usize) {
    let allocated = ALLOCATED.fetch_add(bytes, Relaxed).saturating_add(bytes);
    PEAK.fetch_max(allocated, Relaxed);
}

// SAFETY: every call is forwarded unchanged to the system's allocator; the counters do not affect it.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size());
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size());
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_allocation(size);
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller guarantees the same preconditions.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The counters are global, so only one test may run cases at a time.
static RUN_LOCK: Mutex<()> = Mutex::new(());
/// Number of the running case.
static CASE: AtomicU64 = AtomicU64::new(0);

/// The value of an environment variable that must be a number if it is set.
fn env_number(name: &str) -> Option<u64> {
    let number = std::env::var(name).ok()?;
    Some(number.parse().unwrap_or_else(|_| panic!("{name}={number}")))
}

/// Runs `FUZZ_CASES` cases (default `default_cases`) from number `FUZZ_FIRST` on, for at most `FUZZ_SECONDS`. A case
/// may allocate `max_bytes` besides its input. If there is only one case, its input is printed.
pub(crate) fn fuzz<S: Strategy>(
    name: &'static str,
    default_cases: u64,
    max_bytes: usize,
    inputs: S,
    check: impl Fn(S::Value),
) where
    S::Value: Debug,
{
    let _lock = RUN_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let first = env_number("FUZZ_FIRST").unwrap_or(0);
    let cases = env_number("FUZZ_CASES").unwrap_or(default_cases);
    let max_duration = Duration::from_secs(env_number("FUZZ_SECONDS").unwrap_or(u64::MAX));
    let _watch = watch(name, first);
    let (started_at, mut reported_at) = (Instant::now(), Instant::now());
    for number in first..first + cases {
        if started_at.elapsed() > max_duration {
            eprintln!("{name}: {} cases within the time limit", number - first);
            return;
        }
        if reported_at.elapsed() > PROGRESS_INTERVAL {
            reported_at = Instant::now();
            eprintln!("{name}: {} of {cases} cases", number - first);
        }
        CASE.store(number, Relaxed);
        let mut runner = runner(name, number);
        let input = inputs.new_tree(&mut runner).unwrap();
        if cases == 1 {
            eprintln!("{name}: {:#?}", input.current());
        }
        let outcome = runner.run_one(input, |input| {
            let before = ALLOCATED.load(Relaxed);
            PEAK.store(before, Relaxed);
            check(input);
            match PEAK.load(Relaxed).saturating_sub(before) {
                bytes if bytes <= max_bytes => Ok(()),
                bytes => Err(TestCaseError::fail(format!("allocated {bytes} bytes"))),
            }
        });
        if let Err(error) = outcome {
            panic!("{name}, FUZZ_FIRST={number}: {error}");
        }
    }
    eprintln!("{name}: {cases} cases in {:.0?}", started_at.elapsed());
}

/// Runs one case, which may allocate `max_bytes`, with the time limit of [`fuzz`].
pub(crate) fn run_limited(name: &'static str, max_bytes: usize, check: impl FnOnce()) {
    let _lock = RUN_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let _watch = watch(name, 0);
    let before = ALLOCATED.load(Relaxed);
    PEAK.store(before, Relaxed);
    check();
    let bytes = PEAK.load(Relaxed).saturating_sub(before);
    assert!(bytes <= max_bytes, "{name}: allocated {bytes} bytes");
}

/// A test runner seeded with the case number, so that a single case can be repeated.
fn runner(name: &str, number: u64) -> TestRunner {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    for (index, byte) in name.bytes().enumerate() {
        seed[8 + index % 24] ^= byte;
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, rng)
}

/// Starts a watchdog that aborts the process when a case does not end; it stops when the returned value is dropped.
fn watch(name: &'static str, first: u64) -> impl Drop {
    struct Watchdog(Option<std::sync::mpsc::Sender<()>>);
    impl Drop for Watchdog {
        fn drop(&mut self) {
            self.0.take();
        }
    }
    let (stop, stopped) = channel();
    CASE.store(first, Relaxed);
    std::thread::spawn(move || {
        let mut last_case = None;
        while stopped.recv_timeout(WATCHDOG_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let case = CASE.load(Relaxed);
            if last_case == Some(case) {
                eprintln!("{name}, FUZZ_FIRST={case}: the case exceeds the time limit");
                std::process::abort();
            }
            last_case = Some(case);
        }
    });
    Watchdog(Some(stop))
}
