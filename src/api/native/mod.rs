//! The native surface: the routes of llama.cpp's server as of 2024.

mod batch;
pub(super) mod bias;
pub(super) mod completion;
pub(super) mod embedding;
pub(super) mod health;
pub(super) mod infill;
pub(super) mod lora;
pub(super) mod metrics;
pub(super) mod props;
mod settings;
pub(super) mod slot_actions;
pub(super) mod slots;
pub(super) mod tokenize;
