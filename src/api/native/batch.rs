//! Runs the generations of a native completion request and builds the response: JSON or a stream of events.

use std::future::ready;
use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt, TryStreamExt};

use super::settings::settings;
use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::prompts::{Prompts, prompt_pieces};
use crate::api::relaxations::SchemaPaths;
use crate::api::stream::{GeneratedText, collect_text, generation_events};
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{
    BatchRequest, FinishReason, GenerateError, GenerateEvent, GenerateOptions, Generation,
    LoadedModel, ModelDetails, OutputToken, Prompt, SystemPrompt, TokenLogprob,
};

/// Options of the response to `/completion` and `/infill`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ResponseOptions {
    /// Whether the response contains the ids of the generated tokens.
    pub(super) return_tokens: bool,
    /// Paths of the fields to return, with slashes between nested names, such as `timings/prompt_ms`; empty for all
    /// fields.
    pub(super) fields: Vec<String>,
    /// Number of completions of each prompt; 0 counts as 1.
    pub(super) choices: u32,
}

/// The prompts of a request and the options of their completions.
pub(super) struct CompletionBatch {
    pub(super) prompts: Prompts,
    /// Prepended to these prompts and, from then on, to the prompts of all requests.
    pub(super) system_prompt: Option<SystemPrompt>,
    pub(super) options: GenerateOptions,
    pub(super) response_options: ResponseOptions,
}

impl CompletionBatch {
    /// Starts the generations of all prompts. If one prompt is rejected, no generation starts.
    pub(super) fn start(
        self,
        model: &LoadedModel,
        ignored: &mut IgnoredFields,
        cancel: &CancelFlag,
    ) -> Result<RunningCompletions, Error> {
        let Self {
            prompts,
            system_prompt,
            options,
            response_options,
        } = self;
        let choices = response_options.choices.max(1);
        let is_single = matches!(prompts, Prompts::One(_)) && choices == 1;
        let prompts = prompts.into_vec();
        let count = prompts.len().saturating_mul(choices as usize);
        if !is_single {
            let param = if choices > 1 { "n_cmpl" } else { "prompt" };
            Prompts::check_count(param, count, model.max_generations())?;
        }
        let to_prompt = |prompt: &types::Prompt| Prompt::Pieces(prompt_pieces(prompt.clone()));
        let request = BatchRequest {
            prompts: prompts.iter().map(to_prompt).collect(),
            choices,
            system_prompt: system_prompt.clone(),
            options,
        };
        let generations = model.generate_batch(request, cancel)?;
        // All generations have the same schema, so its relaxations are reported once.
        if let Some(generation) = generations.first() {
            SchemaPaths::without_tools("json_schema").report(generation.relaxations(), ignored)?;
        }
        if let Some(system_prompt) = system_prompt {
            model.set_system_prompt(system_prompt, cancel)?;
        }
        // Only the first completion of each prompt repeats the prompt in its response.
        let prompts = prompts.into_iter().flat_map(|prompt| {
            let without_prompt = std::iter::repeat_n(None, choices as usize - 1);
            std::iter::once(Some(prompt)).chain(without_prompt)
        });
        let completions = prompts.zip(generations).zip(0_u64..);
        let mut completions: Vec<_> = completions
            .map(|((prompt, generation), index)| {
                let writer = CompletionWriter {
                    details: model.details().clone(),
                    options: Arc::clone(generation.options()),
                    response_options: response_options.clone(),
                    prompt,
                    index: (!is_single).then_some(index),
                };
                (writer, generation)
            })
            .collect();
        Ok(match completions.pop() {
            Some(one) if is_single => RunningCompletions::One(Box::new(one)),
            last => {
                completions.extend(last);
                RunningCompletions::Several(completions)
            }
        })
    }
}

/// The running generations of a request, each with the writer of its completion. The response is an object for `One`
/// and an array for `Several`.
pub(super) enum RunningCompletions {
    One(Box<(CompletionWriter, Generation)>),
    Several(Vec<(CompletionWriter, Generation)>),
}

impl RunningCompletions {
    /// Waits for all completions and returns the JSON response.
    pub(super) async fn response(self) -> Result<types::CompletionAnswer, Error> {
        let complete = async |(writer, generation): (CompletionWriter, Generation)| {
            let output = collect_text(generation_events(generation)).await?;
            let has_new_line = output.content.contains('\n');
            let completion = writer.completion(&output, has_new_line);
            writer.selected(completion)
        };
        Ok(match self {
            Self::One(completions) => match complete(*completions).await? {
                types::CompletionResult::Completion(completion) => completion.into(),
                types::CompletionResult::SelectedFields(fields) => fields.into(),
            },
            Self::Several(completions) => types::CompletionAnswer::Array(
                try_join_all(completions.into_iter().map(complete)).await?,
            ),
        })
    }

    /// Returns the events of all completions, in the order in which they are generated.
    pub(super) fn events(
        self,
    ) -> impl Stream<Item = Result<types::CompletionEvent, Error>> + Send + 'static {
        let completions = match self {
            Self::One(completions) => vec![*completions],
            Self::Several(completions) => completions,
        };
        select_all(completions.into_iter().map(|(writer, generation)| {
            let mut state = StreamState::default();
            let event = move |event| ready(writer.event(event, &mut state));
            generation_events(generation).try_filter_map(event).boxed()
        }))
    }
}

/// Data of earlier events that a later event of the stream contains.
#[derive(Default)]
struct StreamState {
    /// Tokens with log probabilities, for the last event.
    tokens: Vec<OutputToken>,
    has_new_line: bool,
    /// Timings for the next text event.
    timings: Option<types::Timings>,
}

/// Builds the response of one completion, which repeats parts of the request.
pub(super) struct CompletionWriter {
    details: ModelDetails,
    options: Arc<GenerateOptions>,
    response_options: ResponseOptions,
    /// The prompt to repeat; `None` for all but the first completion of a prompt.
    prompt: Option<types::Prompt>,
    /// Index of the completion; `None` if the request has only one completion.
    index: Option<u64>,
}

impl CompletionWriter {
    /// Converts a generation event to a response event; `None` if its content belongs to the next event. The last event
    /// is the complete response without the text and the tokens of earlier events.
    fn event(
        &self,
        event: GenerateEvent,
        state: &mut StreamState,
    ) -> Result<Option<types::CompletionEvent>, Error> {
        let chunk = types::CompletionChunk {
            content: String::new(),
            stop: false,
            index: self.index,
            tokens: Vec::new(),
            timings: None,
            prompt_progress: None,
        };
        Ok(match event {
            GenerateEvent::Prompt { text, tokens } | GenerateEvent::Text { text, tokens } => {
                state.has_new_line |= text.contains('\n');
                let ids = tokens
                    .iter()
                    .filter(|_| self.response_options.return_tokens);
                let ids = ids.map(|token| token.token.0).collect();
                if self.options.sampling.logprobs.is_some() {
                    state.tokens.extend(tokens);
                }
                let chunk = types::CompletionChunk {
                    content: text,
                    tokens: ids,
                    timings: state.timings.take(),
                    ..chunk
                };
                Some(chunk.into())
            }
            GenerateEvent::Progress(progress) => match prompt_progress(&progress) {
                Some(prompt_progress) => {
                    let chunk = types::CompletionChunk {
                        prompt_progress: Some(prompt_progress),
                        ..chunk
                    };
                    Some(chunk.into())
                }
                None => {
                    state.timings = Some(timings_so_far(&progress));
                    None
                }
            },
            GenerateEvent::Finished(summary) => {
                let output = GeneratedText {
                    content: String::new(),
                    tokens: std::mem::take(&mut state.tokens),
                    summary,
                };
                let completion = types::Completion {
                    // Earlier events contain the tokens.
                    tokens: Vec::new(),
                    ..self.completion(&output, state.has_new_line)
                };
                Some(match self.selected(completion)? {
                    types::CompletionResult::Completion(completion) => completion.into(),
                    types::CompletionResult::SelectedFields(fields) => fields.into(),
                })
            }
        })
    }

    /// Selects the fields that `response_fields` names. The last part of a path names the selected field; missing
    /// fields are omitted.
    fn selected(&self, completion: types::Completion) -> Result<types::CompletionResult, Error> {
        if self.response_options.fields.is_empty() {
            return Ok(completion.into());
        }
        let failed = |error| {
            GenerateError::Failed(format!("the response cannot be written as JSON: {error}"))
        };
        let response = serde_json::to_value(completion).map_err(failed)?;
        let fields = self.response_options.fields.iter().filter_map(|path| {
            let value = path
                .split('/')
                .try_fold(&response, |value, name| value.get(name))?;
            let name = path.rsplit('/').next().unwrap_or_default();
            Some((name.to_owned(), value.clone()))
        });
        Ok(types::SelectedFields(fields.collect()).into())
    }

    fn completion(&self, output: &GeneratedText, has_new_line: bool) -> types::Completion {
        let GeneratedText {
            content,
            tokens,
            summary,
        } = output;
        let stopping_word = match &summary.reason {
            FinishReason::StopString(word) => word.clone(),
            FinishReason::EndOfText | FinishReason::TokenLimit | FinishReason::ContextFull => {
                String::new()
            }
        };
        let probabilities = tokens
            .iter()
            .filter_map(|token| token.logprobs.as_ref())
            .map(token_probabilities);
        types::Completion {
            content: content.clone(),
            completion_probabilities: probabilities.collect(),
            tokens: match self.response_options.return_tokens {
                true => tokens.iter().map(|token| token.token.0).collect(),
                false => Vec::new(),
            },
            has_new_line,
            stop: true,
            stop_type: match summary.reason {
                FinishReason::EndOfText => types::CompletionStopType::Eos,
                FinishReason::TokenLimit | FinishReason::ContextFull => {
                    types::CompletionStopType::Limit
                }
                FinishReason::StopString(_) => types::CompletionStopType::Word,
            },
            index: self.index.unwrap_or(0),
            id_slot: summary.slot as u64,
            model: self.details.name.clone(),
            prompt: self.prompt.clone(),
            generation_settings: self
                .index
                .is_none_or(|index| index == 0)
                .then(|| settings(&self.details, &self.options, Some(summary.seed))),
            stopped_eos: summary.reason == FinishReason::EndOfText,
            stopped_limit: matches!(
                summary.reason,
                FinishReason::TokenLimit | FinishReason::ContextFull
            ),
            stopped_word: matches!(summary.reason, FinishReason::StopString(_)),
            stopping_word,
            tokens_cached: summary.cached_tokens as u64,
            tokens_evaluated: summary.prompt_tokens as u64,
            tokens_predicted: summary.generated_tokens as u64,
            truncated: summary.truncated,
            timings: timings(summary),
        }
    }
}

fn token_probabilities(
    (chosen, top): &(TokenLogprob, Vec<TokenLogprob>),
) -> types::TokenProbabilities {
    let probs = top.iter().map(|token| types::TokenProbability {
        prob: token.logprob.exp().min(1.0),
        tok_str: token_text(&token.bytes),
    });
    types::TokenProbabilities {
        content: token_text(&chosen.bytes),
        probs: probs.collect(),
    }
}

/// Returns the text of a token. As in llama.cpp of 2024, a single byte of a multi-byte character becomes `byte:\xe2`.
fn token_text(bytes: &[u8]) -> String {
    match bytes {
        [byte] if !byte.is_ascii() => format!("byte:\\x{byte:02x}"),
        bytes => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::api::tests::details;
    use crate::model::{GenerationProgress, GenerationSummary, Timings};
    use crate::token::TokenId;

    fn writer(response_options: ResponseOptions) -> CompletionWriter {
        let body: types::CompletionOptions =
            serde_json::from_value(json!({"prompt": ["a", 7], "seed": -1})).unwrap();
        CompletionWriter {
            details: details(),
            options: Arc::new(GenerateOptions::try_from(body).unwrap()),
            response_options,
            prompt: Some(types::Prompt::String("a".to_owned())),
            index: None,
        }
    }

    fn output() -> GeneratedText {
        let token = |bytes: &[u8], logprob| TokenLogprob {
            token: TokenId(1),
            bytes: bytes.to_vec(),
            logprob,
        };
        GeneratedText {
            content: "b".to_owned(),
            tokens: vec![OutputToken {
                token: TokenId(1),
                logprobs: Some((token(b"b", -0.5), vec![token(b"\xe2", 0.0)])),
            }],
            summary: GenerationSummary {
                reason: FinishReason::StopString("END".to_owned()),
                slot: 0,
                prompt_tokens: 4,
                cached_tokens: 1,
                generated_tokens: 2,
                eog_token: None,
                reasoning_tokens: 0,
                truncated: false,
                seed: 9,
                timings: Timings {
                    prompt: Duration::from_millis(6),
                    ..Timings::default()
                },
            },
        }
    }

    #[test]
    fn a_completion_reports_its_stop_reason_and_matches_the_schema() {
        let response = writer(ResponseOptions::default()).completion(&output(), true);
        assert_eq!(response.completion_probabilities[0].content, "b");
        let first = &response.completion_probabilities[0].probs[0];
        assert_eq!((first.prob, &*first.tok_str), (1.0, "byte:\\xe2"));
        assert!(response.stopped_word && !response.stopped_eos && !response.stopped_limit);
        assert_eq!(response.stop_type, types::CompletionStopType::Word);
        assert_eq!(response.stopping_word, "END");
        let settings = response.generation_settings.as_ref().unwrap();
        assert_eq!((settings.seed, settings.seed_cur), (9, 9));
        assert_eq!((response.index, response.tokens.len()), (0, 0));
        assert!(response.has_new_line);
        let timings = &response.timings;
        assert_eq!((timings.cache_n, timings.prompt_n), (1, 3));
        assert_eq!(timings.prompt_per_second, 500.0);
        assert_eq!(timings.predicted_per_second, 0.0);
        crate::api::check("Completion", &serde_json::to_value(&response).unwrap()).unwrap();
    }

    #[test]
    fn a_completion_has_only_the_selected_fields() {
        let fields = ["content", "tokens", "timings/prompt_n", "prompt/a", "a", ""];
        let writer = writer(ResponseOptions {
            return_tokens: true,
            fields: fields.map(str::to_owned).to_vec(),
            choices: 1,
        });
        let selected = writer.selected(writer.completion(&output(), false));
        let selected = serde_json::to_value(selected.unwrap()).unwrap();
        assert_eq!(
            selected,
            json!({"content": "b", "tokens": [1], "prompt_n": 3})
        );
        crate::api::check("CompletionAnswer", &selected).unwrap();
        crate::api::check("CompletionEvent", &selected).unwrap();
    }

    #[test]
    fn events_have_the_requested_fields() {
        let writer = writer(ResponseOptions {
            return_tokens: true,
            ..ResponseOptions::default()
        });
        let progress = |generated_tokens| {
            GenerateEvent::Progress(GenerationProgress {
                prompt_tokens: 4,
                cached_tokens: 1,
                processed_tokens: 3,
                generated_tokens,
                timings: Timings {
                    prompt: Duration::from_millis(6),
                    ..Timings::default()
                },
            })
        };
        let mut state = StreamState::default();
        let mut event = |event| {
            let event = writer.event(event, &mut state).unwrap()?;
            let value = serde_json::to_value(&event).unwrap();
            crate::api::check("CompletionEvent", &value).unwrap();
            Some(value)
        };
        let evaluated = event(progress(0)).unwrap();
        let expected = json!({"total": 4, "cache": 1, "processed": 3, "time_ms": 6});
        assert_eq!(evaluated["prompt_progress"], expected);
        assert_eq!(evaluated["content"], "");
        assert_eq!(event(progress(1)), None);
        let text = || GenerateEvent::Text {
            text: "b\n".to_owned(),
            tokens: output().tokens,
        };
        let chunk = event(text()).unwrap();
        assert_eq!(
            (&chunk["content"], &chunk["tokens"]),
            (&json!("b\n"), &json!([1]))
        );
        assert_eq!(chunk["timings"]["predicted_n"], 1);
        let bare = json!({"content": "b\n", "stop": false, "tokens": [1]});
        assert_eq!(event(text()).unwrap(), bare);
        let last = event(GenerateEvent::Finished(output().summary)).unwrap();
        assert_eq!(
            (&last["tokens"], &last["has_new_line"]),
            (&json!([]), &json!(true))
        );
    }
}
