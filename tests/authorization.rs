//! What each API key may see and change over HTTP: every operation of the document without a key, with the key of
//! another client and with an operator key, also under unusual spellings of its path.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::tiny;
use crate::program::ortolan;
use crate::running::Running;

/// Ada's prompt, which no other client may read.
const SECRET: &str = "the-secret-of-ada";
/// Two client keys and an operator key.
const ADA: &str = "key-of-ada";
const BEN: &str = "key-of-ben";
const OPERATOR: &str = "key-of-the-operator";

/// A server with a small model; dropping it ends the program.
struct Server {
    address: String,
    folder: TempDir,
    /// The log lines up to the one with `listening`.
    log: String,
    _program: Running,
}

/// A received HTTP response.
struct Response {
    status: u16,
    /// Status line and headers in lower case.
    head: String,
    body: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    fn contains(&self, text: &str) -> bool {
        self.body.contains(text) || self.head.contains(&text.to_lowercase())
    }
}

impl Server {
    /// Starts a server with these client keys and operator keys.
    fn start(keys: &[&str], operators: &[&str], options: &[&str]) -> Self {
        Self::without_alias(keys, operators, &[&["-a", "wren"], options].concat())
    }

    /// Like [`Server::start`], without `--alias`: the model's name is the path of its file.
    fn without_alias(keys: &[&str], operators: &[&str], options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let slots = folder.path().join("slots");
        fs::create_dir(&slots).unwrap();
        let mut command = ortolan();
        command.arg("-m").arg(tiny::model(folder.path(), &[]));
        command.args(["--parallel", "2", "--metrics", "--embedding"]);
        command.arg("--slot-save-path").arg(&slots).args(options);
        let files = [("--api-key-file", keys), ("--operator-key-file", operators)];
        for (option, keys) in files.into_iter().filter(|(_, keys)| !keys.is_empty()) {
            let path = folder.path().join(option);
            fs::write(&path, keys.join("\n")).unwrap();
            command.arg(option).arg(path);
        }
        let mut program = Running::start(&mut command);
        let mut log = String::new();
        let listening = program.errors.find(|line| {
            log += line;
            line.contains("listening")
        });
        let listening: Value = serde_json::from_str(&listening.unwrap()).unwrap();
        let address = listening["address"].as_str().unwrap();
        program.wait_for_log("the model is ready");
        Self {
            address: address.strip_prefix("http://").unwrap().to_owned(),
            folder,
            log,
            _program: program,
        }
    }

    /// Sends a request verbatim: no library normalizes the path.
    fn send(&self, key: Option<&str>, method: &str, target: &str, body: &str) -> Response {
        let key = key.map_or_else(String::new, |key| {
            format!("authorization: Bearer {key}\r\n")
        });
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: localhost\r\n{key}content-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        socket.read_to_end(&mut response).unwrap();
        let response = String::from_utf8_lossy(&response).into_owned();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        Response {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    fn get(&self, key: Option<&str>, target: &str) -> Response {
        self.send(key, "GET", target, "")
    }

    fn post(&self, key: &str, target: &str, body: &Value) -> Response {
        self.send(Some(key), "POST", target, &body.to_string())
    }

    /// Requests a completion of `prompt` in `slot`.
    fn complete(&self, key: &str, prompt: &str, slot: usize) -> Value {
        let body = json!({"prompt": prompt, "n_predict": 1, "id_slot": slot, "cache_prompt": true});
        let response = self.post(key, "/completion", &body);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }
}

/// The key that an operation requires.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RequiredKey {
    Nothing,
    /// Any key.
    Key,
    /// An operator key.
    Operator,
}

use RequiredKey::{Key, Nothing, Operator};

/// Every operation of the document: method, path, body, and the key that a request with this body requires.
#[rustfmt::skip]
const OPERATIONS: &[(&str, &str, &str, RequiredKey)] = &[
    ("GET", "/health", "", Nothing),
    ("GET", "/v1/health", "", Nothing),
    ("GET", "/docs", "", Nothing),
    ("GET", "/openapi.json", "", Nothing),
    ("GET", "/openapi.yaml", "", Nothing),
    ("GET", "/metrics", "", Key),
    ("GET", "/slots", "", Key),
    ("GET", "/props", "", Key),
    ("POST", "/props", r#"{}"#, Key),
    ("POST", "/slots/{id_slot}", r#"{}"#, Key),
    ("GET", "/lora-adapters", "", Key),
    ("POST", "/lora-adapters", r#"[]"#, Operator),
    ("POST", "/completion", r#"{"prompt": "a", "n_predict": 1}"#, Key),
    ("POST", "/completion", r#"{"prompt": "a", "n_predict": 1, "system_prompt": ""}"#, Operator),
    ("POST", "/completion", r#"{"system_prompt": {"prompt": ""}}"#, Operator),
    ("POST", "/completions", r#"{"prompt": "a", "n_predict": 1}"#, Key),
    ("POST", "/completions", r#"{"system_prompt": {"prompt": ""}}"#, Operator),
    ("POST", "/infill", r#"{"input_prefix": "a", "input_suffix": "b", "n_predict": 1}"#, Key),
    ("POST", "/infill", r#"{"input_prefix": "a", "input_suffix": "b", "n_predict": 1, "system_prompt": ""}"#, Operator),
    ("POST", "/embedding", r#"{"content": "a"}"#, Key),
    ("POST", "/embeddings", r#"{"content": "a"}"#, Key),
    ("POST", "/tokenize", r#"{"content": "a"}"#, Key),
    ("POST", "/detokenize", r#"{"tokens": [1]}"#, Key),
    ("POST", "/apply-template", r#"{"messages": []}"#, Key),
    ("GET", "/v1/models", "", Key),
    ("GET", "/models", "", Key),
    ("GET", "/v1/models/{model}", "", Key),
    ("GET", "/models/{model}", "", Key),
    ("POST", "/v1/completions", r#"{"prompt": "a", "max_tokens": 1}"#, Key),
    ("POST", "/v1/chat/completions", r#"{"messages": []}"#, Key),
    ("POST", "/chat/completions", r#"{"messages": []}"#, Key),
    ("POST", "/v1/chat/completions/input_tokens", r#"{"messages": []}"#, Key),
    ("POST", "/chat/completions/input_tokens", r#"{"messages": []}"#, Key),
    ("POST", "/v1/embeddings", r#"{"input": "a"}"#, Key),
    ("POST", "/v1/rerank", r#"{"query": "a", "texts": ["b"]}"#, Key),
    ("POST", "/rerank", r#"{"query": "a", "texts": ["b"]}"#, Key),
    ("POST", "/reranking", r#"{"query": "a", "texts": ["b"]}"#, Key),
    ("POST", "/v1/reranking", r#"{"query": "a", "texts": ["b"]}"#, Key),
    ("POST", "/v1/responses", r#"{}"#, Key),
    ("POST", "/responses", r#"{}"#, Key),
    ("POST", "/responses/input_tokens", r#"{}"#, Key),
    ("POST", "/v1/responses/input_tokens", r#"{}"#, Key),
    ("GET", "/v1/responses/{response_id}", "", Key),
    ("DELETE", "/v1/responses/{response_id}", "", Key),
    ("POST", "/v1/responses/{response_id}/cancel", "", Key),
    ("GET", "/v1/responses/{response_id}/input_items", "", Key),
    ("POST", "/v1/messages", r#"{}"#, Key),
    ("POST", "/v1/messages/count_tokens", r#"{}"#, Key),
];

#[test]
fn every_operation_requires_the_key_of_the_table() {
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    for (method, path, body, required) in OPERATIONS {
        let target = path.replace("{id_slot}", "0").replace("{model}", "wren");
        let target = target.replace("{response_id}", "resp_1");
        for (key, is_authenticated, is_allowed) in [
            (None, *required == Nothing, false),
            (Some("guessed"), *required == Nothing, false),
            (Some(BEN), true, *required != Operator),
            (Some(OPERATOR), true, true),
        ] {
            let response = server.send(key, method, &target, body);
            let expected = match (is_authenticated, is_allowed) {
                (false, _) => Some(401),
                (true, false) => (*required == Operator).then_some(403),
                // The key permits the operation; the body may still be rejected.
                (true, true) => None,
            };
            let case = format!(
                "{method} {path} {body} as {key:?}: {} {}",
                response.status, response.body
            );
            match expected {
                Some(status) => assert_eq!(response.status, status, "{case}"),
                None => assert!(![401, 403, 500].contains(&response.status), "{case}"),
            }
            if expected == Some(403) {
                assert_eq!(
                    response.json()["error"]["type"],
                    "permission_error",
                    "{case}"
                );
            }
        }
    }
}

#[test]
fn the_table_has_every_operation_of_the_document() {
    let document: Value = serde_json::from_str(ortolan::api::document::JSON).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let documented: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let listed = OPERATIONS
        .iter()
        .map(|(method, path, ..)| format!("{method} {path}"));
    assert_eq!(documented, listed.collect());
}

/// Variants of a path and query that a simple string comparison would not recognize.
fn spellings(path: &str) -> Vec<String> {
    let name = path.trim_start_matches('/');
    let escaped = format!("/%{:02x}{}", name.as_bytes()[0], &name[1..]);
    [
        path.to_owned(),
        format!("{path}/"),
        format!("/{path}"),
        format!("/.{path}"),
        format!("/x/..{path}"),
        format!("{path}?include_slots"),
        format!("{path}?include_slots=1&fail_on_no_slot"),
        format!("{path}?INCLUDE_SLOTS"),
        format!("{path}?x=%00&include_slots"),
        format!("{path};include_slots"),
        format!("{path}%3finclude_slots"),
        format!("{path}%00"),
        path.to_uppercase(),
        escaped,
        format!("http://localhost{path}?include_slots"),
    ]
    .into()
}

#[test]
fn no_spelling_of_a_path_shows_another_keys_prompt_or_the_models_folder() {
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    server.complete(ADA, SECRET, 0);
    server.complete(BEN, "a question of Ben's", 1);
    let folder = server.folder.path().to_str().unwrap();
    let paths = OPERATIONS.iter().map(|(_, path, ..)| *path);
    let mut paths: BTreeSet<&str> = paths.filter(|path| !path.contains('{')).collect();
    paths.extend(["/slots/0", "/v1/models/wren", "/nothing", "/index.html"]);
    let mut successes = 0;
    for path in paths {
        for target in spellings(path) {
            for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "get", "TRACE"] {
                for key in [None, Some("guessed"), Some(BEN)] {
                    let response = server.send(key, method, &target, "");
                    let shown = response.contains(SECRET) || response.contains(folder);
                    assert!(!shown, "{method} {target} as {key:?}: {}", response.body);
                    successes += usize::from(response.status == 200);
                }
            }
        }
    }
    // If the server rejected every request, the assertions above would always hold.
    assert!(successes > 100, "{successes}");
}

#[test]
fn slots_are_visible_to_their_key_and_to_operators() {
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    server.complete(ADA, SECRET, 0);
    server.complete(BEN, "a question of Ben's", 1);
    for path in [
        "/slots",
        "/health?include_slots",
        "/v1/health?include_slots=0",
    ] {
        for (key, prompts) in [
            (ADA, [SECRET, ""]),
            (BEN, ["", "a question of Ben's"]),
            (OPERATOR, [SECRET, "a question of Ben's"]),
        ] {
            let response = server.get(Some(key), path).json();
            let slots = response.get("slots").unwrap_or(&response);
            for (slot, prompt) in prompts.iter().enumerate() {
                assert_eq!(
                    slots[slot]["prompt"], *prompt,
                    "{path} as {key}: slot {slot}"
                );
                let is_shown = slots[slot]["task_id"] != -1;
                assert_eq!(is_shown, !prompt.is_empty(), "{path} as {key}: slot {slot}");
            }
        }
    }
    // Without a key, `/health` shows only the state.
    let health = server.get(None, "/health?include_slots");
    let expected = json!({"status": "ok", "slots_idle": 2, "slots_processing": 0});
    assert_eq!((health.status, health.json()), (200, expected));
}

#[test]
fn only_operators_see_folders() {
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    let path = |key| server.get(Some(key), "/props").json()["model_path"].clone();
    assert_eq!(path(ADA), "tiny.gguf");
    let whole = server.folder.path().join("tiny.gguf");
    assert_eq!(path(OPERATOR), whole.to_str().unwrap());
}

#[test]
fn the_log_warns_if_several_keys_can_read_the_models_path() {
    for (keys, options, warns) in [
        (&[ADA, BEN][..], &[][..], true),
        (&[ADA, BEN], &["-a", "wren"], false),
        // The only key is also the operator key.
        (&[ADA], &[], false),
    ] {
        let server = Server::without_alias(keys, &[], options);
        let models = server.get(Some(ADA), "/v1/models");
        let folder = server.folder.path().to_str().unwrap();
        assert_eq!(
            models.contains(folder),
            options.is_empty(),
            "{}",
            models.body
        );
        let has_warned = server.log.contains("--alias");
        assert_eq!(has_warned, warns, "{keys:?} {options:?}");
    }
}

#[test]
fn only_operators_change_the_global_system_prompt_unless_props_is_enabled() {
    let body = json!({"system_prompt": "Once"});
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    assert_eq!(server.post(ADA, "/completion", &body).status, 403);
    let current = || server.get(Some(ADA), "/props").json()["system_prompt"].clone();
    assert_eq!(current(), "");
    assert_eq!(server.post(OPERATOR, "/completion", &body).status, 200);
    assert_eq!(current(), "Once");

    let server = Server::start(&[ADA, BEN], &[], &["--props"]);
    assert_eq!(server.post(ADA, "/completion", &body).status, 200);
    assert_eq!(server.post(BEN, "/props", &body).status, 200);
    assert_eq!(server.post(BEN, "/lora-adapters", &json!([])).status, 200);
}

#[test]
fn a_single_key_has_operator_rights() {
    let server = Server::start(&[ADA], &[], &[]);
    let body = json!({"system_prompt": "Once"});
    assert_eq!(server.post(ADA, "/completion", &body).status, 200);
    assert_eq!(server.post(ADA, "/lora-adapters", &json!([])).status, 200);
    server.complete(ADA, SECRET, 0);
    assert_eq!(
        server.get(Some(ADA), "/slots").json()[0]["prompt"],
        format!("Once{SECRET}")
    );
    assert!(!server.get(None, "/health?include_slots").contains(SECRET));
}

#[test]
fn saved_slots_belong_to_their_key() {
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    let act = |key: &str, slot: usize, action: &str, name: &str| {
        let response = server.post(
            key,
            &format!("/slots/{slot}?action={action}"),
            &json!({"filename": name}),
        );
        response.status
    };
    server.complete(ADA, SECRET, 0);
    assert_eq!(act(ADA, 0, "save", "mine"), 200);
    // Another key can neither save the slot, nor erase it, nor restore the file.
    assert_eq!(act(BEN, 0, "save", "mine"), 403);
    assert_eq!(act(BEN, 0, "erase", "mine"), 403);
    assert_eq!(act(BEN, 1, "restore", "mine"), 400);
    let folders = fs::read_dir(server.folder.path().join("slots")).unwrap();
    let folders: Vec<_> = folders.map(|entry| entry.unwrap().file_name()).collect();
    for folder in &folders {
        let name = format!("../{}/mine", folder.to_str().unwrap());
        assert_eq!(act(BEN, 1, "restore", &name), 400, "{name}");
        assert_eq!(act(BEN, 1, "restore", folder.to_str().unwrap()), 400);
    }
    assert_eq!(act(ADA, 1, "restore", "mine"), 200);
    // The restored slot belongs to Ada too.
    assert_eq!(act(BEN, 1, "save", "hers"), 403);
    assert_eq!(act(OPERATOR, 0, "save", "hers"), 200);
    assert_eq!(act(OPERATOR, 0, "erase", ""), 200);
}

#[test]
fn a_key_cannot_restore_into_another_keys_slot() {
    let server = Server::start(&[ADA, BEN], &[], &[]);
    let act = |slot: usize, action: &str| {
        let target = format!("/slots/{slot}?action={action}");
        server
            .post(BEN, &target, &json!({"filename": "mine"}))
            .status
    };
    server.complete(ADA, SECRET, 0);
    server.complete(BEN, "a question of Ben's", 1);
    assert_eq!(act(1, "save"), 200);
    assert_eq!(act(0, "restore"), 403);
    assert_eq!(server.get(Some(ADA), "/slots").json()[0]["prompt"], SECRET);
    assert_eq!(act(1, "restore"), 200);
}

#[test]
fn a_slot_without_a_recorded_request_is_unavailable_rather_than_forbidden() {
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    // An embedding occupies one of the two slots, and the slot records no request.
    assert_eq!(
        server
            .post(ADA, "/embedding", &json!({"content": "a"}))
            .status,
        200
    );
    for (key, expected) in [(ADA, [200, 503]), (OPERATOR, [200, 200])] {
        let mut statuses = [0, 1].map(|slot| {
            let target = format!("/slots/{slot}?action=save");
            server
                .post(key, &target, &json!({"filename": "mine"}))
                .status
        });
        statuses.sort_unstable();
        assert_eq!(statuses, expected, "{key}");
    }
}

#[test]
fn the_limit_of_saved_slots_applies_to_each_key() {
    let server = Server::start(&[ADA, BEN], &[], &["--slot-save-max-files", "1"]);
    let save = |key: &str, slot: usize, name: &str| {
        let body = json!({"filename": name});
        let response = server.post(key, &format!("/slots/{slot}?action=save"), &body);
        response.status
    };
    server.complete(ADA, SECRET, 0);
    server.complete(BEN, "a question of Ben's", 1);
    assert_eq!(save(ADA, 0, "first"), 200);
    assert_ne!(save(ADA, 0, "second"), 200);
    assert_eq!(save(BEN, 1, "first"), 200);
    // An existing file may be replaced.
    assert_eq!(save(ADA, 0, "first"), 200);
}

#[test]
fn keys_share_the_prefix_cache_unless_cache_per_key_is_set() {
    let prompt = "It was the best of times, it was the worst of times, it was the age of wisdom";
    for (options, shared) in [(&[][..], true), (&["--cache-per-key"], false)] {
        let server = Server::start(&[ADA, BEN], &[], options);
        let cached = |key| {
            let response = server.complete(key, prompt, 0);
            response["tokens_cached"].as_u64().unwrap() > 0
        };
        assert!(!cached(ADA));
        assert!(cached(ADA));
        assert_eq!(cached(BEN), shared, "{options:?}");
        assert!(cached(BEN));
    }
}

#[test]
fn the_maximum_priority_applies_to_all_but_operators() {
    let ignored = |server: &Server, key: &str, path: &str, priority: i32| {
        let body = json!({"prompt": "a", "max_tokens": 1, "priority": priority});
        let response = server.post(key, path, &body);
        assert_eq!(response.status, 200, "{}", response.body);
        response.head.contains("x-ortolan-ignored: priority")
    };
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &[]);
    for path in ["/completion", "/v1/completions"] {
        assert!(ignored(&server, ADA, path, 1));
        assert!(!ignored(&server, ADA, path, 0) && !ignored(&server, ADA, path, -5));
        assert!(!ignored(&server, OPERATOR, path, 1_000_000));
    }
    let server = Server::start(&[ADA, BEN], &[OPERATOR], &["--max-priority", "-1"]);
    assert!(ignored(&server, BEN, "/completion", 0));
    assert!(!ignored(&server, BEN, "/completion", -1));
}
