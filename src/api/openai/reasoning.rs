//! The reasoning options of OpenAI's routes and of today's llama.cpp: effort, token budget and output format.

use serde_json::{Map, Value};

use crate::api::assistant::ReasoningForm;
use crate::api::types;
use crate::text::Conversation;

/// Reasoning budgets in tokens for the efforts `minimal`, `low` and `medium`; higher efforts have no limit.
const EFFORT_BUDGETS: [usize; 3] = [256, 1024, 8192];

/// Chat template variable for the reasoning effort.
pub(in crate::api) const REASONING_EFFORT: &str = "reasoning_effort";

/// Reasoning budget and chat template variables of a request.
pub(super) struct ReasoningOptions {
    /// Reasoning budget in tokens; `None` for no limit.
    max_tokens: Option<usize>,
    template_variables: Map<String, Value>,
}

impl ReasoningOptions {
    /// Combines the options of a request. `budget` takes precedence over the budget of `effort`; -1 is no limit.
    pub(super) fn new(
        effort: Option<types::ReasoningEffort>,
        budget: Option<i64>,
        template_variables: Option<Map<String, Value>>,
    ) -> Self {
        let default_budget = effort.and_then(effort_budget);
        let mut template_variables = template_variables.unwrap_or_default();
        if let Some(effort) = effort {
            let variable = template_variables.entry(REASONING_EFFORT);
            variable.or_insert_with(|| effort.to_string().into());
        }
        Self {
            max_tokens: match budget {
                Some(budget) => usize::try_from(budget).ok(),
                None => default_budget,
            },
            template_variables,
        }
    }

    /// Sets the reasoning budget and the template variables of a conversation.
    pub(super) fn apply(self, conversation: Conversation) -> Conversation {
        Conversation {
            max_reasoning_tokens: self.max_tokens,
            template_variables: self.template_variables,
            ..conversation
        }
    }
}

/// Returns the reasoning budget of an effort in tokens; `None` for no limit.
pub(in crate::api) fn effort_budget(effort: types::ReasoningEffort) -> Option<usize> {
    use types::ReasoningEffort as Effort;
    let [minimal, low, medium] = EFFORT_BUDGETS;
    match effort {
        Effort::None => Some(0),
        Effort::Minimal => Some(minimal),
        Effort::Low => Some(low),
        Effort::Medium => Some(medium),
        Effort::High | Effort::Xhigh | Effort::Max => None,
    }
}

/// Returns how the response contains reasoning. The default is a separate field.
pub(super) fn reasoning_form(format: Option<types::ReasoningFormat>) -> ReasoningForm {
    match format {
        None | Some(types::ReasoningFormat::Auto | types::ReasoningFormat::Deepseek) => {
            ReasoningForm::Separate
        }
        Some(types::ReasoningFormat::None) => ReasoningForm::InText,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ReasoningEffort as Effort;

    #[test]
    fn a_budget_takes_precedence_over_an_effort() {
        for (effort, budget, expected) in [
            (None, None, None),
            (Some(Effort::None), None, Some(0)),
            (Some(Effort::Low), None, Some(1024)),
            (Some(Effort::High), None, None),
            (Some(Effort::None), Some(7), Some(7)),
            (Some(Effort::Low), Some(-1), None),
            (None, Some(0), Some(0)),
        ] {
            let options = ReasoningOptions::new(effort, budget, None);
            assert_eq!(options.max_tokens, expected, "{effort:?} {budget:?}");
        }
    }
}
