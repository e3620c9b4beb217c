//! Generations for the prompts of a native body, and what is answered: whole, or as events as it comes.

use std::future::ready;
use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt, TryStreamExt};

use super::settings::settings;
use crate::api::error::Error;
use crate::api::payload::Ignored;
use crate::api::prompts::{Prompts, pieces};
use crate::api::relaxed::SchemaPaths;
use crate::api::stream::{WholeAnswer, events, whole};
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{
    AnswerToken, BatchRequest, FinishReason, GenerateError, GenerateEvent, GenerateOptions,
    Generation, LoadedModel, ModelDetails, Prompt, SystemPrompt, TokenLogprob,
};

/// What an answer has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AnswerForm {
    /// Whether the ids of the generated tokens are among it.
    pub(super) tokens: bool,
    /// The fields that it has, with a slash for each step into an object; all, if there are none.
    pub(super) fields: Vec<String>,
    /// How many continuations each prompt has.
    pub(super) choices: u32,
}

/// The prompts of a body and how they are continued.
pub(super) struct Batch {
    pub(super) prompts: Prompts,
    /// Comes before the prompts, and from then on before those of all requests.
    pub(super) system_prompt: Option<SystemPrompt>,
    pub(super) options: GenerateOptions,
    pub(super) form: AnswerForm,
}

impl Batch {
    /// Begins the generations for each prompt, or none.
    pub(super) fn begin(
        self,
        model: &LoadedModel,
        ignored: &mut Ignored,
        cancel: &CancelFlag,
    ) -> Result<Asked, Error> {
        let Self {
            prompts,
            system_prompt,
            options,
            form,
        } = self;
        let choices = form.choices.max(1);
        let alone = matches!(prompts, Prompts::One(_)) && choices == 1;
        let prompts = prompts.all();
        let count = prompts.len().saturating_mul(choices as usize);
        if !alone {
            let param = if choices > 1 { "n_cmpl" } else { "prompt" };
            Prompts::check_count(param, count, model.places())?;
        }
        let pieces = |prompt: &types::Prompt| Prompt::Pieces(pieces(prompt.clone()));
        let request = BatchRequest {
            prompts: prompts.iter().map(pieces).collect(),
            choices,
            system_prompt: system_prompt.clone(),
            options,
        };
        let generations = model.generate_batch(request, cancel)?;
        // The schema is the same for all prompts.
        if let Some(generation) = generations.first() {
            SchemaPaths::of_form("json_schema").report(generation.relaxations(), ignored)?;
        }
        if let Some(words) = system_prompt {
            model.set_system_prompt(words, cancel)?;
        }
        // A prompt is repeated once, whatever its choices.
        let prompts = prompts.into_iter().flat_map(|prompt| {
            let others = std::iter::repeat_n(None, choices as usize - 1);
            std::iter::once(Some(prompt)).chain(others)
        });
        let asked = prompts.zip(generations).zip(0_u64..);
        let mut asked: Vec<_> = asked
            .map(|((prompt, generation), index)| {
                let question = Question {
                    details: model.details().clone(),
                    options: Arc::clone(generation.options()),
                    form: form.clone(),
                    prompt,
                    index: (!alone).then_some(index),
                };
                (question, generation)
            })
            .collect();
        Ok(match asked.pop() {
            Some(one) if alone => Asked::One(Box::new(one)),
            last => {
                asked.extend(last);
                Asked::Several(asked)
            }
        })
    }
}

/// What was asked, and what answers it.
pub(super) enum Asked {
    One(Box<(Question, Generation)>),
    Several(Vec<(Question, Generation)>),
}

impl Asked {
    /// The answers when all are there.
    pub(super) async fn whole(self) -> Result<types::CompletionAnswer, Error> {
        let one = async |(question, generation): (Question, Generation)| {
            let answer = whole(events(generation)).await?;
            let has_new_line = answer.content.contains('\n');
            let completion = question.completion(&answer, has_new_line);
            question.selected(completion)
        };
        Ok(match self {
            Self::One(asked) => match one(*asked).await? {
                types::CompletionResult::Completion(completion) => completion.into(),
                types::CompletionResult::SelectedFields(fields) => fields.into(),
            },
            Self::Several(asked) => {
                types::CompletionAnswer::Array(try_join_all(asked.into_iter().map(one)).await?)
            }
        })
    }

    /// The events of all as they come.
    pub(super) fn events(
        self,
    ) -> impl Stream<Item = Result<types::CompletionEvent, Error>> + Send + 'static {
        let asked = match self {
            Self::One(asked) => vec![*asked],
            Self::Several(asked) => asked,
        };
        select_all(asked.into_iter().map(|(question, generation)| {
            let mut told = Told::default();
            let event = move |event| ready(question.event(event, &mut told));
            events(generation).try_filter_map(event).boxed()
        }))
    }
}

/// What the events before told.
#[derive(Default)]
struct Told {
    /// Tokens with log-probabilities.
    tokens: Vec<AnswerToken>,
    has_new_line: bool,
    /// Those of the next text.
    timings: Option<types::Timings>,
}

/// What an answer repeats of its question.
pub(super) struct Question {
    details: ModelDetails,
    options: Arc<GenerateOptions>,
    form: AnswerForm,
    /// Of several answers to a prompt, only the first repeats it.
    prompt: Option<types::Prompt>,
    /// Which of several.
    index: Option<u64>,
}

impl Question {
    /// A server-sent event, if there is something to tell; the last one is the whole answer but for the text, which was
    /// sent.
    fn event(
        &self,
        event: GenerateEvent,
        told: &mut Told,
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
                told.has_new_line |= text.contains('\n');
                let ids = tokens.iter().filter(|_| self.form.tokens);
                let ids = ids.map(|token| token.token.0).collect();
                if self.options.sampling.logprobs.is_some() {
                    told.tokens.extend(tokens);
                }
                let chunk = types::CompletionChunk {
                    content: text,
                    tokens: ids,
                    timings: told.timings.take(),
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
                    told.timings = Some(timings_so_far(&progress));
                    None
                }
            },
            GenerateEvent::Finished(summary) => {
                let answer = WholeAnswer {
                    content: String::new(),
                    tokens: std::mem::take(&mut told.tokens),
                    summary,
                };
                let completion = types::Completion {
                    // They were sent.
                    tokens: Vec::new(),
                    ..self.completion(&answer, told.has_new_line)
                };
                Some(match self.selected(completion)? {
                    types::CompletionResult::Completion(completion) => completion.into(),
                    types::CompletionResult::SelectedFields(fields) => fields.into(),
                })
            }
        })
    }

    /// The fields that are wanted, those of objects without their path; what is not there is left out.
    fn selected(&self, completion: types::Completion) -> Result<types::CompletionResult, Error> {
        if self.form.fields.is_empty() {
            return Ok(completion.into());
        }
        let failed = |error| GenerateError::Failed(format!("the answer is no JSON: {error}"));
        let whole = serde_json::to_value(completion).map_err(failed)?;
        let fields = self.form.fields.iter().filter_map(|path| {
            let value = path
                .split('/')
                .try_fold(&whole, |value, name| value.get(name))?;
            let name = path.rsplit('/').next().unwrap_or_default();
            Some((name.to_owned(), value.clone()))
        });
        Ok(types::SelectedFields(fields.collect()).into())
    }

    fn completion(&self, answer: &WholeAnswer, has_new_line: bool) -> types::Completion {
        let WholeAnswer {
            content,
            tokens,
            summary,
        } = answer;
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
            tokens: match self.form.tokens {
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

/// What a token spells; a lone byte of a character by its number, as in 2024.
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
    use crate::model::{GenerationProgress, Summary, Timings};
    use crate::token::TokenId;

    fn question(form: AnswerForm) -> Question {
        let body: types::CompletionRequest =
            serde_json::from_value(json!({"prompt": ["a", 7], "seed": -1})).unwrap();
        Question {
            details: details(),
            options: Arc::new(GenerateOptions::try_from(body).unwrap()),
            form,
            prompt: Some(types::Prompt::String("a".to_owned())),
            index: None,
        }
    }

    fn answer() -> WholeAnswer {
        let token = |bytes: &[u8], logprob| TokenLogprob {
            token: TokenId(1),
            bytes: bytes.to_vec(),
            logprob,
        };
        WholeAnswer {
            content: "b".to_owned(),
            tokens: vec![AnswerToken {
                token: TokenId(1),
                logprobs: Some((token(b"b", -0.5), vec![token(b"\xe2", 0.0)])),
            }],
            summary: Summary {
                reason: FinishReason::StopString("END".to_owned()),
                slot: 0,
                prompt_tokens: 4,
                cached_tokens: 1,
                generated_tokens: 2,
                end_token: None,
                thought_tokens: 0,
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
    fn an_answer_tells_why_it_ended_and_fits_the_document() {
        let answer = question(AnswerForm::default()).completion(&answer(), true);
        assert_eq!(answer.completion_probabilities[0].content, "b");
        let first = &answer.completion_probabilities[0].probs[0];
        assert_eq!((first.prob, &*first.tok_str), (1.0, "byte:\\xe2"));
        assert!(answer.stopped_word && !answer.stopped_eos && !answer.stopped_limit);
        assert_eq!(answer.stop_type, types::CompletionStopType::Word);
        assert_eq!(answer.stopping_word, "END");
        let settings = answer.generation_settings.as_ref().unwrap();
        assert_eq!((settings.seed, settings.seed_cur), (9, 9));
        assert_eq!((answer.index, answer.tokens.len()), (0, 0));
        assert!(answer.has_new_line);
        let timings = &answer.timings;
        assert_eq!((timings.cache_n, timings.prompt_n), (1, 3));
        assert_eq!(timings.prompt_per_second, 500.0);
        assert_eq!(timings.predicted_per_second, 0.0);
        crate::api::check("Completion", &serde_json::to_value(&answer).unwrap()).unwrap();
    }

    #[test]
    fn an_answer_has_the_fields_that_are_wanted() {
        let fields = ["content", "tokens", "timings/prompt_n", "prompt/a", "a", ""];
        let question = question(AnswerForm {
            tokens: true,
            fields: fields.map(str::to_owned).to_vec(),
            choices: 1,
        });
        let selected = question.selected(question.completion(&answer(), false));
        let selected = serde_json::to_value(selected.unwrap()).unwrap();
        assert_eq!(
            selected,
            json!({"content": "b", "tokens": [1], "prompt_n": 3})
        );
        crate::api::check("CompletionAnswer", &selected).unwrap();
        crate::api::check("CompletionEvent", &selected).unwrap();
    }

    #[test]
    fn a_chunk_has_what_is_asked_for() {
        let question = question(AnswerForm {
            tokens: true,
            ..AnswerForm::default()
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
        let mut told = Told::default();
        let mut event = |event| {
            let event = question.event(event, &mut told).unwrap()?;
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
            tokens: answer().tokens,
        };
        let chunk = event(text()).unwrap();
        assert_eq!(
            (&chunk["content"], &chunk["tokens"]),
            (&json!("b\n"), &json!([1]))
        );
        assert_eq!(chunk["timings"]["predicted_n"], 1);
        let bare = json!({"content": "b\n", "stop": false, "tokens": [1]});
        assert_eq!(event(text()).unwrap(), bare);
        let last = event(GenerateEvent::Finished(answer().summary)).unwrap();
        assert_eq!(
            (&last["tokens"], &last["has_new_line"]),
            (&json!([]), &json!(true))
        );
    }
}
