use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const FILE: &str = "/ada/birds/resolve/main/wren-Q8_0.gguf";

/// A request as the test hub received it.
#[derive(Debug, Clone)]
struct ReceivedRequest {
    path: String,
    headers: HashMap<String, String>,
}

impl ReceivedRequest {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A response for the test hub to send.
struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Number of body bytes to send before the connection is closed.
    sent_bytes: usize,
    /// Whether to send a `content-length` header.
    declares_length: bool,
}

impl Response {
    fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            sent_bytes: body.len(),
            declares_length: true,
        }
    }

    /// Removes the `content-length` header: the end of the connection ends the body.
    fn without_length(mut self) -> Self {
        self.declares_length = false;
        self
    }

    fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Closes the connection after `bytes` bytes of the body.
    fn truncated(mut self, bytes: usize) -> Self {
        self.sent_bytes = bytes;
        self
    }

    /// Returns `content`, or the requested range of `content` if `if-range` matches `etag`.
    fn file(request: &ReceivedRequest, content: &[u8], etag: &str) -> Self {
        let begin = request
            .header("range")
            .filter(|_| request.header("if-range") == Some(etag));
        let begin: Option<usize> = begin.map(|range| {
            range["bytes=".len()..]
                .trim_end_matches('-')
                .parse()
                .unwrap()
        });
        let length = content.len();
        let response = match begin {
            None => Self::new(200, content),
            Some(begin) if begin < length => Self::new(206, &content[begin..]).with_header(
                "content-range",
                format!("bytes {begin}-{}/{length}", length - 1),
            ),
            Some(_) => {
                Self::new(416, b"").with_header("content-range", format!("bytes */{length}"))
            }
        };
        response.with_header("etag", etag)
    }
}

/// A local HTTP server that imitates a hub and records requests.
struct TestHub {
    url: Url,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl TestHub {
    /// Starts the server. `respond` receives the number of earlier requests and the current request.
    async fn new(
        respond: impl Fn(usize, &ReceivedRequest) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let hub = Self {
            url: Url::parse(&url).unwrap(),
            requests: Arc::default(),
        };
        let (requests, respond) = (Arc::clone(&hub.requests), Arc::new(respond));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (requests, respond) = (Arc::clone(&requests), Arc::clone(&respond));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(socket.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    let mut lines = head.lines();
                    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
                    let headers = lines.filter_map(|line| line.split_once(": "));
                    let headers =
                        headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
                    let request = ReceivedRequest {
                        path,
                        headers: headers.collect(),
                    };
                    let earlier_requests = {
                        let mut requests = requests.lock().unwrap();
                        requests.push(request.clone());
                        requests.len() - 1
                    };
                    let response = respond(earlier_requests, &request);
                    let mut text = format!("HTTP/1.1 {} -\r\n", response.status);
                    for (name, value) in response.headers {
                        text += &format!("{name}: {value}\r\n");
                    }
                    if response.declares_length {
                        text += &format!("content-length: {}\r\n", response.body.len());
                    }
                    text += "\r\n";
                    socket.write_all(text.as_bytes()).await.unwrap();
                    socket
                        .write_all(&response.body[..response.sent_bytes])
                        .await
                        .unwrap();
                });
            }
        });
        hub
    }

    fn requests(&self) -> Vec<ReceivedRequest> {
        self.requests.lock().unwrap().clone()
    }
}

/// Options of a client of the test hub, with a temporary download folder.
struct TestClient {
    folder: TempDir,
    options: HubOptions,
}

impl TestClient {
    fn new(hub: &TestHub) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = HubOptions {
            endpoint: hub.url.clone(),
            token: None,
            folder: folder.path().to_owned(),
            offline: false,
            retry_delay: Duration::ZERO,
            max_bytes: u64::MAX,
            check: |_| Ok(()),
        };
        Self { folder, options }
    }

    fn with_token(mut self, token: &str) -> Self {
        self.options.token = Some(token.to_owned());
        self
    }

    fn download(&self, selector: FileSelector) -> Download {
        Download::from_repository("ada/birds", selector, None, self.options.clone()).unwrap()
    }

    /// Downloads [`FILE`].
    async fn fetch(&self) -> Result<PathBuf, HubError> {
        let file = FileSelector::Path("wren-Q8_0.gguf".to_owned());
        self.download(file).run(&mut |_| ()).await
    }

    /// Returns the names of all files below the download folder, sorted.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path.file_name().unwrap().to_str().unwrap().to_owned()),
                }
            }
        }
        files.sort();
        files
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index % 251) as u8).collect()
}

fn sha256(content: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test]
async fn downloads_a_file_once() {
    let hub = TestHub::new(|_, request| Response::file(request, &content(5000), "\"a\"")).await;
    let mut client = TestClient::new(&hub);
    let mut reports = Vec::new();
    let file = FileSelector::Path("wren-Q8_0.gguf".to_owned());
    let download = client.download(file.clone());
    let path = download
        .run(&mut |progress| reports.push(progress))
        .await
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), content(5000));
    assert!(path.ends_with("ada/birds/wren-Q8_0.gguf"), "{path:?}");
    let last = reports.last().unwrap();
    assert_eq!(
        (last.bytes_done, last.bytes, last.fraction()),
        (5000, Some(5000), 1.0)
    );
    assert_eq!(client.files(), ["wren-Q8_0.gguf"]);

    assert_eq!(client.fetch().await.unwrap(), path);
    client.options.offline = true;
    assert_eq!(client.download(file).find_local().unwrap(), Some(path));
    let paths: Vec<String> = hub
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(paths, [FILE]);
}

#[tokio::test]
async fn offline_mode_sends_no_requests() {
    let hub = TestHub::new(|_, _| Response::new(200, b"a file")).await;
    let mut client = TestClient::new(&hub);
    client.options.offline = true;
    for selector in [
        FileSelector::Default,
        FileSelector::Path("wren.gguf".to_owned()),
    ] {
        let download = client.download(selector);
        let message = download.find_local().unwrap_err().to_string();
        assert!(
            message.contains("--offline forbids downloading"),
            "{message}"
        );
        download.run(&mut |_| ()).await.unwrap_err();
    }
    assert!(hub.requests().is_empty());
}

#[tokio::test]
async fn resumes_an_interrupted_download() {
    let hub = TestHub::new(|earlier_requests, request| {
        let response = Response::file(request, &content(5000), "\"a\"");
        match earlier_requests {
            0 => response.truncated(1000),
            1 => response.truncated(500),
            _ => response,
        }
    });
    let hub = hub.await;
    let client = TestClient::new(&hub);
    let path = client.fetch().await.unwrap();
    assert_eq!(fs::read(path).unwrap(), content(5000));
    let ranges: Vec<Option<String>> = hub
        .requests()
        .iter()
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    let expected = [None, Some("bytes=1000-"), Some("bytes=1500-")];
    assert_eq!(ranges, expected.map(|range| range.map(str::to_owned)));
}

/// Lets a first process receive 1000 bytes, and a second process continue with responses from `respond`.
async fn second_process(
    respond: impl Fn(&ReceivedRequest) -> Response + Send + Sync + 'static,
) -> (TestHub, TestClient, Result<PathBuf, HubError>) {
    let hub = TestHub::new(move |earlier_requests, request| match earlier_requests {
        0 => Response::file(request, &content(5000), "\"a\"").truncated(1000),
        1 => Response::new(404, b""),
        _ => respond(request),
    });
    let hub = hub.await;
    let client = TestClient::new(&hub);
    client.fetch().await.unwrap_err();
    let partial_files = [
        "wren-Q8_0.gguf.lock",
        "wren-Q8_0.gguf.part",
        "wren-Q8_0.gguf.part.json",
    ];
    assert_eq!(client.files(), partial_files);
    let result = client.fetch().await;
    (hub, client, result)
}

#[tokio::test]
async fn another_process_resumes_a_download() {
    let (hub, client, path) =
        second_process(|request| Response::file(request, &content(5000), "\"a\"")).await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), content(5000));
    let last = hub.requests().pop().unwrap();
    assert_eq!(last.header("range"), Some("bytes=1000-"));
    assert_eq!(last.header("if-range"), Some("\"a\""));
    assert_eq!(client.files(), ["wren-Q8_0.gguf"]);
}

#[tokio::test]
async fn a_changed_file_is_downloaded_from_the_beginning() {
    let (_hub, _client, path) =
        second_process(|request| Response::file(request, &content(300), "\"b\"")).await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), content(300));

    // A server that ignores `if-range` sends a range of the changed file.
    let (hub, _client, path) = second_process(|request| match request.header("range") {
        Some(_) => Response::new(206, &[7; 4000])
            .with_header("content-range", "bytes 1000-4999/5000")
            .with_header("etag", "\"b\""),
        None => Response::file(request, &[7; 5000], "\"b\""),
    })
    .await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), [7; 5000]);
    assert_eq!(hub.requests().last().unwrap().header("range"), None);
}

#[tokio::test]
async fn a_complete_partial_file_is_accepted() {
    let digest = sha256(&content(1000));
    let (hub, _client, path) = second_process(move |request| {
        Response::file(request, &content(1000), "\"a\"")
            .with_header("x-linked-etag", format!("\"{digest}\""))
    })
    .await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), content(1000));
    assert_eq!(hub.requests().len(), 3);
}

#[tokio::test]
async fn rejects_a_file_that_does_not_match_the_metadata() {
    for (name, value, cause) in [
        ("x-linked-etag", sha256(b"another file"), "SHA-256"),
        (
            "x-linked-size",
            "4999".to_owned(),
            "size at least 5000 instead of 4999",
        ),
    ] {
        let hub = TestHub::new(move |_, request| {
            Response::file(request, &content(5000), "\"a\"").with_header(name, value.clone())
        });
        let client = TestClient::new(&hub.await);
        let message = client.fetch().await.unwrap_err().to_string();
        assert!(message.contains(cause), "{message}");
        assert_eq!(client.files(), ["wren-Q8_0.gguf.lock"]);
    }
}

#[tokio::test]
async fn rejects_a_file_that_is_too_short() {
    let hub = TestHub::new(|_, request| {
        Response::file(request, &content(5000), "\"a\"").with_header("x-linked-size", "5001")
    });
    let hub = hub.await;
    let client = TestClient::new(&hub);
    let message = client.fetch().await.unwrap_err().to_string();
    assert!(
        !client.files().contains(&"wren-Q8_0.gguf".to_owned()),
        "{message}"
    );
}

#[tokio::test]
async fn error_messages_say_what_to_do() {
    for (status, token, cause) in [
        (404, None, "not found (404)"),
        (401, None, "(401): set --hf-token"),
        (403, Some("mine"), "(403): the token has no access"),
        (400, None, "status 400"),
    ] {
        let hub = TestHub::new(move |_, _| Response::new(status, b"")).await;
        let client = TestClient::new(&hub);
        let client = match token {
            Some(token) => client.with_token(token),
            None => client,
        };
        let message = client.fetch().await.unwrap_err().to_string();
        assert!(message.contains(cause), "{message}");
        assert!(message.contains(FILE), "{message}");
        let requests = hub.requests();
        assert_eq!(requests.len(), 1, "another attempt is useless");
        let expected = token.map(|token| format!("Bearer {token}"));
        assert_eq!(requests[0].header("authorization"), expected.as_deref());
    }
}

#[tokio::test]
async fn rejects_a_web_page() {
    let hub = TestHub::new(|_, _| {
        Response::new(200, b"<html>").with_header("content-type", "text/html; charset=utf-8")
    });
    let hub = hub.await;
    let client = TestClient::new(&hub);
    let message = client.fetch().await.unwrap_err().to_string();
    assert!(message.ends_with("is a web page, not a file"), "{message}");
    assert_eq!(client.files(), ["wren-Q8_0.gguf.lock"]);
}

#[tokio::test]
async fn messages_do_not_contain_secrets_of_the_url() {
    let hub = TestHub::new(|_, _| Response::new(404, b"")).await;
    let mut url = hub.url.join("wren.gguf?signature=secret").unwrap();
    url.set_username("ada").unwrap();
    url.set_password(Some("secret")).unwrap();
    let options = TestClient::new(&hub).options;
    let download = Download::from_url(url.as_str(), None, options).unwrap();
    let error = download.run(&mut |_| ()).await.unwrap_err();
    for message in [download.to_string(), error.to_string()] {
        assert!(
            message.contains("/wren.gguf") && !message.contains("secret"),
            "{message}"
        );
    }
    assert_eq!(hub.requests()[0].path, "/wren.gguf?signature=secret");
}

#[tokio::test]
async fn retries_temporary_errors() {
    let hub = TestHub::new(|earlier_requests, request| match earlier_requests {
        0..4 => Response::new(503, b""),
        _ => Response::file(request, &content(10), "\"a\""),
    });
    TestClient::new(&hub.await).fetch().await.unwrap();

    let hub = TestHub::new(|_, _| Response::new(503, b"")).await;
    let message = TestClient::new(&hub).fetch().await.unwrap_err().to_string();
    assert!(message.ends_with("status 503"), "{message}");
    assert_eq!(hub.requests().len(), 5);
}

#[tokio::test]
async fn a_failed_connection_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/wren.gguf", listener.local_addr().unwrap());
    drop(listener);
    let hub = TestHub::new(|_, _| Response::new(404, b"")).await;
    let client = TestClient::new(&hub);
    let download = Download::from_url(&url, None, client.options.clone()).unwrap();
    let message = download.run(&mut |_| ()).await.unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("cannot download {url}: ")),
        "{message}"
    );
}

#[tokio::test]
async fn the_token_is_sent_only_to_the_hub() {
    let storage = TestHub::new(|_, request| Response::file(request, &content(5000), "\"s\"")).await;
    let storage_url = storage.url.join("blobs/1?signed=yes").unwrap();
    let hub = TestHub::new(move |earlier_requests, _| match earlier_requests {
        // The hub redirects to itself, then to the storage server, with the metadata of the file.
        0 => Response::new(307, b"").with_header("location", "/moved/wren-Q8_0.gguf"),
        _ => Response::new(302, b"")
            .with_header("location", storage_url.as_str())
            .with_header("x-linked-size", "5000")
            .with_header("x-linked-etag", format!("\"{}\"", sha256(&content(5000)))),
    });
    let hub = hub.await;
    let client = TestClient::new(&hub).with_token("mine");
    client.fetch().await.unwrap();
    let token = Some("Bearer mine");
    let requests = hub.requests();
    assert_eq!(requests[0].header("authorization"), token);
    assert_eq!(requests[1].path, "/moved/wren-Q8_0.gguf");
    assert_eq!(requests[1].header("authorization"), token);
    let requests = storage.requests();
    assert_eq!(requests[0].path, "/blobs/1?signed=yes");
    assert_eq!(requests[0].header("authorization"), None);
}

#[tokio::test]
async fn limits_the_number_of_redirects() {
    let hub = TestHub::new(|_, request| {
        Response::new(302, b"").with_header("location", request.path.clone())
    });
    let message = TestClient::new(&hub.await)
        .fetch()
        .await
        .unwrap_err()
        .to_string();
    assert!(message.contains("too many redirects"), "{message}");
}

/// Starts a hub with a repository of `files`. The content of each file is its path.
async fn repository(files: &'static [&'static str]) -> TestHub {
    TestHub::new(|_, request| {
        if request.path == "/api/models/ada/birds/tree/main?recursive=true" {
            let entry = |file| serde_json::json!({"type": "file", "path": file, "size": 1});
            let list = serde_json::Value::from_iter(files.iter().map(entry));
            return Response::new(200, list.to_string().as_bytes());
        }
        let file = request.path.strip_prefix("/ada/birds/resolve/main/");
        match file.filter(|file| files.contains(file)) {
            Some(file) => Response::file(request, file.as_bytes(), "\"a\""),
            None => Response::new(404, b""),
        }
    })
    .await
}

#[tokio::test]
async fn selects_a_file_from_the_listing_of_the_repository() {
    let files = &[
        "README.md",
        "wren-Q4_0.gguf",
        "wren-Q8_0.gguf",
        "../wren-Q4_K_M.gguf",
    ];
    let hub = repository(files).await;
    let client = TestClient::new(&hub);
    let path = client
        .download(FileSelector::Default)
        .run(&mut |_| ())
        .await
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"wren-Q4_0.gguf");
    let requests = hub.requests().len();
    assert_eq!(
        client.download(FileSelector::Default).find_local().unwrap(),
        Some(path)
    );
    assert_eq!(hub.requests().len(), requests, "the selection is stored");

    let download = client.download(FileSelector::Quantization("Q5_1".to_owned()));
    let message = download.run(&mut |_| ()).await.unwrap_err().to_string();
    let expected = "Q5_1 not found in ada/birds; its GGUF files: wren-Q4_0.gguf, wren-Q8_0.gguf";
    assert_eq!(message, expected);
}

#[tokio::test]
async fn downloads_all_shards() {
    let files = &[
        "q/wren-Q8_0-00001-of-00002.gguf",
        "q/wren-Q8_0-00002-of-00002.gguf",
    ];
    let hub = repository(files).await;
    let client = TestClient::new(&hub);
    let (mut fractions, selector) = (Vec::new(), FileSelector::Quantization("Q8_0".to_owned()));
    let download = client.download(selector.clone());
    let path = download
        .run(&mut |progress| fractions.push(progress.fraction()))
        .await
        .unwrap();
    assert!(path.ends_with(files[0]), "{path:?}");
    assert!(
        fractions.is_sorted() && fractions.contains(&0.5) && fractions.last() == Some(&1.0),
        "{fractions:?}"
    );
    let second = path.with_file_name("wren-Q8_0-00002-of-00002.gguf");
    assert_eq!(fs::read(&second).unwrap(), files[1].as_bytes());
    fs::remove_file(second).unwrap();
    assert_eq!(
        client.download(selector).find_local().unwrap(),
        None,
        "a shard is missing"
    );
}

#[tokio::test]
async fn downloads_from_a_url_to_a_given_or_default_path() {
    let hub = repository(&["wren-00001-of-00002.gguf", "wren-00002-of-00002.gguf"]).await;
    let client = TestClient::new(&hub);
    let url = hub
        .url
        .join("/ada/birds/resolve/main/wren-00001-of-00002.gguf")
        .unwrap();
    let destination = |name: &str| Some(client.folder.path().join("mine").join(name));
    let download =
        |destination| Download::from_url(url.as_str(), destination, client.options.clone());
    let message = download(destination("wren.gguf")).unwrap_err().to_string();
    assert!(message.contains("the model has 2 files"), "{message}");
    let to_destination = download(destination("wren-00001-of-00002.gguf")).unwrap();
    let path = to_destination.run(&mut |_| ()).await.unwrap();
    assert_eq!(Some(path), destination("wren-00001-of-00002.gguf"));
    assert!(destination("wren-00002-of-00002.gguf").unwrap().is_file());

    let default_path = download(None).unwrap().run(&mut |_| ()).await.unwrap();
    let port = hub.url.port().unwrap();
    let expected = format!("url/127.0.0.1#{port}/ada/birds/resolve/main/wren-00001-of-00002.gguf");
    assert_eq!(default_path, client.folder.path().join(expected));
}

#[tokio::test]
async fn concurrent_downloads_send_one_request() {
    let hub = TestHub::new(|_, request| Response::file(request, &content(5000), "\"a\"")).await;
    let client = TestClient::new(&hub);
    let (first, second) = tokio::join!(client.fetch(), client.fetch());
    assert_eq!(
        fs::read(first.unwrap()).unwrap(),
        fs::read(second.unwrap()).unwrap()
    );
    assert_eq!(hub.requests().len(), 1);
    assert_eq!(client.files(), ["wren-Q8_0.gguf"]);
}

#[test]
fn rejects_urls_that_are_not_http_addresses_of_files() {
    let options = HubOptions {
        endpoint: Url::parse("http://hub.example").unwrap(),
        token: None,
        folder: PathBuf::new(),
        offline: false,
        retry_delay: Duration::ZERO,
        max_bytes: u64::MAX,
        check: |_| Ok(()),
    };
    for text in [
        "wren.gguf",
        "file:///wren.gguf",
        "http://",
        "http://a.example/folder/",
        "http://a.example/wren.gguf.part",
    ] {
        assert!(
            Download::from_url(text, None, options.clone()).is_err(),
            "{text}"
        );
    }
}

#[tokio::test]
async fn urls_with_another_port_or_query_are_other_files() {
    let hub = |text: &'static str| {
        TestHub::new(move |_, request| {
            Response::new(200, format!("{text} {}", request.path).as_bytes())
        })
    };
    let (one, other) = (hub("one").await, hub("other").await);
    let client = TestClient::new(&one);
    for (hub, text) in [(&one, "one"), (&other, "other")] {
        for path in ["/wren.gguf", "/wren.gguf?v=1", "/wren.gguf?v=2"] {
            let url = hub.url.join(path).unwrap();
            let download = Download::from_url(url.as_str(), None, client.options.clone()).unwrap();
            assert_eq!(download.find_local().unwrap(), None, "{url}");
            let file = download.run(&mut |_| ()).await.unwrap();
            assert_eq!(fs::read(file).unwrap(), format!("{text} {path}").as_bytes());
        }
    }
    // Repositories of the same name on two hubs have different local paths.
    let mut options = client.options.clone();
    client.fetch().await.unwrap();
    options.endpoint = other.url.clone();
    let file = FileSelector::Path("wren-Q8_0.gguf".to_owned());
    let other_hub = Download::from_repository("ada/birds", file, None, options).unwrap();
    assert_eq!(other_hub.find_local().unwrap(), None);
}

#[tokio::test]
async fn requests_for_all_shards_contain_the_query() {
    let hub = TestHub::new(|_, request| Response::file(request, b"a part", "\"a\"")).await;
    let url = hub
        .url
        .join("/wren-00001-of-00002.gguf?signature=1")
        .unwrap();
    let client = TestClient::new(&hub);
    let download = Download::from_url(url.as_str(), None, client.options.clone()).unwrap();
    download.run(&mut |_| ()).await.unwrap();
    let paths: Vec<String> = hub
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    let name = |number| format!("/wren-0000{number}-of-00002.gguf?signature=1");
    assert_eq!(paths, [name(1), name(2)]);
}

#[tokio::test]
async fn rejects_a_file_that_is_not_a_model() {
    let hub = TestHub::new(|_, request| Response::file(request, &content(5000), "\"a\"")).await;
    let mut client = TestClient::new(&hub);
    client.options.check = crate::model::load::check_gguf;
    let message = client.fetch().await.unwrap_err().to_string();
    assert!(message.contains("is not a model: "), "{message}");
    assert!(
        message.contains("does not begin with \"GGUF\""),
        "{message}"
    );
    assert_eq!(client.files(), ["wren-Q8_0.gguf.lock"]);
    assert_eq!(hub.requests().len(), 1);
}

#[tokio::test]
async fn does_not_retry_permanent_errors() {
    for (status, location, requests, cause) in [
        (302, "file:///etc/passwd", 1, "is not http or https"),
        (302, "ftp://a.example/wren.gguf", 1, "is not http or https"),
        (302, "http://", 1, "invalid redirect to http://"),
        (302, FILE, 9, "too many redirects"),
        (416, "", 1, "status 416"),
        (206, "", 1, "status 206"),
        (501, "", 1, "status 501"),
        (505, "", 1, "status 505"),
    ] {
        let hub =
            TestHub::new(move |_, _| Response::new(status, b"").with_header("location", location));
        let hub = hub.await;
        let message = TestClient::new(&hub).fetch().await.unwrap_err().to_string();
        assert!(message.contains(cause), "{status} {location}: {message}");
        assert_eq!(hub.requests().len(), requests, "{status} {location}");
    }
}

#[tokio::test]
async fn does_not_retry_an_invalid_token() {
    let hub = TestHub::new(|_, _| Response::new(200, b"")).await;
    let client = TestClient::new(&hub).with_token("a\nb");
    let error = client.fetch().await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
    assert!(hub.requests().is_empty());
}

/// Lets a first process receive 1000 bytes, changes the partial file with `change`, and lets a second process continue.
async fn changed_part(change: impl FnOnce(&Path)) -> (TestHub, Result<PathBuf, HubError>) {
    let hub = TestHub::new(move |earlier_requests, request| match earlier_requests {
        0 => Response::file(request, &content(5000), "\"a\"").truncated(1000),
        1 => Response::new(404, b""),
        _ => Response::file(request, &content(5000), "\"a\""),
    });
    let hub = hub.await;
    let client = TestClient::new(&hub);
    client.fetch().await.unwrap_err();
    let download = client.download(FileSelector::Path("wren-Q8_0.gguf".to_owned()));
    let path = download
        .files_of_model("wren-Q8_0.gguf")
        .unwrap()
        .remove(0)
        .path;
    change(&path.with_file_name("wren-Q8_0.gguf.part"));
    let result = client.fetch().await;
    if let Ok(path) = &result {
        assert_eq!(fs::read(path).unwrap(), content(5000));
    }
    (hub, result)
}

#[tokio::test]
async fn resumes_only_an_unchanged_partial_file() {
    let last_range = |hub: &TestHub| {
        hub.requests()
            .pop()
            .unwrap()
            .header("range")
            .map(str::to_owned)
    };
    let (hub, result) = changed_part(|part| fs::write(part, [7; 1000]).unwrap()).await;
    result.unwrap();
    assert_eq!(last_range(&hub), None);
    let (hub, result) = changed_part(|part| fs::write(part, content(999)).unwrap()).await;
    result.unwrap();
    assert_eq!(last_range(&hub), None);
    // Bytes after the last record cannot be verified, so they are dropped.
    let more = [content(1000), vec![7; 100]].concat();
    let (hub, result) = changed_part(|part| fs::write(part, more).unwrap()).await;
    result.unwrap();
    assert_eq!(last_range(&hub).as_deref(), Some("bytes=1000-"));
    let remove_record = |part: &Path| fs::remove_file(part.with_extension("part.json")).unwrap();
    let (hub, result) = changed_part(remove_record).await;
    result.unwrap();
    assert_eq!(last_range(&hub), None);
}

#[cfg(unix)]
#[tokio::test]
async fn overwrites_only_regular_files() {
    let target = tempfile::NamedTempFile::new().unwrap();
    fs::write(&target, "kept").unwrap();
    let link = |part: &Path| {
        fs::remove_file(part).unwrap();
        std::os::unix::fs::symlink(target.path(), part).unwrap();
    };
    let (_, result) = changed_part(link).await;
    let message = result.unwrap_err().to_string();
    assert!(message.contains("a symbolic link"), "{message}");
    assert_eq!(fs::read(&target).unwrap(), b"kept");

    let hub = TestHub::new(|_, request| Response::file(request, b"a model", "\"a\"")).await;
    let client = TestClient::new(&hub);
    let destination = client.folder.path().join("device");
    std::os::unix::fs::symlink("/dev/full", &destination).unwrap();
    let url = hub.url.join("/wren.gguf").unwrap();
    let download = Download::from_url(
        url.as_str(),
        Some(destination.clone()),
        client.options.clone(),
    );
    let message = download.unwrap().run(&mut |_| ()).await.unwrap_err();
    assert!(message.to_string().contains("a symbolic link"), "{message}");
    assert!(fs::symlink_metadata(destination).unwrap().is_symlink());
    assert!(hub.requests().is_empty());
}

#[tokio::test]
async fn limits_the_size_of_a_file() {
    for declares_length in [true, false] {
        for (max_bytes, fits) in [(5000, true), (4999, false)] {
            let hub = TestHub::new(move |_, request| {
                let response = Response::file(request, &content(5000), "\"a\"");
                match declares_length {
                    true => response,
                    false => response.without_length(),
                }
            });
            let hub = hub.await;
            let mut client = TestClient::new(&hub);
            client.options.max_bytes = max_bytes;
            match client.fetch().await {
                Ok(path) => assert!(fits && fs::read(path).unwrap() == content(5000)),
                Err(error) => {
                    assert!(!fits && error.is_permanent(), "{error}");
                    let message = error.to_string();
                    assert!(
                        message.contains("4999 bytes (--model-max-bytes)"),
                        "{message}"
                    );
                    assert_eq!(client.files(), ["wren-Q8_0.gguf.lock"]);
                }
            }
            assert_eq!(hub.requests().len(), 1);
        }
    }
    // The size in the hub's metadata limits a body without a length.
    let hub = TestHub::new(|_, _| {
        let response = Response::new(200, &vec![0; 1 << 20]).with_header("x-linked-size", "5000");
        response.without_length()
    });
    let hub = hub.await;
    let client = TestClient::new(&hub);
    let message = client.fetch().await.unwrap_err().to_string();
    assert!(message.contains("instead of 5000"), "{message}");
    assert_eq!(client.files(), ["wren-Q8_0.gguf.lock"]);
}
