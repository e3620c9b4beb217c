//! Typed client of the ortolan server: [`Client`] has a method per operation of the OpenAPI document, and [`types`] a type
//! per schema. A streamed response is an operation of its own, with the suffix `_stream`; it returns server-sent events as
//! bytes.

#![expect(
    missing_docs,
    unused_qualifications,
    clippy::unwrap_used,
    reason = "generated from the document"
)]

include!(concat!(env!("OUT_DIR"), "/client.rs"));
