//! The state of a scenario: the server it uses, its last request, and the responses; and the requests that several
//! steps send through the generated client.

use std::net::SocketAddr;

use futures_util::StreamExt;
use ortolan::engine::Stats;
use ortolan_client::types;
use ortolan_client::{ByteStream, Client, Error, ResponseValue};

use serde::Serialize;
use serde_json::Value;

use crate::concurrency::ConcurrentRequests;
use crate::servers::{self, ModelServer};

#[derive(Debug, Default, cucumber::World)]
pub(crate) struct World {
    /// The server that the scenario uses; the default server if absent.
    pub(crate) server_address: Option<SocketAddr>,
    /// The same server, if it has a loaded model.
    pub(crate) server: Option<ModelServer>,
    pub(crate) last_request: Option<RepeatableRequest>,
    pub(crate) response: Response,
    /// The response before the last one, if the scenario continued a chat.
    pub(crate) previous_response: Option<Response>,
    pub(crate) concurrent: ConcurrentRequests,
    /// Texts that ended before the token limit, each with the schema that it must satisfy.
    pub(crate) finished_texts: Vec<(Value, String)>,
    /// The body of the last request to `/v1/completions`.
    pub(crate) text_completion: Option<Value>,
    /// Chat completions, each with the function of its request. The response calls the function, or its text matches
    /// the schema of the function's parameters.
    pub(crate) function_responses: Vec<(Value, Response)>,
    /// Response objects of `/v1/responses`; for a stream, the object in the first event.
    pub(crate) stored_responses: Vec<Value>,
}

/// The body of a request that a scenario may send again with changes.
#[derive(Debug, Clone)]
pub(crate) enum RepeatableRequest {
    Completion(Value),
    Chat(Value),
}

#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
    /// The data of a stream's events, without `[DONE]`.
    pub(crate) events: Vec<Value>,
    /// The `event:` names of a stream's events, if any.
    pub(crate) event_names: Vec<String>,
    /// Whether the stream ended with `[DONE]`.
    pub(crate) ended_with_done: bool,
}

impl World {
    pub(crate) async fn address(&self) -> String {
        let address = match self.server_address {
            Some(address) => address,
            None => self.model_server().await.address,
        };
        format!("http://{address}")
    }

    pub(crate) fn use_server(&mut self, server: ModelServer) {
        self.server_address = Some(server.address);
        self.server = Some(server);
    }

    pub(crate) async fn model_server(&self) -> ModelServer {
        match &self.server {
            Some(server) => server.clone(),
            None => servers::default_server().await,
        }
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.model_server().await.model.stats()
    }

    pub(crate) async fn client(&self) -> Client {
        // Without the generated client's default timeout: a full context takes longer in an unoptimized build.
        Client::new_with_client(&self.address().await, reqwest::Client::new())
    }

    pub(crate) async fn complete(&mut self, body: Value) {
        let request: types::CompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.response = read_response(self.client().await.completion(&request).await).await;
        self.last_request = Some(RepeatableRequest::Completion(body));
    }

    pub(crate) async fn chat(&mut self, body: Value) {
        let request: types::ChatCompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.response = read_response(self.client().await.chat_completion(&request).await).await;
        self.last_request = Some(RepeatableRequest::Chat(body));
    }

    pub(crate) async fn stream_completion(&mut self, mut body: Value) {
        body["stream"] = true.into();
        let request: types::CompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.response = read_stream(self.client().await.completion_stream(&request).await).await;
        self.last_request = Some(RepeatableRequest::Completion(body));
    }

    pub(crate) async fn act_on_slot(
        &mut self,
        slot: usize,
        action: &str,
        filename: Option<String>,
    ) {
        let client = self.client().await;
        let request = types::SlotActionRequest { filename };
        let slot = slot.to_string();
        let result = client.slot_action(&slot, Some(action), &request).await;
        self.response = read_response(result).await;
    }

    pub(crate) async fn change_props(&mut self, body: Value) {
        let request: types::PropsChange = serde_json::from_value(body).unwrap();
        self.response = read_response(self.client().await.change_props(&request).await).await;
    }

    pub(crate) async fn embed(&mut self, body: Value) {
        let request: types::EmbeddingRequest = serde_json::from_value(body).unwrap();
        self.response = read_response(self.client().await.embedding(&request).await).await;
    }

    pub(crate) async fn stream_infill(&mut self, body: Value) {
        let request: types::InfillRequest = serde_json::from_value(body).unwrap();
        self.response = read_stream(self.client().await.infill_stream(&request).await).await;
    }

    pub(crate) async fn stream_chat(&mut self, mut body: Value) {
        body["stream"] = true.into();
        let request: types::ChatCompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.response =
            read_stream(self.client().await.chat_completion_stream(&request).await).await;
        self.last_request = Some(RepeatableRequest::Chat(body));
    }

    pub(crate) async fn complete_text(&mut self, mut body: Value) {
        let client = self.client().await;
        let is_stream = body["stream"] == true;
        let request: types::TextCompletionRequest = serde_json::from_value(body.take()).unwrap();
        self.response = match is_stream {
            true => read_stream(client.text_completion_stream(&request).await).await,
            false => read_response(client.text_completion(&request).await).await,
        };
    }

    /// Sends a request that the generated client cannot express.
    pub(crate) async fn send(&mut self, request: reqwest::RequestBuilder) {
        let http_response = request.send().await.unwrap();
        let status = http_response.status().as_u16();
        let headers = http_response.headers().clone();
        let text = http_response.text().await.unwrap();
        self.response = Response {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
            ..Response::default()
        };
    }
}

impl Response {
    /// Returns the value at a dotted path of the body.
    ///
    /// # Panics
    /// If the path does not exist.
    pub(crate) fn at(&self, path: &str) -> &Value {
        let pointer = format!("/{}", path.replace('.', "/"));
        self.body
            .pointer(&pointer)
            .unwrap_or_else(|| panic!("{path} not found in {}", self.body))
    }

    /// The generated text of a native or OpenAI response, joined if it was streamed.
    pub(crate) fn text(&self) -> String {
        let pointers = [
            "/content",
            "/choices/0/message/content",
            "/choices/0/text",
            "/choices/0/delta/content",
        ];
        let text_of = |value: &Value| {
            let text = pointers
                .iter()
                .find_map(|pointer| value.pointer(pointer)?.as_str());
            text.unwrap_or_default().to_owned()
        };
        match self.events.is_empty() {
            true => text_of(&self.body),
            false => self.events.iter().map(text_of).collect(),
        }
    }
}

/// Converts a result of the generated client, whether success or error status.
pub(crate) async fn read_response<T: Serialize, E: Serialize + std::fmt::Debug>(
    result: Result<ResponseValue<T>, Error<E>>,
) -> Response {
    let response = |status: u16,
                    headers: &reqwest::header::HeaderMap,
                    body: serde_json::Result<Value>| Response {
        status,
        headers: headers.clone(),
        body: body.unwrap(),
        ..Response::default()
    };
    match result {
        Ok(value) => response(
            value.status().as_u16(),
            value.headers(),
            serde_json::to_value(&*value),
        ),
        Err(Error::ErrorResponse(value)) => response(
            value.status().as_u16(),
            value.headers(),
            serde_json::to_value(&*value),
        ),
        Err(other) => panic!("{other:?}"),
    }
}

/// Reads a stream of the generated client to its end.
pub(crate) async fn read_stream<E: Serialize + std::fmt::Debug>(
    result: Result<ResponseValue<ByteStream>, Error<E>>,
) -> Response {
    let http_response = match result {
        Ok(http_response) => http_response,
        Err(error) => return read_response::<(), E>(Err(error)).await,
    };
    let mut response = Response {
        status: http_response.status().as_u16(),
        headers: http_response.headers().clone(),
        ..Response::default()
    };
    let mut bytes = Vec::new();
    let mut stream = http_response.into_inner().into_inner();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    let text = String::from_utf8(bytes).unwrap();
    let lines = |prefix: &'static str| {
        text.lines()
            .filter_map(move |line| line.strip_prefix(prefix))
    };
    response.event_names = lines("event: ").map(str::to_owned).collect();
    for data in lines("data: ") {
        assert!(!response.ended_with_done, "nothing follows [DONE]");
        match data {
            "[DONE]" => response.ended_with_done = true,
            json => response.events.push(serde_json::from_str(json).unwrap()),
        }
    }
    response
}
