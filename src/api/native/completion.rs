//! `POST /completion`: a prompt's continuation.

use std::sync::Arc;

use futures_util::StreamExt;

use super::sampling;
use super::settings::settings;
use crate::api::at_length;
use crate::api::error::Error;
use crate::api::options::{limit, one_grammar, seconds, unless_empty};
use crate::api::stream::{EventStream, WholeAnswer, WholeOrStream, events, whole};
use crate::api::types;
use crate::model::{
    AnswerToken, FinishReason, GenerateEvent, GenerateLimits, GenerateOptions, GenerateRequest,
    GrammarSource, LoadedModel, ModelDetails, Prompt, PromptPiece, Summary, Timings, TokenLogprob,
    WhenFull,
};
use crate::token::TokenId;

/// Continues the prompt.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
    body: types::CompletionRequest,
    limits: &GenerateLimits,
) -> Result<WholeOrStream<types::Completion>, Error> {
    let prompt = body.prompt.clone();
    let request = GenerateRequest::try_from(body)?.within(limits);
    let generation = at_length(|| model.generate(request))?;
    let asked = Asked {
        details: model.details().clone(),
        options: Arc::clone(generation.options()),
        prompt,
    };
    if !asked.options.stream {
        let answer = whole(events(generation)).await?;
        return Ok(WholeOrStream::Whole(asked.completion(&answer)));
    }
    let mut tokens = Vec::new();
    let values =
        events(generation).map(move |event| event.map(|event| asked.event(event, &mut tokens)));
    Ok(WholeOrStream::Stream(EventStream::new(values, None)))
}

impl TryFrom<types::CompletionRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(body: types::CompletionRequest) -> Result<Self, Error> {
        let sampling = sampling::parameters(&body)?;
        Ok(Self {
            prompt: Prompt::Pieces(pieces("prompt", body.prompt)?),
            options: GenerateOptions {
                max_tokens: limit("n_predict", body.n_predict.unwrap_or(-1))?,
                stop: body
                    .stop
                    .into_iter()
                    .flatten()
                    .filter(|stop| !stop.is_empty())
                    .collect(),
                ignore_end: body.ignore_eos.unwrap_or(false),
                sampling,
                logit_bias: sampling::logit_bias(body.logit_bias)?,
                grammar: one_grammar([
                    unless_empty(body.grammar, GrammarSource::Gbnf),
                    body.json_schema
                        .map(|schema| GrammarSource::JsonSchema(schema.into())),
                    unless_empty(body.regex, GrammarSource::Regex),
                    unless_empty(body.lark, GrammarSource::Lark),
                ])?,
                penalty_prompt: body
                    .penalty_prompt
                    .map(|prompt| pieces("penalty_prompt", prompt))
                    .transpose()?,
                slot: limit("id_slot", body.id_slot.unwrap_or(-1))?,
                when_full: WhenFull::Shift {
                    keep: limit("n_keep", body.n_keep.unwrap_or(0))?,
                },
                read_cache: body.cache_prompt.unwrap_or(false),
                cache_salt: body.cache_salt,
                priority: body.priority.unwrap_or(0),
                timeout: body.request_timeout.map(seconds),
                stream: body.stream.unwrap_or(false),
            },
        })
    }
}

/// One prompt of texts and ids.
fn pieces(param: &str, prompt: types::Prompt) -> Result<Vec<PromptPiece>, Error> {
    let pieces = match prompt {
        types::Prompt::String(text) => vec![PromptPiece::Text(text)],
        types::Prompt::Array(pieces) => pieces
            .into_iter()
            .map(|piece| match piece {
                types::PromptPiece::String(text) => PromptPiece::Text(text),
                types::PromptPiece::Uint32(token) => PromptPiece::Token(TokenId(token)),
            })
            .collect(),
    };
    let several = pieces.len() > 1
        && pieces
            .iter()
            .all(|piece| matches!(piece, PromptPiece::Text(_)));
    if several {
        return Err(Error::invalid(
            param,
            format!(
                "{param}: an array of several texts is several prompts, which is not built yet; send one text"
            ),
        ));
    }
    Ok(pieces)
}

/// What an answer repeats of its question.
struct Asked {
    details: ModelDetails,
    options: Arc<GenerateOptions>,
    prompt: types::Prompt,
}

impl Asked {
    /// A server-sent event; the last one is the whole answer but for the text, which was sent.
    /// `tokens` are those of the events before.
    fn event(&self, event: GenerateEvent, tokens: &mut Vec<AnswerToken>) -> types::CompletionEvent {
        match event {
            GenerateEvent::Text { text, tokens: own } => {
                if self.options.sampling.logprobs.is_some() {
                    tokens.extend(own);
                }
                types::CompletionChunk {
                    content: text,
                    stop: false,
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

    use serde_json::{Value, json};

    use super::*;
    use crate::api::tests::details;

    fn request(body: Value) -> Result<GenerateRequest, Error> {
        serde_json::from_value::<types::CompletionRequest>(body)
            .unwrap()
            .try_into()
    }

    #[test]
    fn without_options_the_seeds_defaults_hold() {
        let request = request(json!({"prompt": "a"})).unwrap();
        assert_eq!(request.options.max_tokens, None);
        assert_eq!(request.options.sampling.temperature, 0.8);
        assert_eq!(request.options.sampling.top_k, Some(40));
        assert_eq!(request.options.sampling.repetition.repeat_penalty, 1.1);
        assert_eq!(request.options.sampling.repetition.last_n, Some(64));
        assert_eq!(
            (
                request.options.sampling.seed,
                request.options.slot,
                request.options.stream
            ),
            (None, None, false)
        );
    }

    #[test]
    fn words_for_absence_become_absence() {
        let request = request(json!({
            "prompt": "a", "n_predict": 0, "seed": -1, "top_k": 0, "repeat_last_n": -1, "id_slot": 2,
            "stop": ["", "b"], "temperature": 1e300,
        }))
        .unwrap();
        assert_eq!(request.options.max_tokens, Some(0));
        assert_eq!(request.options.sampling.seed, None);
        assert_eq!(request.options.sampling.top_k, None);
        assert_eq!(request.options.sampling.repetition.last_n, None);
        assert_eq!(request.options.sampling.temperature, f32::MAX);
        assert_eq!(request.options.slot, Some(2));
        assert_eq!(request.options.stop, ["b"]);
    }

    #[test]
    fn a_prompt_is_a_text_or_texts_and_ids() {
        let pieces = |prompt: Value| match request(json!({"prompt": prompt}))?.prompt {
            Prompt::Pieces(pieces) => Ok::<_, Error>(pieces),
            Prompt::Chat(_) => panic!("no conversation was sent"),
        };
        let text = |text: &str| PromptPiece::Text(text.to_owned());
        assert_eq!(pieces(json!("a")).unwrap(), [text("a")]);
        assert_eq!(pieces(json!(["a"])).unwrap(), [text("a")]);
        assert_eq!(
            pieces(json!(["a", 7])).unwrap(),
            [text("a"), PromptPiece::Token(TokenId(7))]
        );
        let error = pieces(json!(["a", "b"])).unwrap_err();
        assert!(error.to_string().contains("several prompts"), "{error}");
    }

    #[test]
    fn an_answer_tells_why_it_ended_and_fits_the_document() {
        let asked = Asked {
            details: details(),
            options: Arc::new(
                request(json!({"prompt": ["a", 7], "seed": -1}))
                    .unwrap()
                    .options,
            ),
            prompt: types::Prompt::String("a".to_owned()),
        };
        let summary = Summary {
            reason: FinishReason::StopString("END".to_owned()),
            slot: 0,
            prompt_tokens: 4,
            cached_tokens: 0,
            generated_tokens: 2,
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
        let answer = asked.completion(&WholeAnswer {
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
