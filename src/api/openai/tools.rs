//! Which functions OpenAI's routes may call: `tool_choice`, in whichever form it came.

use serde_json::Value;

use crate::api::error::Error;
use crate::api::payload::Ignored;
use crate::api::tools::{Choice, FUNCTION, Tool};
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

/// Decides on the functions; `None` if none is to be called.
pub(super) fn tool_use(
    tools: &[Tool],
    chosen: Chosen,
    several: Option<bool>,
) -> Result<Option<Tools>, Error> {
    let Some(choice) = choice(tools, chosen, several.unwrap_or(true))? else {
        return Ok(None);
    };
    if tools.is_empty() {
        return Ok(None);
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
        let message = format!("tool_choice: there is no function '{unknown}' among the tools");
        return Err(Error::invalid("tool_choice", message));
    }
    Ok(Some(Choice {
        required,
        names: names.map(|names| names.into_iter().collect()),
        several,
    }))
}

/// A `tool_choice` that insists on tools of another type.
pub(super) fn foreign_choice(place: &str, kind: &str) -> Error {
    let problem = format!("{place}: \"{kind}\" is not supported: only functions can be called");
    Error::invalid(place, problem)
}

/// What is chosen of some allowed tools. Those of other types are left out and reported where another answer remains;
/// `tools` has the type and, of a function, the name of each, `place` is where they are.
pub(super) fn allowed(
    place: &str,
    required: bool,
    tools: impl IntoIterator<Item = (String, Option<String>)>,
    ignored: &mut Ignored,
) -> Result<Chosen, Error> {
    let mut names = Vec::new();
    let mut foreign = None;
    for (number, (kind, name)) in tools.into_iter().enumerate() {
        match (kind == FUNCTION, name) {
            (true, Some(name)) => names.push(name),
            (true, None) => {
                let place = format!("{place}.{number}");
                let message = format!("{place}: the function has no name");
                return Err(Error::invalid(place, message));
            }
            (false, _) => {
                ignored.report(format!("{place}.{number}"))?;
                foreign = Some((number, kind));
            }
        }
    }
    match foreign {
        Some((number, kind)) if names.is_empty() && required => {
            Err(foreign_choice(&format!("{place}.{number}.type"), &kind))
        }
        Some(_) if names.is_empty() => Ok(Chosen::Nothing),
        _ => Ok(Chosen::Named { required, names }),
    }
}

/// A field of `tool_choice` that its kind needs.
pub(super) fn missing(field: &str) -> Error {
    let place = format!("tool_choice.{field}");
    Error::invalid(&*place, format!("{place}: it is required"))
}
