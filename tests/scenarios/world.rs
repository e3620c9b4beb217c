//! What a scenario knows: whom it speaks to, what was asked last, what came back.

use std::net::SocketAddr;

use futures_util::StreamExt;
use ortolan::api::client::Client;
use ortolan::api::types;
use ortolan::engine::Stats;
use progenitor_client::{ByteStream, Error, ResponseValue};
use serde::Serialize;
use serde_json::Value;

use crate::crowd::Crowd;
use crate::servers::{self, RealServer};

#[derive(Debug, Default, cucumber::World)]
pub(crate) struct World {
    /// Another server than the usual one.
    pub(crate) server: Option<SocketAddr>,
    /// The real one, if it is another than the usual one.
    pub(crate) real: Option<RealServer>,
    pub(crate) asked: Option<Question>,
    pub(crate) answer: Answer,
    /// The answer before.
    pub(crate) before: Option<Answer>,
    pub(crate) crowd: Crowd,
    /// Texts that ended by themselves, and the schema that each must be valid for.
    pub(crate) complete: Vec<(Value, String)>,
    /// What was to go on.
    pub(crate) texts: Option<Value>,
    /// Answers that call, and the function that each must call.
    pub(crate) called: Vec<(Value, Answer)>,
    /// Responses of `/v1/responses`, as they were answered; of streams, as they began.
    pub(crate) responses: Vec<Value>,
}

/// What a scenario may ask again.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    Completion(Value),
    Chat(Value),
}

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
    /// The events of a stream, `[DONE]` aside.
    pub(crate) pieces: Vec<Value>,
    /// What the events are called, if they have names.
    pub(crate) names: Vec<String>,
    pub(crate) done: bool,
}

impl World {
    pub(crate) async fn address(&self) -> String {
        let address = match self.server {
            Some(address) => address,
            None => self.real_server().await.address,
        };
        format!("http://{address}")
    }

    pub(crate) fn speak_to(&mut self, server: RealServer) {
        self.server = Some(server.address);
        self.real = Some(server);
    }

    pub(crate) async fn real_server(&self) -> RealServer {
        match &self.real {
            Some(server) => server.clone(),
            None => servers::usual().await,
        }
    }

    /// What the engine says of itself.
    pub(crate) async fn stats(&self) -> Stats {
        self.real_server().await.model.stats()
    }

    pub(crate) async fn client(&self) -> Client {
        // A whole context takes longer than the client's own patience, in an unoptimised build.
        Client::new_with_client(&self.address().await, reqwest::Client::new())
    }

    pub(crate) async fn complete(&mut self, body: Value) {
        let request: types::CompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.answer = whole(self.client().await.completion(&request).await).await;
        self.asked = Some(Question::Completion(body));
    }

    pub(crate) async fn chat(&mut self, body: Value) {
        let request: types::ChatCompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.answer = whole(self.client().await.chat_completion(&request).await).await;
        self.asked = Some(Question::Chat(body));
    }

    pub(crate) async fn stream_completion(&mut self, mut body: Value) {
        body["stream"] = true.into();
        let request: types::CompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.answer = streamed(self.client().await.completion_stream(&request).await).await;
        self.asked = Some(Question::Completion(body));
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
        let answered = client.slot_action(&slot, Some(action), &request);
        self.answer = whole(answered.await).await;
    }

    pub(crate) async fn change_props(&mut self, body: Value) {
        let request: types::PropsChange = serde_json::from_value(body).unwrap();
        self.answer = whole(self.client().await.change_props(&request).await).await;
    }

    pub(crate) async fn embed(&mut self, body: Value) {
        let request: types::EmbeddingRequest = serde_json::from_value(body).unwrap();
        self.answer = whole(self.client().await.embedding(&request).await).await;
    }

    pub(crate) async fn stream_infill(&mut self, body: Value) {
        let request: types::InfillRequest = serde_json::from_value(body).unwrap();
        self.answer = streamed(self.client().await.infill_stream(&request).await).await;
    }

    pub(crate) async fn stream_chat(&mut self, mut body: Value) {
        body["stream"] = true.into();
        let request: types::ChatCompletionRequest = serde_json::from_value(body.clone()).unwrap();
        self.answer = streamed(self.client().await.chat_completion_stream(&request).await).await;
        self.asked = Some(Question::Chat(body));
    }

    pub(crate) async fn go_on(&mut self, mut body: Value) {
        let client = self.client().await;
        let streamed_body = body["stream"] == true;
        let request: types::TextCompletionRequest = serde_json::from_value(body.take()).unwrap();
        self.answer = match streamed_body {
            true => streamed(client.text_completion_stream(&request).await).await,
            false => whole(client.text_completion(&request).await).await,
        };
    }

    /// Sends what no typed client would.
    pub(crate) async fn raw(&mut self, request: reqwest::RequestBuilder) {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        self.answer = Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
            ..Answer::default()
        };
    }
}

impl Answer {
    /// The value at a dotted path of the body.
    pub(crate) fn at(&self, path: &str) -> &Value {
        let pointer = format!("/{}", path.replace('.', "/"));
        self.body
            .pointer(&pointer)
            .unwrap_or_else(|| panic!("there is no {path} in {}", self.body))
    }

    /// The generated text, whole or in pieces, native or OpenAI's.
    pub(crate) fn text(&self) -> String {
        let places = [
            "/content",
            "/choices/0/message/content",
            "/choices/0/text",
            "/choices/0/delta/content",
        ];
        let text_of = |value: &Value| {
            let found = places
                .iter()
                .find_map(|place| value.pointer(place)?.as_str());
            found.unwrap_or_default().to_owned()
        };
        match self.pieces.is_empty() {
            true => text_of(&self.body),
            false => self.pieces.iter().map(text_of).collect(),
        }
    }
}

/// A whole answer of the generated client, good or bad.
pub(crate) async fn whole<T: Serialize, E: Serialize + std::fmt::Debug>(
    result: Result<ResponseValue<T>, Error<E>>,
) -> Answer {
    let told = |status: u16,
                headers: &reqwest::header::HeaderMap,
                body: serde_json::Result<Value>| Answer {
        status,
        headers: headers.clone(),
        body: body.unwrap(),
        ..Answer::default()
    };
    match result {
        Ok(value) => told(
            value.status().as_u16(),
            value.headers(),
            serde_json::to_value(&*value),
        ),
        Err(Error::ErrorResponse(value)) => told(
            value.status().as_u16(),
            value.headers(),
            serde_json::to_value(&*value),
        ),
        Err(other) => panic!("{other:?}"),
    }
}

/// All events of a stream of the generated client.
pub(crate) async fn streamed<E: Serialize + std::fmt::Debug>(
    result: Result<ResponseValue<ByteStream>, Error<E>>,
) -> Answer {
    let response = match result {
        Ok(response) => response,
        Err(error) => return whole::<(), E>(Err(error)).await,
    };
    let mut answer = Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        ..Answer::default()
    };
    let mut bytes = Vec::new();
    let mut stream = response.into_inner().into_inner();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    let text = String::from_utf8(bytes).unwrap();
    let lines = |prefix: &'static str| {
        text.lines()
            .filter_map(move |line| line.strip_prefix(prefix))
    };
    answer.names = lines("event: ").map(str::to_owned).collect();
    for data in lines("data: ") {
        assert!(!answer.done, "nothing follows [DONE]");
        match data {
            "[DONE]" => answer.done = true,
            json => answer.pieces.push(serde_json::from_str(json).unwrap()),
        }
    }
    answer
}
