//! A minimal HTTP client for downloads. It follows redirects, sends the token only to the hub, and limits redirects,
//! time and retries.
//!
//! `reqwest` would save about 60 lines, but with TLS and without its default cryptography (AWS-LC), every `reqwest`
//! client of the process panics unless a provider is installed first: the trace exporter's and the typed client's, too.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{
    AUTHORIZATION, ETAG, HOST, HeaderMap, IF_RANGE, LOCATION, PROXY_AUTHORIZATION, RANGE,
    USER_AGENT,
};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tower_service::Service;
use url::{Position, Url};

use super::HubError;

/// Maximum number of redirects per request.
const MAX_REDIRECTS: usize = 8;
/// Maximum time from connecting until the response headers arrive.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time between two parts of a response body.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of consecutive attempts without progress.
const MAX_ATTEMPTS: u32 = 5;

/// Settings of the HTTP client. Each request uses a new connection.
pub(super) struct Http {
    hub: Url,
    token: Option<String>,
    proxies: Matcher,
}

/// The received part of a file, from whose end a download resumes.
pub(super) struct Resume {
    pub(super) bytes: u64,
    pub(super) etag: String,
}

/// A response whose body has not been read.
pub(super) struct HttpResponse {
    /// Final URL, after any redirects.
    pub(super) url: Url,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Headers of all redirect responses; for each name, the first value.
    pub(super) redirect_headers: HeaderMap,
    body: Incoming,
}

impl Http {
    /// Creates a client that sends `token` only to the origin of `hub`.
    pub(super) fn new(hub: &Url, token: Option<String>) -> Self {
        Self {
            hub: hub.clone(),
            token,
            proxies: Matcher::from_env(),
        }
    }

    /// Requests a file, or the bytes after `part`. The response has status 200, 206 or 416.
    pub(super) async fn get(
        &self,
        url: &Url,
        part: Option<&Resume>,
    ) -> Result<HttpResponse, HubError> {
        let mut url = url.clone();
        let mut redirect_headers = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let response = timeout(RESPONSE_TIMEOUT, self.send_request(&url, part)).await;
            let response =
                response.map_err(|_| unreachable(&url, "the server does not respond"))?;
            let response = response.map_err(|error| connection_error(&url, &error))?;
            let (head, body) = response.into_parts();
            match head.status {
                StatusCode::OK
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(HttpResponse {
                        url,
                        status: head.status,
                        headers: head.headers,
                        redirect_headers,
                        body,
                    });
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(HubError::AccessDenied {
                        token: self.token_for(&url).is_some(),
                        url: redacted(&url),
                        status: head.status.as_u16(),
                    });
                }
                StatusCode::NOT_FOUND => return Err(HubError::NotFound(redacted(&url))),
                status if status.is_redirection() => {
                    url = redirect_target(&url, &head.headers)
                        .map_err(|cause| unusable(&url, cause))?;
                    // The hub responds first, so its headers take precedence.
                    for (name, value) in &head.headers {
                        redirect_headers.entry(name).or_insert(value.clone());
                    }
                }
                status => {
                    let (url, status) = (redacted(&url), status.as_u16());
                    return Err(HubError::UnexpectedStatus { url, status });
                }
            }
        }
        Err(unusable(&url, "too many redirects"))
    }

    /// Retries `attempt` after retryable errors, with increasing delays. `progress` returns the number of received
    /// bytes; when this number grows, the delay and the number of attempts are reset.
    pub(super) async fn with_retries<T>(
        &self,
        mut delay: Duration,
        progress: impl Fn() -> u64,
        mut attempt: impl AsyncFnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let (first_delay, mut attempts, mut received) = (delay, 0, progress());
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() => error,
                result => return result,
            };
            let now = progress();
            if now > received {
                (delay, attempts) = (first_delay, 0);
            }
            (received, attempts) = (received.max(now), attempts + 1);
            if attempts == MAX_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(%error, seconds = delay.as_secs_f32(), "download failed: retrying");
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
    }

    /// Sends a request on a new connection, through a proxy if the environment configures one.
    async fn send_request(
        &self,
        url: &Url,
        part: Option<&Resume>,
    ) -> anyhow::Result<Response<Incoming>> {
        let uri: Uri = url.as_str().parse()?;
        let is_encrypted = url.scheme() == "https";
        let token = self.token_for(url);
        let proxy = match (is_encrypted, token) {
            // A proxy could read the token.
            (false, Some(_)) => None,
            _ => self.proxies.intercept(&uri),
        };
        let host = &url[Position::BeforeHost..Position::AfterPort];
        let path = &url[Position::BeforePath..Position::AfterQuery];
        // A proxy forwards an unencrypted request. Many proxies open tunnels only for encrypted connections.
        let forwarding = proxy.as_ref().filter(|_| !is_encrypted);
        let mut request = Request::get(match forwarding {
            Some(_) => format!("http://{host}{path}"),
            None => path.to_owned(),
        });
        if let Some(credentials) = forwarding.and_then(Intercept::basic_auth) {
            request = request.header(PROXY_AUTHORIZATION, credentials);
        }
        request = request
            .header(HOST, host)
            .header(USER_AGENT, concat!("ortolan/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(part) = part {
            request = request
                .header(RANGE, format!("bytes={}-", part.bytes))
                .header(IF_RANGE, &part.etag);
        }
        let request = request.body(Empty::new())?;
        let socket = connect(uri, proxy, is_encrypted).await?.into_inner();
        if !is_encrypted {
            return send(socket, request).await;
        }
        let name = url.host_str().unwrap_or_default();
        // A URL has brackets around IPv6 addresses, a server name does not.
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned())?;
        send(tls_connector()?.connect(name, socket).await?, request).await
    }

    fn token_for(&self, url: &Url) -> Option<&str> {
        let token = self.token.as_deref()?;
        (url.origin() == self.hub.origin()).then_some(token)
    }
}

impl HubError {
    /// Whether an immediate retry may succeed.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::UnexpectedStatus { status, .. } => {
                matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..)
            }
            _ => false,
        }
    }
}

impl HttpResponse {
    /// Returns a header of the redirect responses, else of the final response.
    pub(super) fn hub_header(&self, name: &str) -> Option<&str> {
        let value = self
            .redirect_headers
            .get(name)
            .or_else(|| self.headers.get(name));
        value?.to_str().ok()
    }

    /// Returns the entity tag if it is a strong one.
    pub(super) fn etag(&self) -> Option<&str> {
        let etag = self.headers.get(ETAG)?.to_str().ok()?;
        etag.starts_with('"').then_some(etag)
    }

    /// Returns the next bytes of the body; `None` at the end.
    pub(super) async fn next_bytes(&mut self) -> Result<Option<Bytes>, HubError> {
        loop {
            let frame = timeout(BODY_IDLE_TIMEOUT, self.body.frame()).await;
            let frame =
                frame.map_err(|_| unreachable(&self.url, "the response stopped before its end"))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    let cause = format!("{:#}", anyhow::Error::new(error));
                    return Err(unreachable(&self.url, cause));
                }
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Reads the whole body. Fails if it exceeds `max_bytes`.
    pub(super) async fn read_body(mut self, max_bytes: usize) -> Result<Vec<u8>, HubError> {
        let mut body = Vec::new();
        while let Some(bytes) = self.next_bytes().await? {
            if body.len() + bytes.len() > max_bytes {
                let cause = format!("the response is larger than {max_bytes} bytes");
                return Err(HubError::Invalid(format!(
                    "{}: {cause}",
                    redacted(&self.url)
                )));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }
}

/// Connects to a server, or to a proxy. For an encrypted connection, the proxy opens a tunnel to the server.
async fn connect(
    server: Uri,
    proxy: Option<Intercept>,
    is_encrypted: bool,
) -> anyhow::Result<TokioIo<TcpStream>> {
    let mut direct = HttpConnector::new();
    direct.enforce_http(false);
    let Some(proxy) = proxy else {
        return Ok(direct.call(server).await?);
    };
    let scheme = proxy.uri().scheme_str().unwrap_or_default();
    anyhow::ensure!(scheme == "http", UnsupportedProxy(scheme.to_owned()));
    if !is_encrypted {
        return Ok(direct.call(proxy.uri().clone()).await?);
    }
    let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
    if let Some(credentials) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(credentials.clone());
    }
    Ok(tunnel.call(server).await?)
}

async fn send(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // The task ends when the response body ends or is dropped. The body reports connection errors.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// The operating system has no trusted root certificates.
#[derive(Debug, thiserror::Error)]
#[error("no trusted root certificates found: install ca-certificates or set SSL_CERT_FILE")]
struct NoCertificates;

/// The environment configures a proxy that is not an HTTP proxy.
#[derive(Debug, thiserror::Error)]
#[error("{0} proxies are not supported: set HTTPS_PROXY and HTTP_PROXY to http:// URLs")]
struct UnsupportedProxy(String);

/// Creates a TLS connector that trusts the operating system's root certificates.
fn tls_connector() -> anyhow::Result<TlsConnector> {
    let native = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(native.certs);
    anyhow::ensure!(usable > 0, NoCertificates);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Returns the target of a redirect. Rejects a redirect from HTTPS to HTTP.
fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or("redirect without a location")?;
    let to = from
        .join(location)
        .map_err(|error| format!("invalid redirect to {location}: {error}"))?;
    match (from.scheme(), to.scheme()) {
        ("http", "http" | "https") | ("https", "https") => Ok(to),
        ("https", "http") => Err(format!("redirect to {to} is not encrypted")),
        _ => Err(format!("redirect to {to} is not http or https")),
    }
}

/// Formats a URL without user, password and query, which may be secrets.
pub(super) fn redacted(url: &Url) -> String {
    let host_and_path = &url[Position::BeforeHost..Position::AfterPath];
    format!("{}://{host_and_path}", url.scheme())
}

/// Classifies an error of a request as permanent (invalid request, untrusted certificate) or retryable.
fn connection_error(url: &Url, error: &anyhow::Error) -> HubError {
    let cause = format!("{error:#}");
    let is_untrusted = |cause: &(dyn std::error::Error + 'static)| {
        let cause = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let cause = cause.and_then(|cause| cause.downcast_ref::<rustls::Error>());
        matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
    };
    let is_permanent = error.chain().any(|cause| {
        cause.is::<NoCertificates>()
            || cause.is::<UnsupportedProxy>()
            || cause.is::<hyper::http::Error>()
            || cause.is::<hyper::http::uri::InvalidUri>()
            || cause.is::<InvalidDnsNameError>()
            || is_untrusted(cause)
    });
    match is_permanent {
        true => unusable(url, cause),
        false => unreachable(url, cause),
    }
}

pub(super) fn unusable(url: &Url, cause: impl Into<String>) -> HubError {
    HubError::Unusable {
        url: redacted(url),
        cause: cause.into(),
    }
}

pub(super) fn unreachable(url: &Url, cause: impl Into<String>) -> HubError {
    HubError::Unreachable {
        url: redacted(url),
        cause: cause.into(),
    }
}
