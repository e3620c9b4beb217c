//! A flag that cancels a long computation whose result is no longer needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A cancellation flag that clones share. A check costs one atomic load for the flag and one for each ancestor, so a
/// loop can check the flag every few thousand operations.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_cancelled: AtomicBool,
    parent: Option<CancelFlag>,
}

/// The error of a computation that was cancelled before it finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled before it was finished")]
pub struct Cancelled;

impl CancelFlag {
    /// Returns a new flag that is also cancelled when `self` is cancelled.
    pub fn child(&self) -> Self {
        Self(Arc::new(State {
            is_cancelled: AtomicBool::new(false),
            parent: Some(self.clone()),
        }))
    }

    /// Cancels every computation that checks this flag or one of its descendants.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Returns whether this flag or one of its ancestors is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
            || self.0.parent.as_ref().is_some_and(Self::is_cancelled)
    }

    /// Returns an error if the computation must stop.
    ///
    /// # Errors
    /// If the flag or one of its ancestors is cancelled.
    pub fn check(&self) -> Result<(), Cancelled> {
        match self.is_cancelled() {
            true => Err(Cancelled),
            false => Ok(()),
        }
    }

    /// Returns a guard that cancels the flag when it is dropped.
    pub fn cancel_on_drop(self) -> CancelOnDrop {
        CancelOnDrop(self)
    }
}

/// A guard that cancels its flag when it is dropped.
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
    fn cancelling_a_parent_cancels_its_children_but_not_the_reverse() {
        let parent = CancelFlag::default();
        let (first, second) = (parent.child(), parent.child());
        drop(first.clone().cancel_on_drop());
        assert_eq!(first.check(), Err(Cancelled));
        assert!(!second.is_cancelled() && !parent.is_cancelled());
        parent.cancel();
        assert_eq!(second.check(), Err(Cancelled));
    }
}
