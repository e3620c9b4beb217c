//! Fuel: the work budget of one compilation, counted in steps so that the limit does not depend on the speed of the
//! machine.

use std::cell::Cell;

use super::GrammarError;
use crate::cancel::CancelFlag;

/// Maximum number of steps of one compilation, for all schemas of a request together. One step stands for about 100 ns
/// of CPU time or 100 bytes of memory.
pub(super) const MAX_COMPILE_STEPS: u64 = 10_000_000;
const STEPS_BETWEEN_CANCEL_CHECKS: u64 = 1_000;

/// The steps left for a compilation, and its cancel flag.
pub(super) struct Fuel<'a> {
    left: Cell<u64>,
    until_cancel_check: Cell<u64>,
    cancel: &'a CancelFlag,
}

impl<'a> Fuel<'a> {
    /// Returns [`MAX_COMPILE_STEPS`] steps for one compilation. Spending fails once `cancel` is set.
    pub(super) fn new(cancel: &'a CancelFlag) -> Self {
        Self::with_steps(MAX_COMPILE_STEPS, cancel)
    }

    pub(super) fn with_steps(steps: u64, cancel: &'a CancelFlag) -> Self {
        Self {
            left: Cell::new(steps),
            until_cancel_check: Cell::new(0),
            cancel,
        }
    }

    /// Deducts `steps` from the steps left.
    ///
    /// # Errors
    /// If fewer steps are left, or the compilation was cancelled.
    pub(super) fn spend(&self, steps: u64) -> Result<(), GrammarError> {
        let until_cancel_check = self.until_cancel_check.get().saturating_sub(steps);
        self.until_cancel_check.set(until_cancel_check);
        if until_cancel_check == 0 {
            self.until_cancel_check.set(STEPS_BETWEEN_CANCEL_CHECKS);
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
                    "the compilation takes more than {MAX_COMPILE_STEPS} steps"
                )))
            }
        }
    }

    /// Returns separate fuel of at most `steps`, whose use is not deducted from `self`.
    pub(super) fn limited_to(&self, steps: u64) -> Fuel<'a> {
        Fuel::with_steps(steps.min(self.left.get()), self.cancel)
    }

    pub(super) fn left(&self) -> u64 {
        self.left.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spending_one_step_past_the_limit_fails() {
        let cancel = CancelFlag::default();
        let fuel = Fuel::with_steps(10, &cancel);
        assert_eq!(fuel.spend(10), Ok(()));
        assert_eq!(fuel.left(), 0);
        assert!(matches!(fuel.spend(1), Err(GrammarError::TooLarge(_))));
    }

    #[test]
    fn spending_fails_within_a_thousand_steps_of_a_cancellation() {
        let cancel = CancelFlag::default();
        let fuel = Fuel::with_steps(u64::MAX, &cancel);
        assert_eq!(fuel.spend(1), Ok(()));
        cancel.cancel();
        let error = (0..=STEPS_BETWEEN_CANCEL_CHECKS).find_map(|_| fuel.spend(1).err());
        assert_eq!(error, Some(GrammarError::Cancelled));
    }
}
