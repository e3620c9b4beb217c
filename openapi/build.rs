//! Build script: generates the merged OpenAPI document, the types and the routes from the files of the document.
//! Generated files are written to OUT_DIR and never committed.

mod document;
mod parts;
mod routes;

use std::path::Path;
use std::{env, fs, process};

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

    let document = document::read(Path::new("openapi"))?;
    let as_json =
        serde_json::to_value(&document).map_err(|error| format!("the merged document: {error}"))?;
    write("openapi.json", format!("{as_json:#}"))?;
    write(
        "openapi.yaml",
        document
            .to_yaml()
            .map_err(|error| format!("the merged document: {error}"))?,
    )?;

    let mut code = document::client(&as_json)?;
    code.items = types(code.items);
    code.items.extend(parts::parts(&as_json, &code.items)?);
    write("types.rs", prettyplease::unparse(&code))?;
    write("routes.rs", routes::routes(&as_json)?)
}

/// The contents of the module `types`.
fn types(items: Vec<syn::Item>) -> Vec<syn::Item> {
    items
        .into_iter()
        .find_map(|item| match item {
            syn::Item::Mod(module) if module.ident == "types" => module.content,
            _ => None,
        })
        .map(|(_, items)| items)
        .unwrap_or_default()
}
