//! `GET /props` and `POST /props`: what the server is set to.

use std::path::Path;

use super::settings::{default_settings, repeated};
use crate::api::error::Error;
use crate::api::options::Defaults;
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{Attention, Caller, LoadedModel, SystemPrompt};

/// The settings of the server. `max_tokens` is its own limit of a generation.
pub(in crate::api) fn props(
    model: &LoadedModel,
    caller: Caller,
    max_tokens: Option<usize>,
    defaults: &Defaults,
) -> types::Props {
    let details = model.details();
    let SystemPrompt {
        prompt,
        user_name,
        assistant_name,
    } = model.system_words();
    let settings = default_settings(details, max_tokens, defaults, &model.adapters());
    types::Props {
        assistant_name,
        user_name,
        system_prompt: prompt,
        default_generation_settings: types::GenerationSettings {
            params: repeated(&settings),
            ..settings
        },
        modalities: types::PropsModalities {
            vision: false,
            audio: false,
        },
        bos_token: details.beginning_text.clone(),
        eos_token: details.end_text.clone(),
        is_sleeping: false,
        total_slots: details.slots as u64,
        chat_template: details.chat_template.clone(),
        model: details.name.clone(),
        model_path: shown_path(&details.path, caller),
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

/// A file as the caller may know it: only an operator sees in which folder it is.
pub(super) fn shown_path(path: &Path, caller: Caller) -> String {
    let name = path.file_name().filter(|_| !caller.is_operator());
    name.map_or(path.display(), |name| Path::new(name).display())
        .to_string()
}

/// Changes them.
pub(in crate::api) fn change(
    model: &LoadedModel,
    body: types::PropsChange,
    cancel: &CancelFlag,
) -> Result<types::PropsChanged, Error> {
    if let Some(system_prompt) = body.system_prompt {
        model.set_system_prompt(words(system_prompt), cancel)?;
    }
    Ok(types::PropsChanged { success: true })
}

/// A system prompt as it was sent.
pub(super) fn words(sent: types::SystemPrompt) -> SystemPrompt {
    match sent {
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
