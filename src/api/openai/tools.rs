//! Applies `tool_choice` of OpenAI's routes to the declared functions.

use serde_json::Value;

use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::tools::{FUNCTION, Tool, ToolSelection};
use crate::model::ToolOptions;

/// The functions of a request after `tool_choice` is applied.
pub(super) struct SelectedTools {
    /// All functions as JSON for the chat template, so that the prompt prefix does not depend on `tool_choice`.
    pub template_tools: Vec<Value>,
    /// The functions that the model may call.
    pub callable: ToolOptions,
}

/// A parsed `tool_choice`.
pub(super) enum ToolChoice {
    /// No function may be called.
    Nothing,
    /// The model decides whether to call functions.
    Auto,
    /// At least one function must be called.
    Required,
    /// The named function must be called exactly once.
    One(String),
    /// Only the named functions may be called.
    Named {
        /// Whether at least one of the named functions must be called.
        required: bool,
        names: Vec<String>,
    },
}

/// Applies a `tool_choice`; returns `None` if no function may be called. `parallel` is the field `parallel_tool_calls`.
pub(super) fn select_tools(
    tools: &[Tool],
    choice: ToolChoice,
    parallel: Option<bool>,
) -> Result<Option<SelectedTools>, Error> {
    let Some(selection) = selection(tools, choice, parallel.unwrap_or(true))? else {
        return Ok(None);
    };
    if tools.is_empty() {
        return Ok(None);
    }
    Ok(Some(SelectedTools {
        template_tools: tools.iter().map(Tool::template_value).collect(),
        callable: selection.apply(tools),
    }))
}

fn selection(
    tools: &[Tool],
    choice: ToolChoice,
    mut parallel: bool,
) -> Result<Option<ToolSelection>, Error> {
    let (required, names) = match choice {
        ToolChoice::Nothing => return Ok(None),
        ToolChoice::Auto => (false, None),
        ToolChoice::Required if tools.is_empty() => {
            let message = "tool_choice: the request has no callable tools";
            return Err(Error::invalid("tool_choice", message));
        }
        ToolChoice::Required => (true, None),
        ToolChoice::One(name) => {
            parallel = false;
            (true, Some(vec![name]))
        }
        ToolChoice::Named { required, names } => (required, Some(names)),
    };
    let known = |name: &&String| tools.iter().any(|tool| tool.name == **name);
    if let Some(unknown) = names.iter().flatten().find(|name| !known(name)) {
        let message = format!("tool_choice: tool not found: '{unknown}'");
        return Err(Error::invalid("tool_choice", message));
    }
    Ok(Some(ToolSelection {
        required,
        names: names.map(|names| names.into_iter().collect()),
        parallel,
    }))
}

/// Returns the error for a `tool_choice` that requires a tool of an unsupported type.
pub(super) fn unsupported_choice(path: &str, kind: &str) -> Error {
    let problem = format!("{path}: \"{kind}\" is not supported: only functions can be called");
    Error::invalid(path, problem)
}

/// Reads a list of allowed tools at `path`, given as pairs of type and function name. Ignores and reports tools of
/// unsupported types. Rejects a list that requires a call but names no function.
pub(super) fn allowed_tools(
    path: &str,
    required: bool,
    tools: impl IntoIterator<Item = (String, Option<String>)>,
    ignored: &mut IgnoredFields,
) -> Result<ToolChoice, Error> {
    let mut names = Vec::new();
    let mut unsupported = None;
    for (index, (kind, name)) in tools.into_iter().enumerate() {
        match (kind == FUNCTION, name) {
            (true, Some(name)) => names.push(name),
            (true, None) => {
                let path = format!("{path}.{index}");
                let message = format!("{path}: the function has no name");
                return Err(Error::invalid(path, message));
            }
            (false, _) => {
                ignored.report(format!("{path}.{index}"))?;
                unsupported = Some((index, kind));
            }
        }
    }
    match unsupported {
        Some((index, kind)) if names.is_empty() && required => {
            Err(unsupported_choice(&format!("{path}.{index}.type"), &kind))
        }
        Some(_) if names.is_empty() => Ok(ToolChoice::Nothing),
        _ => Ok(ToolChoice::Named { required, names }),
    }
}

/// Returns the error for a missing field of `tool_choice`.
pub(super) fn missing(field: &str) -> Error {
    let path = format!("tool_choice.{field}");
    Error::invalid(&*path, format!("{path}: it is required"))
}
