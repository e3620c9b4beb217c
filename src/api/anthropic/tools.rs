//! The tools of a body: those of the client's, which the model may call, and which it must. Tools that Anthropic runs or
//! defines are left out and reported while the choice is free; a choice that needs one is refused by its type.

use super::blocks::{ToolChange, ToolChangeKind, missing, refused};
use crate::api::error::Error;
use crate::api::payload::Ignored;
use crate::api::schema;
use crate::api::tools::{Choice, Tool, check_names};
use crate::api::types;
use crate::model::ToolUse;

/// Most characters of a tool's name: those of Anthropic's tools, and of functions on the other routes.
const NAME_CHARACTERS_MAX: usize = 128;

/// What may stand in a tool's name beside letters and digits; MCP servers and their gateways use all of these.
const NAME_PUNCTUATION: &str = "_-.:/@";

/// The type of a tool of the client's.
const CUSTOM: &str = "custom";

/// The caller that a tool must allow to be called by the model itself.
const DIRECT: &str = "direct";

/// A tool with the place where it was declared.
struct Declared {
    place: String,
    tool: types::InputTool,
    is_offered: bool,
}

/// The tools of a request.
pub(super) struct Tools {
    /// The client's, as the model is shown them.
    own: Vec<Tool>,
    /// Where each of them was declared.
    places: Vec<String>,
    /// Those that cannot be called.
    foreign: Vec<Foreign>,
}

/// A tool that the client does not run.
struct Foreign {
    place: String,
    kind: String,
    name: Option<String>,
}

/// The tools of a body after the changes in its messages.
///
/// # Errors
/// If a tool of the client's lacks a field or has another one's name, or if fields without effect are refused.
pub(super) fn declared(
    tools: Vec<types::InputTool>,
    changes: Vec<ToolChange>,
    ignored: &mut Ignored,
) -> Result<Tools, Error> {
    let tools = (0..).zip(tools).map(|(number, tool): (usize, _)| Declared {
        place: format!("tools.{number}"),
        tool,
        is_offered: true,
    });
    let mut declared: Vec<Declared> = tools.collect();
    for change in changes {
        apply(change, &mut declared)?;
    }
    let mut read = Tools {
        own: Vec::new(),
        places: Vec::new(),
        foreign: Vec::new(),
    };
    for Declared { place, tool, .. } in declared.into_iter().filter(|tool| tool.is_offered) {
        match foreign_kind(&tool) {
            None => {
                read.own.push(own(&place, tool)?);
                read.places.push(place);
            }
            Some(kind) => {
                ignored.report(&*place)?;
                read.foreign.push(Foreign {
                    place,
                    kind,
                    name: tool.name,
                });
            }
        }
    }
    check_names(&read.own, |number| format!("{}.name", read.places[number]))?;
    Ok(read)
}

fn apply(change: ToolChange, declared: &mut Vec<Declared>) -> Result<(), Error> {
    let ToolChange { place, kind } = change;
    let (name, is_offered) = match kind {
        ToolChangeKind::Define(definition) => {
            let place = format!("{place}.tool.definition");
            schema::check("InputTool", &definition).map_err(|error| within(&place, error))?;
            let tool: types::InputTool = serde_json::from_value(definition)
                .map_err(|error| refused(&place, &error.to_string()))?;
            declared.retain(|known| known.tool.name != tool.name || tool.name.is_none());
            declared.push(Declared {
                place,
                tool,
                is_offered: true,
            });
            return Ok(());
        }
        ToolChangeKind::Add(name) => (name, true),
        ToolChangeKind::Remove(name) => (name, false),
    };
    let mut known = declared.iter_mut();
    let known = known.find(|known| known.tool.name.as_ref() == Some(&name));
    let known = known.ok_or_else(|| {
        refused(
            &format!("{place}.tool.name"),
            &format!("there is no tool \"{name}\""),
        )
    })?;
    known.is_offered = is_offered;
    Ok(())
}

/// An error about a part of a body, by its place in the whole.
fn within(place: &str, error: Error) -> Error {
    match error {
        Error::Invalid { param, message } => Error::Invalid {
            param: Some(param.map_or(place.to_owned(), |param| format!("{place}.{param}"))),
            message: format!("{place}.{message}"),
        },
        other => other,
    }
}

/// Why a tool is not the client's to run or not the model's to call; `None` if it is both.
fn foreign_kind(tool: &types::InputTool) -> Option<String> {
    let kind = tool.type_.as_deref().filter(|kind| *kind != CUSTOM);
    let callers = tool.allowed_callers.as_deref().unwrap_or_default();
    let is_direct = callers.is_empty() || callers.iter().any(|caller| caller == DIRECT);
    match kind {
        Some(kind) => Some(kind.to_owned()),
        None if is_direct => None,
        None => Some(format!("tool for {}", callers.join(" and "))),
    }
}

fn own(place: &str, tool: types::InputTool) -> Result<Tool, Error> {
    let name = tool.name.ok_or_else(|| missing(place, "name"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || NAME_PUNCTUATION.contains(c);
    if name.is_empty() || name.chars().count() > NAME_CHARACTERS_MAX || !name.chars().all(allowed) {
        let problem = format!(
            "\"{name}\" is not a name of 1 to {NAME_CHARACTERS_MAX} letters, digits and characters of {NAME_PUNCTUATION}"
        );
        return Err(refused(&format!("{place}.name"), &problem));
    }
    let schema = tool.input_schema;
    Ok(Tool {
        name,
        description: tool.description,
        parameters: schema.ok_or_else(|| missing(place, "input_schema"))?.into(),
        strict: tool.strict.unwrap_or(false),
    })
}

impl Tools {
    /// Where a tool of the client's was declared.
    fn place(&self, name: &str) -> Option<&str> {
        let number = self.own.iter().position(|tool| tool.name == name)?;
        Some(&self.places[number])
    }

    /// What the model is shown, if it may call any of them.
    pub(super) fn shown(&self) -> Vec<serde_json::Value> {
        self.own.iter().map(Tool::shown).collect()
    }

    /// Which tools the message may call, and which it must; `None` if none.
    ///
    /// # Errors
    /// If the choice needs a tool that is not there or cannot be called.
    pub(super) fn chosen(
        &self,
        choice: Option<&types::InputToolChoice>,
    ) -> Result<Option<ToolUse>, Error> {
        use types::InputToolChoiceType as Kind;
        let kind = choice.map_or(Kind::Auto, |choice| choice.type_);
        let name = choice.and_then(|choice| choice.name.as_deref());
        let named = match kind {
            Kind::None => return Ok(None),
            Kind::Auto if self.own.is_empty() => return Ok(None),
            Kind::Auto => None,
            Kind::Any if self.own.is_empty() => return Err(self.nothing_to_call()),
            Kind::Any => None,
            Kind::Tool => {
                let name = name.ok_or_else(|| missing("tool_choice", "name"))?;
                if self.place(name).is_none() {
                    return Err(self.no_such_tool(name));
                }
                Some(name)
            }
        };
        let alone = choice.and_then(|choice| choice.disable_parallel_tool_use);
        let choice = Choice {
            required: kind != Kind::Auto,
            names: named.map(|name| [name.to_owned()].into()),
            several: !alone.unwrap_or(false),
        };
        Ok(Some(choice.of(&self.own)))
    }

    fn nothing_to_call(&self) -> Error {
        match self.foreign.first() {
            None => refused("tool_choice", "there are no tools to choose from"),
            Some(Foreign { place, kind, .. }) => {
                let problem = format!("{place} is a {kind}, which this server cannot run");
                refused("tool_choice", &problem)
            }
        }
    }

    fn no_such_tool(&self, name: &str) -> Error {
        let mut foreign = self.foreign.iter();
        let problem = match foreign.find(|tool| tool.name.as_deref() == Some(name)) {
            None => format!("there is no tool \"{name}\""),
            Some(Foreign { place, kind, .. }) => {
                format!("\"{name}\" ({place}) is a {kind}, which this server cannot run")
            }
        };
        refused("tool_choice.name", &problem)
    }
}
