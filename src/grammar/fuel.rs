//! The work that one compilation may still do. Work is counted in steps, so that the limit does not depend on the
//! machine's speed.

use std::cell::Cell;

use super::GrammarError;

/// Steps of one compilation, all schemas of a request together. A step is about 100 ns or 100 bytes.
pub(super) const MAX_COMPILE_STEPS: u64 = 10_000_000;
/// Steps after which the compilation looks again whether it was cancelled.
const STEPS_BETWEEN_LOOKS: u64 = 1_000;

/// Steps that are left, and whether anything still waits for the result.
pub(super) struct Fuel<'a> {
    left: Cell<u64>,
    until_look: Cell<u64>,
    cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Fuel<'a> {
    /// For one compilation. `cancelled` tells whether its result is still wanted.
    pub(super) fn new(cancelled: &'a dyn Fn() -> bool) -> Self {
        Self::of(MAX_COMPILE_STEPS, cancelled)
    }

    /// The same with a limit of `steps`.
    pub(super) fn of(steps: u64, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self {
            left: Cell::new(steps),
            until_look: Cell::new(0),
            cancelled,
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
            if (self.cancelled)() {
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
        Fuel::of(steps.min(self.left.get()), self.cancelled)
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
        let fuel = Fuel::of(10, &|| false);
        assert_eq!(fuel.spend(10), Ok(()));
        assert_eq!(fuel.left(), 0);
        assert!(matches!(fuel.spend(1), Err(GrammarError::TooLarge(_))));
    }

    #[test]
    fn fuel_is_refused_within_a_thousand_steps_of_a_cancellation() {
        let cancelled = Cell::new(false);
        let read = || cancelled.get();
        let fuel = Fuel::of(u64::MAX, &read);
        assert_eq!(fuel.spend(1), Ok(()));
        cancelled.set(true);
        let refused = (0..=STEPS_BETWEEN_LOOKS).find_map(|_| fuel.spend(1).err());
        assert_eq!(refused, Some(GrammarError::Cancelled));
    }
}
