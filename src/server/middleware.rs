//! Middleware around all routes: checks of host, origin and API key, CORS headers, the request id, the access log and
//! the tracing span ([`span`]).

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
use super::keys::ApiKeys;
use super::span;
use crate::api::{Caller, Error, document, with_request_id};

/// The header with a request's id, in requests and responses.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The response header that lists the ignored fields of the request's body.
const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-ortolan-ignored");
/// Maximum length of a request id chosen by the client; a longer id is replaced.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Wraps an endpoint in the middleware.
pub(super) fn apply(
    endpoint: impl Endpoint<Output = Response> + 'static,
    policy: HostOriginPolicy,
    keys: Arc<ApiKeys>,
) -> impl Endpoint<Output = Response> + 'static {
    let cors_policy = policy.clone();
    let cors = Cors::new()
        .allow_origins_fn(move |origin| cors_policy.allows_origin(origin))
        .allow_credentials(true)
        .expose_headers([REQUEST_ID, IGNORED_FIELDS, RETRY_AFTER]);
    endpoint
        .around(move |endpoint, request| check_key(endpoint, request, Arc::clone(&keys)))
        // CORS wraps the key check, so that a page can read the error response and preflights need no key.
        .with(cors)
        .around(move |endpoint, request| check_host_and_origin(endpoint, request, policy.clone()))
        .around(log_request)
        .map_to_response()
}

/// Rejects requests whose `Host` or `Origin` header is not allowed, because a web page of another site may have sent
/// them. Also answers `OPTIONS` requests that are not preflights.
async fn check_host_and_origin(
    endpoint: Arc<impl Endpoint<Output = Response>>,
    mut request: Request,
    policy: HostOriginPolicy,
) -> poem::Result<Response> {
    let header = |name| {
        let value: Option<&HeaderValue> = request.headers().get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let host_headers = request.headers().get_all(HOST).iter().count();
    if host_headers > 1 || (host_headers == 0 && request.version() == Version::HTTP_11) {
        let message =
            format!("exactly one Host header is required: the request has {host_headers}");
        return Ok(error_response(&request, StatusCode::BAD_REQUEST, message));
    }
    let authority = request.uri().authority().map(ToString::to_string);
    let hosts = [header(HOST), authority];
    if let Some(host) = hosts
        .iter()
        .flatten()
        .find(|host| !policy.allows_host(host))
    {
        let message = format!("host '{host}' is not allowed (see --allowed-hosts)");
        return Ok(error_response(&request, StatusCode::FORBIDDEN, message));
    }
    let host = hosts.into_iter().flatten().next();
    if host.is_none() && policy.restricts_hosts() {
        let message = "the request has no Host header: send one".to_owned();
        return Ok(error_response(&request, StatusCode::BAD_REQUEST, message));
    }
    if let Some(origin) = header(ORIGIN)
        && !policy.allows_origin(&origin)
    {
        if !policy.is_same_origin(&origin, host.as_deref()) {
            let message = format!("origin '{origin}' is not allowed (see --cors-origin)");
            return Ok(error_response(&request, StatusCode::FORBIDDEN, message));
        }
        // The request is from the server's own page: the CORS layer must not treat it as cross-origin.
        request.headers_mut().remove(ORIGIN);
    }
    match options_response(&request) {
        Some(response) => Ok(response),
        None => endpoint.call(request).await,
    }
}

/// Identifies the caller, and rejects a request without a valid key unless its path is public. The response of a public
/// path still depends on the caller: `/health` lists slots only for callers that may see them.
async fn check_key(
    endpoint: Arc<impl Endpoint<Output = Response>>,
    mut request: Request,
    keys: Arc<ApiKeys>,
) -> poem::Result<Response> {
    let path = request.uri().path().to_owned();
    // A path that is not in the OpenAPI document is a file of the web page, or does not exist.
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let is_public = document::is_open(&path) || (is_read && !document::has(&path));
    let caller = keys.caller(request.headers());
    if caller == Caller::Unknown && !is_public {
        return Ok(Error::Unauthorized.response_for_path(&path));
    }
    request.set_data(caller);
    endpoint.call(request).await
}

/// Answers an `OPTIONS` request that is not a preflight with the methods of its path. Returns `None` for other
/// requests; the CORS layer answers preflights.
fn options_response(request: &Request) -> Option<Response> {
    let origin = request.headers().get(ORIGIN);
    let names_method = request
        .headers()
        .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() != Method::OPTIONS || (origin.is_some() && names_method) {
        return None;
    }
    let path = request.uri().path();
    let methods = document::methods(path).join(", ");
    if methods.is_empty() {
        return Some(Error::PathNotFound(path.to_owned()).response_for_path(path));
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

fn error_response(request: &Request, status: StatusCode, message: String) -> Response {
    Error::Http { status, message }.response_for_path(request.uri().path())
}

async fn log_request(
    endpoint: Arc<impl Endpoint<Output = Response>>,
    request: Request,
) -> poem::Result<Response> {
    let client_id = request.headers().get(REQUEST_ID).filter(|id| {
        id.len() <= MAX_REQUEST_ID_BYTES && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    let id = client_id.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>()))
            .expect("hexadecimal digits are a valid header value")
    });
    let mut line = AccessLine {
        started_at: Instant::now(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        id: id.clone(),
        status: None,
    };
    let span = span::request_span(&request, id.to_str().unwrap_or_default());
    let response = endpoint.get_response(request);
    let response = response.instrument(span.clone()).await;
    line.status = Some(response.status());
    let mut response = with_request_id(response, &line.path, &id);
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(span::with_span(span, response))
}

/// A request's line in the access log, written when the response (or stream) begins or the client disconnects.
struct AccessLine {
    started_at: Instant,
    method: Method,
    path: String,
    id: HeaderValue,
    /// `None` until there is a response: the log line of a client that disconnects earlier has no status.
    status: Option<StatusCode>,
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let Self {
            started_at,
            method,
            path,
            id,
            status,
        } = self;
        let milliseconds = started_at.elapsed().as_secs_f64() * 1000.0;
        let request_id = id.to_str().unwrap_or_default();
        match status.map(|status| status.as_u16()) {
            Some(status) => {
                tracing::info!(%method, path, status, milliseconds, request_id, "request");
            }
            None => tracing::info!(%method, path, milliseconds, request_id, "client disconnected"),
        }
    }
}

/// Decides which hosts and origins are allowed: those of this machine, the server's own, and the configured ones.
#[derive(Debug, Clone)]
pub struct HostOriginPolicy {
    /// Host of `--host`, normalized as in [`Host::name`].
    own_name: String,
    /// Whether the server listens on a loopback address and allows only names of this machine and configured hosts.
    loopback_only: bool,
    allowed_origins: Vec<String>,
    allowed_hosts: Vec<AllowedHost>,
}

impl HostOriginPolicy {
    /// Returns the policy of a server that listens on `host` at `address`. `*` in `allowed_origins` allows every
    /// origin.
    pub fn new(
        scheme: &Scheme,
        host: &str,
        address: SocketAddr,
        allowed_origins: &[String],
        allowed_hosts: &[AllowedHost],
    ) -> Self {
        let bare_host = host.trim_start_matches('[').trim_end_matches(']');
        let mut allowed_origins = allowed_origins.to_vec();
        let url_host = match bare_host.contains(':') {
            true => format!("[{bare_host}]"),
            false => bare_host.to_owned(),
        };
        allowed_origins.push(format!("{scheme}://{url_host}:{}", address.port()));
        // Browsers omit the scheme's default port.
        if address.port() == if *scheme == Scheme::HTTPS { 443 } else { 80 } {
            allowed_origins.push(format!("{scheme}://{url_host}"));
        }
        Self {
            own_name: Host::parse(&url_host)
                .map_or_else(|| bare_host.to_ascii_lowercase(), |host| host.name),
            loopback_only: address.ip().is_loopback(),
            allowed_origins,
            allowed_hosts: allowed_hosts.to_vec(),
        }
    }

    /// Whether only some hosts are allowed. If so, a request must have a host.
    pub(super) fn restricts_hosts(&self) -> bool {
        self.loopback_only || !self.allowed_hosts.is_empty()
    }

    /// Whether requests with this `Host` header are allowed. The check prevents DNS rebinding, where an attacker makes
    /// the host name of a web page resolve to this machine. A server on a loopback address allows names of this machine
    /// and the configured hosts. A server on another address allows every host if no hosts are configured. With
    /// configured hosts, it allows the same names as on a loopback address, and IP addresses, which cannot be rebound.
    pub fn allows_host(&self, host: &str) -> bool {
        if !self.restricts_hosts() {
            return true;
        }
        let Some(host) = Host::parse(host) else {
            return false;
        };
        host.is_local()
            || host.name == self.own_name
            || (!self.loopback_only && host.address().is_some())
            || self
                .allowed_hosts
                .iter()
                .any(|allowed| allowed.matches(&host))
    }

    /// Whether the server allows every host (`*`) and the origin has the same host as the request.
    fn is_same_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin_host(origin);
        self.allowed_hosts.iter().any(AllowedHost::is_any)
            && origin.is_some()
            && origin == host.and_then(Host::parse)
    }

    /// Whether web pages of this origin may send requests. Allowed are the configured origins, origins of this machine,
    /// and origins whose host is in `--allowed-hosts`; a `*` in `--allowed-hosts` allows no additional origin.
    pub fn allows_origin(&self, origin: &str) -> bool {
        let has_allowed_host = origin_host(origin).is_some_and(|host| {
            let mut hosts = self.allowed_hosts.iter();
            host.is_local() || hosts.any(|allowed| !allowed.is_any() && allowed.matches(&host))
        });
        has_allowed_host
            || self
                .allowed_origins
                .iter()
                .any(|allowed| allowed == origin || allowed == "*")
    }
}

/// Returns the host of an origin such as `https://app.example:8443`.
fn origin_host(origin: &str) -> Option<Host> {
    let (_, host) = origin.split_once("://")?;
    Host::parse(host)
}
