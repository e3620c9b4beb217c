//! Generates the trait `Api`, a method per operation, and the poem-openapi routes that call it.
//!
//! What the code leans on (`Operation`, `Body`, `Reply`, …) is in `src/api/payload.rs`, `Caller` and `Admitted` in `src/api/caller.rs`.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use serde_json::{Map, Value};

/// The code of all operations of the document.
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
        /// What the document asks of the server: a method per operation.
        pub(super) trait Api: Send + Sync + 'static { #methods }

        /// The operations as types: what the document says of their bodies and answers.
        pub(super) mod operations {
            use super::types;
            use crate::api::payload::{Answer, BodyOperation, Operation};
            #markers
        }

        /// The routes of the document; each calls the method of its name.
        pub(super) struct Routes<A>(pub(super) A);

        #[poem_openapi::OpenApi]
        impl<A: Api> Routes<A> { #calls }
    };
    let file = syn::parse2(code).map_err(|error| format!("the routes' code: {error}"))?;
    Ok(prettyplease::unparse(&file))
}

/// What the code needs to know of an operation.
struct Operation<'a> {
    path: &'a str,
    method: &'a str,
    id: &'a str,
    /// The operation that it is another path to.
    alias_of: Option<&'a str>,
    /// The method that answers it.
    name: Ident,
    marker: Ident,
    summary: &'a str,
    /// Whether the handler receives the caller.
    caller: bool,
    /// Whether it needs no key: its `security` is empty.
    open: bool,
    parameters: Vec<Parameter<'a>>,
    body: Option<Body<'a>>,
    answers: Vec<Answer<'a>>,
    kind: AnswerKind,
}

/// Says of an operation that its answer depends on who asks.
const CALLER: &str = "x-ortolan-caller";

/// The only 415 of an operation that reads a body as JSON whatever its Content-Type.
const ENCODED_BODY: &str = "#/components/responses/EncodedBody";

struct Parameter<'a> {
    name: &'a str,
    place: &'a str,
}

struct Body<'a> {
    schema: &'a str,
    json_only: bool,
    required: bool,
}

struct Answer<'a> {
    status: u16,
    media: Vec<(&'a str, &'a str)>,
}

/// What a handler gives back.
enum AnswerKind {
    /// A text of the answer's one media type.
    Text,
    /// A value of this type.
    Json(Ident),
    /// A value of this type with a status: its failures have the same shape.
    WithStatus(Ident),
    /// A value of this type or a stream of events.
    WholeOrStream(Ident),
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
        let answers = responses
            .iter()
            .map(|(status, response)| Answer::read(document, status, response))
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
                    .ok_or("its body's schema is no reference to a component")?,
                json_only: responses.get("415").is_some_and(|refused| {
                    refused.get("$ref").and_then(Value::as_str) != Some(ENCODED_BODY)
                }),
                required: body.get("required") == Some(&Value::Bool(true)),
            }),
        };
        let alias_of = operation.get("x-ortolan-alias-of").and_then(Value::as_str);
        let answered_as = alias_of.unwrap_or(id);
        Ok(Self {
            kind: AnswerKind::of(&answers)?,
            path,
            method,
            id,
            alias_of,
            name: format_ident!("{answered_as}"),
            marker: format_ident!("{}", camel_case(answered_as)),
            summary: text("summary")?,
            caller: operation.get(CALLER) == Some(&Value::Bool(true)),
            open: operation.get("security") == Some(&Value::Array(Vec::new())),
            parameters,
            body,
            answers,
        })
    }

    /// The type that carries what the document says of the operation.
    fn marker(&self) -> TokenStream {
        let Self {
            marker, summary, ..
        } = self;
        let answers = self.answers.iter().map(|Answer { status, media }| {
            let media = media
                .iter()
                .map(|(media, schema)| quote! { (#media, #schema) });
            quote! { Answer { status: #status, media: &[#(#media),*] } }
        });
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
                const ANSWERS: &'static [Answer] = &[#(#answers),*];
            }
            #body
        }
    }

    fn trait_method(&self) -> TokenStream {
        let Self { name, summary, .. } = self;
        let caller = self.caller.then(|| quote! { caller: Caller });
        let parameters = self.parameters.iter().map(|parameter| {
            let name = format_ident!("{}", parameter.name);
            let ty = parameter.value_type();
            quote! { #name: #ty }
        });
        let body = self.body.as_ref().map(|Body { schema, .. }| {
            let ty = format_ident!("{schema}");
            quote! { body: types::#ty, ignored: &mut Ignored }
        });
        let arguments = caller.into_iter().chain(parameters).chain(body);
        let answer = match &self.kind {
            AnswerKind::Text => quote! { Text },
            AnswerKind::Json(ty) => quote! { types::#ty },
            AnswerKind::WithStatus(ty) => quote! { WithStatus<types::#ty> },
            AnswerKind::WholeOrStream(ty) => quote! { WholeOrStream<types::#ty> },
        };
        quote! {
            #[doc = #summary]
            fn #name(&self, #(#arguments),*) -> impl Future<Output = Result<#answer, Error>> + Send;
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
        let caller = self.caller.then(|| quote! { caller: Caller });
        let caller_value = self.caller.then(|| quote! { caller });
        // poem writes `:model` where the document writes `{model}`.
        let path = path.replace('{', ":").replace('}', "");
        let parameters = self.parameters.iter().map(|parameter| {
            let name = format_ident!("{}", parameter.name);
            let ty = parameter.value_type();
            let place = format_ident!("{}", camel_case(parameter.place));
            quote! { #name: poem_openapi::param::#place<#ty> }
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
        // First, so that nothing is read of a request without a key.
        let admitted = (!self.open).then(|| quote! { _admitted: Admitted });
        let arguments = admitted.into_iter().chain(caller);
        let arguments = arguments.chain(parameters).chain(body);
        let values = caller_value.into_iter().chain(values).chain(value);
        let constructor = match &self.kind {
            AnswerKind::Text => quote! { text },
            AnswerKind::Json(_) => quote! { json },
            AnswerKind::WithStatus(_) => quote! { with_status },
            AnswerKind::WholeOrStream(_) => quote! { whole_or_stream },
        };
        let route = format_ident!("{id}");
        let reporting = self
            .body
            .as_ref()
            .map(|_| quote! { .ignoring(&body.ignored) });
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
            (name, place @ ("path" | "query"), Some("string")) => Ok(Self { name, place }),
            (name, ..) => Err(format!(
                "parameter \"{name}\": only strings in the path or the query are generated"
            )),
        }
    }

    /// Parameters in the path are always there, those in the query may be left out.
    fn value_type(&self) -> TokenStream {
        if self.place == "path" {
            quote! { String }
        } else {
            quote! { Option<String> }
        }
    }
}

impl<'a> Answer<'a> {
    fn read(document: &'a Value, status: &str, response: &'a Value) -> Result<Self, String> {
        let status: u16 = status
            .parse()
            .map_err(|_| format!("the status \"{status}\" is no number"))?;
        let response = match response.get("$ref").and_then(Value::as_str) {
            None => response,
            Some(reference) => reference
                .strip_prefix('#')
                .and_then(|pointer| document.pointer(pointer))
                .ok_or_else(|| format!("{reference} leads nowhere"))?,
        };
        let media = response
            .get("content")
            .and_then(Value::as_object)
            .ok_or_else(|| format!("the answer {status} has no content"))?
            .iter()
            .map(|(media, content)| {
                (
                    media.as_str(),
                    content.get("schema").and_then(component).unwrap_or(""),
                )
            })
            .collect();
        Ok(Self { status, media })
    }

    fn json_schema(&self) -> Option<&'a str> {
        self.media
            .iter()
            .find(|(media, schema)| *media == "application/json" && !schema.is_empty())
            .map(|(_, s)| *s)
    }
}

impl AnswerKind {
    fn of(answers: &[Answer]) -> Result<Self, String> {
        let success = answers
            .iter()
            .find(|answer| answer.status == 200)
            .ok_or("it has no answer 200")?;
        let Some(schema) = success.json_schema() else {
            return match success.media.as_slice() {
                [("text/event-stream", _)] => {
                    Err("it has no whole answer: not generated".to_owned())
                }
                [_] => Ok(Self::Text),
                _ => Err("its answer 200 is too varied".to_owned()),
            };
        };
        let ty = format_ident!("{schema}");
        let streams = success
            .media
            .iter()
            .any(|(media, _)| *media == "text/event-stream");
        let fails_in_its_own_shape = answers
            .iter()
            .any(|answer| answer.json_schema() == Some(schema) && answer.status != 200);
        Ok(match (streams, fails_in_its_own_shape) {
            (true, false) => Self::WholeOrStream(ty),
            (false, true) => Self::WithStatus(ty),
            (false, false) => Self::Json(ty),
            (true, true) => {
                return Err("it streams and fails in its own shape: not generated".to_owned());
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
