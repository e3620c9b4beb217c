//! Renders conversations as prompts that end at the start of the assistant's message or inside its reasoning, and
//! constrains the text after reasoning.

use std::time::SystemTime;

use super::LoadedModel;
use super::request::{GenerateError, GrammarKind};
use crate::cancel::CancelFlag;
use crate::grammar::{Constraint, ReasoningRule};
use crate::text::{Conversation, PromptEnding, ReasoningMarkers, SpecialTokens};

/// Role of the model's messages in a conversation.
const ASSISTANT: &str = "assistant";

/// The reasoning that may follow a prompt.
pub(super) struct PromptReasoning {
    pub(super) markers: &'static ReasoningMarkers,
    /// Whether the prompt ends after the marker that opens reasoning.
    is_open: bool,
    /// Maximum number of reasoning tokens.
    max_tokens: Option<usize>,
}

impl PromptReasoning {
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }
}

impl LoadedModel {
    /// Whether the chat template has reasoning markers.
    pub fn supports_reasoning(&self) -> bool {
        self.template.reasoning_markers().is_some()
    }

    /// Whether the source of the chat template contains the name `setting`.
    pub fn template_mentions(&self, setting: &str) -> bool {
        self.template.source().contains(setting)
    }

    /// Renders a conversation as a prompt. [`Conversation::ending`] sets how the prompt ends.
    pub fn render(
        &self,
        conversation: &Conversation,
        cancel: &CancelFlag,
    ) -> Result<String, GenerateError> {
        self.render_conversation(conversation, false, cancel)
    }

    /// Renders a conversation. If `open_reasoning` is set and the model reasons, the prompt ends with the opening
    /// marker of reasoning.
    fn render_conversation(
        &self,
        conversation: &Conversation,
        open_reasoning: bool,
        cancel: &CancelFlag,
    ) -> Result<String, GenerateError> {
        let render = |conversation: &Conversation| {
            cancel.check()?;
            let now = SystemTime::now();
            let text = self.template.render_cancellable(conversation, now, cancel);
            cancel.check()?;
            text.map_err(GenerateError::from)
        };
        let continued = conversation.messages.last();
        let continued =
            continued.filter(|last| last.role == ASSISTANT && last.tool_calls.is_empty());
        let continued = match conversation.ending {
            PromptEnding::OpenMessage => continued,
            PromptEnding::NewMessage => None,
            PromptEnding::ClosedMessage => return render(conversation),
        };
        let markers = self.template.reasoning_markers();
        let reasons = conversation.reasoning_enabled() != Some(false);
        let Some(continued) = continued else {
            let text = render(conversation)?;
            return Ok(match markers {
                Some(markers) if !reasons => markers.close(text, None),
                Some(markers) if open_reasoning => markers.open(text),
                _ => text,
            });
        };
        let mut earlier = conversation.clone();
        earlier.messages.pop();
        let text = render(&earlier)?;
        let reasoning = continued.reasoning.as_deref();
        let text = match markers {
            // A message's reasoning precedes its content, so reasoning is closed before the content is appended.
            Some(markers) if !reasons || reasoning.is_some() || markers.is_open(&text) => {
                markers.close(text, reasoning)
            }
            _ => text,
        };
        Ok(text + &continued.content)
    }

    /// Renders the conversation of a request as text. Also returns the reasoning that may follow. The prompt opens
    /// reasoning if reasoning has a token limit, or if the output is constrained and the template has a reasoning
    /// switch.
    pub(super) fn render_prompt(
        &self,
        conversation: &Conversation,
        is_constrained: bool,
        cancel: &CancelFlag,
    ) -> Result<(String, Option<PromptReasoning>), GenerateError> {
        let max_tokens = conversation.max_reasoning_tokens.filter(|max| *max > 0);
        let open_reasoning =
            max_tokens.is_some() || (is_constrained && self.template.has_reasoning_switch());
        let text = self.render_conversation(conversation, open_reasoning, cancel)?;
        let markers = self.template.reasoning_markers();
        let reasoning = markers.map(|markers| PromptReasoning {
            markers,
            is_open: markers.is_open(&text),
            max_tokens,
        });
        Ok((text, reasoning))
    }

    /// Returns the rule for the end of reasoning that the prompt opens; `None` if the reasoning has no token limit and
    /// no constraint applies after it.
    pub(super) fn reasoning_rule(
        &self,
        reasoning: &PromptReasoning,
        is_constrained: bool,
    ) -> Option<ReasoningRule> {
        let needs_rule = is_constrained || reasoning.max_tokens.is_some();
        if !reasoning.is_open || !needs_rule {
            return None;
        }
        let tokens = |text: &str| {
            self.tokenizer
                .encode_continuation(text, SpecialTokens::Parse)
        };
        Some(ReasoningRule {
            end_marker: reasoning.markers.end.to_owned(),
            max_tokens: reasoning.max_tokens,
            closing_tokens: tokens(&reasoning.markers.closing_text()),
            separator_tokens: tokens(ReasoningMarkers::SEPARATOR),
        })
    }

    /// Returns the constraint of generated text that begins with reasoning if there is a `rule`. `answer` applies after
    /// the reasoning.
    pub(super) fn constrain_after_reasoning(
        &self,
        rule: Option<&ReasoningRule>,
        answer: Option<Constraint>,
    ) -> Result<Option<Constraint>, GenerateError> {
        let Some(rule) = rule else {
            return Ok(answer);
        };
        let compiler = self.grammar_compiler();
        let compiler = compiler.map_err(|error| GenerateError::Grammar {
            kind: GrammarKind::Lark,
            error,
        })?;
        Ok(Some(compiler.after_reasoning(rule.clone(), answer)))
    }
}
