//! How a sequence's next tokens are chosen: by the sampler, within what its constraint allows, and as long as what was guessed
//! is right. What becomes of them is the sequence's.

use std::collections::VecDeque;

use super::numbers::{NumberError, check_logits};
use crate::grammar::{Constraint, GrammarError};
use crate::sampling::{Choice, Sampler};
use crate::token::TokenId;

/// What chooses a sequence's next token.
pub(super) struct Chooser<'a> {
    pub(super) sampler: &'a mut Sampler,
    pub(super) constraint: Option<&'a mut Constraint>,
    /// Tokens that are certain: the constraint has followed them.
    pub(super) foreseen: &'a mut VecDeque<TokenId>,
    /// Tokens that were computed as well, in case that they come next.
    pub(super) guessed: &'a [TokenId],
}

/// Why no next token can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChooseError {
    /// None follows that the constraint and the other options allow.
    Grammar(GrammarError),
    /// What the step computed cannot be used.
    Numbers(NumberError),
}

impl From<GrammarError> for ChooseError {
    fn from(error: GrammarError) -> Self {
        Self::Grammar(error)
    }
}

/// The next tokens, and those after them that can only be these.
pub(super) struct Chosen {
    /// At least one. All but the last were guessed rightly.
    pub(super) choices: Vec<Choice>,
    /// What the constraint leaves no choice about.
    pub(super) certain: Vec<TokenId>,
    /// Whether the constraint allows nothing after them.
    pub(super) complete: bool,
}

impl Chooser<'_> {
    /// Chooses by the logits of the rows, which are overwritten: by the first row's, and as long as what is chosen is what was
    /// guessed, by the next one's.
    pub(super) fn choose(mut self, rows: Vec<&mut [f32]>) -> Result<Chosen, ChooseError> {
        let mut choices = Vec::with_capacity(rows.len());
        let mut guessed = self.guessed.iter();
        for logits in rows {
            check_logits(logits).map_err(ChooseError::Numbers)?;
            let choice = self.choose_one(logits)?;
            let right = guessed.next() == Some(&choice.token);
            choices.push(choice);
            if !right {
                break;
            }
        }
        Ok(self.with_foreseen(choices))
    }

    fn choose_one(&mut self, logits: &mut [f32]) -> Result<Choice, GrammarError> {
        if let Some(token) = self.foreseen.pop_front() {
            return Ok(self.sampler.take(token, logits));
        }
        let Some(constraint) = &mut self.constraint else {
            return Ok(self.sampler.choose(logits, |_| ()));
        };
        let mut masked = Ok(());
        let choice = self.sampler.choose(logits, |logits| {
            masked = constraint.mask(logits);
            if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) && masked.is_ok() {
                let problem = "every token that could follow is forbidden by other options";
                masked = Err(GrammarError::Stuck(problem.to_owned()));
            }
        });
        masked?;
        constraint.accept(choice.token)?;
        self.foreseen.extend(constraint.take_forced()?);
        Ok(choice)
    }

    /// The choices with what is certain after them; token by token for those who want to know how probable each was.
    fn with_foreseen(self, choices: Vec<Choice>) -> Chosen {
        let certain = match self.sampler.wants_logprobs() {
            true => Vec::new(),
            false => self.foreseen.drain(..).collect(),
        };
        self.sampler.follow(&certain);
        let constraint = self.constraint.as_deref();
        Chosen {
            choices,
            certain,
            complete: self.foreseen.is_empty() && constraint.is_some_and(Constraint::is_complete),
        }
    }
}

impl Chosen {
    /// How many tokens were guessed rightly.
    pub(super) fn guessed_rightly(&self) -> usize {
        self.choices.len() - 1
    }
}
