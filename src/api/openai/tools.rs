//! Which functions OpenAI's routes may call: `tool_choice`, in whichever form it came.

use serde_json::Value;

use crate::api::error::Error;
use crate::api::tools::{Choice, Tool};
use crate::model::ToolUse;

/// The functions of a body of which some may be called.
pub(super) struct Tools {
    /// What the model is shown: all of them, so that a conversation begins alike whatever is allowed.
    pub shown: Vec<Value>,
    /// What it may call.
    pub callable: ToolUse,
}

/// What `tool_choice` says.
pub(super) enum Chosen {
    /// Nothing is called.
    Nothing,
    /// Any function, or none.
    Auto,
    /// Any function.
    Required,
    /// This one, once.
    One(String),
    /// These, of which one must be called or not.
    Named {
        /// Whether one must be.
        required: bool,
        /// Which.
        names: Vec<String>,
    },
}

/// Decides on the functions; `None` if none is to be called. `grammars` are what else the text may be asked to follow,
/// with its names.
pub(super) fn tool_use(
    tools: &[Tool],
    chosen: Chosen,
    several: Option<bool>,
    grammars: [(&str, &Option<String>); 3],
) -> Result<Option<Tools>, Error> {
    let Some(choice) = choice(tools, chosen, several.unwrap_or(true))? else {
        return Ok(None);
    };
    if tools.is_empty() {
        return Ok(None);
    }
    let given = |(_, text): &(_, &Option<String>)| text.as_ref().is_some_and(|t| !t.is_empty());
    if let Some((name, _)) = grammars.into_iter().find(given) {
        let message = format!("{name}: a text cannot follow both tools and {name}");
        return Err(Error::invalid(name, message));
    }
    Ok(Some(Tools {
        shown: tools.iter().map(Tool::shown).collect(),
        callable: choice.of(tools),
    }))
}

fn choice(tools: &[Tool], chosen: Chosen, mut several: bool) -> Result<Option<Choice>, Error> {
    let (required, names) = match chosen {
        Chosen::Nothing => return Ok(None),
        Chosen::Auto => (false, None),
        Chosen::Required if tools.is_empty() => {
            let message = "tool_choice: there are no tools to choose from";
            return Err(Error::invalid("tool_choice", message));
        }
        Chosen::Required => (true, None),
        Chosen::One(name) => {
            several = false;
            (true, Some(vec![name]))
        }
        Chosen::Named { required, names } => (required, Some(names)),
    };
    let known = |name: &&String| tools.iter().any(|tool| tool.name == **name);
    if let Some(unknown) = names.iter().flatten().find(|name| !known(name)) {
        let message = format!("tool_choice: there is no function «{unknown}» among the tools");
        return Err(Error::invalid("tool_choice", message));
    }
    Ok(Some(Choice {
        required,
        names: names.map(|names| names.into_iter().collect()),
        several,
    }))
}

/// A field of `tool_choice` that its kind needs.
pub(super) fn missing(field: &str) -> Error {
    let place = format!("tool_choice.{field}");
    Error::invalid(&*place, format!("{place}: it is required"))
}
