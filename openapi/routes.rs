//! Generates the trait `Api`, with a method per operation, and the poem-openapi routes that call it.
//!
//! The generated code uses types of `src/api/payload.rs` (`Operation`, `Body`, `Reply`, …) and of `src/api/caller.rs`
//! (`Caller`, `Admitted`).

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use serde_json::{Map, Value};

/// Generates the code of all operations.
pub(crate) fn routes(document: &Value) -> Result<String, String> {
    let paths = document
        .pointer("/paths")
        .and_then(Value::as_object)
        .ok_or("the document has no paths")?;
    let mut markers = TokenStream::new();
    let mut methods = TokenStream::new();
    let mut calls = TokenStream::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let operation = Operation::read(document, path, method, operation)
                .map_err(|error| format!("paths/{path}/{method}: {error}"))?;
            if operation.alias_of.is_none() {
                markers.extend(operation.marker());
                methods.extend(operation.trait_method());
            }
            calls.extend(operation.route());
        }
    }
    let code = quote! {
        /// The operations of the document, one method each.
        pub(super) trait Api: Send + Sync + 'static { #methods }

        /// A type per operation, with the schemas of its body and its responses.
        pub(super) mod operations {
            use super::types;
            use crate::api::payload::{BodyOperation, Operation, ResponseSpec};
            #markers
        }

        /// The routes of the document; each calls the method of the same name.
        pub(super) struct Routes<A>(pub(super) A);

        #[poem_openapi::OpenApi]
        impl<A: Api> Routes<A> { #calls }
    };
    let file = syn::parse2(code).map_err(|error| format!("the routes' code: {error}"))?;
    Ok(prettyplease::unparse(&file))
}

/// The properties of an operation that the code depends on.
struct Operation<'a> {
    path: &'a str,
    method: &'a str,
    id: &'a str,
    /// Id of the operation of which this one is an alias.
    alias_of: Option<&'a str>,
    /// Name of the method in `Api`.
    name: Ident,
    /// Name of the type in `operations`.
    marker: Ident,
    summary: &'a str,
    /// Whether the handler receives the caller.
    takes_caller: bool,
    /// Whether requests need no API key: `security` is empty.
    is_public: bool,
    parameters: Vec<Parameter<'a>>,
    body: Option<Body<'a>>,
    responses: Vec<Response<'a>>,
    kind: ResponseKind,
}

/// Extension that marks an operation whose response depends on the caller.
const CALLER: &str = "x-ortolan-caller";

/// Response 415 of operations that parse a body as JSON regardless of its Content-Type.
const ENCODED_BODY: &str = "#/components/responses/EncodedBody";

struct Parameter<'a> {
    name: &'a str,
    /// `path` or `query`.
    location: &'a str,
}

struct Body<'a> {
    schema: &'a str,
    json_only: bool,
    required: bool,
}

struct Response<'a> {
    status: u16,
    /// Media types, each with the name of its schema; empty if the schema is not a component.
    media_types: Vec<(&'a str, &'a str)>,
}

/// The return type of a handler.
enum ResponseKind {
    /// Text of the response's only media type.
    Text,
    /// A value of this type.
    Json(Ident),
    /// A value of this type with a status, because errors have the same schema.
    WithStatus(Ident),
    /// A value of this type, or a stream of events.
    JsonOrStream(Ident),
}

impl<'a> Operation<'a> {
    fn read(
        document: &'a Value,
        path: &'a str,
        method: &'a str,
        operation: &'a Value,
    ) -> Result<Self, String> {
        let text = |key: &str| {
            operation
                .get(key)
                .and_then(Value::as_str)
                .ok_or_else(|| format!("it has no {key}"))
        };
        let id = text("operationId")?;
        let responses = operation
            .get("responses")
            .and_then(Value::as_object)
            .ok_or("it has no responses")?;
        let parsed_responses = responses
            .iter()
            .map(|(status, response)| Response::read(document, status, response))
            .collect::<Result<Vec<_>, _>>()?;
        let parameters = operation
            .get("parameters")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(Parameter::read)
            .collect::<Result<Vec<_>, _>>()?;
        let body = match operation.get("requestBody") {
            None => None,
            Some(body) => Some(Body {
                schema: body
                    .pointer("/content/application~1json/schema")
                    .and_then(component)
                    .ok_or("the schema of its body must be a reference to a component")?,
                json_only: responses.get("415").is_some_and(|response| {
                    response.get("$ref").and_then(Value::as_str) != Some(ENCODED_BODY)
                }),
                required: body.get("required") == Some(&Value::Bool(true)),
            }),
        };
        let alias_of = operation.get("x-ortolan-alias-of").and_then(Value::as_str);
        let handler_id = alias_of.unwrap_or(id);
        Ok(Self {
            kind: ResponseKind::of(&parsed_responses)?,
            path,
            method,
            id,
            alias_of,
            name: format_ident!("{handler_id}"),
            marker: format_ident!("{}", camel_case(handler_id)),
            summary: text("summary")?,
            takes_caller: operation.get(CALLER) == Some(&Value::Bool(true)),
            is_public: operation.get("security") == Some(&Value::Array(Vec::new())),
            parameters,
            body,
            responses: parsed_responses,
        })
    }

    /// The type in `operations` with the schemas of the operation.
    fn marker(&self) -> TokenStream {
        let Self {
            marker, summary, ..
        } = self;
        let responses = self.responses.iter().map(
            |Response {
                 status,
                 media_types,
             }| {
                let media_types = media_types
                    .iter()
                    .map(|(media, schema)| quote! { (#media, #schema) });
                quote! { ResponseSpec { status: #status, media_types: &[#(#media_types),*] } }
            },
        );
        let body = self.body.as_ref().map(
            |Body {
                 schema,
                 json_only,
                 required,
             }| {
                let ty = format_ident!("{schema}");
                quote! {
                    impl BodyOperation for #marker {
                        type Body = types::#ty;
                        const SCHEMA: &'static str = #schema;
                        const JSON_ONLY: bool = #json_only;
                        const REQUIRED: bool = #required;
                    }
                }
            },
        );
        quote! {
            #[doc = #summary]
            pub(in crate::api) struct #marker;
            impl Operation for #marker {
                const RESPONSES: &'static [ResponseSpec] = &[#(#responses),*];
            }
            #body
        }
    }

    fn trait_method(&self) -> TokenStream {
        let Self { name, summary, .. } = self;
        let caller = self.takes_caller.then(|| quote! { caller: Caller });
        let parameters = self.parameters.iter().map(|parameter| {
            let name = format_ident!("{}", parameter.name);
            let ty = parameter.value_type();
            quote! { #name: #ty }
        });
        let body = self.body.as_ref().map(|Body { schema, .. }| {
            let ty = format_ident!("{schema}");
            quote! { body: types::#ty, ignored: &mut IgnoredFields }
        });
        let arguments = caller.into_iter().chain(parameters).chain(body);
        let response = match &self.kind {
            ResponseKind::Text => quote! { TextResponse },
            ResponseKind::Json(ty) => quote! { types::#ty },
            ResponseKind::WithStatus(ty) => quote! { WithStatus<types::#ty> },
            ResponseKind::JsonOrStream(ty) => quote! { JsonOrStream<types::#ty> },
        };
        quote! {
            #[doc = #summary]
            fn #name(&self, #(#arguments),*) -> impl Future<Output = Result<#response, Error>> + Send;
        }
    }

    fn route(&self) -> TokenStream {
        let Self {
            path,
            method,
            id,
            name,
            marker,
            summary,
            ..
        } = self;
        let caller = self.takes_caller.then(|| quote! { caller: Caller });
        let caller_value = self.takes_caller.then(|| quote! { caller });
        // poem's syntax is `:model` instead of `{model}`.
        let path = path.replace('{', ":").replace('}', "");
        let parameters = self.parameters.iter().map(|parameter| {
            let name = format_ident!("{}", parameter.name);
            let ty = parameter.value_type();
            let extractor = format_ident!("{}", camel_case(parameter.location));
            quote! { #name: poem_openapi::param::#extractor<#ty> }
        });
        let body = self
            .body
            .as_ref()
            .map(|_| quote! { mut body: Body<operations::#marker> });
        let values = self.parameters.iter().map(|parameter| {
            let name = format_ident!("{}", parameter.name);
            quote! { #name.0 }
        });
        let value = self
            .body
            .as_ref()
            .map(|_| quote! { body.value, &mut body.ignored });
        // The first argument, so that the body of a request without a valid key is not read.
        let admitted = (!self.is_public).then(|| quote! { _admitted: Admitted });
        let arguments = admitted.into_iter().chain(caller);
        let arguments = arguments.chain(parameters).chain(body);
        let values = caller_value.into_iter().chain(values).chain(value);
        let constructor = match &self.kind {
            ResponseKind::Text => quote! { text },
            ResponseKind::Json(_) => quote! { json },
            ResponseKind::WithStatus(_) => quote! { with_status },
            ResponseKind::JsonOrStream(_) => quote! { json_or_stream },
        };
        let route = format_ident!("{id}");
        let reporting = self
            .body
            .as_ref()
            .map(|_| quote! { .with_ignored_fields(&body.ignored) });
        quote! {
            #[doc = #summary]
            #[oai(path = #path, method = #method, operation_id = #id)]
            async fn #route(&self, #(#arguments),*) -> Reply<operations::#marker> {
                Reply::#constructor(self.0.#name(#(#values),*).await) #reporting
            }
        }
    }
}

impl<'a> Parameter<'a> {
    fn read(parameter: &'a Value) -> Result<Self, String> {
        let text = |key: &str| {
            parameter
                .get(key)
                .and_then(Value::as_str)
                .ok_or_else(|| format!("a parameter has no {key}"))
        };
        match (
            text("name")?,
            text("in")?,
            parameter.pointer("/schema/type").and_then(Value::as_str),
        ) {
            (name, location @ ("path" | "query"), Some("string")) => Ok(Self { name, location }),
            (name, ..) => Err(format!(
                "parameter \"{name}\": only strings in the path or the query are supported"
            )),
        }
    }

    /// Path parameters are required, query parameters are optional.
    fn value_type(&self) -> TokenStream {
        if self.location == "path" {
            quote! { String }
        } else {
            quote! { Option<String> }
        }
    }
}

impl<'a> Response<'a> {
    fn read(document: &'a Value, status: &str, response: &'a Value) -> Result<Self, String> {
        let status: u16 = status
            .parse()
            .map_err(|_| format!("invalid status \"{status}\": expected a number"))?;
        let response = match response.get("$ref").and_then(Value::as_str) {
            None => response,
            Some(reference) => reference
                .strip_prefix('#')
                .and_then(|pointer| document.pointer(pointer))
                .ok_or_else(|| format!("{reference} does not exist"))?,
        };
        let media_types = response
            .get("content")
            .and_then(Value::as_object)
            .ok_or_else(|| format!("the response {status} has no content"))?
            .iter()
            .map(|(media, content)| {
                (
                    media.as_str(),
                    content.get("schema").and_then(component).unwrap_or(""),
                )
            })
            .collect();
        Ok(Self {
            status,
            media_types,
        })
    }

    fn json_schema(&self) -> Option<&'a str> {
        self.media_types
            .iter()
            .find(|(media, schema)| *media == "application/json" && !schema.is_empty())
            .map(|(_, s)| *s)
    }
}

impl ResponseKind {
    fn of(responses: &[Response]) -> Result<Self, String> {
        let success = responses
            .iter()
            .find(|response| response.status == 200)
            .ok_or("it has no response 200")?;
        let Some(schema) = success.json_schema() else {
            return match success.media_types.as_slice() {
                [("text/event-stream", _)] => {
                    Err("streams without a JSON response are not supported".to_owned())
                }
                [_] => Ok(Self::Text),
                _ => Err(
                    "its response 200 has several media types without JSON, which is not supported"
                        .to_owned(),
                ),
            };
        };
        let ty = format_ident!("{schema}");
        let streams = success
            .media_types
            .iter()
            .any(|(media, _)| *media == "text/event-stream");
        let errors_share_schema = responses
            .iter()
            .any(|response| response.json_schema() == Some(schema) && response.status != 200);
        Ok(match (streams, errors_share_schema) {
            (true, false) => Self::JsonOrStream(ty),
            (false, true) => Self::WithStatus(ty),
            (false, false) => Self::Json(ty),
            (true, true) => {
                return Err(
                    "streams whose errors have the schema of the response are not supported"
                        .to_owned(),
                );
            }
        })
    }
}

/// The name of the component that a schema refers to.
fn component(schema: &Value) -> Option<&str> {
    let schema: &Map<String, Value> = schema.as_object()?;
    schema
        .get("$ref")?
        .as_str()?
        .strip_prefix("#/components/schemas/")
}

/// `chat_completion` → `ChatCompletion`.
fn camel_case(words: &str) -> String {
    words
        .split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_uppercase().chain(letters).collect::<String>())
                .unwrap_or_default()
        })
        .collect()
}
