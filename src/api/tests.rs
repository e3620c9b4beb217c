//! Tests of routes without a loaded model: requests that are rejected before a model is needed, and the format of
//! errors.

use std::time::SystemTime;

use poem::http::{Method, StatusCode};
use poem::{Body, Endpoint, Request};
use serde_json::Value;
use tokio::sync::watch;

use super::error::Surface;
use super::*;
use crate::model::ModelDetails;

/// Returns the details of a model named `tiny`.
pub(super) fn details() -> ModelDetails {
    ModelDetails {
        name: "tiny".to_owned(),
        path: "models/tiny.gguf".into(),
        architecture: "llama".to_owned(),
        generates: true,
        embeds: true,
        vocabulary_size: 32,
        hidden_size: 8,
        context_tokens: 128,
        trained_context_tokens: 256,
        parameters: 1000,
        file_bytes: 4000,
        chat_template: String::new(),
        bos_text: "<s>".to_owned(),
        eos_text: "</s>".to_owned(),
        pooling: crate::model::Pooling::Last,
        loaded_at: SystemTime::UNIX_EPOCH,
        slots: 2,
        cache_tokens: 256,
        device: "CPU".to_owned(),
        attention: crate::model::Attention::Paged,
        deterministic: true,
    }
}

fn endpoint(state: ModelState, strict: bool) -> impl Endpoint<Output = Response> {
    endpoint_for(Caller::Anyone, state, strict)
}

fn endpoint_for(
    caller: Caller,
    state: ModelState,
    strict: bool,
) -> impl Endpoint<Output = Response> {
    let (_, model) = watch::channel(state);
    let preparations = Arc::new(PreparationPool::new(8).unwrap());
    routes(ApiSettings {
        bodies: BodyRules {
            idle_timeout: Duration::from_secs(60),
            strict,
        },
        ..ApiSettings::new(model, preparations)
    })
    .data(caller)
}

/// Sends a request to a server whose model is still being loaded.
async fn send(
    method: Method,
    path: &str,
    content_type: &str,
    body: impl Into<Body>,
) -> (Response, String) {
    let request = Request::builder()
        .method(method)
        .uri(path.parse().unwrap())
        .content_type(content_type)
        .body(body);
    answer(ModelState::Loading { done: 0.5 }, request).await
}

async fn get(state: ModelState, path: &str) -> (Response, String) {
    answer(
        state,
        Request::builder().uri(path.parse().unwrap()).finish(),
    )
    .await
}

async fn answer(state: ModelState, request: Request) -> (Response, String) {
    let mut response = endpoint(state, false).call(request).await.unwrap();
    let text = response.take_body().into_string().await.unwrap();
    (response, text)
}

#[tokio::test]
async fn all_failures_have_the_error_format() {
    let json = "application/json";
    let long = "x".repeat(MAX_BODY_BYTES + 1);
    let requests: [(&str, Method, &str, &str, &str); 14] = [
        ("unknown path", Method::GET, "/nothing", "", ""),
        (
            "unknown path of OpenAI's surface",
            Method::GET,
            "/v1/nothing",
            "",
            "",
        ),
        ("method not allowed", Method::GET, "/completion", "", ""),
        (
            "method not allowed for a path template",
            Method::DELETE,
            "/v1/models/a",
            "",
            "",
        ),
        ("no body", Method::POST, "/completion", json, ""),
        ("invalid JSON", Method::POST, "/completion", json, "{"),
        (
            "missing messages",
            Method::POST,
            "/v1/chat/completions",
            json,
            "{}",
        ),
        (
            "unsupported value",
            Method::POST,
            "/completion",
            json,
            r#"{"prompt": "a", "image_data": [{}]}"#,
        ),
        ("body too large", Method::POST, "/tokenize", json, &long),
        (
            "wrong type",
            Method::POST,
            "/tokenize",
            json,
            r#"{"content": 1}"#,
        ),
        (
            "not an integer",
            Method::POST,
            "/detokenize",
            json,
            r#"{"tokens": [1.5]}"#,
        ),
        (
            "unsupported Content-Type",
            Method::POST,
            "/v1/chat/completions",
            "text/plain",
            r#"{"messages": []}"#,
        ),
        (
            "empty messages",
            Method::POST,
            "/v1/chat/completions",
            json,
            r#"{"messages": []}"#,
        ),
        ("slots are disabled", Method::GET, "/slots", "", ""),
    ];
    let mut lines = String::new();
    for (name, method, path, content_type, body) in requests {
        let (response, text) = send(method, path, content_type, body.to_owned()).await;
        let status = response.status().as_u16();
        let value: Value = serde_json::from_str(&text).unwrap();
        check("Error", &value).unwrap();
        match Surface::of(path) {
            Surface::Native => assert_eq!(value["error"]["code"], status),
            Surface::OpenAi | Surface::Anthropic => assert!(!value["error"]["code"].is_number()),
        }
        let allowed = response
            .header("allow")
            .map(|allowed| format!(" (Allow: {allowed})"))
            .unwrap_or_default();
        lines.push_str(&format!(
            "{name}: {}{allowed}\n  {}\n",
            status, value["error"]
        ));
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("errors", lines));
}

#[test]
fn a_full_queue_has_the_error_code_of_each_surface() {
    let full = Error::from(crate::model::GenerateError::QueueFull { waiting: 1 });
    for (surface, field, value) in [
        (Surface::Native, "code", serde_json::json!(429)),
        (Surface::OpenAi, "code", "rate_limit_exceeded".into()),
        (Surface::Anthropic, "type", "rate_limit_error".into()),
    ] {
        assert_eq!(full.body(surface)["error"][field], value);
    }
}

#[tokio::test]
async fn native_routes_accept_any_content_type() {
    for content_type in ["application/x-www-form-urlencoded", "text/plain", ""] {
        let (response, text) = send(
            Method::POST,
            "/completion",
            content_type,
            r#"{"prompt": "a"}"#,
        )
        .await;
        // The body is accepted; the request fails because the model is not loaded.
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{text}");
        assert!(text.contains("Loading model"), "{text}");
    }
}

#[tokio::test]
async fn whole_numbers_are_accepted_as_integers() {
    let (response, text) = send(Method::POST, "/detokenize", "", r#"{"tokens": [1.0, 2e1]}"#).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{text}");
}

#[tokio::test]
async fn a_strict_server_refuses_ignored_fields() {
    let request = Request::builder().method(Method::POST);
    let request = request
        .uri("/completion".parse().unwrap())
        .body(r#"{"prompt": "a", "n_pred": 1}"#);
    let response = endpoint(ModelState::Loading { done: 0.5 }, true)
        .get_response(request)
        .await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let text = response.into_body().into_string().await.unwrap();
    assert!(
        text.contains("n_pred: this field has no effect on this server"),
        "{text}"
    );
    assert!(text.contains(r#""param":"n_pred""#), "{text}");
}

#[tokio::test]
async fn ignored_fields_are_reported_in_a_header() {
    let body = r#"{"messages": [{"role": "user", "content": "a", "näme": 1}], "user": "ada"}"#;
    let (response, _) = send(
        Method::POST,
        "/v1/chat/completions",
        "application/json; charset=utf-8",
        body,
    )
    .await;
    assert_eq!(
        response.header("x-ortolan-ignored"),
        Some("messages.0.n%C3%A4me,user")
    );
}

#[tokio::test]
async fn a_model_that_failed_to_load_is_reported_with_its_cause() {
    let failed = || ModelState::Failed("no memory".to_owned());
    let (response, text) = get(failed(), "/v1/models").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        text.contains("the model could not be loaded: no memory"),
        "{text}"
    );
    let (response, text) = get(failed(), "/health?fail_on_no_slot").await;
    assert_eq!(
        (response.status().as_u16(), text.as_str()),
        (500, r#"{"status":"error"}"#)
    );
}

#[tokio::test]
async fn only_operators_see_why_the_model_failed_to_load() {
    let key = KeyId::of("ada");
    for (is_operator, message) in [
        (true, "the model could not be loaded: /models/a is no model"),
        (false, "the model could not be loaded: see the server's log"),
    ] {
        for path in ["/v1/models", "/props", "/lora-adapters"] {
            let caller = Caller::KeyHolder { key, is_operator };
            let state = ModelState::Failed("/models/a is no model".to_owned());
            let request = Request::builder().uri(path.parse().unwrap()).finish();
            let response = endpoint_for(caller, state, false).call(request).await;
            let mut response = response.unwrap();
            let text = response.take_body().into_string().await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert!(text.contains(message), "{path}: {text}");
        }
    }
}

#[tokio::test]
async fn query_parameters_of_health_are_set_by_their_presence() {
    for query in [
        "include_slots",
        "include_slots=&fail_on_no_slot=1",
        "include_slots=1&include_slots=2",
        "%FF=%FF",
    ] {
        let (response, text) = get(
            ModelState::Loading { done: 0.0 },
            &format!("/health?{query}"),
        )
        .await;
        assert_eq!(
            (response.status().as_u16(), text.as_str()),
            (503, r#"{"status":"loading model"}"#),
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_document_is_served() {
    for (path, content_type, part) in [
        (
            "/openapi.json",
            "application/json; charset=utf-8",
            "\"openapi\": \"3.1",
        ),
        (
            "/openapi.yaml",
            "application/yaml; charset=utf-8",
            "openapi: 3.1",
        ),
        ("/docs", "text/html; charset=utf-8", "SwaggerUIBundle"),
    ] {
        let (response, text) = get(ModelState::Loading { done: 0.0 }, path).await;
        assert_eq!(
            (response.status(), response.content_type()),
            (StatusCode::OK, Some(content_type))
        );
        assert!(text.contains(part));
    }
}
