//! Generates the trait `Includes`, which moves the fields of a shared schema out of a request body.

use quote::{format_ident, quote};
use serde_json::Value;
use syn::{Ident, Item};

/// Schemas that request bodies include with `allOf` and that the server converts by one function.
const PARTS: [&str; 6] = [
    "SamplerOptions",
    "ProgressOptions",
    "GenerationOptions",
    "CompletionOptions",
    "ResponseContext",
    "CountTokensRequest",
];

/// Generates the trait, and an implementation for each schema whose `allOf` contains a `$ref` to a part. `types` are
/// the types generated for all schemas. An implementation lists all fields of the part, so the compiler checks them.
pub(crate) fn parts(document: &Value, types: &[Item]) -> Result<Vec<Item>, String> {
    let mut code = quote! {
        /// Implemented by each type whose schema includes the schema of `P` with `allOf`.
        pub trait Includes<P> {
            /// Moves the fields of `P` out, and leaves their default values.
            fn take_part(&mut self) -> P;
        }
    };
    for part in PARTS {
        let fields = fields(types, part)?;
        let reference = Value::from(format!("#/components/schemas/{part}"));
        let part = format_ident!("{part}");
        let schemas = document
            .pointer("/components/schemas")
            .and_then(Value::as_object);
        for (name, schema) in schemas.into_iter().flatten() {
            let all_of = schema.get("allOf").and_then(Value::as_array);
            let mut included = all_of.into_iter().flatten();
            if !included.any(|included| included.get("$ref") == Some(&reference)) {
                continue;
            }
            let name = format_ident!("{name}");
            code.extend(quote! {
                impl Includes<#part> for #name {
                    fn take_part(&mut self) -> #part {
                        #part { #(#fields: ::std::mem::take(&mut self.#fields)),* }
                    }
                }
            });
        }
    }
    let file: syn::File =
        syn::parse2(code).map_err(|error| format!("the code of the shared schemas: {error}"))?;
    Ok(file.items)
}

/// Returns the names of the fields of the generated type `name`.
fn fields<'a>(types: &'a [Item], name: &str) -> Result<Vec<&'a Ident>, String> {
    let fields = types.iter().find_map(|item| match item {
        Item::Struct(item) if item.ident == name => Some(&item.fields),
        _ => None,
    });
    let fields = fields.ok_or_else(|| format!("the schema {name} has no generated type"))?;
    Ok(fields
        .iter()
        .filter_map(|field| field.ident.as_ref())
        .collect())
}
