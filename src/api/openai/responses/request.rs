//! Converts the body of `POST /v1/responses`: resolves its input, reads its tools and converts its options.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::constraint::Constraint;
use super::super::options::{ErrorFields, generate_options};
use super::super::tools::{ToolChoice, allowed_tools, missing, select_tools, unsupported_choice};
use super::ResponseHistory;
use super::conversation::messages;
use super::item::{InputItem, Item, read_item, user_message};
use super::namespaces::{NAMESPACE, Namespaces, prompt_name};
use crate::api::error::Error;
use crate::api::options::count;
use crate::api::payload::IgnoredFields;
use crate::api::tools::{FUNCTION, Tool, check_names, parameters};
use crate::api::types;
use crate::model::{GenerateOptions, ToolOptions};
use crate::sampling::{Distribution, LogprobsOptions};
use crate::text::Conversation;

/// The input of a request after all references to stored items and responses are resolved.
pub(super) struct ResolvedInput {
    /// All items, including the items of previous responses.
    pub items: Vec<Arc<Item>>,
    /// The items as a conversation for the chat template.
    pub conversation: Conversation,
    /// The functions that the model may call; `None` if it may call none.
    pub callable: Option<ToolOptions>,
    /// The constraint that `text.format` sets.
    pub format: Option<Constraint>,
    /// All functions that belong to namespaces.
    pub namespaces: Namespaces,
    /// The request field of each function's schema, by the name that the function has in the prompt.
    pub schemas: HashMap<String, String>,
}

impl ResolvedInput {
    /// Reads the input and the previous response. Ignores and reports items and tools of unsupported types.
    pub(super) fn read(
        body: types::ResponseContext,
        history: &ResponseHistory<'_>,
        ignored: &mut IgnoredFields,
    ) -> Result<Self, Error> {
        let choice = read_tool_choice(body.tool_choice, ignored)?;
        let previous_id = body.previous_response_id.as_deref();
        let mut items = match previous_id {
            Some(id) => history.previous_items(id)?,
            None => Vec::new(),
        };
        match body.input {
            Some(types::ResponseInput::String(text)) => items.push(Item::new(user_message(text))),
            Some(types::ResponseInput::Array(input)) => {
                items.extend(read_items(input, history, ignored)?)
            }
            None => {}
        }
        if items.is_empty() {
            let message = "One of \"input\" or \"previous_response_id\" must be provided.";
            return Err(Error::invalid("input", message));
        }
        let DeclaredFunctions {
            functions,
            namespaces,
            schemas,
        } = read_tools(body.tools.unwrap_or_default(), ignored)?;
        let tools = select_tools(&functions, choice, body.parallel_tool_calls)?;
        let (tools, callable) = match tools {
            Some(tools) => (tools.template_tools, Some(tools.callable)),
            None => (Vec::new(), None),
        };
        let messages = messages(body.instructions, &items)?;
        let format = body.text.and_then(|text| text.format);
        let format = format.map(format_constraint).transpose()?.flatten();
        Ok(Self {
            items,
            conversation: Conversation {
                messages,
                tools,
                ..Conversation::default()
            },
            callable,
            format,
            namespaces,
            schemas,
        })
    }
}

/// Reads the input items and resolves references to stored items. Ignores and reports items of unsupported types and
/// the outputs of unsupported tool calls.
fn read_items(
    input: Vec<types::ResponseInputItem>,
    history: &ResponseHistory<'_>,
    ignored: &mut IgnoredFields,
) -> Result<Vec<Arc<Item>>, Error> {
    let mut all = Vec::with_capacity(input.len());
    let mut unsupported_calls = HashSet::new();
    for (index, item) in input.into_iter().enumerate() {
        let path = format!("input.{index}");
        match read_item(&path, item)? {
            InputItem::Unsupported(call) => {
                unsupported_calls.extend(call);
                ignored.report(path)?;
            }
            InputItem::Item(types::ResponseItem::FunctionCallOutput(output))
                if unsupported_calls.contains(&output.call_id) =>
            {
                ignored.report(path)?;
            }
            item => all.push(item),
        }
    }
    let references = all.iter().filter_map(|item| match item {
        InputItem::Reference(id) => Some(id.as_str()),
        InputItem::Item(_) | InputItem::Unsupported(_) => None,
    });
    let stored_items = history.items(&references.collect::<HashSet<_>>());
    let items = all.into_iter().filter_map(|item| match item {
        InputItem::Item(item) => Some(Ok(Item::new(item))),
        InputItem::Reference(id) => Some(match stored_items.get(&id) {
            Some(item) => Ok(Arc::clone(item)),
            None => Err(Error::ItemNotFound(id)),
        }),
        InputItem::Unsupported(_) => None,
    });
    items.collect()
}

/// The functions that a request declares.
struct DeclaredFunctions {
    /// All functions, under the names that they have in the prompt.
    functions: Vec<Tool>,
    namespaces: Namespaces,
    /// The request field of each function's schema, by the name that the function has in the prompt.
    schemas: HashMap<String, String>,
}

/// Reads the functions of a request and of its namespaces. Ignores and reports tools of other types.
fn read_tools(
    tools: Vec<types::ResponseTool>,
    ignored: &mut IgnoredFields,
) -> Result<DeclaredFunctions, Error> {
    let mut functions = Vec::new();
    let mut paths = Vec::new();
    let mut namespaces = Namespaces::new();
    let required = |path: &str, name: Option<String>| {
        let path = format!("{path}.name");
        let missing = || Error::invalid(&*path, format!("{path}: it is required"));
        name.ok_or_else(missing)
    };
    for (index, tool) in tools.into_iter().enumerate() {
        let path = format!("tools.{index}");
        match tool.type_.as_str() {
            FUNCTION => {
                functions.push(Tool {
                    name: required(&path, tool.name)?,
                    description: tool.description,
                    parameters: parameters(tool.parameters),
                    strict: tool.strict.unwrap_or(false),
                });
                paths.push(path);
            }
            NAMESPACE => {
                let namespace = required(&path, tool.name)?;
                let mut namespace_description = tool.description;
                let tools = tool.tools.into_iter().flatten();
                for (index, tool) in tools.enumerate() {
                    let path = format!("{path}.tools.{index}");
                    if tool.type_ != FUNCTION {
                        ignored.report(path)?;
                        continue;
                    }
                    let name = required(&path, tool.name)?;
                    let name_in_prompt = prompt_name(Some(&namespace), &name);
                    namespaces.insert(name_in_prompt.clone(), (namespace.clone(), name));
                    functions.push(Tool {
                        name: name_in_prompt,
                        // The first function of a namespace also has the description of the namespace.
                        description: joined(namespace_description.take(), tool.description),
                        parameters: parameters(tool.parameters),
                        strict: tool.strict.unwrap_or(false),
                    });
                    paths.push(path);
                }
            }
            _ => ignored.report(path)?,
        }
    }
    check_names(&functions, |index| format!("{}.name", paths[index]))?;
    let names = functions.iter().map(|function| function.name.clone());
    let fields = paths.iter().map(|path| format!("{path}.parameters"));
    let schemas = names.zip(fields).collect();
    Ok(DeclaredFunctions {
        functions,
        namespaces,
        schemas,
    })
}

/// Joins two texts with an empty line between them.
fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}\n\n{second}")),
        (first, second) => first.or(second),
    }
}

fn read_tool_choice(
    choice: Option<types::ResponseToolChoice>,
    ignored: &mut IgnoredFields,
) -> Result<ToolChoice, Error> {
    use types::{ResponseNamedToolChoiceMode as Mode, ResponseToolChoiceString as Word};
    let named = match choice {
        None | Some(types::ResponseToolChoice::String(Word::Auto)) => return Ok(ToolChoice::Auto),
        Some(types::ResponseToolChoice::String(Word::None)) => return Ok(ToolChoice::Nothing),
        Some(types::ResponseToolChoice::String(Word::Required)) => return Ok(ToolChoice::Required),
        Some(types::ResponseToolChoice::ResponseNamedToolChoice(named)) => named,
    };
    match named.type_.as_str() {
        FUNCTION => {
            let name = named.name.ok_or_else(|| missing("name"))?;
            let namespace = named.namespace.as_deref();
            Ok(ToolChoice::One(prompt_name(namespace, &name)))
        }
        "allowed_tools" => {
            let tools = named.tools.ok_or_else(|| missing("tools"))?;
            let required = named.mode.ok_or_else(|| missing("mode"))? == Mode::Required;
            let tools = tools.into_iter().map(|tool| {
                let namespace = tool.namespace.as_deref();
                let name = tool.name.map(|name| prompt_name(namespace, &name));
                (tool.type_, name)
            });
            allowed_tools("tool_choice.tools", required, tools, ignored)
        }
        kind => Err(unsupported_choice("tool_choice.type", kind)),
    }
}

/// Converts the generation options of a body, and moves them out of it. Also returns the fields that error messages
/// name.
pub(super) fn options(
    body: &mut types::ResponsesRequest,
    format: Option<Constraint>,
    callable: Option<ToolOptions>,
    schemas: HashMap<String, String>,
) -> Result<(GenerateOptions, ErrorFields), Error> {
    let (mut options, mut fields) = generate_options(body, "input", format, callable)?;
    fields.functions = schemas;
    let top = count("top_logprobs", body.top_logprobs.unwrap_or(0))?;
    let logprobs_item = types::ResponsesRequestIncludeItem::MessageOutputTextLogprobs;
    let includes_logprobs = body
        .include
        .iter()
        .flatten()
        .any(|item| *item == logprobs_item);
    options.sampling.logprobs = match (includes_logprobs, top) {
        (true, top) => Some(LogprobsOptions {
            top,
            distribution: Distribution::Model,
        }),
        (false, 0) => None,
        (false, _) => {
            let message = "top_logprobs: it requires \"message.output_text.logprobs\" in include";
            return Err(Error::invalid("top_logprobs", message));
        }
    };
    options.max_tokens = body.max_output_tokens.map(|tokens| tokens as usize);
    Ok((options, fields))
}

/// Converts `text.format` to a constraint; `None` for the type `text`.
fn format_constraint(format: types::ResponseTextFormat) -> Result<Option<Constraint>, Error> {
    use types::ResponseTextFormatType as Kind;
    let field = "text.format.schema";
    Ok(match format.type_ {
        Kind::Text => None,
        Kind::JsonObject => Some(Constraint::json_object("text.format")),
        Kind::JsonSchema => {
            let missing = || Error::invalid(field, format!("{field}: it is required"));
            let schema = format.schema.ok_or_else(missing)?;
            let strict = format.strict.unwrap_or(false);
            Some(Constraint::json_schema(field, schema.into(), strict))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn flattens_namespaces_and_ignores_other_tools() {
        let tools: Value = json!([
            {"type": "function", "name": "shell"},
            {"type": "web_search"},
            {"type": "namespace", "name": "mcp__files__", "tools": [
                {"type": "custom"},
                {"type": "function", "name": "read"},
            ]},
        ]);
        let mut ignored = IgnoredFields::default();
        let tools = serde_json::from_value(tools).unwrap();
        let declared = read_tools(tools, &mut ignored).unwrap();
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
