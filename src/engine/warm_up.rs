//! Warm-up: runs a prefill and a decode step while the model loads, so that a model that cannot run fails at load and
//! not at each request.

use super::adapters::AdapterScales;
use super::output_checks::{check_hidden, check_logits};
use super::runner::{ModelRunner, RunError};
use super::sequence_id::SequenceId;
use super::step::{Chunk, StepPlan, WantedRows};
use super::{BlockId, EngineOptions};
use crate::cache::BlockPool;
use crate::token::TokenId;

/// Length of the warm-up prompt, if the context has room.
const PROMPT_TOKENS: usize = 2;

/// The input of the warm-up steps, and the outputs that the model has.
#[derive(Debug, Clone)]
pub struct WarmUp {
    /// Any token of the vocabulary.
    pub token: TokenId,
    /// Whether the model has logits.
    pub generates: bool,
    /// Whether the model has hidden states.
    pub embeds: bool,
}

impl WarmUp {
    /// Runs a prefill step and, if the model generates, a decode step: the runner may use a different session for each.
    /// No block stays cached. Invalid outputs are only logged, because this token alone may cause them.
    ///
    /// # Errors
    /// If a step fails.
    pub fn run(
        &self,
        runner: &mut dyn ModelRunner,
        options: &EngineOptions,
    ) -> Result<(), RunError> {
        let mut pool = BlockPool::new(options.blocks, options.block_tokens);
        let max_tokens = options.context_tokens.min(options.batch_tokens);
        let prompt = PROMPT_TOKENS.min(options.step_tokens).min(max_tokens);
        let tokens = prompt + 1;
        let blocks = 0..tokens.div_ceil(options.block_tokens);
        let blocks: Vec<BlockId> = blocks.map_while(|_| pool.allocate()).collect();
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
        let wanted_rows = |has_output| match has_output {
            true => WantedRows::Last(1),
            false => WantedRows::None,
        };
        let plan = StepPlan {
            copies: Vec::new(),
            chunks: vec![Chunk {
                sequence: SequenceId(0),
                tokens: vec![self.token; count],
                draft_tokens: 0,
                past,
                blocks: blocks.to_vec(),
                logits: wanted_rows(self.generates),
                hidden: wanted_rows(self.embeds),
                adapters: AdapterScales::default(),
            }],
        };
        let mut outputs = runner.outputs();
        runner.run(&plan, &mut outputs)?;
        let logits = outputs.logits.rows().map(check_logits);
        let hidden = outputs.hidden.rows().map(check_hidden);
        if let Err(error) = logits.chain(hidden).collect::<Result<(), _>>() {
            let token = self.token.0;
            tracing::warn!(%error, token, "invalid outputs in the warm-up step");
        }
        Ok(())
    }
}
