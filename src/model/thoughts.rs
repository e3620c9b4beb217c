//! A conversation as a prompt, open for the assistant's answer or for a thought before it.

use std::time::SystemTime;

use super::LoadedModel;
use super::request::{GenerateError, GenerateOptions, GrammarKind, Prompt, PromptPiece};
use crate::cancel::CancelFlag;
use crate::grammar::{Constraint, ThoughtRule};
use crate::text::{Conversation, Ending, SpecialTokens, ThoughtSyntax};

/// The role whose messages the model writes.
const ASSISTANT: &str = "assistant";

/// What may be thought before an answer.
pub(super) struct Thoughts {
    /// How.
    pub(super) syntax: &'static ThoughtSyntax,
    /// Whether the prompt ends in a thought.
    is_begun: bool,
    /// Most tokens of it.
    most_tokens: Option<usize>,
}

impl Thoughts {
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }
}

impl LoadedModel {
    /// Whether the model can reason before it answers.
    pub fn thinks(&self) -> bool {
        self.template.thought_syntax().is_some()
    }

    /// Whether the chat template has a setting's name among its words.
    pub fn template_names(&self, setting: &str) -> bool {
        self.template.source().contains(setting)
    }

    /// A conversation as the model's chat template writes it, ended as it says.
    pub fn render(
        &self,
        conversation: &Conversation,
        cancel: &CancelFlag,
    ) -> Result<String, GenerateError> {
        self.written(conversation, false, cancel)
    }

    /// The same, in a thought, if the model is to `think` and can.
    fn written(
        &self,
        conversation: &Conversation,
        think: bool,
        cancel: &CancelFlag,
    ) -> Result<String, GenerateError> {
        let render = |conversation: &Conversation| {
            cancel.check()?;
            let now = SystemTime::now();
            let text = self.template.render_unless(conversation, now, cancel);
            cancel.check()?;
            text.map_err(GenerateError::from)
        };
        let begun = conversation.messages.last();
        let begun = begun.filter(|last| last.role == ASSISTANT && last.calls.is_empty());
        let begun = match conversation.ending {
            Ending::OpenMessage => begun,
            Ending::NewMessage => None,
            Ending::ClosedMessage => return render(conversation),
        };
        let syntax = self.template.thought_syntax();
        let thinks = conversation.thinks() != Some(false);
        let Some(begun) = begun else {
            let text = render(conversation)?;
            return Ok(match syntax {
                Some(syntax) if !thinks => syntax.over(text, None),
                Some(syntax) if think => syntax.begun(text),
                _ => text,
            });
        };
        let mut before = conversation.clone();
        before.messages.pop();
        let text = render(&before)?;
        let thought = begun.thought.as_deref();
        let text = match syntax {
            // What is said already was thought about.
            Some(syntax) if !thinks || thought.is_some() || syntax.is_begun(&text) => {
                syntax.over(text, thought)
            }
            _ => text,
        };
        Ok(text + &begun.content)
    }

    /// A prompt as text or ids, and what may be thought behind it. A model that is told whether to think does so before a
    /// text that must follow something; one that is asked to think for so long does in any case.
    pub(super) fn opened(
        &self,
        prompt: Prompt,
        options: &GenerateOptions,
        cancel: &CancelFlag,
    ) -> Result<(Prompt, Option<Thoughts>), GenerateError> {
        let conversation = match prompt {
            Prompt::Chat(conversation) => conversation,
            prompt @ Prompt::Pieces(_) => return Ok((prompt, None)),
        };
        let held = options.grammar.is_some() || options.tools.is_some();
        let most_tokens = conversation.most_thought_tokens.filter(|most| *most > 0);
        let think = most_tokens.is_some() || (held && self.template.switches_thoughts());
        let text = self.written(&conversation, think, cancel)?;
        let syntax = self.template.thought_syntax();
        let thoughts = syntax.map(|syntax| Thoughts {
            syntax,
            is_begun: syntax.is_begun(&text),
            most_tokens,
        });
        Ok((Prompt::Pieces(vec![PromptPiece::Text(text)]), thoughts))
    }

    /// What the text behind the prompt follows, if it is to follow something behind a thought or if that is to end.
    pub(super) fn after_thought(
        &self,
        thoughts: Option<&Thoughts>,
        answer: Option<Constraint>,
    ) -> Result<Option<Constraint>, GenerateError> {
        let thoughts = thoughts.filter(|thoughts| thoughts.is_begun);
        let held = |thoughts: &&Thoughts| answer.is_some() || thoughts.most_tokens.is_some();
        let Some(thoughts) = thoughts.filter(held) else {
            return Ok(answer);
        };
        let tokens = |text: &str| self.tokenizer.encode_going_on(text, SpecialTokens::Parse);
        let rule = ThoughtRule {
            end: thoughts.syntax.end.to_owned(),
            most_tokens: thoughts.most_tokens,
            closing: tokens(&thoughts.syntax.closing()),
            gap: tokens(ThoughtSyntax::GAP),
        };
        let compiler = self.grammar_compiler();
        let compiler = compiler.map_err(|error| GenerateError::Grammar {
            kind: GrammarKind::Lark,
            error,
        })?;
        Ok(Some(compiler.after_thought(rule, answer)))
    }
}
