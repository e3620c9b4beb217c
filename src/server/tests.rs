use std::sync::Mutex;
use std::time::Duration;

use poem::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::api::{
    self, ApiSettings, BODY_BYTES_MAX, BodyRules, Defaults, Endpoints, KeyPolicy, ResponseStore,
};
use crate::model::{GenerateLimits, ModelState, Preparations};

pub(super) fn options() -> ServeOptions {
    ServeOptions {
        host: "127.0.0.1".to_owned(),
        port: 0,
        origins: vec!["https://app.example".to_owned()],
        hosts: Vec::new(),
        keys: Arc::default(),
        tls: None,
        connections: ConnectionLimits {
            total: 64,
            per_address: 64,
        },
        idle: Duration::from_secs(60),
        stop_deadline: Duration::from_secs(60),
    }
}

/// Sends a request and reads the whole answer.
async fn ask(address: SocketAddr, head: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(format!("{head}connection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A server that answers with "hello", until the returned sender is dropped.
async fn hello() -> (SocketAddr, oneshot::Sender<()>) {
    let server = Server::bind(options()).await.unwrap();
    let (address, (stop, stopped)) = (server.address(), oneshot::channel());
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    tokio::spawn(server.serve(
        endpoint,
        async { drop(stopped.await) },
        std::future::pending(),
    ));
    (address, stop)
}

#[tokio::test]
async fn only_hosts_and_origins_of_this_machine_or_allowed_ones_are_answered() {
    let (address, _stop) = hello().await;
    for (head, status) in [
        ("host: localhost:1\r\n", 200),
        ("host: 127.0.0.1\r\n", 200),
        ("host: [::1]:8080\r\n", 200),
        ("host: rebound.example\r\n", 403),
        ("host: localhost.example\r\n", 403),
        ("host: [::1].evil.com\r\n", 403),
        ("host: [localhost]\r\n", 403),
        ("host: 127.0.0.1:1@evil.com\r\n", 403),
        ("host: 127.0.0.1@evil.com\r\n", 403),
        ("host: 127.0.0.1:+80\r\n", 403),
        ("host: localhost:80:80\r\n", 403),
        ("host: 127.0.0.1.evil.com\r\n", 403),
        ("host: .localhost\r\n", 403),
        ("host: localhost\r\norigin: http://localhost:3000\r\n", 200),
        ("host: localhost\r\norigin: https://app.example\r\n", 200),
        ("host: localhost\r\norigin: https://evil.example\r\n", 403),
        ("host: localhost\r\norigin: null\r\n", 403),
    ] {
        let answer = ask(address, &format!("GET / HTTP/1.1\r\n{head}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head} {answer}"
        );
    }
}

/// The status of a request with these header lines to a server with these allowed hosts.
async fn status_with(hosts: &[&str], head: &str) -> String {
    let server = Server::bind(ServeOptions {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(
        endpoint,
        async { drop(stopped.await) },
        std::future::pending(),
    ));
    let answer = ask(address, &format!("GET / HTTP/1.1\r\n{head}")).await;
    drop(stop);
    serving.await.unwrap();
    answer[9..12].to_owned()
}

#[tokio::test]
async fn hosts_that_are_allowed_are_answered_and_their_pages_may_ask() {
    let named = &["app.example", ".birds.example:8443"][..];
    for (hosts, head, status) in [
        (named, "host: app.example:8080\r\n", "200"),
        (named, "host: localhost\r\n", "200"),
        (named, "host: a.birds.example:8443\r\n", "200"),
        (named, "host: a.birds.example\r\n", "403"),
        (named, "host: rebound.example\r\n", "403"),
        (
            named,
            "host: app.example\r\norigin: https://app.example\r\n",
            "200",
        ),
        (
            named,
            "host: localhost\r\norigin: https://birds.example:8443\r\n",
            "200",
        ),
        (
            named,
            "host: app.example\r\norigin: https://evil.example\r\n",
            "403",
        ),
        (&["*"], "host: any.example\r\n", "200"),
        (
            &["*"],
            "host: any.example\r\norigin: http://any.example\r\n",
            "200",
        ),
        (
            &["*"],
            "host: any.example\r\norigin: http://evil.example\r\n",
            "403",
        ),
        (&["*"], "host: any.example\r\norigin: null\r\n", "403"),
    ] {
        assert_eq!(status_with(hosts, head).await, status, "{hosts:?} {head}");
    }
}

#[test]
fn a_list_of_hosts_limits_a_server_that_others_reach() {
    let address = SocketAddr::from(([0, 0, 0, 0], 8080));
    let origins = |hosts: &[&str]| {
        let hosts: Vec<AllowedHost> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Origins::new(&Scheme::HTTP, "0.0.0.0", address, &[], &hosts)
    };
    assert!(origins(&[]).allow_host("rebound.example") && !origins(&[]).limit_hosts());
    assert!(origins(&["app.example"]).limit_hosts());
    for (host, allowed) in [
        ("app.example:8080", true),
        ("localhost:8080", true),
        ("10.0.0.5:8080", true),
        ("[fe80::1]:8080", true),
        ("rebound.example", false),
        ("[rebound.example", false),
    ] {
        assert_eq!(
            origins(&["app.example"]).allow_host(host),
            allowed,
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let (address, _stop) = hello().await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n", 400),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nhost:\r\n", 403),
        ("GET / HTTP/1.1\r\nhost: localhost\r\n", 200),
        ("GET / HTTP/1.0\r\n", 400),
        ("GET / HTTP/1.0\r\nhost: localhost\r\n", 200),
        // Both the target and the header name a host.
        (
            "GET http://localhost/ HTTP/1.1\r\nhost: evil.example\r\n",
            403,
        ),
        (
            "GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\n",
            403,
        ),
        ("GET http://localhost/ HTTP/1.1\r\nhost: localhost\r\n", 200),
    ] {
        let answer = ask(address, head).await;
        assert!(
            answer[9..].starts_with(&status.to_string()),
            "{head} {answer}"
        );
        if status != 200 {
            assert!(
                answer.contains(r#""type":"invalid_request_error""#),
                "{answer}"
            );
        }
    }
}

#[test]
fn the_own_origin_is_written_as_browsers_write_it() {
    let (http, https) = (&Scheme::HTTP, &Scheme::HTTPS);
    for (scheme, port, origin, own) in [
        (http, 8080, "http://birds.example:8080", true),
        (http, 8080, "https://birds.example:8080", false),
        (https, 8443, "https://birds.example:8443", true),
        (https, 8443, "http://birds.example:8443", false),
        (https, 8443, "https://birds.example", false),
        (https, 443, "https://birds.example", true),
        (http, 80, "http://birds.example", true),
        (http, 443, "http://birds.example", false),
    ] {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let origins = Origins::new(scheme, "birds.example", address, &[], &[]);
        assert_eq!(
            origins.allow_origin(origin),
            own,
            "{scheme} {port} {origin}"
        );
    }
}

#[tokio::test]
async fn an_allowed_origin_may_read_the_answer() {
    let (address, _stop) = hello().await;
    let head = "host: localhost\r\norigin: https://app.example\r\n";
    let answer = ask(address, &format!("GET / HTTP/1.1\r\n{head}")).await;
    assert!(
        answer.contains("access-control-allow-origin: https://app.example\r\n"),
        "{answer}"
    );
    let preflight = format!(
        "OPTIONS / HTTP/1.1\r\n{head}access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n"
    );
    let answer = ask(address, &preflight).await;
    assert!(answer.contains("access-control-allow-methods"), "{answer}");
    assert!(
        answer.contains("access-control-allow-credentials: true\r\n"),
        "{answer}"
    );
    assert!(
        !answer.contains("hello"),
        "a preflight does nothing: {answer}"
    );
}

#[tokio::test]
async fn options_that_is_no_preflight_names_the_methods() {
    let (address, _stop) = hello().await;
    let origin = "origin: https://app.example\r\n";
    let method = "access-control-request-method: POST\r\n";
    for headers in ["", origin, method] {
        let request = format!("OPTIONS /completion HTTP/1.1\r\nhost: localhost\r\n{headers}");
        let answer = ask(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains("hello"), "{answer}");
        assert!(answer.contains("allow: POST, OPTIONS\r\n"), "{answer}");
        for header in [
            "access-control-allow-origin: https://app.example",
            "access-control-allow-credentials: true",
            "access-control-allow-methods: POST",
        ] {
            let has_it = answer.contains(&format!("{header}\r\n"));
            assert_eq!(has_it, headers == origin, "{answer}");
        }
    }
    let nowhere = "OPTIONS /nowhere HTTP/1.1\r\nhost: localhost\r\n";
    let answer = ask(address, nowhere).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("\"not_found_error\""), "{answer}");
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let (address, _stop) = hello().await;
    let answer = ask(
        address,
        "GET / HTTP/1.1\r\nhost: localhost\r\nx-request-id: mine-7\r\n",
    )
    .await;
    assert!(answer.contains("x-request-id: mine-7\r\n"), "{answer}");
    let answer = ask(
        address,
        "GET / HTTP/1.1\r\nhost: localhost\r\nx-request-id: a b\r\n",
    )
    .await;
    let id = answer
        .split("x-request-id: ")
        .nth(1)
        .unwrap()
        .split('\r')
        .next()
        .unwrap();
    assert_eq!(id.len(), 32, "{answer}");
}

/// Tells when it is dropped.
pub(super) struct Dropped(pub(super) Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

#[tokio::test]
async fn a_handler_ends_when_its_client_leaves() {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (began, begun) = oneshot::channel();
    let (dropped, was_dropped) = oneshot::channel();
    let signals = Mutex::new(Some((began, Dropped(Some(dropped)))));
    let endpoint = poem::endpoint::make(move |_: Request| {
        let signals = signals.lock().unwrap().take();
        async move {
            if let Some((began, _guard)) = signals {
                began.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            "never"
        }
    });
    tokio::spawn(server.serve(
        endpoint.map_to_response(),
        std::future::pending(),
        std::future::pending(),
    ));
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    begun.await.unwrap();
    drop(socket);
    was_dropped.await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_running_answers_end() {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (began, begun) = oneshot::channel();
    let (finish, finished) = oneshot::channel::<()>();
    let signals = Mutex::new(Some((began, finished)));
    let endpoint = poem::endpoint::make(move |_: Request| {
        let signals = signals.lock().unwrap().take();
        async move {
            let (began, finished) = signals.unwrap();
            began.send(()).unwrap();
            finished.await.unwrap();
            "done"
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(
        endpoint.map_to_response(),
        async { drop(stopped.await) },
        std::future::pending(),
    ));
    let answer = tokio::spawn(ask(address, "GET / HTTP/1.1\r\nhost: localhost\r\n"));
    begun.await.unwrap();
    stop.send(()).unwrap();
    // Nothing new is accepted once the listener is gone.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    finish.send(()).unwrap();
    assert!(answer.await.unwrap().ends_with("done"));
    serving.await.unwrap();
}

#[tokio::test]
async fn a_cut_ends_what_runs() {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (began, begun) = oneshot::channel();
    let began = Mutex::new(Some(began));
    let endpoint = poem::endpoint::make(move |_: Request| {
        let began = began.lock().unwrap().take();
        async move {
            began.unwrap().send(()).unwrap();
            std::future::pending::<&str>().await
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let (cut, is_cut) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(
        endpoint.map_to_response(),
        async { drop(stopped.await) },
        async { drop(is_cut.await) },
    ));
    let asking = tokio::spawn(async move {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        // The connection ends without an answer, orderly or not.
        let _ = socket.read_to_end(&mut answer).await;
        answer
    });
    begun.await.unwrap();
    stop.send(()).unwrap();
    cut.send(()).unwrap();
    serving.await.unwrap();
    assert_eq!(asking.await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up() {
    let server = Server::bind(ServeOptions {
        idle: Duration::from_millis(50),
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let (answering, given_up) = oneshot::channel::<()>();
    let answering = Mutex::new(Some(answering));
    // An answer without an end; the channel closes when it is dropped.
    let endpoint = poem::endpoint::make_sync(move |_| {
        let answering = answering.lock().unwrap().take();
        let parts = futures_util::stream::repeat_with(move || {
            let _held = &answering;
            Ok::<_, io::Error>(bytes::Bytes::from_static(&[0; 1 << 16]))
        });
        poem::Body::from_bytes_stream(parts)
    });
    tokio::spawn(server.serve(
        endpoint.map_to_response(),
        std::future::pending(),
        std::future::pending(),
    ));
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(given_up.await.is_err(), "nothing is sent on it");
    drop(socket);
}

/// The routes of the document, their model still loading: whatever is wrong with a body is said before that.
async fn routes() -> SocketAddr {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (_, model) = watch::channel(ModelState::Loading { done: 0.0 });
    let settings = ApiSettings {
        preparations: Arc::new(Preparations::new(8).unwrap()),
        model,
        endpoints: Endpoints {
            slots: true,
            metrics: true,
            embedding: true,
            change_props: true,
            slot_files: None,
        },
        limits: GenerateLimits::NONE,
        defaults: Defaults::default(),
        bodies: BodyRules {
            idle: Duration::from_secs(60),
            strict: false,
        },
        responses: Arc::new(ResponseStore::new(0)),
        strict_model_names: false,
        key_policy: KeyPolicy::default(),
    };
    tokio::spawn(server.serve(
        api::routes(settings),
        std::future::pending(),
        std::future::pending(),
    ));
    address
}

/// A connection on which these lines and an empty one were sent.
async fn connection_with(address: SocketAddr, path: &str, lines: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{lines}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// Reads an answer with a Content-Length: its head and its body.
async fn answer_of(socket: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

const TOO_LONG: usize = BODY_BYTES_MAX + 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_body_declared_too_long_is_refused_before_it_is_sent() {
    let address = routes().await;
    for path in ["/completion", "/v1/chat/completions", "/v1/messages"] {
        for lines in [
            format!("expect: 100-continue\r\ncontent-length: {TOO_LONG}"),
            format!("content-length: {TOO_LONG}"),
            format!("content-length: {}", u64::MAX / 2),
        ] {
            let mut socket = connection_with(address, path, &lines).await;
            let (head, body) = answer_of(&mut socket).await;
            assert!(head.starts_with("http/1.1 413 "), "{path} {lines}: {head}");
            assert!(body.contains("longer than 8388608 bytes"), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_body_that_is_too_long_can_read_the_answer_and_ask_again() {
    let address = routes().await;
    let lines = format!("content-length: {TOO_LONG}");
    let mut socket = connection_with(address, "/tokenize", &lines).await;
    socket.write_all(&vec![b' '; TOO_LONG]).await.unwrap();
    let (head, _) = answer_of(&mut socket).await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
    let next = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(next).await.unwrap();
    let (head, _) = answer_of(&mut socket).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");

    // Without a declared length it is known only when it has come.
    let mut socket = connection_with(address, "/tokenize", "transfer-encoding: chunked").await;
    let chunk = [&b"100000\r\n"[..], &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..9 {
        socket.write_all(&chunk).await.unwrap();
    }
    let (head, _) = answer_of(&mut socket).await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
}

/// Whatever refuses a request before its body is read: no such path, another method, a foreign host, a compression.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_early_can_read_why() {
    let address = routes().await;
    let length = 4 << 20;
    for (path, lines, status) in [
        ("/nowhere", "accept: */*", "404"),
        ("/health", "accept: */*", "405"),
        ("/tokenize", "origin: https://evil.example", "403"),
        ("/tokenize", "content-encoding: gzip", "415"),
    ] {
        let lines = format!("{lines}\r\ncontent-length: {length}\r\nconnection: close");
        let mut socket = connection_with(address, path, &lines).await;
        socket.write_all(&vec![b' '; length]).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!(&answer[9..12], status.as_bytes(), "{path} {lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_leave_to_send_gets_it() {
    let body = r#"{"content": "Hello"}"#;
    let lines = format!("expect: 100-continue\r\ncontent-length: {}", body.len());
    let mut socket = connection_with(routes().await, "/tokenize", &lines).await;
    let (head, _) = answer_of(&mut socket).await;
    assert!(head.starts_with("http/1.1 100 "), "{head}");
    socket.write_all(body.as_bytes()).await.unwrap();
    let (head, body) = answer_of(&mut socket).await;
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert!(body.contains("Loading model"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_refused_in_words() {
    let address = routes().await;
    for (path, coding, status) in [
        ("/tokenize", "content-encoding: gzip", 415),
        ("/slots/0?action=erase", "content-encoding: zstd", 415),
        (
            "/v1/chat/completions",
            "content-encoding: identity, br",
            415,
        ),
        ("/v1/messages", "content-encoding: Deflate", 415),
        ("/tokenize", "content-encoding: identity", 400),
        ("/tokenize", "content-encoding: ", 400),
    ] {
        // The first bytes of a gzip file.
        let lines = format!("{coding}\r\ncontent-length: 2");
        let mut socket = connection_with(address, path, &lines).await;
        socket.write_all(&[0x1f, 0x8b]).await.unwrap();
        let (head, body) = answer_of(&mut socket).await;
        assert_eq!(head[9..12], *status.to_string(), "{path} {coding}: {body}");
        let says_it = body.contains("send the body without Content-Encoding");
        assert_eq!(says_it, status == 415, "{body}");
    }
}

/// What connections send before they are silent: nothing, a part of a header, the preface of HTTP/2.
const SILENT: [&[u8]; 3] = [
    b"",
    b"GET / HTTP/1.1\r\nhost: loc",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
];

async fn silent(address: SocketAddr) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for beginning in SILENT {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(beginning).await.unwrap();
        sockets.push(socket);
    }
    sockets
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_whatever_the_protocol() {
    let idle = Duration::from_millis(300);
    let server = Server::bind(ServeOptions { idle, ..options() });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    let never = std::future::pending;
    tokio::spawn(server.serve(endpoint, never(), never()));
    let mut sockets = silent(address).await;
    // One is silent after an answer.
    let mut kept = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    kept.write_all(request).await.unwrap();
    sockets.push(kept);
    for (number, mut socket) in sockets.into_iter().enumerate() {
        let mut answer = Vec::new();
        let end = socket.read_to_end(&mut answer);
        let end = tokio::time::timeout(10 * idle, end).await;
        assert!(end.is_ok(), "connection {number} stays");
    }
}

/// The types and the lengths of the frames of HTTP/2 that these bytes are.
fn frames(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        frames.push((*kind, length));
        bytes = rest.get(length..).unwrap_or_default();
    }
    frames
}

#[tokio::test]
async fn an_http2_client_gets_a_goaway_even_if_it_takes_no_answer() {
    const DATA: u8 = 0;
    const GOAWAY: u8 = 7;
    let idle = Duration::from_millis(300);
    let server = Server::bind(ServeOptions { idle, ..options() });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    let never = std::future::pending;
    tokio::spawn(server.serve(endpoint, never(), never()));
    for window in [0, 100] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, window];
        let request = b"\0\0\x0e\x01\x05\0\0\0\x01\x82\x84\x86\x41\x09localhost";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let beginning = [&preface[..], &settings, request].concat();
        socket.write_all(&beginning).await.unwrap();
        let mut answer = Vec::new();
        let end = socket.read_to_end(&mut answer);
        let end = tokio::time::timeout(Duration::from_secs(10), end).await;
        assert!(end.is_ok(), "a connection with window {window} stays");
        let frames = frames(&answer);
        let data = frames.iter().find(|(kind, _)| *kind == DATA);
        assert_eq!(data.is_some(), window > 0, "{frames:?}");
        assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_connections_that_say_nothing() {
    let (address, stop) = hello().await;
    let sockets = silent(address).await;
    assert!(
        ask(address, "GET / HTTP/1.1\r\nhost: localhost\r\n")
            .await
            .ends_with("hello")
    );
    drop(stop);
    for mut socket in sockets {
        let mut answer = Vec::new();
        let end = socket.read_to_end(&mut answer);
        assert!(
            tokio::time::timeout(Duration::from_secs(5), end)
                .await
                .is_ok()
        );
    }
}

#[tokio::test]
async fn health_is_answered_when_all_places_are_taken() {
    let connections = ConnectionLimits {
        total: 2,
        per_address: 2,
    };
    let server = Server::bind(ServeOptions {
        connections,
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make(|request: Request| async move {
        if request.uri().path() == "/wait" {
            std::future::pending::<()>().await;
        }
        Ok::<_, poem::Error>("hello")
    });
    let never = std::future::pending;
    tokio::spawn(server.serve(endpoint.map_to_response(), never(), never()));
    let status = |answer: String| answer[9..12].to_owned();
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
    // Silent ones give their places to new ones.
    let _silent = silent(address).await;
    assert_eq!(status(ask(address, &head("/")).await), "200");
    let mut waiting = Vec::new();
    for _ in 0..connections.total {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = head("/wait") + "\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        waiting.push(socket);
    }
    while status(ask(address, &head("/")).await) != "429" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status(ask(address, &head("/health")).await), "200");
    drop(waiting);
    while status(ask(address, &head("/")).await) != "200" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
