//! What happens to every request before and after it is answered: who may ask at all and who has a key, a
//! request id, a line in the access log, a span ([`span`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use poem::http::header::{HOST, HeaderName, ORIGIN, RETRY_AFTER};
use poem::http::uri::Scheme;
use poem::http::{HeaderValue, Method, StatusCode};
use poem::middleware::Cors;
use poem::{Endpoint, EndpointExt, Request, Response};
use tracing::Instrument;

use super::keys::Keys;
use super::span;
use crate::api::{Error, document};

/// Carries a request's id in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Lists a body's fields without effect.
const IGNORED: HeaderName = HeaderName::from_static("x-ortolan-ignored");
/// What of the document needs no key.
const OPEN_PATHS: [&str; 4] = ["/health", "/docs", "/openapi.json", "/openapi.yaml"];
/// Longest id that is taken from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Puts the rules around an endpoint.
pub(super) fn apply(
    endpoint: impl Endpoint<Output = Response> + 'static,
    origins: Origins,
    keys: Arc<Keys>,
) -> impl Endpoint<Output = Response> + 'static {
    let allowed = origins.clone();
    let cors = Cors::new()
        .allow_origins_fn(move |origin| allowed.allow_origin(origin))
        .expose_headers([REQUEST_ID, IGNORED, RETRY_AFTER]);
    endpoint
        .around(move |endpoint, request| check_key(endpoint, request, Arc::clone(&keys)))
        // Around the check, so that a page can read why it was refused, and ask first without a key.
        .with(cors)
        .around(move |endpoint, request| guard(endpoint, request, origins.clone()))
        .around(log)
        .map_to_response()
}

/// Refuses what a web page of somebody else's could send, before it does anything.
async fn guard(
    endpoint: Arc<impl Endpoint<Output = Response>>,
    request: Request,
    origins: Origins,
) -> poem::Result<Response> {
    let text = |name| {
        let value: Option<&HeaderValue> = request.headers().get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let authority = request.uri().authority().map(ToString::to_string);
    if let Some(host) = text(HOST).or(authority)
        && !origins.allow_host(&host)
    {
        return Ok(forbidden(
            &request,
            format!("the host «{host}» is not this server's"),
        ));
    }
    if let Some(origin) = text(ORIGIN)
        && !origins.allow_origin(&origin)
    {
        return Ok(forbidden(
            &request,
            format!("pages of «{origin}» may not ask here"),
        ));
    }
    endpoint.call(request).await
}

/// Finds out who asks, and refuses whoever has no key, but for what tells of the server only.
async fn check_key(
    endpoint: Arc<impl Endpoint<Output = Response>>,
    mut request: Request,
    keys: Arc<Keys>,
) -> poem::Result<Response> {
    let path = request.uri().path().to_owned();
    // What is not in the document is a file of the page, or nothing.
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let open = OPEN_PATHS.contains(&&*path) || (reads && !document::has(&path));
    match keys.caller(request.headers()) {
        Some(caller) => request.set_data(caller),
        None if open => {}
        None => return Ok(Error::Unauthorized.answer_at(&path)),
    }
    endpoint.call(request).await
}

fn forbidden(request: &Request, message: String) -> Response {
    let status = StatusCode::FORBIDDEN;
    Error::Http { status, message }.answer_at(request.uri().path())
}

async fn log(
    endpoint: Arc<impl Endpoint<Output = Response>>,
    request: Request,
) -> poem::Result<Response> {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        id.len() <= MAX_REQUEST_ID_BYTES && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    let id = given.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>()))
            .expect("hexadecimal digits make a header's value")
    });
    let mut line = AccessLine {
        started: Instant::now(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        id: id.clone(),
        status: None,
    };
    let span = span::of(&request, id.to_str().unwrap_or_default());
    let response = endpoint.get_response(request);
    let mut response = response.instrument(span.clone()).await;
    line.status = Some(response.status());
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(span::around(span, response))
}

/// A request's line in the log, written when it is answered (a stream: when it begins) or dropped.
struct AccessLine {
    started: Instant,
    method: Method,
    path: String,
    id: HeaderValue,
    /// None yet: a client that leaves has no status.
    status: Option<StatusCode>,
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let Self {
            started,
            method,
            path,
            id,
            status,
        } = self;
        let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
        let request_id = id.to_str().unwrap_or_default();
        match status.map(|status| status.as_u16()) {
            Some(status) => {
                tracing::info!(%method, path, status, milliseconds, request_id, "request");
            }
            None => tracing::info!(%method, path, milliseconds, request_id, "the client left"),
        }
    }
}

/// Which hosts and origins are the server's own or were allowed.
#[derive(Debug, Clone)]
pub struct Origins {
    /// The name the server was told to listen on.
    name: String,
    /// Only names of this machine are served.
    local_only: bool,
    allowed: Vec<String>,
}

impl Origins {
    /// Those of a server that listens on `host`, at `address`. `allowed` are more origins, `*` is all.
    pub fn new(scheme: &Scheme, host: &str, address: SocketAddr, allowed: &[String]) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut allowed = allowed.to_vec();
        let written = match bare.contains(':') {
            true => format!("[{bare}]"),
            false => bare.to_owned(),
        };
        allowed.push(format!("{scheme}://{written}:{}", address.port()));
        // Browsers leave out the port that the scheme stands for.
        if address.port() == if *scheme == Scheme::HTTPS { 443 } else { 80 } {
            allowed.push(format!("{scheme}://{written}"));
        }
        Self {
            name: bare.to_ascii_lowercase(),
            local_only: address.ip().is_loopback(),
            allowed,
        }
    }

    /// Whether a request with this `Host` may be answered. Bound to loopback, only one that names this
    /// machine may: a page whose name was made to point here (DNS rebinding) names another.
    pub fn allow_host(&self, host: &str) -> bool {
        let name = host_name(host);
        !self.local_only || is_local(&name) || name == self.name
    }

    /// Whether pages of this origin may ask.
    pub fn allow_origin(&self, origin: &str) -> bool {
        let local = origin
            .split_once("://")
            .is_some_and(|(_, host)| is_local(&host_name(host)));
        local
            || self
                .allowed
                .iter()
                .any(|allowed| allowed == origin || allowed == "*")
    }
}

/// The name in `name:port`, without the brackets of an IPv6 address.
fn host_name(host: &str) -> String {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name.to_ascii_lowercase()
}

fn is_local(name: &str) -> bool {
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}
