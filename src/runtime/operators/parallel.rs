//! Work on several threads, whose owner says how it is spread over them, and what can go wrong with an operator's.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What is wrong with an input, by its name in the operator's schema; or with the run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// An input does not fit the others.
    #[error("{input}: {problem}")]
    Input {
        /// The input's name in the schema.
        input: &'static str,
        /// What is wrong, with the value.
        problem: String,
    },
    /// The work could not be spread over threads.
    #[error("the thread pool failed: {0}")]
    Threads(String),
}

impl OperatorError {
    pub(super) fn input(input: &'static str, problem: String) -> OperatorError {
        OperatorError::Input { input, problem }
    }
}

/// Calls a function once for each number below the given one, on several threads if it likes, and returns
/// when all calls have.
pub type ParallelFor<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError>;

/// Calls `call` once for each number below `count`, in order: whoever is free takes the next. That no number
/// comes twice, on which the threads' shares of memory depend, is not left to `parallel`.
pub(super) fn once_each(
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
