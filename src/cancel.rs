//! A flag that tells a long computation that its result is no longer wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a computation to end early. Clones share one flag. Reading it costs one or two atomic loads, so that a loop
/// can check it every few thousand operations.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_cancelled: AtomicBool,
    parent: Option<CancelFlag>,
}

/// The computation was cancelled before it had a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled before it was finished")]
pub struct Cancelled;

impl CancelFlag {
    /// A flag that is also cancelled with this one.
    pub fn child(&self) -> Self {
        Self(Arc::new(State {
            is_cancelled: AtomicBool::new(false),
            parent: Some(self.clone()),
        }))
    }

    /// Cancels every computation that has this flag or a child of it.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the computation should end.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
            || self.0.parent.as_ref().is_some_and(Self::is_cancelled)
    }

    /// Whether the computation may continue.
    ///
    /// # Errors
    /// If it should end.
    pub fn check(&self) -> Result<(), Cancelled> {
        match self.is_cancelled() {
            true => Err(Cancelled),
            false => Ok(()),
        }
    }

    /// Cancels the flag when the returned value is dropped.
    pub fn cancel_on_drop(self) -> CancelOnDrop {
        CancelOnDrop(self)
    }
}

/// Cancels its flag when it is dropped.
#[derive(Debug)]
pub struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_cancelled_with_its_parent_and_not_the_other_way_around() {
        let parent = CancelFlag::default();
        let (first, second) = (parent.child(), parent.child());
        drop(first.clone().cancel_on_drop());
        assert_eq!(first.check(), Err(Cancelled));
        assert!(!second.is_cancelled() && !parent.is_cancelled());
        parent.cancel();
        assert_eq!(second.check(), Err(Cancelled));
    }
}
