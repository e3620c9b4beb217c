//! The functions of a body of `POST /v1/chat/completions`.

use super::super::tools::{Chosen, Tools, missing, tool_use};
use crate::api::error::Error;
use crate::api::tools::declared;
use crate::api::types;

/// Takes the functions out of a body; `None` if none is to be called.
pub(super) fn take(body: &mut types::ChatCompletionRequest) -> Result<Option<Tools>, Error> {
    let tools = declared(body.tools.take().unwrap_or_default())?;
    let grammars = [
        ("grammar", &body.grammar),
        ("regex", &body.regex),
        ("lark", &body.lark),
    ];
    let chosen = chosen(body.tool_choice.take())?;
    tool_use(&tools, chosen, body.parallel_tool_calls, grammars)
}

fn chosen(choice: Option<types::ToolChoice>) -> Result<Chosen, Error> {
    use types::{AllowedToolsMode as Mode, NamedToolChoiceType as Kind, ToolChoiceString as Word};
    let named = match choice {
        None | Some(types::ToolChoice::String(Word::Auto)) => return Ok(Chosen::Auto),
        Some(types::ToolChoice::String(Word::None)) => return Ok(Chosen::Nothing),
        Some(types::ToolChoice::String(Word::Required)) => return Ok(Chosen::Required),
        Some(types::ToolChoice::NamedToolChoice(named)) => named,
    };
    Ok(match named.type_ {
        Kind::Function => Chosen::One(named.function.ok_or_else(|| missing("function"))?.name),
        Kind::AllowedTools => {
            let allowed = named.allowed_tools;
            let allowed = allowed.ok_or_else(|| missing("allowed_tools"))?;
            let names = allowed.tools.into_iter().map(|tool| tool.function.name);
            Chosen::Named {
                required: allowed.mode == Mode::Required,
                names: names.collect(),
            }
        }
    })
}
