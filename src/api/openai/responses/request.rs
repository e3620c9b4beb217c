//! A body of `POST /v1/responses`: what the response is written from, and how.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::options::generate_options;
use super::super::tools::{Chosen, Tools, missing, tool_use};
use super::History;
use super::conversation::messages;
use super::item::{Item, Sent, question, sent};
use crate::api::error::Error;
use crate::api::options::{count, one_grammar};
use crate::api::tools::{Tool, check_names, parameters};
use crate::api::types;
use crate::model::{GenerateOptions, GrammarSource, ToolUse};
use crate::sampling::{Distribution, LogprobsWanted};
use crate::text::Conversation;

/// Grammars that a body may have, with their names.
pub(super) type Grammars<'a> = [(&'static str, &'a Option<String>); 3];

/// What a response is written from.
pub(super) struct Context {
    /// All items, those of the responses before included.
    pub items: Vec<Arc<Item>>,
    /// The same as the model is shown it.
    pub conversation: Conversation,
    /// What may be called.
    pub callable: Option<ToolUse>,
}

impl Context {
    /// Reads it, and what it is to go on with.
    pub(super) fn read(
        body: types::ResponseContext,
        grammars: Grammars<'_>,
        history: &History<'_>,
    ) -> Result<Self, Error> {
        let before = body.previous_response_id.as_deref();
        let mut items = match before {
            Some(id) => history.of_response(id)?,
            None => Vec::new(),
        };
        match body.input {
            Some(types::ResponseInput::String(text)) => items.push(Item::new(question(text))),
            Some(types::ResponseInput::Array(sent)) => items.extend(read(sent, history)?),
            None => {}
        }
        if items.is_empty() {
            let message = "One of \"input\" or \"previous_response_id\" must be provided.";
            return Err(Error::invalid("input", message));
        }
        let tools = tools(
            body.tools.unwrap_or_default(),
            body.tool_choice,
            body.parallel_tool_calls,
            grammars,
        )?;
        let (tools, callable) = match tools {
            Some(tools) => (tools.shown, Some(tools.callable)),
            None => (Vec::new(), None),
        };
        let messages = messages(body.instructions, &items)?;
        Ok(Self {
            items,
            conversation: Conversation {
                messages,
                tools,
                ..Conversation::default()
            },
            callable,
        })
    }
}

/// The items that a client sends, with those that it refers to.
fn read(
    input: Vec<types::ResponseInputItem>,
    history: &History<'_>,
) -> Result<Vec<Arc<Item>>, Error> {
    let input = input.into_iter().enumerate();
    let input = input.map(|(number, item)| sent(&format!("input.{number}"), item));
    let input = input.collect::<Result<Vec<Sent>, Error>>()?;
    let references = input.iter().filter_map(|sent| match sent {
        Sent::Item(_) => None,
        Sent::Reference(id) => Some(id.as_str()),
    });
    let referred = history.items(&references.collect::<HashSet<_>>());
    let items = input.into_iter().map(|sent| match sent {
        Sent::Item(item) => Ok(Item::new(item)),
        Sent::Reference(id) => match referred.get(&id) {
            Some(item) => Ok(Arc::clone(item)),
            None => Err(Error::NoSuchItem(id)),
        },
    });
    items.collect()
}

fn tools(
    tools: Vec<types::ResponseTool>,
    choice: Option<types::ResponseToolChoice>,
    several: Option<bool>,
    grammars: Grammars<'_>,
) -> Result<Option<Tools>, Error> {
    let place = |number| format!("tools.{number}.name");
    let tools = tools.into_iter().enumerate().map(|(number, tool)| {
        let name = tool.name.ok_or_else(|| {
            let place = place(number);
            Error::invalid(&*place, format!("{place}: it is required"))
        })?;
        Ok(Tool {
            name,
            description: tool.description,
            parameters: parameters(tool.parameters),
            strict: tool.strict.unwrap_or(false),
        })
    });
    let tools = tools.collect::<Result<Vec<Tool>, Error>>()?;
    check_names(&tools, place)?;
    tool_use(&tools, chosen(choice)?, several, grammars)
}

fn chosen(choice: Option<types::ResponseToolChoice>) -> Result<Chosen, Error> {
    use types::{
        ResponseNamedToolChoiceMode as Mode, ResponseNamedToolChoiceType as Kind,
        ResponseToolChoiceString as Word,
    };
    let named = match choice {
        None | Some(types::ResponseToolChoice::String(Word::Auto)) => return Ok(Chosen::Auto),
        Some(types::ResponseToolChoice::String(Word::None)) => return Ok(Chosen::Nothing),
        Some(types::ResponseToolChoice::String(Word::Required)) => return Ok(Chosen::Required),
        Some(types::ResponseToolChoice::ResponseNamedToolChoice(named)) => named,
    };
    Ok(match named.type_ {
        Kind::Function => Chosen::One(named.name.ok_or_else(|| missing("name"))?),
        Kind::AllowedTools => {
            let tools = named.tools.ok_or_else(|| missing("tools"))?;
            Chosen::Named {
                required: named.mode.ok_or_else(|| missing("mode"))? == Mode::Required,
                names: tools.into_iter().map(|tool| tool.name).collect(),
            }
        }
    })
}

/// How the response is written; what it is written from is not looked at.
pub(super) fn options(
    body: &types::ResponsesRequest,
    callable: Option<ToolUse>,
) -> Result<GenerateOptions, Error> {
    let mut options = generate_options(body, &[])?;
    let top = count("top_logprobs", body.top_logprobs.unwrap_or(0))?;
    let wanted = types::ResponsesRequestIncludeItem::MessageOutputTextLogprobs;
    let wanted = body.include.iter().flatten().any(|what| *what == wanted);
    options.sampling.logprobs = match (wanted, top) {
        (true, top) => Some(LogprobsWanted {
            top,
            of: Distribution::Model,
        }),
        (false, 0) => None,
        (false, _) => {
            let message = "top_logprobs: it needs \"message.output_text.logprobs\" in include";
            return Err(Error::invalid("top_logprobs", message));
        }
    };
    let form = body.text.as_ref().and_then(|text| text.format.as_ref());
    let form = form.map(required_form).transpose()?;
    Ok(GenerateOptions {
        max_tokens: body.max_output_tokens.map(|tokens| tokens as usize),
        grammar: one_grammar([form.flatten(), options.grammar.take()])?,
        tools: callable,
        ..options
    })
}

/// What the text must follow to have a form.
fn required_form(form: &types::ResponseTextFormat) -> Result<Option<GrammarSource>, Error> {
    use types::ResponseTextFormatType as Kind;
    let missing = |field: &str| {
        let place = format!("text.format.{field}");
        Error::invalid(&*place, format!("{place}: it is required"))
    };
    let (schema, strict) = match form.type_ {
        Kind::Text => return Ok(None),
        Kind::JsonObject => (serde_json::json!({ "type": "object" }), false),
        Kind::JsonSchema => {
            form.name.as_ref().ok_or_else(|| missing("name"))?;
            let schema = form.schema.clone();
            let schema = schema.ok_or_else(|| missing("schema"))?.into();
            (schema, form.strict.unwrap_or(false))
        }
    };
    Ok(Some(GrammarSource::JsonSchema { schema, strict }))
}
