//! `POST /v1/completions`: generates completions of prompts.

mod writer;

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::options::{ErrorFields, generate_options, openai_error, token_limit};
use crate::api::error::Error;
use crate::api::options::count;
use crate::api::payload::IgnoredFields;
use crate::api::prepare::prepare;
use crate::api::prompts::{Prompts, prompt_pieces};
use crate::api::stream::{
    EventStream, GeneratedText, JsonOrStream, collect_text, generation_events,
};
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{
    BatchRequest, GenerateLimits, GenerateOptions, LoadedModel, PreparationPool, Prompt,
    PromptPiece,
};
use crate::sampling::{Distribution, LogprobsOptions};
use crate::text::InfillInput;

use writer::TextWriter;

/// OpenAI's default of `max_tokens`.
const DEFAULT_MAX_TOKENS: i64 = 16;

/// Handles `POST /v1/completions`.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    body: types::TextCompletionRequest,
    limits: &GenerateLimits,
    ignored: &mut IgnoredFields,
) -> Result<JsonOrStream<types::TextCompletion>, Error> {
    let (limits, model_handle) = (limits.clone(), Arc::clone(&model));
    let (parameters, generations) = prepare(preparations, ignored, move |ignored, cancel| {
        let (parameters, prompts) = CompletionParameters::read(&model_handle, body, cancel)?;
        let request = BatchRequest {
            prompts,
            choices: parameters.best_of,
            system_prompt: None,
            options: parameters.options.clone().with_limits(&limits),
        };
        let generations = model_handle.generate_batch(request, cancel);
        let generations = generations.map_err(|error| openai_error(error, &parameters.fields))?;
        // All generations have the same schema, so its relaxations are reported once.
        if let Some(generation) = generations.first() {
            parameters
                .fields
                .report(generation.relaxations(), ignored)?;
        }
        Ok((parameters, generations))
    })
    .await?;
    let events: Vec<_> = generations.into_iter().map(generation_events).collect();
    let writer = TextWriter::new(&model, parameters.best_of as usize, parameters.logprobs);
    if parameters.options.stream {
        let chunks = writer.chunks(events, parameters.include_usage);
        return Ok(JsonOrStream::Stream(EventStream::openai(chunks)));
    }
    let outputs = try_join_all(events.into_iter().map(collect_text)).await?;
    Ok(JsonOrStream::Json(
        writer.completion(outputs, parameters.choices as usize),
    ))
}

/// The parameters of a request, without its prompts.
struct CompletionParameters {
    /// Number of texts in the response for each prompt.
    choices: u32,
    /// Number of texts generated for each prompt.
    best_of: u32,
    /// Number of alternatives for each token; `None` without log probabilities.
    logprobs: Option<usize>,
    include_usage: bool,
    options: GenerateOptions,
    /// The request fields that error messages name.
    fields: ErrorFields,
}

impl CompletionParameters {
    /// Reads a body. Returns its parameters and its prompts.
    fn read(
        model: &LoadedModel,
        mut body: types::TextCompletionRequest,
        cancel: &CancelFlag,
    ) -> Result<(Self, Vec<Prompt>), Error> {
        let (mut options, fields) = generate_options(&mut body, "prompt", None, None)?;
        let choices = body.n.unwrap_or(1);
        let best_of = body.best_of.unwrap_or(choices);
        if best_of < choices || (best_of > choices && options.stream) {
            let problem = match best_of < choices {
                true => "it cannot be less than n",
                false => {
                    "it cannot be greater than n if stream is true, because the best choices are only known at the end"
                }
            };
            return Err(Error::invalid("best_of", format!("best_of: {problem}")));
        }
        let logprobs = body
            .logprobs
            .map(|top| count("logprobs", top))
            .transpose()?;
        // Log probabilities are needed to select the best choices.
        let top = logprobs.or((best_of > choices).then_some(0));
        options.sampling.logprobs = top.map(|top| LogprobsOptions {
            top,
            distribution: Distribution::Model,
        });
        options.max_tokens = token_limit(body.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        options.echo = body.echo.unwrap_or(false);
        let prompts = Prompts::read("prompt", body.prompt)?.into_vec();
        let count = prompts.len() * best_of as usize;
        Prompts::check_count("prompt", count, model.max_generations())?;
        let suffix = body.suffix.filter(|suffix| !suffix.is_empty());
        if suffix.is_some() && options.echo {
            let message = "suffix: suffix and echo cannot be combined";
            return Err(Error::invalid("suffix", message));
        }
        let prompts = prompts.into_iter().map(prompt_pieces);
        let prompts = prompts.map(|prompt| match &suffix {
            Some(suffix) => infill(model, &prompt, suffix, cancel),
            None => Ok(Prompt::Pieces(prompt)),
        });
        let prompts = prompts.collect::<Result<_, Error>>()?;
        let parameters = Self {
            choices,
            best_of,
            logprobs,
            include_usage: body
                .stream_options
                .and_then(|options| options.include_usage)
                .unwrap_or(false),
            options,
            fields,
        };
        Ok((parameters, prompts))
    }
}

/// Builds the prompt for generating the text between `prompt` and `suffix`.
fn infill(
    model: &LoadedModel,
    prompt: &[PromptPiece],
    suffix: &str,
    cancel: &CancelFlag,
) -> Result<Prompt, Error> {
    let [PromptPiece::Text(prefix)] = prompt else {
        let message = "suffix: with a suffix, the prompt must be a single text without token ids";
        return Err(Error::invalid("suffix", message));
    };
    let gap = InfillInput {
        prefix,
        suffix,
        ..InfillInput::default()
    };
    let (tokens, _) = model.infill_prompt(&gap, None, None, cancel)?;
    Ok(Prompt::Pieces(
        tokens.into_iter().map(PromptPiece::Token).collect(),
    ))
}

/// Returns the mean log probability of a text's tokens; 0 without tokens.
fn mean_logprob(text: &GeneratedText) -> f64 {
    let logprobs = text
        .tokens
        .iter()
        .filter_map(|token| token.logprobs.as_ref());
    let logprobs: Vec<f64> = logprobs.map(|(chosen, _)| chosen.logprob).collect();
    match logprobs.len() {
        0 => 0.0,
        count => logprobs.iter().sum::<f64>() / count as f64,
    }
}
