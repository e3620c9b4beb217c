//! **ortolan**: an HTTP server for language models.
//!
//! An OpenAPI document defines every endpoint, ONNX Runtime runs the model, and a scheduler batches all
//! requests continuously. The modules form layers. A module depends only on modules in lower layers;
//! `ARCHITECTURE.md` has the table of dependencies, and `tests/architecture.rs` enforces it:
//!
//! | modules | responsibility |
//! | --- | --- |
//! | [`cli`], [`config`], [`terminal`], [`logging`] | options, terminal output, logs |
//! | [`commands`] | commands on model files: inspect, quantize, export |
//! | [`server`] | HTTP connections and access control |
//! | [`api`] | endpoints: JSON requests and responses |
//! | [`web`] | the web page |
//! | [`metrics`] | Prometheus metrics |
//! | [`model`] | a loaded model: requests and responses as text |
//! | [`engine`] | scheduling of sequences of token ids |
//! | [`runtime`] | steps of the model on tensors, with ONNX Runtime |
//! | [`graph`] | ONNX graphs and their weights |
//! | [`text`], [`cache`], [`sampling`], [`grammar`] | leaf modules for text, token ids and logits |
//! | [`gguf`], [`safetensors`], [`hub`], [`platform`] | leaf modules for files and the machine |
//! | [`token`], [`cancel`], [`file_bytes`], [`atomic_file`] | shared by all layers |

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
pub mod metrics;
pub mod model;
pub mod platform;
pub mod runtime;
pub mod safetensors;
pub mod sampling;
pub mod server;
pub mod terminal;
pub mod text;
pub mod token;
pub mod web;
