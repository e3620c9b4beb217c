//! The native surface: the routes of the llama.cpp server of 2024.

pub(super) mod bias;
pub(super) mod completion;
mod continuation;
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
