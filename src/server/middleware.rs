//! What happens to every request before and after it is answered: who may ask at all and who has a key, a
//! request id, a line in the access log, a span ([`span`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use poem::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, HOST, HeaderName, ORIGIN,
    RETRY_AFTER, VARY,
};
use poem::http::uri::Scheme;
use poem::http::{HeaderValue, Method, StatusCode, Version};
use poem::middleware::Cors;
use poem::{Endpoint, EndpointExt, Request, Response};
use tracing::Instrument;

use super::hosts::{AllowedHost, Host};
use super::keys::Keys;
use super::span;
use crate::api::{Caller, Error, document, with_request_id};

/// Carries a request's id in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Lists a body's fields without effect.
const IGNORED: HeaderName = HeaderName::from_static("x-ortolan-ignored");
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
        .allow_credentials(true)
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
    mut request: Request,
    origins: Origins,
) -> poem::Result<Response> {
    let text = |name| {
        let value: Option<&HeaderValue> = request.headers().get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        let message = format!("a request of HTTP/1.1 has one Host header, this one has {hosts}");
        return Ok(refused(&request, StatusCode::BAD_REQUEST, message));
    }
    let authority = request.uri().authority().map(ToString::to_string);
    let named = [text(HOST), authority];
    if let Some(host) = named
        .iter()
        .flatten()
        .find(|host| !origins.allow_host(host))
    {
        let message = format!("host '{host}' is not allowed (see --allowed-hosts)");
        return Ok(refused(&request, StatusCode::FORBIDDEN, message));
    }
    let host = named.into_iter().flatten().next();
    if host.is_none() && origins.limit_hosts() {
        let message = "the request names no host: send a Host header".to_owned();
        return Ok(refused(&request, StatusCode::BAD_REQUEST, message));
    }
    if let Some(origin) = text(ORIGIN)
        && !origins.allow_origin(&origin)
    {
        if !origins.is_same_origin(&origin, host.as_deref()) {
            let message = format!("origin '{origin}' is not allowed (see --cors-origin)");
            return Ok(refused(&request, StatusCode::FORBIDDEN, message));
        }
        // The page is the server's own: there is nothing to allow across origins.
        request.headers_mut().remove(ORIGIN);
    }
    match methods_of(&request) {
        Some(response) => Ok(response),
        None => endpoint.call(request).await,
    }
}

/// Identifies the caller, and refuses a request without a valid key unless its path is open. What an open path shows
/// still depends on the caller: `/health` shows slots to those only who may see them.
async fn check_key(
    endpoint: Arc<impl Endpoint<Output = Response>>,
    mut request: Request,
    keys: Arc<Keys>,
) -> poem::Result<Response> {
    let path = request.uri().path().to_owned();
    // What is not in the document is a file of the page, or nothing.
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let open = document::is_open(&path) || (reads && !document::has(&path));
    let caller = keys.caller(request.headers());
    if caller == Caller::Unknown && !open {
        return Ok(Error::Unauthorized.answer_at(&path));
    }
    request.set_data(caller);
    endpoint.call(request).await
}

/// The answer to an `OPTIONS` that is no preflight, which the CORS layer answers: the methods of a path of the API.
fn methods_of(request: &Request) -> Option<Response> {
    let origin = request.headers().get(ORIGIN);
    let asks = request
        .headers()
        .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() != Method::OPTIONS || (origin.is_some() && asks) {
        return None;
    }
    let path = request.uri().path();
    let methods = document::methods(path).join(", ");
    if methods.is_empty() {
        return Some(Error::NoSuchPath(path.to_owned()).answer_at(path));
    }
    let response = Response::builder().header(ALLOW, format!("{methods}, OPTIONS"));
    let response = match origin {
        None => response,
        Some(origin) => response
            .header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)
            .header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")
            .header(ACCESS_CONTROL_ALLOW_METHODS, methods)
            .header(ACCESS_CONTROL_ALLOW_HEADERS, "*")
            .header(VARY, "Origin"),
    };
    Some(response.finish())
}

fn refused(request: &Request, status: StatusCode, message: String) -> Response {
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
    let response = response.instrument(span.clone()).await;
    line.status = Some(response.status());
    let mut response = with_request_id(response, &line.path, &id);
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
    hosts: Vec<AllowedHost>,
}

impl Origins {
    /// Those of a server that listens on `host`, at `address`. `allowed` are more origins, `*` is all; `hosts` are
    /// more names.
    pub fn new(
        scheme: &Scheme,
        host: &str,
        address: SocketAddr,
        allowed: &[String],
        hosts: &[AllowedHost],
    ) -> Self {
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
            name: Host::parse(&written).map_or_else(|| bare.to_ascii_lowercase(), |host| host.name),
            local_only: address.ip().is_loopback(),
            allowed,
            hosts: hosts.to_vec(),
        }
    }

    /// Whether only some hosts are answered, so that a request has to name one.
    pub(super) fn limit_hosts(&self) -> bool {
        self.local_only || !self.hosts.is_empty()
    }

    /// Whether a request with this `Host` may be answered. Bound to loopback, only one that names this
    /// machine may: a page whose name was made to point here (DNS rebinding) names another. Bound otherwise, all may,
    /// unless hosts are listed; then those, names of this machine and addresses, which cannot be rebound.
    pub fn allow_host(&self, host: &str) -> bool {
        if !self.limit_hosts() {
            return true;
        }
        let Some(host) = Host::parse(host) else {
            return false;
        };
        host.is_local()
            || host.name == self.name
            || (!self.local_only && host.address().is_some())
            || self.hosts.iter().any(|allowed| allowed.matches(&host))
    }

    /// Whether an origin is the host that the request names, on a server that answers to every name (`*`).
    fn is_same_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin_host(origin);
        self.hosts.iter().any(AllowedHost::is_any)
            && origin.is_some()
            && origin == host.and_then(Host::parse)
    }

    /// Whether pages of this origin may ask; those of hosts that are listed by name may.
    pub fn allow_origin(&self, origin: &str) -> bool {
        let by_host = origin_host(origin).is_some_and(|host| {
            let mut hosts = self.hosts.iter();
            host.is_local() || hosts.any(|allowed| !allowed.is_any() && allowed.matches(&host))
        });
        by_host
            || self
                .allowed
                .iter()
                .any(|allowed| allowed == origin || allowed == "*")
    }
}

/// The host of an origin, as `https://app.example:8443`.
fn origin_host(origin: &str) -> Option<Host> {
    let (_, host) = origin.split_once("://")?;
    Host::parse(host)
}
