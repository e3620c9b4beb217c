//! The functions of a body of `POST /v1/chat/completions`.

use super::super::tools::{Chosen, Tools, allowed, foreign_choice, missing, tool_use};
use crate::api::error::Error;
use crate::api::payload::Ignored;
use crate::api::tools::{FUNCTION, declared};
use crate::api::types;

/// Takes the functions out of a body; `None` if none is to be called.
pub(super) fn take(
    body: &mut types::ChatCompletionRequest,
    ignored: &mut Ignored,
) -> Result<Option<Tools>, Error> {
    let chosen = chosen(body.tool_choice.take(), ignored)?;
    let tools = declared(body.tools.take().unwrap_or_default(), ignored)?;
    tool_use(&tools, chosen, body.parallel_tool_calls)
}

fn chosen(choice: Option<types::ToolChoice>, ignored: &mut Ignored) -> Result<Chosen, Error> {
    use types::{AllowedToolsMode as Mode, ToolChoiceString as Word};
    let named = match choice {
        None | Some(types::ToolChoice::String(Word::Auto)) => return Ok(Chosen::Auto),
        Some(types::ToolChoice::String(Word::None)) => return Ok(Chosen::Nothing),
        Some(types::ToolChoice::String(Word::Required)) => return Ok(Chosen::Required),
        Some(types::ToolChoice::NamedToolChoice(named)) => named,
    };
    match named.type_.as_str() {
        FUNCTION => {
            let function = named.function.ok_or_else(|| missing("function"))?;
            Ok(Chosen::One(function.name))
        }
        "allowed_tools" => {
            let tools = named.allowed_tools;
            let tools = tools.ok_or_else(|| missing("allowed_tools"))?;
            let required = tools.mode == Mode::Required;
            let tools = tools.tools.into_iter();
            let tools = tools.map(|tool| (tool.type_, tool.function.map(|function| function.name)));
            allowed("tool_choice.allowed_tools.tools", required, tools, ignored)
        }
        kind => Err(foreign_choice("tool_choice.type", kind)),
    }
}
