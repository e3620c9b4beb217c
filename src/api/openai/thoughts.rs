//! How an answer is thought about before, as OpenAI's routes are asked for it, and as today's llama.cpp is.

use serde_json::{Map, Value};

use crate::api::answer::ThoughtForm;
use crate::api::types;
use crate::text::Conversation;

/// Tokens that `minimal`, `low` and `medium` efforts may take; more than that is as many as the model likes.
const EFFORTS: [usize; 3] = [256, 1024, 8192];

/// What templates call the effort.
pub(in crate::api) const REASONING_EFFORT: &str = "reasoning_effort";

/// How is thought.
pub(super) struct Thoughts {
    most_tokens: Option<usize>,
    /// What the template is told.
    settings: Map<String, Value>,
}

impl Thoughts {
    /// As a body says; a budget counts before an effort, and −1 is as many tokens as the model likes.
    pub(super) fn new(
        effort: Option<types::ReasoningEffort>,
        budget: Option<i64>,
        settings: Option<Map<String, Value>>,
    ) -> Self {
        let by_effort = effort.and_then(most_tokens);
        let mut settings = settings.unwrap_or_default();
        if let Some(effort) = effort {
            let told = settings.entry(REASONING_EFFORT);
            told.or_insert_with(|| effort.to_string().into());
        }
        Self {
            most_tokens: match budget {
                Some(budget) => usize::try_from(budget).ok(),
                None => by_effort,
            },
            settings,
        }
    }

    /// The conversation, whose answer is thought about so.
    pub(super) fn before(self, conversation: Conversation) -> Conversation {
        Conversation {
            most_thought_tokens: self.most_tokens,
            settings: self.settings,
            ..conversation
        }
    }
}

/// Most reasoning tokens of an effort; `None` is as many as the model likes.
pub(in crate::api) fn most_tokens(effort: types::ReasoningEffort) -> Option<usize> {
    use types::ReasoningEffort as Effort;
    let [minimal, low, medium] = EFFORTS;
    match effort {
        Effort::None => Some(0),
        Effort::Minimal => Some(minimal),
        Effort::Low => Some(low),
        Effort::Medium => Some(medium),
        Effort::High | Effort::Xhigh | Effort::Max => None,
    }
}

/// What becomes of thoughts.
pub(super) fn thought_form(format: Option<types::ReasoningFormat>) -> ThoughtForm {
    match format {
        None | Some(types::ReasoningFormat::Auto | types::ReasoningFormat::Deepseek) => {
            ThoughtForm::Apart
        }
        Some(types::ReasoningFormat::None) => ThoughtForm::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ReasoningEffort as Effort;

    #[test]
    fn a_budget_counts_before_an_effort() {
        for (effort, budget, most) in [
            (None, None, None),
            (Some(Effort::None), None, Some(0)),
            (Some(Effort::Low), None, Some(1024)),
            (Some(Effort::High), None, None),
            (Some(Effort::None), Some(7), Some(7)),
            (Some(Effort::Low), Some(-1), None),
            (None, Some(0), Some(0)),
        ] {
            let thoughts = Thoughts::new(effort, budget, None);
            assert_eq!(thoughts.most_tokens, most, "{effort:?} {budget:?}");
        }
    }
}
