//! What a step's sequences want of the model's adapters, as the graph reads it.

use std::borrow::Cow;

use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::RuntimeError;
use crate::engine::{RunError, StepPlan};
use crate::graph::names;

/// How strong each row wants each adapter, in memory that is used again at every step.
#[derive(Default)]
pub(super) struct ScaleRows {
    adapters: usize,
    /// `[rows, adapters]`
    values: Vec<f32>,
}

impl ScaleRows {
    /// For a model with so many adapters.
    pub(super) fn new(adapters: usize) -> Self {
        Self {
            adapters,
            values: Vec::new(),
        }
    }

    /// Takes what the plan's sequences want; of the `rows` rows those behind it want nothing.
    ///
    /// # Errors
    /// A sequence names an adapter that is not there.
    pub(super) fn fill(&mut self, plan: &StepPlan, rows: usize) -> Result<(), RunError> {
        self.values.clear();
        for chunk in &plan.chunks {
            let start = self.values.len();
            self.values.resize(start + self.adapters, 0.0);
            for (adapter, scale) in chunk.adapters.iter() {
                let place = self.values[start..].get_mut(adapter);
                let missing = || RunError(format!("there is no adapter {adapter}"));
                *place.ok_or_else(missing)? = scale;
            }
            for _ in 1..chunk.tokens.len() {
                self.values.extend_from_within(start..start + self.adapters);
            }
        }
        self.values.resize(rows * self.adapters, 0.0);
        Ok(())
    }

    /// The graph's input, if it has it.
    pub(super) fn input(
        &self,
        rows: usize,
    ) -> Result<Option<(Cow<'static, str>, SessionInputValue<'_>)>, RuntimeError> {
        if self.adapters == 0 {
            return Ok(None);
        }
        let scales = TensorRef::from_array_view(([rows, self.adapters], self.values.as_slice()))?;
        Ok(Some((names::ADAPTER_SCALES.into(), scales.into())))
    }
}
