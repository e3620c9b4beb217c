//! A body of `POST /v1/responses`: what the response is written from, and how.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::constraint::Constraint;
use super::super::options::{Fields, generate_options};
use super::super::tools::{Chosen, allowed, foreign_choice, missing, tool_use};
use super::History;
use super::conversation::messages;
use super::item::{Item, Sent, question, sent};
use crate::api::error::Error;
use crate::api::options::count;
use crate::api::payload::Ignored;
use crate::api::tools::{FUNCTION, Tool, check_names, parameters};
use crate::api::types;
use crate::model::{GenerateOptions, ToolUse};
use crate::sampling::{Distribution, LogprobsWanted};
use crate::text::Conversation;

/// The type of the tools that hold functions under a common name.
pub(super) const NAMESPACE: &str = "namespace";

/// Functions of namespaces: the name that the model calls each by, its namespace and its name there.
pub(super) type Namespaces = HashMap<String, (String, String)>;

/// What a response is written from.
pub(super) struct Context {
    /// All items, those of the responses before included.
    pub items: Vec<Arc<Item>>,
    /// The same as the model is shown it.
    pub conversation: Conversation,
    /// What may be called.
    pub callable: Option<ToolUse>,
    /// Which of it is a namespace's.
    pub namespaces: Namespaces,
    /// The field of each function's schema, by the name that the model is shown.
    pub schemas: HashMap<String, String>,
}

impl Context {
    /// Reads it, and what it is to go on with. Items and tools of kinds that are not supported are left out and reported.
    pub(super) fn read(
        body: types::ResponseContext,
        history: &History<'_>,
        ignored: &mut Ignored,
    ) -> Result<Self, Error> {
        let chosen = chosen(body.tool_choice, ignored)?;
        let before = body.previous_response_id.as_deref();
        let mut items = match before {
            Some(id) => history.of_response(id)?,
            None => Vec::new(),
        };
        match body.input {
            Some(types::ResponseInput::String(text)) => items.push(Item::new(question(text))),
            Some(types::ResponseInput::Array(sent)) => items.extend(read(sent, history, ignored)?),
            None => {}
        }
        if items.is_empty() {
            let message = "One of \"input\" or \"previous_response_id\" must be provided.";
            return Err(Error::invalid("input", message));
        }
        let Declared {
            functions,
            namespaces,
            schemas,
        } = declared(body.tools.unwrap_or_default(), ignored)?;
        let tools = tool_use(&functions, chosen, body.parallel_tool_calls)?;
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
            namespaces,
            schemas,
        })
    }
}

/// The items that a client sends, with those that it refers to. An item of another kind is left out, and so is what came
/// of a call that is one.
fn read(
    input: Vec<types::ResponseInputItem>,
    history: &History<'_>,
    ignored: &mut Ignored,
) -> Result<Vec<Arc<Item>>, Error> {
    let mut all = Vec::with_capacity(input.len());
    let mut foreign_calls = HashSet::new();
    for (number, item) in input.into_iter().enumerate() {
        let place = format!("input.{number}");
        match sent(&place, item)? {
            Sent::Foreign(call) => {
                foreign_calls.extend(call);
                ignored.report(place)?;
            }
            Sent::Item(types::ResponseItem::FunctionCallOutput(output))
                if foreign_calls.contains(&output.call_id) =>
            {
                ignored.report(place)?;
            }
            sent => all.push(sent),
        }
    }
    let references = all.iter().filter_map(|sent| match sent {
        Sent::Reference(id) => Some(id.as_str()),
        Sent::Item(_) | Sent::Foreign(_) => None,
    });
    let referred = history.items(&references.collect::<HashSet<_>>());
    let items = all.into_iter().filter_map(|sent| match sent {
        Sent::Item(item) => Some(Ok(Item::new(item))),
        Sent::Reference(id) => Some(match referred.get(&id) {
            Some(item) => Ok(Arc::clone(item)),
            None => Err(Error::NoSuchItem(id)),
        }),
        Sent::Foreign(_) => None,
    });
    items.collect()
}

/// The functions of a body.
struct Declared {
    /// All of them, by the names that the model is shown.
    functions: Vec<Tool>,
    /// Which of them are a namespace's.
    namespaces: Namespaces,
    /// The field of each one's schema.
    schemas: HashMap<String, String>,
}

/// The functions of a body, those of namespaces included. Tools of other types are left out and reported.
fn declared(tools: Vec<types::ResponseTool>, ignored: &mut Ignored) -> Result<Declared, Error> {
    let mut functions = Vec::new();
    let mut places = Vec::new();
    let mut namespaces = Namespaces::new();
    let required = |place: &str, name: Option<String>| {
        let place = format!("{place}.name");
        let missing = || Error::invalid(&*place, format!("{place}: it is required"));
        name.ok_or_else(missing)
    };
    for (number, tool) in tools.into_iter().enumerate() {
        let place = format!("tools.{number}");
        match tool.type_.as_str() {
            FUNCTION => {
                functions.push(Tool {
                    name: required(&place, tool.name)?,
                    description: tool.description,
                    parameters: parameters(tool.parameters),
                    strict: tool.strict.unwrap_or(false),
                });
                places.push(place);
            }
            NAMESPACE => {
                let namespace = required(&place, tool.name)?;
                let mut about = tool.description;
                let tools = tool.tools.into_iter().flatten();
                for (number, tool) in tools.enumerate() {
                    let place = format!("{place}.tools.{number}");
                    if tool.type_ != FUNCTION {
                        ignored.report(place)?;
                        continue;
                    }
                    let name = required(&place, tool.name)?;
                    let shown = shown_name(Some(&namespace), &name);
                    namespaces.insert(shown.clone(), (namespace.clone(), name));
                    functions.push(Tool {
                        name: shown,
                        // The model reads about a namespace once, where its functions begin.
                        description: joined(about.take(), tool.description),
                        parameters: parameters(tool.parameters),
                        strict: tool.strict.unwrap_or(false),
                    });
                    places.push(place);
                }
            }
            _ => ignored.report(place)?,
        }
    }
    check_names(&functions, |number| format!("{}.name", places[number]))?;
    let names = functions.iter().map(|function| function.name.clone());
    let fields = places.iter().map(|place| format!("{place}.parameters"));
    let schemas = names.zip(fields).collect();
    Ok(Declared {
        functions,
        namespaces,
        schemas,
    })
}

/// Two texts as paragraphs of one.
fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}\n\n{second}")),
        (first, second) => first.or(second),
    }
}

/// The name by which the model is shown a function: that of its namespace comes before.
pub(super) fn shown_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!(
            "{}__{}",
            namespace.trim_end_matches('_'),
            name.trim_start_matches('_')
        ),
        None => name.to_owned(),
    }
}

fn chosen(
    choice: Option<types::ResponseToolChoice>,
    ignored: &mut Ignored,
) -> Result<Chosen, Error> {
    use types::{ResponseNamedToolChoiceMode as Mode, ResponseToolChoiceString as Word};
    let named = match choice {
        None | Some(types::ResponseToolChoice::String(Word::Auto)) => return Ok(Chosen::Auto),
        Some(types::ResponseToolChoice::String(Word::None)) => return Ok(Chosen::Nothing),
        Some(types::ResponseToolChoice::String(Word::Required)) => return Ok(Chosen::Required),
        Some(types::ResponseToolChoice::ResponseNamedToolChoice(named)) => named,
    };
    match named.type_.as_str() {
        FUNCTION => {
            let name = named.name.ok_or_else(|| missing("name"))?;
            let namespace = named.namespace.as_deref();
            Ok(Chosen::One(shown_name(namespace, &name)))
        }
        "allowed_tools" => {
            let tools = named.tools.ok_or_else(|| missing("tools"))?;
            let required = named.mode.ok_or_else(|| missing("mode"))? == Mode::Required;
            let tools = tools.into_iter().map(|tool| {
                let namespace = tool.namespace.as_deref();
                let name = tool.name.map(|name| shown_name(namespace, &name));
                (tool.type_, name)
            });
            allowed("tool_choice.tools", required, tools, ignored)
        }
        kind => Err(foreign_choice("tool_choice.type", kind)),
    }
}

/// How the response is written, and the fields that errors name; what it is written from is not looked at.
pub(super) fn options(
    body: &types::ResponsesRequest,
    callable: Option<ToolUse>,
    schemas: HashMap<String, String>,
) -> Result<(GenerateOptions, Fields), Error> {
    let form = body.text.as_ref().and_then(|text| text.format.as_ref());
    let form = form.map(required_form).transpose()?.flatten();
    let (mut options, mut fields) = generate_options(body, &[], "input", form, callable)?;
    fields.functions = schemas;
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
    options.max_tokens = body.max_output_tokens.map(|tokens| tokens as usize);
    Ok((options, fields))
}

/// What the text must follow to have a form.
fn required_form(form: &types::ResponseTextFormat) -> Result<Option<Constraint>, Error> {
    use types::ResponseTextFormatType as Kind;
    let field = "text.format.schema";
    Ok(match form.type_ {
        Kind::Text => None,
        Kind::JsonObject => Some(Constraint::json_object("text.format")),
        Kind::JsonSchema => {
            let missing = || Error::invalid(field, format!("{field}: it is required"));
            let schema = form.schema.clone().ok_or_else(missing)?;
            let strict = form.strict.unwrap_or(false);
            Some(Constraint::json_schema(field, schema.into(), strict))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn functions_of_namespaces_are_flattened_and_other_tools_left_out() {
        let tools: Value = json!([
            {"type": "function", "name": "shell"},
            {"type": "web_search"},
            {"type": "namespace", "name": "mcp__files__", "tools": [
                {"type": "custom"},
                {"type": "function", "name": "read"},
            ]},
        ]);
        let mut ignored = Ignored::default();
        let tools = serde_json::from_value(tools).unwrap();
        let declared = declared(tools, &mut ignored).unwrap();
        let names: Vec<_> = declared
            .functions
            .iter()
            .map(|tool| tool.name.as_str())
            .collect();
        assert_eq!(names, ["shell", "mcp__files__read"]);
        assert_eq!(
            declared.namespaces["mcp__files__read"],
            ("mcp__files__".to_owned(), "read".to_owned())
        );
        assert_eq!(ignored.paths(), ["tools.1", "tools.2.tools.0"]);
    }
}
