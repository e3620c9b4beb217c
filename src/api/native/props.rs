//! `GET /props` and `POST /props`: the properties of the server.

use std::path::Path;

use super::settings::{default_settings, params};
use crate::api::error::Error;
use crate::api::options::RequestDefaults;
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{Attention, Caller, LoadedModel, SystemPrompt};

/// Handles `GET /props`. `max_tokens` is the server's limit of generated tokens.
pub(in crate::api) fn props(
    model: &LoadedModel,
    caller: Caller,
    max_tokens: Option<usize>,
    defaults: &RequestDefaults,
) -> types::Props {
    let details = model.details();
    let SystemPrompt {
        prompt,
        user_name,
        assistant_name,
    } = model.system_prompt();
    let settings = default_settings(details, max_tokens, defaults, &model.adapters());
    types::Props {
        assistant_name,
        user_name,
        system_prompt: prompt,
        default_generation_settings: types::GenerationSettings {
            params: params(&settings),
            ..settings
        },
        modalities: types::PropsModalities {
            vision: false,
            audio: false,
        },
        bos_token: details.bos_text.clone(),
        eos_token: details.eos_text.clone(),
        is_sleeping: false,
        total_slots: details.slots as u64,
        chat_template: details.chat_template.clone(),
        model: details.name.clone(),
        model_path: visible_path(&details.path, caller),
        n_ctx: details.context_tokens as u64,
        build_info: concat!("ortolan ", env!("CARGO_PKG_VERSION")).to_owned(),
        cache_tokens: details.cache_tokens as u64,
        device: details.device.clone(),
        attention: match details.attention {
            Attention::Paged => types::PropsAttention::Paged,
            Attention::PastPresent => types::PropsAttention::PastPresent,
            Attention::Packed => types::PropsAttention::Packed,
        },
        deterministic: details.deterministic,
    }
}

/// Returns the path of a file for operators, and only the file name for other callers.
pub(super) fn visible_path(path: &Path, caller: Caller) -> String {
    let name = path.file_name().filter(|_| !caller.is_operator());
    name.map_or(path.display(), |name| Path::new(name).display())
        .to_string()
}

/// Handles `POST /props`.
pub(in crate::api) fn change(
    model: &LoadedModel,
    body: types::PropsChange,
    cancel: &CancelFlag,
) -> Result<types::PropsChanged, Error> {
    if let Some(system_prompt) = body.system_prompt {
        model.set_system_prompt(read_system_prompt(system_prompt), cancel)?;
    }
    Ok(types::PropsChanged { success: true })
}

/// Reads the field `system_prompt`: a text, or an object with the prompt and the names of the user and the assistant.
pub(super) fn read_system_prompt(value: types::SystemPrompt) -> SystemPrompt {
    match value {
        types::SystemPrompt::String(prompt) => SystemPrompt {
            prompt,
            ..SystemPrompt::default()
        },
        types::SystemPrompt::NamedSystemPrompt(named) => SystemPrompt {
            prompt: named.prompt.unwrap_or_default(),
            user_name: named.anti_prompt.unwrap_or_default(),
            assistant_name: named.assistant_name.unwrap_or_default(),
        },
    }
}
