//! The program with the real model, asked over HTTP.

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::tiny;
use crate::program::{listening, ortolan, ready_with};
use crate::running::Running;

/// A running server; dropping it ends the program.
pub(crate) struct Server {
    address: String,
    client: reqwest::Client,
    _program: Running,
    _folder: TempDir,
}

/// What a request was answered with.
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The entries of `x-ortolan-ignored`.
    pub(crate) ignored: Vec<String>,
    /// Whether it is a stream of events.
    pub(crate) streamed: bool,
    /// The JSON body, or the stream's events in an array.
    pub(crate) body: Value,
}

impl Server {
    /// The default model, with everything on that an option turns on.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().to_str().unwrap();
        let started = ready_with(&["--embedding", "--props", "--slot-save-path", files]);
        Self::new(started, folder)
    }

    /// A model that can fill a gap, which the default one cannot. Its weights mean nothing.
    pub(crate) fn that_fills_gaps() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::model(folder.path(), &[]);
        let mut command = ortolan();
        command.arg("-m").arg(model).args(["--parallel", "2"]);
        let (mut program, address) = listening(command);
        program.says("the model is ready");
        Self::new((program, address), folder)
    }

    fn new((program, address): (Running, String), folder: TempDir) -> Self {
        Self {
            address,
            client: reqwest::Client::new(),
            _program: program,
            _folder: folder,
        }
    }

    /// Sends a body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.client.post(format!("{}{path}", self.address));
        let response = request.json(body).send().await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        let ignored = header("x-ortolan-ignored");
        let ignored = ignored.split(',').filter(|entry| !entry.is_empty());
        let ignored = ignored.map(decoded).collect();
        let streamed = header(CONTENT_TYPE.as_str()).starts_with("text/event-stream");
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let body = match streamed {
            true => text
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .filter(|data| *data != "[DONE]")
                .map(|data| serde_json::from_str::<Value>(data).unwrap())
                .collect(),
            false => serde_json::from_str(&text).unwrap_or_else(|_| json!({ "no JSON": text })),
        };
        Answer {
            status,
            ignored,
            streamed,
            body,
        }
    }

    /// What `/slots` says of the request that was started last.
    pub(crate) async fn last_slot(&self) -> Value {
        let request = self.client.get(format!("{}/slots", self.address));
        let slots: Vec<Value> = request.send().await.unwrap().json().await.unwrap();
        let task = |slot: &Value| slot["task_id"].as_i64().unwrap();
        slots.into_iter().max_by_key(task).unwrap()
    }
}

/// A percent-encoded entry.
fn decoded(entry: &str) -> String {
    let query = format!("entry={entry}").replace('+', "%2B");
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.next().unwrap().1.into_owned()
}
