//! Builds text completion responses in OpenAI's format: a single JSON object or a stream of chunks.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt, stream};

use super::super::response_parts::{ResponseMetadata, finish_reason, logprob, usage};
use super::mean_logprob;
use crate::api::error::Error;
use crate::api::stream::GeneratedText;
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::model::{GenerateEvent, GenerationSummary, LoadedModel, OutputToken, TokenLogprob};

/// Builds the response to one request.
pub(super) struct TextWriter {
    model: Arc<LoadedModel>,
    metadata: ResponseMetadata,
    /// Number of texts generated for each prompt.
    generations_per_prompt: usize,
    /// Number of alternatives for each token; `None` without log probabilities.
    logprobs: Option<usize>,
}

impl TextWriter {
    pub(super) fn new(
        model: &Arc<LoadedModel>,
        generations_per_prompt: usize,
        logprobs: Option<usize>,
    ) -> Self {
        Self {
            model: Arc::clone(model),
            metadata: ResponseMetadata::new("cmpl", &model.details().name),
            generations_per_prompt,
            logprobs,
        }
    }

    /// Returns the complete response with the `choices` texts of each prompt that have the highest mean log
    /// probability. If `choices` includes all texts, the texts keep their order.
    pub(super) fn completion(
        self,
        outputs: Vec<GeneratedText>,
        choices: usize,
    ) -> types::TextCompletion {
        let summaries: Vec<GenerationSummary> = outputs
            .iter()
            .map(|output| output.summary.clone())
            .collect();
        let usage = self.usage(&summaries);
        let timings = summaries.first().map(timings);
        let mut outputs = outputs.into_iter();
        let mut text_choices = Vec::new();
        loop {
            let mut texts: Vec<GeneratedText> =
                outputs.by_ref().take(self.generations_per_prompt).collect();
            if texts.is_empty() {
                break;
            }
            if choices < texts.len() {
                texts.sort_by(|left, right| mean_logprob(right).total_cmp(&mean_logprob(left)));
            }
            for output in texts.into_iter().take(choices) {
                let tokens = [&output.tokens[..], output.summary.eog_token.as_slice()].concat();
                text_choices.push(types::TextChoice {
                    index: text_choices.len() as u32,
                    logprobs: self.logprobs(&tokens, &mut Offset::default()),
                    text: output.content,
                    finish_reason: Some(finish_reason(&output.summary.reason)),
                });
            }
        }
        types::TextCompletion {
            timings,
            ..self.response(text_choices, Some(usage))
        }
    }

    /// Returns the chunks of all texts, the finish reasons and, if requested, the usage. The last chunk has the timings
    /// of the text that ended last.
    pub(super) fn chunks(
        self,
        choices: Vec<impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static>,
        include_usage: bool,
    ) -> impl Stream<Item = Result<types::TextCompletion, Error>> + Send + 'static {
        let mut offsets: Vec<Offset> = choices.iter().map(|_| Offset::default()).collect();
        let mut ends: Vec<Option<GenerationSummary>> = choices.iter().map(|_| None).collect();
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
                        ..self.response(vec![choice(text, logprobs, None)], None)
                    })]
                }
                Ok(GenerateEvent::Progress(progress)) => match prompt_progress(&progress) {
                    Some(prompt_progress) => vec![Ok(types::TextCompletion {
                        prompt_progress: Some(prompt_progress),
                        ..self.response(vec![choice(String::new(), None, None)], None)
                    })],
                    None => {
                        timings_of[index] = Some(timings_so_far(&progress));
                        Vec::new()
                    }
                },
                Ok(GenerateEvent::Finished(summary)) => {
                    let reason = Some(finish_reason(&summary.reason));
                    let eog_token = summary.eog_token.as_ref().map(std::slice::from_ref);
                    let logprobs =
                        eog_token.and_then(|token| self.logprobs(token, &mut offsets[index]));
                    let last = self.response(vec![choice(String::new(), logprobs, reason)], None);
                    let timings = timings(&summary);
                    ends[index] = Some(summary);
                    let all: Option<Vec<GenerationSummary>> = ends.iter().cloned().collect();
                    let all_finished = all.is_some();
                    let usage = all.filter(|_| include_usage);
                    let usage = usage.map(|all| self.response(Vec::new(), Some(self.usage(&all))));
                    let mut parts: Vec<_> = [last].into_iter().chain(usage).collect();
                    if all_finished && let Some(last) = parts.last_mut() {
                        last.timings = Some(timings);
                    }
                    parts.into_iter().map(Ok).collect()
                }
            };
            stream::iter(parts)
        })
    }

    fn response(
        &self,
        choices: Vec<types::TextChoice>,
        usage: Option<types::Usage>,
    ) -> types::TextCompletion {
        types::TextCompletion {
            id: self.metadata.id.clone(),
            object: types::TextCompletionObject::TextCompletion,
            created: self.metadata.created,
            model: self.metadata.model.clone(),
            system_fingerprint: self.metadata.fingerprint.clone(),
            choices,
            usage,
            timings: None,
            prompt_progress: None,
        }
    }

    /// Returns the token usage, summed over all prompts.
    fn usage(&self, summaries: &[GenerationSummary]) -> types::Usage {
        let mut all = usage(&[]);
        for prompt_usage in summaries.chunks(self.generations_per_prompt).map(usage) {
            all.prompt_tokens += prompt_usage.prompt_tokens;
            all.completion_tokens += prompt_usage.completion_tokens;
            all.total_tokens += prompt_usage.total_tokens;
            all.prompt_tokens_details.cached_tokens +=
                prompt_usage.prompt_tokens_details.cached_tokens;
        }
        all
    }

    /// Returns the log probabilities of tokens, if requested. `offset` is the text position of the first token and
    /// advances past the last token.
    fn logprobs(&self, tokens: &[OutputToken], offset: &mut Offset) -> Option<types::TextLogprobs> {
        let top = self.logprobs?;
        let mut logprobs = types::TextLogprobs {
            tokens: Vec::with_capacity(tokens.len()),
            token_logprobs: Vec::with_capacity(tokens.len()),
            top_logprobs: (top > 0).then(Vec::new),
            text_offset: Vec::with_capacity(tokens.len()),
        };
        for token in tokens {
            let bytes = self.model.token_bytes(token.token);
            let chosen = token.logprobs.as_ref().map(|(chosen, _)| logprob(chosen));
            logprobs.tokens.push(token_name(bytes));
            logprobs.token_logprobs.push(chosen);
            logprobs.text_offset.push(offset.advance(bytes));
            if let Some(all) = &mut logprobs.top_logprobs {
                let alternatives = token.logprobs.as_ref().map(|(_, top)| alternatives(top));
                all.push(alternatives);
            }
        }
        Some(logprobs)
    }
}

fn alternatives(top: &[TokenLogprob]) -> HashMap<String, f64> {
    let alternatives = top
        .iter()
        .map(|token| (token_name(&token.bytes), logprob(token)));
    alternatives.collect()
}

/// Returns the text of a token, or a list of its bytes if they are not UTF-8. Different tokens have different names.
fn token_name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let bytes = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", bytes.collect::<String>())
        }
    }
}

/// A position in a text: the number of characters whose first byte was passed.
#[derive(Debug, Default)]
struct Offset(u64);

impl Offset {
    /// Advances past a token. Returns the offset, in characters, of the character that contains the token's first byte.
    fn advance(&mut self, token: &[u8]) -> u64 {
        let starts_character = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
        let within = token.first().is_some_and(|first| !starts_character(first));
        let start = self.0.saturating_sub(u64::from(within));
        self.0 += token.iter().filter(|byte| starts_character(byte)).count() as u64;
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_offset_of_its_first_character() {
        let mut offset = Offset::default();
        let tokens: [&[u8]; 5] = [b"a", "é".as_bytes(), b"\xf0\x9f", b"\x99\x82b", b"c"];
        let offsets = tokens.map(|token| offset.advance(token));
        assert_eq!(offsets, [0, 1, 2, 2, 4]);
    }

    #[test]
    fn tokens_that_are_not_utf8_are_named_by_their_bytes() {
        assert_eq!(token_name("é".as_bytes()), "é");
        assert_eq!(token_name(b"\xf0\x9f"), "bytes:\\xf0\\x9f");
    }
}
