//! Converts the body of `POST /v1/chat/completions` to a [`GenerateRequest`].

use super::super::options::{ErrorFields, generate_options, token_limit};
use super::super::reasoning::ReasoningOptions;
use super::tools;
use crate::api::error::Error;
use crate::api::messages::{conversation, ending};
use crate::api::options::count;
use crate::api::payload::IgnoredFields;
use crate::api::sampling::token_probabilities;
use crate::api::types;
use crate::model::{GenerateOptions, GenerateRequest, Prompt};
use crate::sampling::{Distribution, LogprobsOptions};
use crate::text::Conversation;

/// Chat template variable for the field `documents`.
const DOCUMENTS: &str = "documents";

/// Converts a body. Also returns the fields that error messages name.
pub(super) fn generate_request(
    mut body: types::ChatCompletionRequest,
    ignored: &mut IgnoredFields,
) -> Result<(GenerateRequest, ErrorFields), Error> {
    let messages = std::mem::take(&mut body.messages);
    let ending = ending(
        &messages,
        body.add_generation_prompt,
        body.continue_final_message,
    )?;
    let functions = (0..).zip(body.tools.iter().flatten());
    let functions = functions.filter_map(|(number, tool): (usize, _)| {
        let name = tool.function.as_ref()?.name.clone();
        Some((name, format!("tools.{number}.function.parameters")))
    });
    let functions = functions.collect();
    let (template_tools, callable) = match tools::take_tools(&mut body, ignored)? {
        Some(tools) => (tools.template_tools, Some(tools.callable)),
        None => (Vec::new(), None),
    };
    let budget = body.thinking_budget_tokens.or(body.reasoning_budget);
    let mut settings = body.chat_template_kwargs.take().unwrap_or_default();
    if let Some(documents) = body.documents.take() {
        let documents = documents.into_iter().collect();
        settings.entry(DOCUMENTS).or_insert(documents);
    }
    let reasoning = ReasoningOptions::new(body.reasoning_effort, budget, Some(settings));
    let (mut options, mut fields) = generate_options(&mut body, "messages", None, callable)?;
    fields.functions = functions;
    let top = count("top_logprobs", body.top_logprobs.unwrap_or(0))?;
    match (body.logprobs.unwrap_or(false), top) {
        (true, top) => {
            options.sampling.logprobs = Some(LogprobsOptions {
                top,
                distribution: Distribution::Model,
            });
        }
        (false, 0) => {
            options.sampling.logprobs =
                token_probabilities(body.n_probs, body.post_sampling_probs)?;
        }
        (false, _) => {
            let message = "top_logprobs: it requires \"logprobs\": true";
            return Err(Error::invalid("top_logprobs", message));
        }
    }
    let request = GenerateRequest {
        prompt: Prompt::Chat(Conversation {
            ending,
            ..reasoning.apply(conversation(messages, template_tools)?)
        }),
        system_prompt: None,
        options: GenerateOptions {
            max_tokens: max_tokens(&body)?,
            ..options
        },
    };
    Ok((request, fields))
}

/// Returns the limit of generated tokens. Rejects 0, except in `n_predict`.
fn max_tokens(body: &types::ChatCompletionRequest) -> Result<Option<usize>, Error> {
    for (field, limit) in [
        ("max_completion_tokens", body.max_completion_tokens),
        ("max_tokens", body.max_tokens),
    ] {
        if limit == Some(0) {
            let message = format!("{field}: 0 is less than the minimum of 1 (n_predict accepts 0)");
            return Err(Error::invalid(field, message));
        }
    }
    let limit = body.max_completion_tokens.or(body.max_tokens);
    Ok(limit.or(body.n_predict).and_then(token_limit))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::ContextOverflow;

    fn request(body: Value) -> Result<GenerateRequest, Error> {
        crate::api::check("ChatCompletionRequest", &body).unwrap();
        let body = serde_json::from_value(body).unwrap();
        generate_request(body, &mut IgnoredFields::default()).map(|(request, _)| request)
    }

    #[test]
    fn missing_options_have_openais_defaults() {
        let request =
            request(json!({"messages": [{"role": "user", "content": "a"}], "stop": null})).unwrap();
        assert_eq!(request.options.sampling.temperature, 1.0);
        assert_eq!(
            (
                request.options.sampling.top_k,
                request.options.sampling.top_p,
                request.options.sampling.min_p
            ),
            (None, 1.0, 0.0)
        );
        assert_eq!(request.options.sampling.penalties.repeat_penalty, 1.0);
        assert_eq!(
            (request.options.max_tokens, request.options.stop.len()),
            (None, 0)
        );
    }

    #[test]
    fn messages_become_a_conversation() {
        let request = request(json!({
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": ""},
            ],
            "max_tokens": 9, "max_completion_tokens": 4, "stop": "x",
        }))
        .unwrap();
        let Prompt::Chat(conversation) = request.prompt else {
            panic!("a conversation was sent")
        };
        let messages: Vec<_> = conversation
            .messages
            .iter()
            .map(|message| (&*message.role, &*message.content))
            .collect();
        assert_eq!(
            messages,
            [("system", "be brief"), ("user", "ab"), ("assistant", "")]
        );
        assert_eq!(
            (request.options.max_tokens, request.options.stop),
            (Some(4), vec!["x".to_owned()])
        );
    }

    #[test]
    fn accepts_options_of_the_native_routes() {
        let options = |more: Value| {
            let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            request(body).map(|request| request.options)
        };
        let native = options(json!({
            "n_predict": 0, "n_probs": 3, "id_slot": 1, "n_keep": -1, "logit_bias": [[7, false]], "top_k": -1,
            "repetition_penalty": 1.5, "stop": ["", "a", "b", "c", "d", "e"], "seed": -1,
        }))
        .unwrap();
        assert_eq!((native.max_tokens, native.slot), (Some(0), Some(1)));
        assert_eq!(
            native.context_overflow,
            ContextOverflow::Shift { keep: None }
        );
        assert_eq!(native.sampling.logprobs.map(|wanted| wanted.top), Some(3));
        assert_eq!(native.logit_bias.len(), 1);
        assert_eq!(native.sampling.top_k, None);
        assert_eq!(native.sampling.penalties.repeat_penalty, 1.5);
        assert_eq!(native.stop, ["a", "b", "c", "d", "e"]);
        for (more, max_tokens) in [
            (json!({"n_predict": -2}), None),
            (json!({"max_tokens": -1, "n_predict": 3}), None),
            (json!({"max_tokens": 4, "n_predict": 3}), Some(4)),
            (json!({"n_predict": 3}), Some(3)),
        ] {
            assert_eq!(options(more).unwrap().max_tokens, max_tokens);
        }
        assert!(options(json!({"max_tokens": 0})).is_err());
        assert!(options(json!({"repetition_penalty": 2, "repeat_penalty": 3})).is_err());
    }
}
