//! The servers that the request tables use, and an HTTP client for them.

use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::gguf::Value as Metadata;
use crate::common::{lora, tiny};
use crate::program::{listening, ortolan, ready_with};
use crate::running::Running;

/// A chat template that renders tool call ids and reasoning.
const TEMPLATE: &str = "{{ tools or '' }}{% for message in messages %}<{{ message.role }}>\
    {% for call in message.tool_calls or [] %}<tool_call>{{ call.id }}</tool_call>{% endfor %}\
    {% if message.tool_call_id %}[{{ message.tool_call_id }}]{% endif %}\
    {% if message.reasoning_content %}{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}\
    {{ message.content }}{% endfor %}{% if add_generation_prompt %}<assistant>\
    {% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";

/// The small model's token `<s>`, used as the separator before file names.
const FILE_TOKEN: u32 = 260;

/// The server that the requests of a table entry are sent to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The default model ([`Server::start`]).
    #[default]
    Usual,
    /// A model with random weights ([`Server::small`]).
    Small,
}

/// All servers of the tables.
pub(crate) struct Servers {
    usual: Server,
    small: Server,
}

impl Servers {
    pub(crate) fn start() -> Self {
        Self {
            usual: Server::start(),
            small: Server::small(),
        }
    }

    pub(crate) fn get(&self, kind: Kind) -> &Server {
        match kind {
            Kind::Usual => &self.usual,
            Kind::Small => &self.small,
        }
    }
}

/// A running server; dropping it ends the program.
pub(crate) struct Server {
    address: String,
    client: reqwest::Client,
    _program: Running,
    _folder: TempDir,
}

/// A received HTTP response.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The entries of the header `x-ortolan-ignored`.
    pub(crate) ignored: Vec<String>,
    /// Whether the response is an event stream.
    pub(crate) streamed: bool,
    /// The JSON body, or the stream's events in an array.
    pub(crate) body: Value,
}

impl Server {
    /// The default model with all optional endpoints enabled.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().to_str().unwrap();
        let started = ready_with(&["--embedding", "--props", "--slot-save-path", files]);
        Self::new(started, folder)
    }

    /// A model with random weights that supports infill with files and reasoning, and has a LoRA adapter.
    pub(crate) fn small() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metadata = [
            ("llama.context_length", Metadata::U32(1024)),
            ("tokenizer.chat_template", Metadata::Text(TEMPLATE)),
            ("tokenizer.ggml.fim_sep_token_id", Metadata::U32(FILE_TOKEN)),
        ];
        let model = tiny::model(folder.path(), &metadata);
        let adapter = folder.path().join("adapter.gguf");
        let queries = (0..2).map(|layer| (format!("blk.{layer}.attn_q.weight"), [64, 64]));
        lora::write(&adapter, "llama", 4, &queries.collect::<Vec<_>>(), 1);
        let mut command = ortolan();
        command.arg("-m").arg(model).args(["--parallel", "2"]);
        command.arg("--lora").arg(adapter).arg("--props");
        let (mut program, address) = listening(command);
        program.wait_for_log("the model is ready");
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

    /// Sends a POST request.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        let request = self.client.post(format!("{}{path}", self.address));
        let response = request.json(body).send().await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        let ignored = header("x-ortolan-ignored");
        let ignored = ignored.split(',').filter(|entry| !entry.is_empty());
        let ignored = ignored.map(percent_decode).collect();
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
            false => serde_json::from_str(&text).unwrap_or_else(|_| json!({ "not JSON": text })),
        };
        Response {
            status,
            ignored,
            streamed,
            body,
        }
    }

    /// Sends a GET request; returns the JSON response.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.address));
        request.send().await.unwrap().json().await.unwrap()
    }

    /// The entry of `/slots` for the request that was started last.
    pub(crate) async fn last_slot(&self) -> Value {
        let slots = self.get("/slots").await;
        let task = |slot: &&Value| slot["task_id"].as_i64().unwrap();
        slots
            .as_array()
            .unwrap()
            .iter()
            .max_by_key(task)
            .unwrap()
            .clone()
    }
}

/// Decodes a percent-encoded entry.
fn percent_decode(entry: &str) -> String {
    let query = format!("entry={entry}").replace('+', "%2B");
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.next().unwrap().1.into_owned()
}
