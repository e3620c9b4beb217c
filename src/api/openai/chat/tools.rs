//! Reads the tools and the `tool_choice` of `POST /v1/chat/completions`.

use super::super::tools::{
    SelectedTools, ToolChoice, allowed_tools, missing, select_tools, unsupported_choice,
};
use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::tools::{FUNCTION, read_tools};
use crate::api::types;

/// Takes the tools out of a body; returns `None` if no function may be called.
pub(super) fn take_tools(
    body: &mut types::ChatCompletionRequest,
    ignored: &mut IgnoredFields,
) -> Result<Option<SelectedTools>, Error> {
    let choice = read_tool_choice(body.tool_choice.take(), ignored)?;
    let tools = read_tools(body.tools.take().unwrap_or_default(), ignored)?;
    select_tools(&tools, choice, body.parallel_tool_calls)
}

fn read_tool_choice(
    choice: Option<types::ToolChoice>,
    ignored: &mut IgnoredFields,
) -> Result<ToolChoice, Error> {
    use types::{AllowedToolsMode as Mode, ToolChoiceString as Word};
    let named = match choice {
        None | Some(types::ToolChoice::String(Word::Auto)) => return Ok(ToolChoice::Auto),
        Some(types::ToolChoice::String(Word::None)) => return Ok(ToolChoice::Nothing),
        Some(types::ToolChoice::String(Word::Required)) => return Ok(ToolChoice::Required),
        Some(types::ToolChoice::NamedToolChoice(named)) => named,
    };
    match named.type_.as_str() {
        FUNCTION => {
            let function = named.function.ok_or_else(|| missing("function"))?;
            Ok(ToolChoice::One(function.name))
        }
        "allowed_tools" => {
            let tools = named.allowed_tools;
            let tools = tools.ok_or_else(|| missing("allowed_tools"))?;
            let required = tools.mode == Mode::Required;
            let tools = tools.tools.into_iter();
            let tools = tools.map(|tool| (tool.type_, tool.function.map(|function| function.name)));
            allowed_tools("tool_choice.allowed_tools.tools", required, tools, ignored)
        }
        kind => Err(unsupported_choice("tool_choice.type", kind)),
    }
}
