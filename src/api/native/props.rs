//! `GET /props`: what the server is set to.

use super::settings::default_settings;
use crate::api::types;
use crate::model::ModelDetails;

/// The settings of the server. `max_tokens` is its own limit of a generation.
pub(in crate::api) fn props(details: &ModelDetails, max_tokens: Option<usize>) -> types::Props {
    types::Props {
        assistant_name: String::new(),
        user_name: String::new(),
        default_generation_settings: default_settings(details, max_tokens),
        total_slots: details.slots as u64,
        chat_template: details.chat_template.clone(),
        model: details.name.clone(),
        model_path: details.path.display().to_string(),
        n_ctx: details.context_tokens as u64,
        build_info: concat!("ortolan ", env!("CARGO_PKG_VERSION")).to_owned(),
        cache_tokens: details.cache_tokens as u64,
        device: details.device.clone(),
        deterministic: details.deterministic,
    }
}
