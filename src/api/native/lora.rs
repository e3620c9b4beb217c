//! `GET /lora-adapters` and `POST /lora-adapters`: the adapters, and how strong they count.

use super::props::shown_path;
use crate::api::error::Error;
use crate::api::options::scales;
use crate::api::types;
use crate::model::{AdapterState, Caller, LoadedModel};

/// All adapters.
pub(in crate::api) fn adapters(model: &LoadedModel, caller: Caller) -> types::LoraAdapters {
    let shown = |(id, adapter): (u64, AdapterState)| types::LoraAdapter {
        id,
        path: shown_path(&adapter.path, caller),
        scale: adapter.scale,
    };
    types::LoraAdapters((0..).zip(model.adapters()).map(shown).collect())
}

/// Sets how strong they count.
pub(in crate::api) fn set(
    model: &LoadedModel,
    body: types::LoraScales,
) -> Result<types::LoraAdaptersSet, Error> {
    let wanted = model.set_adapter_scales(&scales(body));
    wanted.map_err(|error| Error::invalid("id", error.to_string()))?;
    Ok(types::LoraAdaptersSet { success: true })
}
