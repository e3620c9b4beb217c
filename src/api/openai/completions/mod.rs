//! `POST /v1/completions`: how texts go on.

mod text;

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::options::{Fields, generate_options, in_openais_words, most_tokens};
use crate::api::error::Error;
use crate::api::options::count;
use crate::api::payload::Ignored;
use crate::api::preparing::prepare;
use crate::api::prompts::{Prompts, pieces};
use crate::api::stream::{EventStream, WholeAnswer, WholeOrStream, events, whole};
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{
    BatchRequest, GenerateLimits, GenerateOptions, LoadedModel, Preparations, Prompt, PromptPiece,
};
use crate::sampling::{Distribution, LogprobsWanted};
use crate::text::Gap;

use text::Texts;

/// Tokens that are generated if a body does not say.
const DEFAULT_MAX_TOKENS: i64 = 16;

/// Goes on with each prompt.
pub(in crate::api) async fn answer(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    body: types::TextCompletionRequest,
    limits: &GenerateLimits,
    ignored: &mut Ignored,
) -> Result<WholeOrStream<types::TextCompletion>, Error> {
    let (limits, own) = (limits.clone(), Arc::clone(&model));
    let (question, begun) = prepare(preparations, ignored, move |ignored, cancel| {
        let (question, prompts) = Question::read(&own, body, cancel)?;
        let request = BatchRequest {
            prompts,
            choices: question.best_of,
            system_prompt: None,
            options: question.options.clone().within(&limits),
        };
        let generations = own.generate_batch(request, cancel);
        let generations = generations.map_err(|error| in_openais_words(error, &question.fields))?;
        // The schema is the same for all texts.
        if let Some(generation) = generations.first() {
            question.fields.report(generation.relaxations(), ignored)?;
        }
        Ok((question, generations))
    })
    .await?;
    let begun: Vec<_> = begun.into_iter().map(events).collect();
    let texts = Texts::new(&model, question.best_of as usize, question.logprobs);
    if question.options.stream {
        let chunks = texts.chunks(begun, question.usage_wanted);
        return Ok(WholeOrStream::Stream(EventStream::openai(chunks)));
    }
    let answers = try_join_all(begun.into_iter().map(whole)).await?;
    Ok(WholeOrStream::Whole(
        texts.completion(answers, question.choices as usize),
    ))
}

/// What a body asks for.
struct Question {
    /// Texts that are answered for each prompt.
    choices: u32,
    /// Texts that are generated for each prompt.
    best_of: u32,
    /// Whether log-probabilities are answered, and of how many tokens beside each.
    logprobs: Option<usize>,
    usage_wanted: bool,
    options: GenerateOptions,
    /// The fields that errors name.
    fields: Fields,
}

impl Question {
    /// Reads a body and its prompts.
    fn read(
        model: &LoadedModel,
        body: types::TextCompletionRequest,
        cancel: &CancelFlag,
    ) -> Result<(Self, Vec<Prompt>), Error> {
        let own = ["prompt", "logprobs"];
        let (mut options, fields) = generate_options(&body, &own, "prompt", None, None)?;
        let choices = body.n.unwrap_or(1);
        let best_of = body.best_of.unwrap_or(choices);
        if best_of < choices || (best_of > choices && options.stream) {
            let problem = match best_of < choices {
                true => "it cannot be less than n",
                false => "the best are only known at the end: not for streams",
            };
            return Err(Error::invalid("best_of", format!("best_of: {problem}")));
        }
        let logprobs = body
            .logprobs
            .map(|top| count("logprobs", top))
            .transpose()?;
        // The best are told by their log-probabilities.
        let top = logprobs.or((best_of > choices).then_some(0));
        options.sampling.logprobs = top.map(|top| LogprobsWanted {
            top,
            of: Distribution::Model,
        });
        options.max_tokens = most_tokens(body.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        options.echo = body.echo.unwrap_or(false);
        let prompts = Prompts::read("prompt", body.prompt)?.all();
        let count = prompts.len() * best_of as usize;
        Prompts::check_count("prompt", count, model.places())?;
        let suffix = body.suffix.filter(|suffix| !suffix.is_empty());
        if suffix.is_some() && options.echo {
            let message =
                "suffix: a gap's prompt is no text that could be told: not together with echo";
            return Err(Error::invalid("suffix", message));
        }
        let prompts = prompts.into_iter().map(pieces);
        let prompts = prompts.map(|prompt| match &suffix {
            Some(suffix) => infill(model, &prompt, suffix, cancel),
            None => Ok(Prompt::Pieces(prompt)),
        });
        let prompts = prompts.collect::<Result<_, Error>>()?;
        let question = Self {
            choices,
            best_of,
            logprobs,
            usage_wanted: body
                .stream_options
                .and_then(|options| options.include_usage)
                .unwrap_or(false),
            options,
            fields,
        };
        Ok((question, prompts))
    }
}

/// The prompt that fills the gap between a text and its suffix.
fn infill(
    model: &LoadedModel,
    prompt: &[PromptPiece],
    suffix: &str,
    cancel: &CancelFlag,
) -> Result<Prompt, Error> {
    let [PromptPiece::Text(prefix)] = prompt else {
        let message = "suffix: the prompt before a gap is one text, and no token ids";
        return Err(Error::invalid("suffix", message));
    };
    let gap = Gap {
        prefix,
        suffix,
        ..Gap::default()
    };
    let (tokens, _) = model.infill_prompt(&gap, None, None, cancel)?;
    Ok(Prompt::Pieces(
        tokens.into_iter().map(PromptPiece::Token).collect(),
    ))
}

/// How probable a text is: the mean of its tokens' log-probabilities.
fn mean_logprob(answer: &WholeAnswer) -> f64 {
    let logprobs = answer
        .tokens
        .iter()
        .filter_map(|token| token.logprobs.as_ref());
    let logprobs: Vec<f64> = logprobs.map(|(chosen, _)| chosen.logprob).collect();
    match logprobs.len() {
        0 => 0.0,
        count => logprobs.iter().sum::<f64>() / count as f64,
    }
}
