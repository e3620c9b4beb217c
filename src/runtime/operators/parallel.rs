//! Parallel loops on a thread pool that the caller provides, and the errors of operators.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Failure of an operator's computation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// An input is invalid, or does not match the other inputs.
    #[error("{input}: {problem}")]
    Input {
        /// Name of the input in the operator's schema.
        input: &'static str,
        /// The problem, with the offending value.
        problem: String,
    },
    /// The thread pool could not run the loop.
    #[error("the thread pool failed: {0}")]
    Threads(String),
}

impl OperatorError {
    pub(super) fn input(input: &'static str, problem: String) -> OperatorError {
        OperatorError::Input { input, problem }
    }
}

/// A parallel loop: calls a function for each index below a count, on one or several threads, and returns when all
/// calls have returned.
pub type ParallelFor<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError>;

/// Calls `call` exactly once for each index below `count`; the next free thread takes the next index. The callers'
/// memory safety depends on no index occurring twice, so the indices that `parallel` passes are ignored.
pub(super) fn for_each_index(
    parallel: ParallelFor,
    count: usize,
    call: &(dyn Fn(usize) + Sync),
) -> Result<(), OperatorError> {
    let next = AtomicUsize::new(0);
    parallel(count, &|_| {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index < count {
            call(index);
        }
    })
}
