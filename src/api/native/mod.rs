//! The native surface: the routes of the llama.cpp server of 2024.

pub(super) mod completion;
pub(super) mod health;
mod prompts;
pub(super) mod props;
mod sampling;
mod settings;
pub(super) mod slots;
pub(super) mod tokenize;
