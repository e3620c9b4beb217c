//! **ortolan**: an HTTP server for language models.
//!
//! An OpenAPI document defines every endpoint, ONNX Runtime computes, and a batching scheduler lets
//! requests share every step. The modules are floors; a floor names only those below it (the table is
//! in `ARCHITECTURE.md` and held by `tests/architecture.rs`):
//!
//! | floor | deals in |
//! | --- | --- |
//! | [`cli`], [`config`], [`terminal`], [`logging`] | flags, files, people |
//! | [`commands`] | what is done with a model's file beside serving it |
//! | [`server`] | HTTP |
//! | [`api`] | JSON |
//! | [`web`] | the page |
//! | [`metrics`] | numbers for a scrape |
//! | [`model`] | text |
//! | [`engine`] | token ids |
//! | [`runtime`] | tensors |
//! | [`graph`] | the ONNX graph of a file |
//! | [`text`], [`cache`], [`sampling`], [`grammar`], [`gguf`], [`safetensors`], [`hub`], [`machine`] | leaves: they know nothing of ours |
//! | [`token`], [`cancel`], [`file_bytes`], [`atomic_file`] | shared by floors that know nothing of each other |

pub mod api;
pub mod atomic_file;
pub mod cache;
pub mod cancel;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
pub mod file_bytes;
pub mod gguf;
pub mod grammar;
pub mod graph;
pub mod hub;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod runtime;
pub mod safetensors;
pub mod sampling;
pub mod server;
pub mod terminal;
pub mod text;
pub mod token;
pub mod web;
