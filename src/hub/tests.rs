use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const FILE: &str = "/ada/birds/resolve/main/wren-Q8_0.gguf";

/// What a client asked for.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    headers: HashMap<String, String>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What it is answered.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are sent; then the connection ends.
    sent: usize,
    /// Whether the answer says how long its body is.
    tells_length: bool,
}

impl Reply {
    fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            sent: body.len(),
            tells_length: true,
        }
    }

    /// Its body ends with the connection.
    fn without_length(mut self) -> Self {
        self.tells_length = false;
        self
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Breaks off after so many bytes of its body.
    fn cut(mut self, bytes: usize) -> Self {
        self.sent = bytes;
        self
    }

    /// A file, or what follows on the part that the client has.
    fn file(asked: &Asked, content: &[u8], etag: &str) -> Self {
        let begin = asked
            .header("range")
            .filter(|_| asked.header("if-range") == Some(etag));
        let begin: Option<usize> = begin.map(|range| {
            range["bytes=".len()..]
                .trim_end_matches('-')
                .parse()
                .unwrap()
        });
        let length = content.len();
        let reply = match begin {
            None => Self::new(200, content),
            Some(begin) if begin < length => Self::new(206, &content[begin..]).with(
                "content-range",
                format!("bytes {begin}-{}/{length}", length - 1),
            ),
            Some(_) => Self::new(416, b"").with("content-range", format!("bytes */{length}")),
        };
        reply.with("etag", etag)
    }
}

/// A hub of this machine, and what it was asked.
struct Imitation {
    url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Imitation {
    /// `answer` hears how often was asked before, too.
    async fn new(answer: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let hub = Self {
            url: Url::parse(&url).unwrap(),
            asked: Arc::default(),
        };
        let (asked, answer) = (Arc::clone(&hub.asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
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
                    let question = Asked {
                        path,
                        headers: headers.collect(),
                    };
                    let before = {
                        let mut asked = asked.lock().unwrap();
                        asked.push(question.clone());
                        asked.len() - 1
                    };
                    let reply = answer(before, &question);
                    let mut text = format!("HTTP/1.1 {} -\r\n", reply.status);
                    for (name, value) in reply.headers {
                        text += &format!("{name}: {value}\r\n");
                    }
                    if reply.tells_length {
                        text += &format!("content-length: {}\r\n", reply.body.len());
                    }
                    text += "\r\n";
                    socket.write_all(text.as_bytes()).await.unwrap();
                    socket.write_all(&reply.body[..reply.sent]).await.unwrap();
                });
            }
        });
        hub
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// A user of the hub, with a folder.
struct User {
    folder: TempDir,
    options: HubOptions,
}

impl User {
    fn of(hub: &Imitation) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = HubOptions {
            endpoint: hub.url.clone(),
            token: None,
            folder: folder.path().to_owned(),
            offline: false,
            pause: Duration::ZERO,
            max_bytes: u64::MAX,
            check: |_| Ok(()),
        };
        Self { folder, options }
    }

    fn with_token(mut self, token: &str) -> Self {
        self.options.token = Some(token.to_owned());
        self
    }

    fn download(&self, wanted: Wanted) -> Download {
        Download::of_repository("ada/birds", wanted, None, self.options.clone()).unwrap()
    }

    /// Fetches the file of this name.
    async fn fetch(&self) -> Result<PathBuf, HubError> {
        let file = Wanted::File("wren-Q8_0.gguf".to_owned());
        self.download(file).run(&mut |_| ()).await
    }

    /// The names of everything in its folder.
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
async fn a_file_is_fetched_once() {
    let hub = Imitation::new(|_, asked| Reply::file(asked, &content(5000), "\"a\"")).await;
    let mut user = User::of(&hub);
    let mut heard = Vec::new();
    let file = Wanted::File("wren-Q8_0.gguf".to_owned());
    let download = user.download(file.clone());
    let path = download
        .run(&mut |progress| heard.push(progress))
        .await
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), content(5000));
    assert!(path.ends_with("ada/birds/wren-Q8_0.gguf"), "{path:?}");
    let last = heard.last().unwrap();
    assert_eq!(
        (last.bytes_done, last.bytes, last.share()),
        (5000, Some(5000), 1.0)
    );
    assert_eq!(user.files(), ["wren-Q8_0.gguf"]);

    assert_eq!(user.fetch().await.unwrap(), path);
    user.options.offline = true;
    assert_eq!(user.download(file).found().unwrap(), Some(path));
    let paths: Vec<String> = hub.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths, [FILE]);
}

#[tokio::test]
async fn offline_nobody_is_asked() {
    let hub = Imitation::new(|_, _| Reply::new(200, b"a file")).await;
    let mut user = User::of(&hub);
    user.options.offline = true;
    for wanted in [Wanted::Usual, Wanted::File("wren.gguf".to_owned())] {
        let download = user.download(wanted);
        let refused = download.found().unwrap_err().to_string();
        assert!(refused.contains("--offline asks nobody"), "{refused}");
        download.run(&mut |_| ()).await.unwrap_err();
    }
    assert!(hub.asked().is_empty());
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with() {
    let hub = Imitation::new(|before, asked| {
        let reply = Reply::file(asked, &content(5000), "\"a\"");
        match before {
            0 => reply.cut(1000),
            1 => reply.cut(500),
            _ => reply,
        }
    });
    let hub = hub.await;
    let user = User::of(&hub);
    let path = user.fetch().await.unwrap();
    assert_eq!(fs::read(path).unwrap(), content(5000));
    let ranges: Vec<Option<String>> = hub
        .asked()
        .iter()
        .map(|asked| asked.header("range").map(str::to_owned))
        .collect();
    let wanted = [None, Some("bytes=1000-"), Some("bytes=1500-")];
    assert_eq!(ranges, wanted.map(|range| range.map(str::to_owned)));
}

/// A first process gets 1000 bytes, a second one asks this hub on.
async fn second_process(
    answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> (Imitation, User, Result<PathBuf, HubError>) {
    let hub = Imitation::new(move |before, asked| match before {
        0 => Reply::file(asked, &content(5000), "\"a\"").cut(1000),
        1 => Reply::new(404, b""),
        _ => answer(asked),
    });
    let hub = hub.await;
    let user = User::of(&hub);
    user.fetch().await.unwrap_err();
    let part = [
        "wren-Q8_0.gguf.lock",
        "wren-Q8_0.gguf.part",
        "wren-Q8_0.gguf.part.json",
    ];
    assert_eq!(user.files(), part);
    let fetched = user.fetch().await;
    (hub, user, fetched)
}

#[tokio::test]
async fn the_next_process_goes_on() {
    let (hub, user, path) =
        second_process(|asked| Reply::file(asked, &content(5000), "\"a\"")).await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), content(5000));
    let last = hub.asked().pop().unwrap();
    assert_eq!(last.header("range"), Some("bytes=1000-"));
    assert_eq!(last.header("if-range"), Some("\"a\""));
    assert_eq!(user.files(), ["wren-Q8_0.gguf"]);
}

#[tokio::test]
async fn another_file_is_begun_anew() {
    let (_hub, _user, path) =
        second_process(|asked| Reply::file(asked, &content(300), "\"b\"")).await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), content(300));

    // A server that knows no conditions sends a part of another file.
    let (hub, _user, path) = second_process(|asked| match asked.header("range") {
        Some(_) => Reply::new(206, &[7; 4000])
            .with("content-range", "bytes 1000-4999/5000")
            .with("etag", "\"b\""),
        None => Reply::file(asked, &[7; 5000], "\"b\""),
    })
    .await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), [7; 5000]);
    assert_eq!(hub.asked().last().unwrap().header("range"), None);
}

#[tokio::test]
async fn a_part_that_is_whole_is_enough() {
    let whole = sha256(&content(1000));
    let (hub, _user, path) = second_process(move |asked| {
        Reply::file(asked, &content(1000), "\"a\"").with("x-linked-etag", format!("\"{whole}\""))
    })
    .await;
    assert_eq!(fs::read(path.unwrap()).unwrap(), content(1000));
    assert_eq!(hub.asked().len(), 3);
}

#[tokio::test]
async fn what_is_wrong_gets_no_name() {
    for (name, value, cause) in [
        ("x-linked-etag", sha256(b"another file"), "SHA-256"),
        (
            "x-linked-size",
            "4999".to_owned(),
            "size at least 5000 instead of 4999",
        ),
    ] {
        let hub = Imitation::new(move |_, asked| {
            Reply::file(asked, &content(5000), "\"a\"").with(name, value.clone())
        });
        let user = User::of(&hub.await);
        let message = user.fetch().await.unwrap_err().to_string();
        assert!(message.contains(cause), "{message}");
        assert_eq!(user.files(), ["wren-Q8_0.gguf.lock"]);
    }
}

#[tokio::test]
async fn a_file_that_is_too_short_never_gets_its_name() {
    let hub = Imitation::new(|_, asked| {
        Reply::file(asked, &content(5000), "\"a\"").with("x-linked-size", "5001")
    });
    let hub = hub.await;
    let user = User::of(&hub);
    let message = user.fetch().await.unwrap_err().to_string();
    assert!(
        !user.files().contains(&"wren-Q8_0.gguf".to_owned()),
        "{message}"
    );
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    for (status, token, cause) in [
        (404, None, "is not there (404)"),
        (401, None, "(401): it takes a token: --hf-token"),
        (403, Some("mine"), "(403): the token is not one that may"),
        (400, None, "answers 400"),
    ] {
        let hub = Imitation::new(move |_, _| Reply::new(status, b"")).await;
        let user = User::of(&hub);
        let user = match token {
            Some(token) => user.with_token(token),
            None => user,
        };
        let message = user.fetch().await.unwrap_err().to_string();
        assert!(message.contains(cause), "{message}");
        assert!(message.contains(FILE), "{message}");
        let asked = hub.asked();
        assert_eq!(asked.len(), 1, "it is no use to ask again");
        let sent = token.map(|token| format!("Bearer {token}"));
        assert_eq!(asked[0].header("authorization"), sent.as_deref());
    }
}

#[tokio::test]
async fn a_page_is_no_file() {
    let hub = Imitation::new(|_, _| {
        Reply::new(200, b"<html>").with("content-type", "text/html; charset=utf-8")
    });
    let hub = hub.await;
    let user = User::of(&hub);
    let message = user.fetch().await.unwrap_err().to_string();
    assert!(message.ends_with("is a web page, not a file"), "{message}");
    assert_eq!(user.files(), ["wren-Q8_0.gguf.lock"]);
}

#[tokio::test]
async fn secrets_of_an_address_are_not_shown() {
    let hub = Imitation::new(|_, _| Reply::new(404, b"")).await;
    let mut url = hub.url.join("wren.gguf?signature=secret").unwrap();
    url.set_username("ada").unwrap();
    url.set_password(Some("secret")).unwrap();
    let options = User::of(&hub).options;
    let download = Download::of_url(url.as_str(), None, options).unwrap();
    let refused = download.run(&mut |_| ()).await.unwrap_err();
    for shown in [download.to_string(), refused.to_string()] {
        assert!(
            shown.contains("/wren.gguf") && !shown.contains("secret"),
            "{shown}"
        );
    }
    assert_eq!(hub.asked()[0].path, "/wren.gguf?signature=secret");
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let hub = Imitation::new(|before, asked| match before {
        0..4 => Reply::new(503, b""),
        _ => Reply::file(asked, &content(10), "\"a\""),
    });
    User::of(&hub.await).fetch().await.unwrap();

    let hub = Imitation::new(|_, _| Reply::new(503, b"")).await;
    let message = User::of(&hub).fetch().await.unwrap_err().to_string();
    assert!(message.ends_with("answers 503"), "{message}");
    assert_eq!(hub.asked().len(), 5);
}

#[tokio::test]
async fn without_a_network_that_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/wren.gguf", listener.local_addr().unwrap());
    drop(listener);
    let hub = Imitation::new(|_, _| Reply::new(404, b"")).await;
    let user = User::of(&hub);
    let download = Download::of_url(&url, None, user.options.clone()).unwrap();
    let message = download.run(&mut |_| ()).await.unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("{url} cannot be had: ")),
        "{message}"
    );
}

#[tokio::test]
async fn the_token_stays_with_the_hub() {
    let store = Imitation::new(|_, asked| Reply::file(asked, &content(5000), "\"s\"")).await;
    let elsewhere = store.url.join("blobs/1?signed=yes").unwrap();
    let hub = Imitation::new(move |before, _| match before {
        // The hub leads to itself, then away, and says what the file is.
        0 => Reply::new(307, b"").with("location", "/moved/wren-Q8_0.gguf"),
        _ => Reply::new(302, b"")
            .with("location", elsewhere.as_str())
            .with("x-linked-size", "5000")
            .with("x-linked-etag", format!("\"{}\"", sha256(&content(5000)))),
    });
    let hub = hub.await;
    let user = User::of(&hub).with_token("mine");
    user.fetch().await.unwrap();
    let mine = Some("Bearer mine");
    let asked = hub.asked();
    assert_eq!(asked[0].header("authorization"), mine);
    assert_eq!(asked[1].path, "/moved/wren-Q8_0.gguf");
    assert_eq!(asked[1].header("authorization"), mine);
    let asked = store.asked();
    assert_eq!(asked[0].path, "/blobs/1?signed=yes");
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn redirects_end() {
    let hub = Imitation::new(|_, asked| Reply::new(302, b"").with("location", asked.path.clone()));
    let message = User::of(&hub.await).fetch().await.unwrap_err().to_string();
    assert!(
        message.contains("from one address to the next"),
        "{message}"
    );
}

/// A repository with these files, each of which has its path as its content.
async fn repository(files: &'static [&'static str]) -> Imitation {
    Imitation::new(|_, asked| {
        if asked.path == "/api/models/ada/birds/tree/main?recursive=true" {
            let entry = |file| serde_json::json!({"type": "file", "path": file, "size": 1});
            let list = serde_json::Value::from_iter(files.iter().map(entry));
            return Reply::new(200, list.to_string().as_bytes());
        }
        let file = asked.path.strip_prefix("/ada/birds/resolve/main/");
        match file.filter(|file| files.contains(file)) {
            Some(file) => Reply::file(asked, file.as_bytes(), "\"a\""),
            None => Reply::new(404, b""),
        }
    })
    .await
}

#[tokio::test]
async fn the_hub_says_which_files_there_are() {
    let files = &[
        "README.md",
        "wren-Q4_0.gguf",
        "wren-Q8_0.gguf",
        "../wren-Q4_K_M.gguf",
    ];
    let hub = repository(files).await;
    let user = User::of(&hub);
    let path = user.download(Wanted::Usual).run(&mut |_| ()).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"wren-Q4_0.gguf");
    let asked = hub.asked().len();
    assert_eq!(user.download(Wanted::Usual).found().unwrap(), Some(path));
    assert_eq!(hub.asked().len(), asked, "what was chosen is remembered");

    let download = user.download(Wanted::Quant("Q5_1".to_owned()));
    let message = download.run(&mut |_| ()).await.unwrap_err().to_string();
    let wanted = "ada/birds has no Q5_1; its GGUF files: wren-Q4_0.gguf, wren-Q8_0.gguf";
    assert_eq!(message, wanted);
}

#[tokio::test]
async fn a_set_is_fetched_whole() {
    let files = &[
        "q/wren-Q8_0-00001-of-00002.gguf",
        "q/wren-Q8_0-00002-of-00002.gguf",
    ];
    let hub = repository(files).await;
    let user = User::of(&hub);
    let (mut shares, wanted) = (Vec::new(), Wanted::Quant("Q8_0".to_owned()));
    let download = user.download(wanted.clone());
    let path = download
        .run(&mut |progress| shares.push(progress.share()))
        .await
        .unwrap();
    assert!(path.ends_with(files[0]), "{path:?}");
    assert!(
        shares.is_sorted() && shares.contains(&0.5) && shares.last() == Some(&1.0),
        "{shares:?}"
    );
    let second = path.with_file_name("wren-Q8_0-00002-of-00002.gguf");
    assert_eq!(fs::read(&second).unwrap(), files[1].as_bytes());
    fs::remove_file(second).unwrap();
    assert_eq!(
        user.download(wanted).found().unwrap(),
        None,
        "a part is missing"
    );
}

#[tokio::test]
async fn an_address_is_enough_and_the_place_may_be_given() {
    let hub = repository(&["wren-00001-of-00002.gguf", "wren-00002-of-00002.gguf"]).await;
    let user = User::of(&hub);
    let url = hub
        .url
        .join("/ada/birds/resolve/main/wren-00001-of-00002.gguf")
        .unwrap();
    let store = |name: &str| Some(user.folder.path().join("mine").join(name));
    let download = |store| Download::of_url(url.as_str(), store, user.options.clone());
    let refused = download(store("wren.gguf")).unwrap_err().to_string();
    assert!(refused.contains("it is one of 2 files"), "{refused}");
    let stored = download(store("wren-00001-of-00002.gguf")).unwrap();
    let path = stored.run(&mut |_| ()).await.unwrap();
    assert_eq!(Some(path), store("wren-00001-of-00002.gguf"));
    assert!(store("wren-00002-of-00002.gguf").unwrap().is_file());

    let usual = download(None).unwrap().run(&mut |_| ()).await.unwrap();
    let port = hub.url.port().unwrap();
    let place = format!("url/127.0.0.1#{port}/ada/birds/resolve/main/wren-00001-of-00002.gguf");
    assert_eq!(usual, user.folder.path().join(place));
}

#[tokio::test]
async fn two_at_once_fetch_once() {
    let hub = Imitation::new(|_, asked| Reply::file(asked, &content(5000), "\"a\"")).await;
    let user = User::of(&hub);
    let (one, other) = tokio::join!(user.fetch(), user.fetch());
    assert_eq!(
        fs::read(one.unwrap()).unwrap(),
        fs::read(other.unwrap()).unwrap()
    );
    assert_eq!(hub.asked().len(), 1);
    assert_eq!(user.files(), ["wren-Q8_0.gguf"]);
}

#[test]
fn addresses_of_files_are_those_of_the_web() {
    let user = HubOptions {
        endpoint: Url::parse("http://hub.example").unwrap(),
        token: None,
        folder: PathBuf::new(),
        offline: false,
        pause: Duration::ZERO,
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
            Download::of_url(text, None, user.clone()).is_err(),
            "{text}"
        );
    }
}

#[tokio::test]
async fn another_port_or_query_is_another_file() {
    let hub = |text: &'static str| {
        Imitation::new(move |_, asked| Reply::new(200, format!("{text} {}", asked.path).as_bytes()))
    };
    let (one, other) = (hub("one").await, hub("other").await);
    let user = User::of(&one);
    for (hub, text) in [(&one, "one"), (&other, "other")] {
        for path in ["/wren.gguf", "/wren.gguf?v=1", "/wren.gguf?v=2"] {
            let url = hub.url.join(path).unwrap();
            let download = Download::of_url(url.as_str(), None, user.options.clone()).unwrap();
            assert_eq!(download.found().unwrap(), None, "{url}");
            let found = download.run(&mut |_| ()).await.unwrap();
            assert_eq!(
                fs::read(found).unwrap(),
                format!("{text} {path}").as_bytes()
            );
        }
    }
    // Another hub's repository is another one.
    let mut options = user.options.clone();
    user.fetch().await.unwrap();
    options.endpoint = other.url.clone();
    let file = Wanted::File("wren-Q8_0.gguf".to_owned());
    let elsewhere = Download::of_repository("ada/birds", file, None, options).unwrap();
    assert_eq!(elsewhere.found().unwrap(), None);
}

#[tokio::test]
async fn all_files_of_a_set_are_asked_for_with_the_query() {
    let hub = Imitation::new(|_, asked| Reply::file(asked, b"a part", "\"a\"")).await;
    let url = hub
        .url
        .join("/wren-00001-of-00002.gguf?signature=1")
        .unwrap();
    let user = User::of(&hub);
    let download = Download::of_url(url.as_str(), None, user.options.clone()).unwrap();
    download.run(&mut |_| ()).await.unwrap();
    let paths: Vec<String> = hub.asked().into_iter().map(|asked| asked.path).collect();
    let name = |number| format!("/wren-0000{number}-of-00002.gguf?signature=1");
    assert_eq!(paths, [name(1), name(2)]);
}

#[tokio::test]
async fn what_is_no_model_gets_no_name() {
    let hub = Imitation::new(|_, asked| Reply::file(asked, &content(5000), "\"a\"")).await;
    let mut user = User::of(&hub);
    user.options.check = crate::model::load::check_gguf;
    let message = user.fetch().await.unwrap_err().to_string();
    assert!(message.contains("is not a model: "), "{message}");
    assert!(
        message.contains("does not begin with \"GGUF\""),
        "{message}"
    );
    assert_eq!(user.files(), ["wren-Q8_0.gguf.lock"]);
    assert_eq!(hub.asked().len(), 1);
}

#[tokio::test]
async fn what_cannot_get_better_is_not_tried_again() {
    for (status, location, questions, cause) in [
        (302, "file:///etc/passwd", 1, "no address of http or https"),
        (302, "ftp://a.example/wren.gguf", 1, "no address of http"),
        (302, "http://", 1, "it leads to http://"),
        (302, FILE, 9, "from one address to the next"),
        (416, "", 1, "answers 416"),
        (206, "", 1, "answers 206"),
        (501, "", 1, "answers 501"),
        (505, "", 1, "answers 505"),
    ] {
        let hub = Imitation::new(move |_, _| Reply::new(status, b"").with("location", location));
        let hub = hub.await;
        let refused = User::of(&hub).fetch().await.unwrap_err();
        let message = refused.to_string();
        assert!(message.contains(cause), "{status} {location}: {message}");
        assert_eq!(hub.asked().len(), questions, "{status} {location}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_sent_is_not_tried_again() {
    let hub = Imitation::new(|_, _| Reply::new(200, b"")).await;
    let user = User::of(&hub).with_token("a\nb");
    let refused = user.fetch().await.unwrap_err();
    assert!(refused.is_permanent(), "{refused}");
    assert!(hub.asked().is_empty());
}

/// A first process gets 1000 bytes; `change` does something to its folder; then a second one asks.
async fn changed_part(change: impl FnOnce(&Path)) -> (Imitation, Result<PathBuf, HubError>) {
    let hub = Imitation::new(move |before, asked| match before {
        0 => Reply::file(asked, &content(5000), "\"a\"").cut(1000),
        1 => Reply::new(404, b""),
        _ => Reply::file(asked, &content(5000), "\"a\""),
    });
    let hub = hub.await;
    let user = User::of(&hub);
    user.fetch().await.unwrap_err();
    let path = user.download(Wanted::File("wren-Q8_0.gguf".to_owned()));
    let part = path.pieces("wren-Q8_0.gguf").unwrap().remove(0).path;
    change(&part.with_file_name("wren-Q8_0.gguf.part"));
    let fetched = user.fetch().await;
    if let Ok(path) = &fetched {
        assert_eq!(fs::read(path).unwrap(), content(5000));
    }
    (hub, fetched)
}

#[tokio::test]
async fn a_part_is_continued_only_as_it_was_received() {
    let last_range = |hub: &Imitation| {
        hub.asked()
            .pop()
            .unwrap()
            .header("range")
            .map(str::to_owned)
    };
    let (hub, fetched) = changed_part(|part| fs::write(part, [7; 1000]).unwrap()).await;
    fetched.unwrap();
    assert_eq!(last_range(&hub), None);
    let (hub, fetched) = changed_part(|part| fs::write(part, content(999)).unwrap()).await;
    fetched.unwrap();
    assert_eq!(last_range(&hub), None);
    // What came after the last record is not known to be right.
    let more = [content(1000), vec![7; 100]].concat();
    let (hub, fetched) = changed_part(|part| fs::write(part, more).unwrap()).await;
    fetched.unwrap();
    assert_eq!(last_range(&hub).as_deref(), Some("bytes=1000-"));
    let remove_record = |part: &Path| fs::remove_file(part.with_extension("part.json")).unwrap();
    let (hub, fetched) = changed_part(remove_record).await;
    fetched.unwrap();
    assert_eq!(last_range(&hub), None);
}

#[cfg(unix)]
#[tokio::test]
async fn a_download_writes_over_regular_files_only() {
    let target = tempfile::NamedTempFile::new().unwrap();
    fs::write(&target, "kept").unwrap();
    let link = |part: &Path| {
        fs::remove_file(part).unwrap();
        std::os::unix::fs::symlink(target.path(), part).unwrap();
    };
    let (_, fetched) = changed_part(link).await;
    let message = fetched.unwrap_err().to_string();
    assert!(message.contains("a symbolic link"), "{message}");
    assert_eq!(fs::read(&target).unwrap(), b"kept");

    let hub = Imitation::new(|_, asked| Reply::file(asked, b"a model", "\"a\"")).await;
    let user = User::of(&hub);
    let store = user.folder.path().join("device");
    std::os::unix::fs::symlink("/dev/full", &store).unwrap();
    let url = hub.url.join("/wren.gguf").unwrap();
    let download = Download::of_url(url.as_str(), Some(store.clone()), user.options.clone());
    let message = download.unwrap().run(&mut |_| ()).await.unwrap_err();
    assert!(message.to_string().contains("a symbolic link"), "{message}");
    assert!(fs::symlink_metadata(store).unwrap().is_symlink());
    assert!(hub.asked().is_empty());
}

#[tokio::test]
async fn a_file_has_a_largest_size() {
    for tells_length in [true, false] {
        for (max_bytes, fits) in [(5000, true), (4999, false)] {
            let hub = Imitation::new(move |_, asked| {
                let reply = Reply::file(asked, &content(5000), "\"a\"");
                match tells_length {
                    true => reply,
                    false => reply.without_length(),
                }
            });
            let hub = hub.await;
            let mut user = User::of(&hub);
            user.options.max_bytes = max_bytes;
            match user.fetch().await {
                Ok(path) => assert!(fits && fs::read(path).unwrap() == content(5000)),
                Err(refused) => {
                    assert!(!fits && refused.is_permanent(), "{refused}");
                    let message = refused.to_string();
                    assert!(
                        message.contains("4999 bytes that --model-max-bytes"),
                        "{message}"
                    );
                    assert_eq!(user.files(), ["wren-Q8_0.gguf.lock"]);
                }
            }
            assert_eq!(hub.asked().len(), 1);
        }
    }
    // What a hub says of a file's size limits a body that does not end.
    let hub = Imitation::new(|_, _| {
        let reply = Reply::new(200, &vec![0; 1 << 20]).with("x-linked-size", "5000");
        reply.without_length()
    });
    let hub = hub.await;
    let user = User::of(&hub);
    let message = user.fetch().await.unwrap_err().to_string();
    assert!(message.contains("instead of 5000"), "{message}");
    assert_eq!(user.files(), ["wren-Q8_0.gguf.lock"]);
}
