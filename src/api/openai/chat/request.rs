//! A body of `POST /v1/chat/completions` as a [`GenerateRequest`].

use serde_json::json;

use super::super::options::generate_options;
use super::super::thoughts::Thoughts;
use super::tools;
use crate::api::error::Error;
use crate::api::messages::{conversation, ending};
use crate::api::options::{count, one_grammar};
use crate::api::types;
use crate::model::{GenerateOptions, GenerateRequest, GrammarSource, Prompt};
use crate::sampling::{Distribution, LogprobsWanted};
use crate::text::Conversation;

impl TryFrom<types::ChatCompletionRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(mut body: types::ChatCompletionRequest) -> Result<Self, Error> {
        let messages = std::mem::take(&mut body.messages);
        let ending = ending(
            &messages,
            body.add_generation_prompt,
            body.continue_final_message,
        )?;
        let tools = tools::take(&mut body)?;
        let budget = body.thinking_budget_tokens.or(body.reasoning_budget);
        let thoughts = Thoughts::new(
            body.reasoning_effort,
            budget,
            body.chat_template_kwargs.take(),
        );
        let mut options = generate_options(&body, &[])?;
        let top = count("top_logprobs", body.top_logprobs.unwrap_or(0))?;
        options.sampling.logprobs = match (body.logprobs.unwrap_or(false), top) {
            (true, top) => Some(LogprobsWanted {
                top,
                of: Distribution::Model,
            }),
            (false, 0) => None,
            (false, _) => {
                let message = "top_logprobs: it needs \"logprobs\": true";
                return Err(Error::invalid("top_logprobs", message));
            }
        };
        let form = body.response_format.map(required_form).transpose()?;
        let max_tokens = body.max_completion_tokens.or(body.max_tokens);
        let (shown, callable) = match tools {
            Some(tools) => (tools.shown, Some(tools.callable)),
            None => (Vec::new(), None),
        };
        Ok(Self {
            prompt: Prompt::Chat(Conversation {
                ending,
                ..thoughts.before(conversation(messages, shown)?)
            }),
            system_prompt: None,
            options: GenerateOptions {
                max_tokens: max_tokens.map(|tokens| tokens as usize),
                grammar: one_grammar([form.flatten(), options.grammar.take()])?,
                tools: callable,
                ..options
            },
        })
    }
}

/// What the text must follow to have a form.
fn required_form(form: types::ResponseFormat) -> Result<Option<GrammarSource>, Error> {
    use types::ResponseFormatType as Type;
    let (schema, strict) = match (form.type_, form.json_schema) {
        (Type::Text, _) => return Ok(None),
        (Type::JsonObject, _) => (json!({ "type": "object" }), false),
        (Type::JsonSchema, Some(named)) => (
            named.schema.unwrap_or_default().into(),
            named.strict.unwrap_or(false),
        ),
        (Type::JsonSchema, None) => {
            let message = "response_format.json_schema: it is missing";
            return Err(Error::invalid("response_format.json_schema", message));
        }
    };
    Ok(Some(GrammarSource::JsonSchema { schema, strict }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(body: Value) -> Result<GenerateRequest, Error> {
        crate::api::check("ChatCompletionRequest", &body).unwrap();
        serde_json::from_value::<types::ChatCompletionRequest>(body)
            .unwrap()
            .try_into()
    }

    #[test]
    fn without_options_openais_defaults_hold() {
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
        assert_eq!(request.options.sampling.repetition.repeat_penalty, 1.0);
        assert_eq!(
            (request.options.max_tokens, request.options.stop.len()),
            (None, 0)
        );
    }

    #[test]
    fn messages_become_what_templates_know() {
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
}
