//! Texts as OpenAI's API has them: all at once, or in pieces as they come.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt, stream};

use super::super::heading::{Heading, finish_reason, logprob, usage};
use super::mean_logprob;
use crate::api::error::Error;
use crate::api::stream::WholeAnswer;
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::model::{AnswerToken, GenerateEvent, LoadedModel, Summary, TokenLogprob};

/// How the answers to one body are written.
pub(super) struct Texts {
    model: Arc<LoadedModel>,
    heading: Heading,
    /// Texts that are generated for each prompt.
    per_prompt: usize,
    /// Whether log-probabilities are told, and of how many tokens beside each.
    logprobs: Option<usize>,
}

impl Texts {
    pub(super) fn new(
        model: &Arc<LoadedModel>,
        per_prompt: usize,
        logprobs: Option<usize>,
    ) -> Self {
        Self {
            model: Arc::clone(model),
            heading: Heading::new("cmpl", &model.details().name),
            per_prompt,
            logprobs,
        }
    }

    /// The `choices` most probable texts for each prompt; where that is all of them, in their order.
    pub(super) fn completion(
        self,
        answers: Vec<WholeAnswer>,
        choices: usize,
    ) -> types::TextCompletion {
        let summaries: Vec<Summary> = answers
            .iter()
            .map(|answer| answer.summary.clone())
            .collect();
        let usage = self.usage(&summaries);
        let timings = summaries.first().map(timings);
        let mut answers = answers.into_iter();
        let mut written = Vec::new();
        loop {
            let mut own: Vec<WholeAnswer> = answers.by_ref().take(self.per_prompt).collect();
            if own.is_empty() {
                break;
            }
            if choices < own.len() {
                own.sort_by(|left, right| mean_logprob(right).total_cmp(&mean_logprob(left)));
            }
            for answer in own.into_iter().take(choices) {
                let tokens = [&answer.tokens[..], answer.summary.end_token.as_slice()].concat();
                written.push(types::TextChoice {
                    index: written.len() as u32,
                    logprobs: self.logprobs(&tokens, &mut Offset::default()),
                    text: answer.content,
                    finish_reason: Some(finish_reason(&answer.summary.reason)),
                });
            }
        }
        types::TextCompletion {
            timings,
            ..self.part(written, Some(usage))
        }
    }

    /// The pieces of all texts as they come, the reasons of their ends, and the usage if it is wanted. The last one has the
    /// timings of the last text that ended.
    pub(super) fn chunks(
        self,
        choices: Vec<impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static>,
        usage_wanted: bool,
    ) -> impl Stream<Item = Result<types::TextCompletion, Error>> + Send + 'static {
        let mut offsets: Vec<Offset> = choices.iter().map(|_| Offset::default()).collect();
        let mut ends: Vec<Option<Summary>> = choices.iter().map(|_| None).collect();
        let mut timings_of: Vec<Option<types::Timings>> = choices.iter().map(|_| None).collect();
        let events = choices
            .into_iter()
            .enumerate()
            .map(|(index, events)| events.map(move |event| (index, event)).boxed());
        select_all(events).flat_map(move |(index, event)| {
            let choice = |text, logprobs, finish_reason| types::TextChoice {
                index: index as u32,
                text,
                logprobs,
                finish_reason,
            };
            let parts = match event {
                Err(error) => vec![Err(error)],
                Ok(
                    GenerateEvent::Prompt { text, tokens } | GenerateEvent::Text { text, tokens },
                ) => {
                    let logprobs = self.logprobs(&tokens, &mut offsets[index]);
                    vec![Ok(types::TextCompletion {
                        timings: timings_of[index].take(),
                        ..self.part(vec![choice(text, logprobs, None)], None)
                    })]
                }
                Ok(GenerateEvent::Progress(progress)) => match prompt_progress(&progress) {
                    Some(prompt_progress) => vec![Ok(types::TextCompletion {
                        prompt_progress: Some(prompt_progress),
                        ..self.part(vec![choice(String::new(), None, None)], None)
                    })],
                    None => {
                        timings_of[index] = Some(timings_so_far(&progress));
                        Vec::new()
                    }
                },
                Ok(GenerateEvent::Finished(summary)) => {
                    let reason = Some(finish_reason(&summary.reason));
                    let end_token = summary.end_token.as_ref().map(std::slice::from_ref);
                    let logprobs =
                        end_token.and_then(|token| self.logprobs(token, &mut offsets[index]));
                    let last = self.part(vec![choice(String::new(), logprobs, reason)], None);
                    let timings = timings(&summary);
                    ends[index] = Some(summary);
                    let all: Option<Vec<Summary>> = ends.iter().cloned().collect();
                    let is_over = all.is_some();
                    let usage = all.filter(|_| usage_wanted);
                    let usage = usage.map(|all| self.part(Vec::new(), Some(self.usage(&all))));
                    let mut parts: Vec<_> = [last].into_iter().chain(usage).collect();
                    if is_over && let Some(last) = parts.last_mut() {
                        last.timings = Some(timings);
                    }
                    parts.into_iter().map(Ok).collect()
                }
            };
            stream::iter(parts)
        })
    }

    fn part(
        &self,
        choices: Vec<types::TextChoice>,
        usage: Option<types::Usage>,
    ) -> types::TextCompletion {
        types::TextCompletion {
            id: self.heading.id.clone(),
            object: types::TextCompletionObject::TextCompletion,
            created: self.heading.created,
            model: self.heading.model.clone(),
            system_fingerprint: self.heading.fingerprint.clone(),
            choices,
            usage,
            timings: None,
            prompt_progress: None,
        }
    }

    /// What all prompts and texts took together.
    fn usage(&self, summaries: &[Summary]) -> types::Usage {
        let mut all = usage(&[]);
        for own in summaries.chunks(self.per_prompt).map(usage) {
            all.prompt_tokens += own.prompt_tokens;
            all.completion_tokens += own.completion_tokens;
            all.total_tokens += own.total_tokens;
            all.prompt_tokens_details.cached_tokens += own.prompt_tokens_details.cached_tokens;
        }
        all
    }

    /// The tokens' log-probabilities, if they were asked for. `offset` is where the first one begins.
    fn logprobs(&self, tokens: &[AnswerToken], offset: &mut Offset) -> Option<types::TextLogprobs> {
        let top = self.logprobs?;
        let mut written = types::TextLogprobs {
            tokens: Vec::with_capacity(tokens.len()),
            token_logprobs: Vec::with_capacity(tokens.len()),
            top_logprobs: (top > 0).then(Vec::new),
            text_offset: Vec::with_capacity(tokens.len()),
        };
        for token in tokens {
            let bytes = self.model.token_bytes(token.token);
            let chosen = token.logprobs.as_ref().map(|(chosen, _)| logprob(chosen));
            written.tokens.push(spelt(bytes));
            written.token_logprobs.push(chosen);
            written.text_offset.push(offset.advance(bytes));
            if let Some(all) = &mut written.top_logprobs {
                let alternatives = token.logprobs.as_ref().map(|(_, top)| alternatives(top));
                all.push(alternatives);
            }
        }
        Some(written)
    }
}

fn alternatives(top: &[TokenLogprob]) -> HashMap<String, f64> {
    let told = top
        .iter()
        .map(|token| (spelt(&token.bytes), logprob(token)));
    told.collect()
}

/// A token as text; one that is none by its bytes, so that no two tokens are told alike.
fn spelt(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let bytes = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", bytes.collect::<String>())
        }
    }
}

/// Characters of a text that have begun so far.
#[derive(Debug, Default)]
struct Offset(u64);

impl Offset {
    /// Goes on behind a token. Answers where it begins: the character's place of which it may be a part.
    fn advance(&mut self, token: &[u8]) -> u64 {
        let begins = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
        let within = token.first().is_some_and(|first| !begins(first));
        let start = self.0.saturating_sub(u64::from(within));
        self.0 += token.iter().filter(|byte| begins(byte)).count() as u64;
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_begins_where_its_first_character_does() {
        let mut offset = Offset::default();
        let tokens: [&[u8]; 5] = [b"a", "é".as_bytes(), b"\xf0\x9f", b"\x99\x82b", b"c"];
        let begins = tokens.map(|token| offset.advance(token));
        assert_eq!(begins, [0, 1, 2, 2, 4]);
    }

    #[test]
    fn what_is_no_text_is_told_by_its_bytes() {
        assert_eq!(spelt("é".as_bytes()), "é");
        assert_eq!(spelt(b"\xf0\x9f"), "bytes:\\xf0\\x9f");
    }
}
