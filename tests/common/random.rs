//! Reproducible random numbers for the contents of test models.

/// The linear congruential generator of Numerical Recipes, with its state. Only the upper bits are random enough.
pub(crate) struct Random(pub(crate) u32);

impl Random {
    fn step(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }

    pub(crate) fn byte(&mut self) -> u8 {
        (self.step() >> 24) as u8
    }

    /// A number from 0 to 1, exclusive.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.step() >> 8) as f32 / (1 << 24) as f32
    }
}
