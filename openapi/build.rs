//! Turns the OpenAPI document into code: the merged document, the types, the client and the routes.
//! What each step does is in the file of its name; nothing generated is committed.

mod lower;
mod merge;
mod routes;

use std::path::Path;
use std::{env, fs, process};

use serde_json::Value;

/// The parts of the document, in the order in which they are read by people.
const SOURCES: [&str; 5] = [
    "openapi/server.yaml",
    "openapi/native.yaml",
    "openapi/openai.yaml",
    "openapi/responses.yaml",
    "openapi/anthropic.yaml",
];

fn main() {
    println!("cargo:rerun-if-changed=openapi");
    if let Err(error) = generate() {
        println!("cargo::error={}", error.replace('\n', " "));
        process::exit(1);
    }
}

fn generate() -> Result<(), String> {
    let out = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    let write = |name: &str, text: String| {
        fs::write(Path::new(&out).join(name), text).map_err(|error| format!("{name}: {error}"))
    };

    let document = merge::merge(&SOURCES)?;
    let as_json =
        serde_json::to_value(&document).map_err(|error| format!("the merged document: {error}"))?;
    write("openapi.json", format!("{as_json:#}"))?;
    write(
        "openapi.yaml",
        document
            .to_yaml()
            .map_err(|error| format!("the merged document: {error}"))?,
    )?;

    let (types, client) = types_and_client(&as_json)?;
    write("types.rs", types)?;
    write("client.rs", client)?;
    write("routes.rs", routes::routes(&as_json)?)
}

/// What progenitor makes of the document: the module of types, and the client that uses it.
fn types_and_client(document: &Value) -> Result<(String, String), String> {
    let lowered = lower::lower(document)?;
    let view: openapiv3::OpenAPI = serde_json::from_value(lowered)
        .map_err(|error| format!("the document as OpenAPI 3.0: {error}"))?;
    let tokens = progenitor::Generator::default()
        .generate_tokens(&view)
        .map_err(|error| format!("progenitor: {error}"))?;
    let file: syn::File =
        syn::parse2(tokens).map_err(|error| format!("progenitor's code: {error}"))?;

    let mut types = Vec::new();
    let mut client = Vec::new();
    for item in file.items {
        match item {
            syn::Item::Mod(module) if module.ident == "types" => {
                types = module.content.map(|(_, items)| items).unwrap_or_default();
            }
            other => client.push(other),
        }
    }
    let source = |items| {
        prettyplease::unparse(&syn::File {
            shebang: None,
            frontmatter: None,
            attrs: Vec::new(),
            items,
        })
    };
    Ok((source(types), source(client)))
}
