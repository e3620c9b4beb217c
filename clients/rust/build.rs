//! Build script: generates the client and its types from the server's OpenAPI document.

#[path = "../../openapi/document/mod.rs"]
mod document;

use std::path::Path;
use std::{env, fs, process};

/// Folder of the document's files.
const DOCUMENT: &str = "../../openapi";

fn main() {
    println!("cargo:rerun-if-changed={DOCUMENT}");
    if let Err(error) = generate() {
        println!("cargo::error={}", error.replace('\n', " "));
        process::exit(1);
    }
}

fn generate() -> Result<(), String> {
    let out = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    let document = serde_json::to_value(document::read(Path::new(DOCUMENT))?)
        .map_err(|error| format!("the merged document: {error}"))?;
    let code = prettyplease::unparse(&document::client(&document)?);
    fs::write(Path::new(&out).join("client.rs"), code)
        .map_err(|error| format!("client.rs: {error}"))
}
