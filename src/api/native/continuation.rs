//! Generations for the prompts of a native body, and what is answered: whole, or as events as it comes.

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
use crate::api::types;
use crate::model::{
    AnswerToken, FinishReason, GenerateEvent, GenerateLimits, GenerateOptions, GenerateRequest,
    Generation, LoadedModel, ModelDetails, Prompt, Summary, SystemPrompt, Timings, TokenLogprob,
};

/// Begins a generation for each prompt, or none. A system prompt comes before them, and from then on before those of
/// all.
pub(super) fn begin(
    model: &LoadedModel,
    prompts: Prompts,
    system_prompt: Option<SystemPrompt>,
    options: &GenerateOptions,
    limits: &GenerateLimits,
    ignored: &mut Ignored,
) -> Result<Asked, Error> {
    let one = |prompt: types::Prompt, index| {
        let request = GenerateRequest {
            prompt: Prompt::Pieces(pieces(prompt.clone())),
            system_prompt: system_prompt.clone(),
            options: options.clone(),
        };
        let generation = model.generate(request.within(limits))?;
        let question = Question {
            details: model.details().clone(),
            options: Arc::clone(generation.options()),
            prompt,
            index,
        };
        Ok((question, generation))
    };
    let asked = match prompts {
        Prompts::One(prompt) => Asked::One(Box::new(one(prompt, None)?)),
        Prompts::Several(prompts) => {
            Prompts::check_count("prompt", prompts.len(), model.places())?;
            let begun = (0..)
                .zip(prompts)
                .map(|(index, prompt)| one(prompt, Some(index)));
            Asked::Several(begun.collect::<Result<_, Error>>()?)
        }
    };
    // The schema is the same for all prompts.
    if let Some(generation) = asked.first() {
        SchemaPaths::of_form("json_schema").report(generation.relaxations(), ignored)?;
    }
    if let Some(words) = system_prompt {
        model.set_system_prompt(words)?;
    }
    Ok(asked)
}

/// What was asked, and what answers it.
pub(super) enum Asked {
    One(Box<(Question, Generation)>),
    Several(Vec<(Question, Generation)>),
}

impl Asked {
    fn first(&self) -> Option<&Generation> {
        match self {
            Self::One(asked) => Some(&asked.1),
            Self::Several(asked) => asked.first().map(|(_, generation)| generation),
        }
    }

    /// The answers when all are there.
    pub(super) async fn whole(self) -> Result<types::CompletionAnswer, Error> {
        let one = async |(question, generation): (Question, Generation)| {
            Ok::<_, Error>(question.completion(&whole(events(generation)).await?))
        };
        Ok(match self {
            Self::One(asked) => types::CompletionAnswer::Completion(one(*asked).await?),
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
            let mut tokens = Vec::new();
            let event = move |event| question.event(event, &mut tokens);
            events(generation).map_ok(event).boxed()
        }))
    }
}

/// What an answer repeats of its question.
pub(super) struct Question {
    details: ModelDetails,
    options: Arc<GenerateOptions>,
    prompt: types::Prompt,
    /// Which of several.
    index: Option<u64>,
}

impl Question {
    /// A server-sent event; the last one is the whole answer but for the text, which was sent.
    /// `tokens` are those of the events before.
    fn event(&self, event: GenerateEvent, tokens: &mut Vec<AnswerToken>) -> types::CompletionEvent {
        match event {
            GenerateEvent::Prompt { text, tokens: own }
            | GenerateEvent::Text { text, tokens: own } => {
                if self.options.sampling.logprobs.is_some() {
                    tokens.extend(own);
                }
                types::CompletionChunk {
                    content: text,
                    stop: false,
                    index: self.index,
                }
                .into()
            }
            GenerateEvent::Finished(summary) => self
                .completion(&WholeAnswer {
                    content: String::new(),
                    tokens: std::mem::take(tokens),
                    summary,
                })
                .into(),
        }
    }

    fn completion(&self, answer: &WholeAnswer) -> types::Completion {
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
            stop: true,
            index: self.index,
            id_slot: summary.slot as u64,
            model: self.details.name.clone(),
            prompt: self.prompt.clone(),
            generation_settings: settings(&self.details, &self.options, Some(summary.seed)),
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

fn timings(summary: &Summary) -> types::Timings {
    let Timings { prompt, decode, .. } = summary.timings;
    let computed = summary.prompt_tokens.saturating_sub(summary.cached_tokens);
    let (prompt_ms, predicted_ms) = (prompt.as_secs_f64() * 1000.0, decode.as_secs_f64() * 1000.0);
    types::Timings {
        prompt_n: computed as u64,
        prompt_ms,
        prompt_per_token_ms: ratio(prompt_ms, computed as f64),
        prompt_per_second: ratio(computed as f64 * 1000.0, prompt_ms),
        predicted_n: summary.generated_tokens as u64,
        predicted_ms,
        predicted_per_token_ms: ratio(predicted_ms, summary.generated_tokens as f64),
        predicted_per_second: ratio(summary.generated_tokens as f64 * 1000.0, predicted_ms),
    }
}

/// A quotient; over nothing it is 0, because JSON has no infinity.
fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 {
        dividend / divisor
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::api::tests::details;
    use crate::token::TokenId;

    #[test]
    fn an_answer_tells_why_it_ended_and_fits_the_document() {
        let body: types::CompletionRequest =
            serde_json::from_value(json!({"prompt": ["a", 7], "seed": -1})).unwrap();
        let question = Question {
            details: details(),
            options: Arc::new(GenerateOptions::try_from(body).unwrap()),
            prompt: types::Prompt::String("a".to_owned()),
            index: None,
        };
        let summary = Summary {
            reason: FinishReason::StopString("END".to_owned()),
            slot: 0,
            prompt_tokens: 4,
            cached_tokens: 0,
            generated_tokens: 2,
            end_token: None,
            thought_tokens: 0,
            truncated: false,
            seed: 9,
            timings: Timings {
                prompt: Duration::from_millis(8),
                ..Timings::default()
            },
        };
        let token = |bytes: &[u8], logprob| TokenLogprob {
            token: TokenId(1),
            bytes: bytes.to_vec(),
            logprob,
        };
        let answer = question.completion(&WholeAnswer {
            content: "b".to_owned(),
            tokens: vec![AnswerToken {
                token: TokenId(1),
                logprobs: Some((token(b"b", -0.5), vec![token(b"\xe2", 0.0)])),
            }],
            summary,
        });
        assert_eq!(answer.completion_probabilities[0].content, "b");
        let first = &answer.completion_probabilities[0].probs[0];
        assert_eq!((first.prob, &*first.tok_str), (1.0, "byte:\\xe2"));
        assert!(answer.stopped_word && !answer.stopped_eos && !answer.stopped_limit);
        assert_eq!(answer.stopping_word, "END");
        assert_eq!(answer.generation_settings.seed, 9);
        assert_eq!(answer.timings.prompt_per_second, 500.0);
        assert_eq!(answer.timings.predicted_per_second, 0.0);
        crate::api::check("Completion", &serde_json::to_value(&answer).unwrap()).unwrap();
    }
}
