//! The fields `tools` and `tool_choice` of `POST /v1/messages`. Tools that Anthropic's servers run or define are
//! ignored and reported; a `tool_choice` that requires such a tool is rejected.

use super::blocks::{ToolChange, ToolChangeKind, missing, refused};
use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::schema;
use crate::api::tools::{Tool, ToolSelection, check_names};
use crate::api::types;
use crate::model::ToolOptions;

/// Longest tool name in characters, as in Anthropic's API and on the other routes.
const MAX_NAME_CHARACTERS: usize = 128;

/// Characters allowed in a tool's name in addition to letters and digits; MCP servers and gateways use all of them.
const NAME_PUNCTUATION: &str = "_-.:/@";

/// The `type` of tools that the client runs.
const CUSTOM: &str = "custom";

/// The value of `allowed_callers` that allows the model to call a tool directly.
const DIRECT: &str = "direct";

/// A declared tool and the dotted path of the declaration. A tool is offered until a `tool_removal` block names it.
struct Declaration {
    path: String,
    tool: types::InputTool,
    is_offered: bool,
}

/// The tools of a request after all [`ToolChange`]s.
pub(super) struct Tools {
    /// Tools that the client runs and the model may call.
    callable: Vec<Tool>,
    /// Dotted path of the declaration of each tool in `callable`.
    paths: Vec<String>,
    unsupported: Vec<UnsupportedTool>,
}

/// A tool that Anthropic's servers run or define, or that the model may not call directly.
struct UnsupportedTool {
    path: String,
    kind: String,
    name: Option<String>,
}

/// Reads the tools of a request and applies the tool changes of its messages.
///
/// # Errors
/// If a client tool lacks a field or has an invalid or duplicate name, if a change names an unknown tool, or if the
/// server runs with `--strict` and ignores a tool.
pub(super) fn read_tools(
    tools: Vec<types::InputTool>,
    changes: Vec<ToolChange>,
    ignored: &mut IgnoredFields,
) -> Result<Tools, Error> {
    let tools = (0..)
        .zip(tools)
        .map(|(number, tool): (usize, _)| Declaration {
            path: format!("tools.{number}"),
            tool,
            is_offered: true,
        });
    let mut declarations: Vec<Declaration> = tools.collect();
    for change in changes {
        apply(change, &mut declarations)?;
    }
    let mut result = Tools {
        callable: Vec::new(),
        paths: Vec::new(),
        unsupported: Vec::new(),
    };
    for Declaration { path, tool, .. } in declarations.into_iter().filter(|tool| tool.is_offered) {
        match unsupported_kind(&tool) {
            None => {
                result.callable.push(client_tool(&path, tool)?);
                result.paths.push(path);
            }
            Some(kind) => {
                ignored.report(&*path)?;
                result.unsupported.push(UnsupportedTool {
                    path,
                    kind,
                    name: tool.name,
                });
            }
        }
    }
    check_names(&result.callable, |index| {
        format!("{}.name", result.paths[index])
    })?;
    Ok(result)
}

fn apply(change: ToolChange, declarations: &mut Vec<Declaration>) -> Result<(), Error> {
    let ToolChange { path, kind } = change;
    let (name, is_offered) = match kind {
        ToolChangeKind::Define(definition) => {
            let path = format!("{path}.tool.definition");
            schema::check("InputTool", &definition).map_err(|error| error_within(&path, error))?;
            let tool: types::InputTool = serde_json::from_value(definition)
                .map_err(|error| refused(&path, &error.to_string()))?;
            declarations.retain(|other| other.tool.name != tool.name || tool.name.is_none());
            declarations.push(Declaration {
                path,
                tool,
                is_offered: true,
            });
            return Ok(());
        }
        ToolChangeKind::Add(name) => (name, true),
        ToolChangeKind::Remove(name) => (name, false),
    };
    let mut declarations = declarations.iter_mut();
    let declaration = declarations.find(|other| other.tool.name.as_ref() == Some(&name));
    let declaration = declaration.ok_or_else(|| {
        refused(
            &format!("{path}.tool.name"),
            &format!("tool not found: \"{name}\""),
        )
    })?;
    declaration.is_offered = is_offered;
    Ok(())
}

/// Prefixes the field path and the message of an error with `path`, the path of the value that was validated.
fn error_within(path: &str, error: Error) -> Error {
    match error {
        Error::Invalid { param, message } => Error::Invalid {
            param: Some(param.map_or(path.to_owned(), |param| format!("{path}.{param}"))),
            message: format!("{path}.{message}"),
        },
        other => other,
    }
}

/// Describes an unsupported tool for error messages; `None` if the tool is supported.
fn unsupported_kind(tool: &types::InputTool) -> Option<String> {
    let kind = tool.type_.as_deref().filter(|kind| *kind != CUSTOM);
    let callers = tool.allowed_callers.as_deref().unwrap_or_default();
    let is_direct = callers.is_empty() || callers.iter().any(|caller| caller == DIRECT);
    match kind {
        Some(kind) => Some(kind.to_owned()),
        None if is_direct => None,
        None => Some(format!("tool for {}", callers.join(" and "))),
    }
}

fn client_tool(path: &str, tool: types::InputTool) -> Result<Tool, Error> {
    let name = tool.name.ok_or_else(|| missing(path, "name"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || NAME_PUNCTUATION.contains(c);
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARACTERS || !name.chars().all(allowed) {
        let problem = format!(
            "\"{name}\" is not a valid name: use 1 to {MAX_NAME_CHARACTERS} letters, digits or characters of {NAME_PUNCTUATION}"
        );
        return Err(refused(&format!("{path}.name"), &problem));
    }
    let schema = tool.input_schema;
    Ok(Tool {
        name,
        description: tool.description,
        parameters: schema.ok_or_else(|| missing(path, "input_schema"))?.into(),
        strict: tool.strict.unwrap_or(false),
    })
}

impl Tools {
    /// Returns the dotted path of a callable tool's declaration.
    fn path(&self, name: &str) -> Option<&str> {
        let index = self.callable.iter().position(|tool| tool.name == name)?;
        Some(&self.paths[index])
    }

    /// Returns the callable tools as JSON for the chat template.
    pub(super) fn template_values(&self) -> Vec<serde_json::Value> {
        self.callable.iter().map(Tool::template_value).collect()
    }

    /// Applies `tool_choice`; returns `None` if the model may not call tools.
    ///
    /// # Errors
    /// If `tool_choice` requires a tool that is missing or not supported.
    pub(super) fn tool_use(
        &self,
        choice: Option<&types::InputToolChoice>,
    ) -> Result<Option<ToolOptions>, Error> {
        use types::InputToolChoiceType as Kind;
        let kind = choice.map_or(Kind::Auto, |choice| choice.type_);
        let name = choice.and_then(|choice| choice.name.as_deref());
        let named = match kind {
            Kind::None => return Ok(None),
            Kind::Auto if self.callable.is_empty() => return Ok(None),
            Kind::Auto => None,
            Kind::Any if self.callable.is_empty() => return Err(self.no_callable_tool_error()),
            Kind::Any => None,
            Kind::Tool => {
                let name = name.ok_or_else(|| missing("tool_choice", "name"))?;
                if self.path(name).is_none() {
                    return Err(self.tool_not_found_error(name));
                }
                Some(name)
            }
        };
        let disables_parallel = choice.and_then(|choice| choice.disable_parallel_tool_use);
        let selection = ToolSelection {
            required: kind != Kind::Auto,
            names: named.map(|name| [name.to_owned()].into()),
            parallel: !disables_parallel.unwrap_or(false),
        };
        Ok(Some(selection.apply(&self.callable)))
    }

    fn no_callable_tool_error(&self) -> Error {
        match self.unsupported.first() {
            None => refused("tool_choice", "the request has no callable tools"),
            Some(UnsupportedTool { path, kind, .. }) => {
                let problem = format!("{path} is a {kind}, which this server cannot run");
                refused("tool_choice", &problem)
            }
        }
    }

    fn tool_not_found_error(&self, name: &str) -> Error {
        let mut unsupported = self.unsupported.iter();
        let problem = match unsupported.find(|tool| tool.name.as_deref() == Some(name)) {
            None => format!("tool not found: \"{name}\""),
            Some(UnsupportedTool { path, kind, .. }) => {
                format!("\"{name}\" ({path}) is a {kind}, which this server cannot run")
            }
        };
        refused("tool_choice.name", &problem)
    }
}
