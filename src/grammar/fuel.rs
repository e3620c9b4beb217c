//! The work that one compilation may still do. Work is counted in steps, so that the limit does not depend on the
//! machine's speed.

use std::cell::Cell;

use super::GrammarError;
use crate::cancel::CancelFlag;

/// Steps of one compilation, all schemas of a request together. A step is about 100 ns or 100 bytes.
pub(super) const MAX_COMPILE_STEPS: u64 = 10_000_000;
/// Steps after which the compilation looks again whether it was cancelled.
const STEPS_BETWEEN_LOOKS: u64 = 1_000;

/// Steps that are left, and whether the result is still wanted.
pub(super) struct Fuel<'a> {
    left: Cell<u64>,
    until_look: Cell<u64>,
    cancel: &'a CancelFlag,
}

impl<'a> Fuel<'a> {
    /// For one compilation, until it is cancelled.
    pub(super) fn new(cancel: &'a CancelFlag) -> Self {
        Self::of(MAX_COMPILE_STEPS, cancel)
    }

    /// The same with a limit of `steps`.
    pub(super) fn of(steps: u64, cancel: &'a CancelFlag) -> Self {
        Self {
            left: Cell::new(steps),
            until_look: Cell::new(0),
            cancel,
        }
    }

    /// Takes `steps`.
    ///
    /// # Errors
    /// Too few are left, or the compilation was cancelled.
    pub(super) fn spend(&self, steps: u64) -> Result<(), GrammarError> {
        let until_look = self.until_look.get().saturating_sub(steps);
        self.until_look.set(until_look);
        if until_look == 0 {
            self.until_look.set(STEPS_BETWEEN_LOOKS);
            if self.cancel.is_cancelled() {
                return Err(GrammarError::Cancelled);
            }
        }
        match self.left.get().checked_sub(steps) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(GrammarError::TooLarge(format!(
                    "compiling it takes more than {MAX_COMPILE_STEPS} steps"
                )))
            }
        }
    }

    /// A part of what is left, at most `steps`: what the part spends is spent here by [`Self::spend`].
    pub(super) fn part(&self, steps: u64) -> Fuel<'a> {
        Fuel::of(steps.min(self.left.get()), self.cancel)
    }

    /// Steps that are left.
    pub(super) fn left(&self) -> u64 {
        self.left.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuel_ends_one_step_past_its_limit() {
        let cancel = CancelFlag::default();
        let fuel = Fuel::of(10, &cancel);
        assert_eq!(fuel.spend(10), Ok(()));
        assert_eq!(fuel.left(), 0);
        assert!(matches!(fuel.spend(1), Err(GrammarError::TooLarge(_))));
    }

    #[test]
    fn fuel_is_refused_within_a_thousand_steps_of_a_cancellation() {
        let cancel = CancelFlag::default();
        let fuel = Fuel::of(u64::MAX, &cancel);
        assert_eq!(fuel.spend(1), Ok(()));
        cancel.cancel();
        let refused = (0..=STEPS_BETWEEN_LOOKS).find_map(|_| fuel.spend(1).err());
        assert_eq!(refused, Some(GrammarError::Cancelled));
    }
}
