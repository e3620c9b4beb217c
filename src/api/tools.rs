//! The tools of a request, for all API surfaces: their JSON for the chat template, and the functions that the model may
//! call.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::error::Error;
use super::payload::IgnoredFields;
use super::types;
use crate::model::{FunctionDefinition, ToolOptions};

/// A function that a request declares as a tool.
pub(super) struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the function's arguments.
    pub parameters: Value,
    /// Whether to reject the request if a constraint of the schema cannot be enforced.
    pub strict: bool,
}

/// Which of the declared functions the model may or must call.
pub(super) struct ToolSelection {
    /// Whether at least one function must be called.
    pub required: bool,
    /// The names of the functions that may be called; `None` for all.
    pub names: Option<HashSet<String>>,
    /// Whether one message may contain several tool calls.
    pub parallel: bool,
}

impl Tool {
    /// Returns the function as JSON for the chat template, with the keys in the order that models are trained with.
    pub(super) fn template_value(&self) -> Value {
        let mut function = json!({ "name": self.name });
        if let Some(description) = &self.description {
            function["description"] = json!(description);
        }
        function["parameters"] = self.parameters.clone();
        json!({ "type": "function", "function": function })
    }
}

impl ToolSelection {
    /// Selects the functions of `tools` that may be called.
    pub(super) fn apply(&self, tools: &[Tool]) -> ToolOptions {
        let is_allowed = |tool: &&Tool| {
            let names = self.names.as_ref();
            names.is_none_or(|names| names.contains(&tool.name))
        };
        let functions = tools
            .iter()
            .filter(is_allowed)
            .map(|tool| FunctionDefinition {
                name: tool.name.clone(),
                parameters: tool.parameters.clone(),
                strict: tool.strict,
            });
        ToolOptions {
            functions: functions.collect(),
            required: self.required,
            parallel: self.parallel,
        }
    }
}

/// The only supported tool type.
pub(super) const FUNCTION: &str = "function";

/// Reads tools in the format of OpenAI's chat completions. Ignores and reports tools of other types.
pub(super) fn read_tools(
    tools: Vec<types::Tool>,
    ignored: &mut IgnoredFields,
) -> Result<Vec<Tool>, Error> {
    let mut functions = Vec::new();
    let mut paths = Vec::new();
    for (index, tool) in tools.into_iter().enumerate() {
        let path = format!("tools.{index}");
        if tool.type_ != FUNCTION {
            ignored.report(path)?;
            continue;
        }
        let path = format!("{path}.function");
        let Some(function) = tool.function else {
            return Err(Error::invalid(&*path, format!("{path}: it is required")));
        };
        functions.push(Tool {
            name: function.name,
            description: function.description,
            parameters: parameters(function.parameters),
            strict: function.strict.unwrap_or(false),
        });
        paths.push(format!("{path}.name"));
    }
    check_names(&functions, |index| paths[index].clone())?;
    Ok(functions)
}

/// Returns the schema of a function's arguments; an object without properties if the request has no schema.
pub(super) fn parameters(schema: Option<Map<String, Value>>) -> Value {
    match schema {
        Some(schema) if !schema.is_empty() => schema.into(),
        _ => json!({ "type": "object", "properties": {} }),
    }
}

/// Rejects duplicate function names. `path` returns the dotted path of the name of the tool at an index.
pub(super) fn check_names(tools: &[Tool], path: impl Fn(usize) -> String) -> Result<(), Error> {
    let mut names = HashSet::new();
    match tools.iter().position(|tool| !names.insert(&tool.name)) {
        None => Ok(()),
        Some(index) => {
            let (path, name) = (path(index), &tools[index].name);
            let message = format!("{path}: duplicate function name '{name}'");
            Err(Error::invalid(path, message))
        }
    }
}
