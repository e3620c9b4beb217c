//! The graph's input with the scale of each LoRA adapter for each row of a step.

use std::borrow::Cow;

use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::RuntimeError;
use crate::engine::{RunError, StepPlan};
use crate::graph::names;

/// Buffer of adapter scales, reused by every step.
#[derive(Default)]
pub(super) struct RowAdapterScales {
    adapters: usize,
    /// `[rows, adapters]`
    values: Vec<f32>,
}

impl RowAdapterScales {
    /// Creates the buffer for a model with `adapters` adapters.
    pub(super) fn new(adapters: usize) -> Self {
        Self {
            adapters,
            values: Vec::new(),
        }
    }

    /// Sets the scales of the plan's rows. The remaining rows, up to `rows`, are padding and use no adapter.
    ///
    /// # Errors
    /// If a sequence uses an adapter that the model does not have.
    pub(super) fn fill(&mut self, plan: &StepPlan, rows: usize) -> Result<(), RunError> {
        self.values.clear();
        for chunk in &plan.chunks {
            let start = self.values.len();
            self.values.resize(start + self.adapters, 0.0);
            for (adapter, scale) in chunk.adapters.iter() {
                let value = self.values[start..].get_mut(adapter);
                let missing = || RunError(format!("adapter not found: {adapter}"));
                *value.ok_or_else(missing)? = scale;
            }
            for _ in 1..chunk.tokens.len() {
                self.values.extend_from_within(start..start + self.adapters);
            }
        }
        self.values.resize(rows * self.adapters, 0.0);
        Ok(())
    }

    /// Returns the name and value of the graph's input; `None` for a model without adapters.
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
