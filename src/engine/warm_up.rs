//! A first prompt and a first token, before the model is ready: what cannot be computed shows here, and not at every
//! request.

use super::adapters::AdapterScales;
use super::numbers::{check_hidden, check_logits};
use super::runner::{ModelRunner, RunError};
use super::sequence::SequenceId;
use super::step::{Chunk, StepPlan, WantedRows};
use super::{BlockId, EngineOptions};
use crate::cache::BlockPool;
use crate::token::TokenId;

/// Tokens of the prompt, if the context has room: a step for prompts may be another session than one of single tokens.
const PROMPT_TOKENS: usize = 2;

/// What a model is tried with.
#[derive(Debug, Clone)]
pub struct WarmUp {
    /// A token of the vocabulary.
    pub token: TokenId,
    /// Whether it has logits.
    pub generates: bool,
    /// Whether it has hidden states.
    pub embeds: bool,
}

impl WarmUp {
    /// Runs a step with a prompt and, if the model generates, one with the next token. The cache is left as if nothing
    /// had been computed. Numbers that cannot be used are logged: they may come of this token alone.
    ///
    /// # Errors
    /// A step failed.
    pub fn run(
        &self,
        runner: &mut dyn ModelRunner,
        options: &EngineOptions,
    ) -> Result<(), RunError> {
        let mut pool = BlockPool::new(options.blocks, options.block_tokens);
        let most = options.context_tokens.min(options.batch_tokens);
        let prompt = PROMPT_TOKENS.min(options.step_tokens).min(most);
        let tokens = prompt + 1;
        let blocks = 0..tokens.div_ceil(options.block_tokens);
        let blocks: Vec<BlockId> = blocks.map_while(|_| pool.take()).collect();
        self.step(runner, &blocks, 0, prompt)?;
        let has_room = tokens <= options.context_tokens;
        match self.generates && has_room {
            true => self.step(runner, &blocks, prompt, 1),
            false => Ok(()),
        }
    }

    fn step(
        &self,
        runner: &mut dyn ModelRunner,
        blocks: &[BlockId],
        past: usize,
        count: usize,
    ) -> Result<(), RunError> {
        let wanted = |is_there| match is_there {
            true => WantedRows::Last(1),
            false => WantedRows::None,
        };
        let plan = StepPlan {
            copies: Vec::new(),
            chunks: vec![Chunk {
                sequence: SequenceId(0),
                tokens: vec![self.token; count],
                guessed: 0,
                past,
                blocks: blocks.to_vec(),
                logits: wanted(self.generates),
                hidden: wanted(self.embeds),
                adapters: AdapterScales::default(),
            }],
        };
        let mut outputs = runner.outputs();
        runner.run(&plan, &mut outputs)?;
        let logits = outputs.logits.rows().map(check_logits);
        let hidden = outputs.hidden.rows().map(check_hidden);
        if let Err(error) = logits.chain(hidden).collect::<Result<(), _>>() {
            let token = self.token.0;
            tracing::warn!(%error, token, "the warm-up step computed no usable numbers");
        }
        Ok(())
    }
}
