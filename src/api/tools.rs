//! Functions that a request declares, as all surfaces take them: what the model is shown of them, and which it may call.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::error::Error;
use super::payload::Ignored;
use super::types;
use crate::model::{Function, ToolUse};

/// A declared function.
pub(super) struct Tool {
    /// What it is called.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
    /// Whether a constraint of the schema that cannot be enforced refuses the request.
    pub strict: bool,
}

/// Which of the declared functions are called.
pub(super) struct Choice {
    /// Whether one must be.
    pub required: bool,
    /// Those that may be, if it is not all of them.
    pub names: Option<HashSet<String>>,
    /// Whether several may be at once.
    pub several: bool,
}

impl Tool {
    /// The function as models have learnt to read it: the keys in this order.
    pub(super) fn shown(&self) -> Value {
        let mut function = json!({ "name": self.name });
        if let Some(description) = &self.description {
            function["description"] = json!(description);
        }
        function["parameters"] = self.parameters.clone();
        json!({ "type": "function", "function": function })
    }
}

impl Choice {
    /// The functions that may be called; all names are known.
    pub(super) fn of(&self, tools: &[Tool]) -> ToolUse {
        let may_be = |tool: &&Tool| {
            let names = self.names.as_ref();
            names.is_none_or(|names| names.contains(&tool.name))
        };
        let functions = tools.iter().filter(may_be).map(|tool| Function {
            name: tool.name.clone(),
            parameters: tool.parameters.clone(),
            strict: tool.strict,
        });
        ToolUse {
            functions: functions.collect(),
            required: self.required,
            several: self.several,
        }
    }
}

/// The type of the tools that a model can call here.
pub(super) const FUNCTION: &str = "function";

/// The functions of a body with OpenAI's nested declarations. Tools of other types are left out and reported.
pub(super) fn declared(tools: Vec<types::Tool>, ignored: &mut Ignored) -> Result<Vec<Tool>, Error> {
    let mut functions = Vec::new();
    let mut places = Vec::new();
    for (number, tool) in tools.into_iter().enumerate() {
        let place = format!("tools.{number}");
        if tool.type_ != FUNCTION {
            ignored.report(place)?;
            continue;
        }
        let place = format!("{place}.function");
        let Some(function) = tool.function else {
            return Err(Error::invalid(&*place, format!("{place}: it is required")));
        };
        functions.push(Tool {
            name: function.name,
            description: function.description,
            parameters: parameters(function.parameters),
            strict: function.strict.unwrap_or(false),
        });
        places.push(format!("{place}.name"));
    }
    check_names(&functions, |number| places[number].clone())?;
    Ok(functions)
}

/// The schema of a function's arguments: none, if it does not say.
pub(super) fn parameters(schema: Option<Map<String, Value>>) -> Value {
    match schema {
        Some(schema) if !schema.is_empty() => schema.into(),
        _ => json!({ "type": "object", "properties": {} }),
    }
}

/// Refuses names that two functions have; `place` is where the name of a function stands.
pub(super) fn check_names(tools: &[Tool], place: impl Fn(usize) -> String) -> Result<(), Error> {
    let mut known = HashSet::new();
    match tools.iter().position(|tool| !known.insert(&tool.name)) {
        None => Ok(()),
        Some(number) => {
            let (place, name) = (place(number), &tools[number].name);
            let message = format!("{place}: another function is called '{name}', too");
            Err(Error::invalid(place, message))
        }
    }
}
