//! `GET /lora-adapters` and `POST /lora-adapters`: the LoRA adapters and their scales.

use super::props::visible_path;
use crate::api::error::Error;
use crate::api::options::adapter_scales;
use crate::api::types;
use crate::model::{AdapterState, Caller, LoadedModel};

/// Handles `GET /lora-adapters`.
pub(in crate::api) fn adapters(model: &LoadedModel, caller: Caller) -> types::LoraAdapters {
    let to_json = |(id, adapter): (u64, AdapterState)| types::LoraAdapter {
        id,
        path: visible_path(&adapter.path, caller),
        scale: adapter.scale,
    };
    types::LoraAdapters((0..).zip(model.adapters()).map(to_json).collect())
}

/// Handles `POST /lora-adapters`.
pub(in crate::api) fn set(
    model: &LoadedModel,
    body: types::LoraScales,
) -> Result<types::LoraAdaptersSet, Error> {
    let result = model.set_adapter_scales(&adapter_scales(body));
    result.map_err(|error| Error::invalid("id", error.to_string()))?;
    Ok(types::LoraAdaptersSet { success: true })
}
