//! Which functions a message may call, and which it must.

use std::collections::HashSet;

use crate::api::error::Error;
use crate::api::messages::parameters;
use crate::api::types;
use crate::model::{Function, ToolUse};

/// The functions of a body.
pub(super) struct Tools {
    /// What the model is shown: all of them, so that a conversation begins alike whatever is allowed.
    pub shown: Vec<types::Tool>,
    /// What it may call.
    pub callable: ToolUse,
}

/// How functions are chosen.
struct Choice {
    required: bool,
    /// Those that may be called, if it is not all of them.
    names: Option<HashSet<String>>,
}

/// Takes the functions out of a body; `None` if none is to be called.
pub(super) fn tool_use(body: &mut types::ChatCompletionRequest) -> Result<Option<Tools>, Error> {
    let shown = body.tools.take().unwrap_or_default();
    let choice = choice(body.tool_choice.take(), &shown)?;
    let Some(Choice { required, names }) = choice.filter(|_| !shown.is_empty()) else {
        return Ok(None);
    };
    let grammars = [
        ("grammar", &body.grammar),
        ("regex", &body.regex),
        ("lark", &body.lark),
    ];
    let given = |(_, text): &(_, &Option<String>)| text.as_ref().is_some_and(|t| !t.is_empty());
    if let Some((name, _)) = grammars.into_iter().find(given) {
        let message = format!("{name}: a text cannot follow both tools and {name}");
        return Err(Error::invalid(name, message));
    }
    let functions = shown.iter().map(|tool| &tool.function);
    let allowed = functions.filter(|function| {
        let names = names.as_ref();
        names.is_none_or(|names| names.contains(function.name.as_str()))
    });
    let functions = allowed.map(|function| Function {
        name: function.name.to_string(),
        parameters: parameters(function),
    });
    let functions = functions.collect();
    Ok(Some(Tools {
        callable: ToolUse {
            functions,
            required,
            several: body.parallel_tool_calls.unwrap_or(true),
        },
        shown,
    }))
}

/// What `tool_choice` says; `None` is that nothing is called.
fn choice(
    choice: Option<types::ToolChoice>,
    tools: &[types::Tool],
) -> Result<Option<Choice>, Error> {
    use types::{AllowedToolsMode as Mode, NamedToolChoiceType as Kind, ToolChoiceString as Word};
    let all = |required| Choice {
        required,
        names: None,
    };
    let named = match choice {
        None | Some(types::ToolChoice::String(Word::Auto)) => return Ok(Some(all(false))),
        Some(types::ToolChoice::String(Word::None)) => return Ok(None),
        Some(types::ToolChoice::String(Word::Required)) if tools.is_empty() => {
            let message = "tool_choice: there are no tools to choose from";
            return Err(Error::invalid("tool_choice", message));
        }
        Some(types::ToolChoice::String(Word::Required)) => return Ok(Some(all(true))),
        Some(types::ToolChoice::NamedToolChoice(named)) => named,
    };
    let missing = |field: &str| {
        let place = format!("tool_choice.{field}");
        Error::invalid(&*place, format!("{place}: it is required"))
    };
    let (required, names): (_, Vec<String>) = match named.type_ {
        Kind::Function => {
            let function = named.function.ok_or_else(|| missing("function"))?;
            (true, vec![function.name])
        }
        Kind::AllowedTools => {
            let allowed = named
                .allowed_tools
                .ok_or_else(|| missing("allowed_tools"))?;
            let names = allowed.tools.into_iter().map(|tool| tool.function.name);
            (allowed.mode == Mode::Required, names.collect())
        }
    };
    let known = |name: &&String| tools.iter().any(|tool| *tool.function.name == **name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let message = format!("tool_choice: there is no function «{unknown}» among the tools");
        return Err(Error::invalid("tool_choice", message));
    }
    Ok(Some(Choice {
        required,
        names: Some(names.into_iter().collect()),
    }))
}
