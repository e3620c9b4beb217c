//! One question after the other: redirects are followed, with the token for the hub alone, and everything has
//! a limit.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, ETAG, HOST, HeaderMap, IF_RANGE, LOCATION, RANGE, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
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

/// Most redirects of a question.
const MAX_REDIRECTS: usize = 8;
/// How long somebody may take to begin an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// How long an answer may pause.
const IDLE: Duration = Duration::from_secs(60);
/// Attempts in a row of which none brings anything.
const MAX_ATTEMPTS: u32 = 5;

/// Asks by HTTP.
pub(super) struct Http {
    hub: Url,
    token: Option<String>,
    proxies: Matcher,
}

/// What is here of a file already.
pub(super) struct Resume {
    pub(super) bytes: u64,
    pub(super) etag: String,
}

/// An answer whose body is still to come.
pub(super) struct Answer {
    /// Who gave it.
    pub(super) url: Url,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// What the hub said of the file before it sent us elsewhere.
    pub(super) linked: HeaderMap,
    body: Incoming,
}

impl Http {
    /// `token` is for `hub` alone.
    pub(super) fn new(hub: &Url, token: Option<String>) -> Self {
        Self {
            hub: hub.clone(),
            token,
            proxies: Matcher::from_env(),
        }
    }

    /// Asks for what is at an address, or for what follows on the part that is here. The answer is one of 200,
    /// 206 and 416.
    pub(super) async fn get(&self, url: &Url, part: Option<&Resume>) -> Result<Answer, HubError> {
        let mut url = url.clone();
        let mut linked = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let response = timeout(ANSWER_DEADLINE, self.ask(&url, part)).await;
            let response = response.map_err(|_| unreachable(&url, "it does not answer"))?;
            let response = response.map_err(|error| failed(&url, &error))?;
            let (head, body) = response.into_parts();
            match head.status {
                StatusCode::OK
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(Answer {
                        url,
                        status: head.status,
                        headers: head.headers,
                        linked,
                        body,
                    });
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(HubError::Refused {
                        token: self.token_for(&url).is_some(),
                        url: shown(&url),
                        status: head.status.as_u16(),
                    });
                }
                StatusCode::NOT_FOUND => return Err(HubError::NotFound(shown(&url))),
                status if status.is_redirection() => {
                    url = next(&url, &head.headers).map_err(|cause| unusable(&url, cause))?;
                    // The hub speaks first.
                    for (name, value) in &head.headers {
                        linked.entry(name).or_insert(value.clone());
                    }
                }
                status => {
                    let (url, status) = (shown(&url), status.as_u16());
                    return Err(HubError::Status { url, status });
                }
            }
        }
        Err(unusable(&url, "it leads from one address to the next"))
    }

    /// Tries again, with ever longer pauses, what may go better the next time. `done` tells how much there is: as
    /// long as it grows, no attempt was in vain.
    pub(super) async fn patiently<T>(
        &self,
        mut pause: Duration,
        done: impl Fn() -> u64,
        mut attempt: impl AsyncFnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let (first_pause, mut in_vain, mut had) = (pause, 0, done());
        loop {
            let error = match attempt().await {
                Err(error) if error.may_pass() => error,
                ended => return ended,
            };
            let has = done();
            if has > had {
                (pause, in_vain) = (first_pause, 0);
            }
            (had, in_vain) = (had.max(has), in_vain + 1);
            if in_vain == MAX_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(%error, seconds = pause.as_secs_f32(), "it is tried again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// One question on a connection of its own.
    async fn ask(&self, url: &Url, part: Option<&Resume>) -> anyhow::Result<Response<Incoming>> {
        let target = url[Position::BeforePath..Position::AfterQuery].to_owned();
        let host = url[Position::BeforeHost..Position::AfterPort].to_owned();
        let mut request = Request::get(target)
            .header(HOST, host)
            .header(USER_AGENT, concat!("ortolan/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.token_for(url) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(part) = part {
            request = request
                .header(RANGE, format!("bytes={}-", part.bytes))
                .header(IF_RANGE, &part.etag);
        }
        let request = request.body(Empty::new())?;
        let socket = self.connect(url.as_str().parse()?).await?.into_inner();
        if url.scheme() == "http" {
            return send(socket, request).await;
        }
        let name = url.host_str().unwrap_or_default();
        // An address of IPv6 stands in brackets.
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned())?;
        send(trusting()?.connect(name, socket).await?, request).await
    }

    /// A connection, through the proxy that the environment names for it, if it names one.
    async fn connect(&self, to: Uri) -> anyhow::Result<TokioIo<TcpStream>> {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        match self.proxies.intercept(&to) {
            None => Ok(direct.call(to).await?),
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
                if let Some(name) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(name.clone());
                }
                Ok(tunnel.call(to).await?)
            }
        }
    }

    fn token_for(&self, url: &Url) -> Option<&str> {
        let token = self.token.as_deref()?;
        (url.origin() == self.hub.origin()).then_some(token)
    }
}

impl HubError {
    /// Whether it may go better the next time.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => {
                matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..)
            }
            _ => false,
        }
    }
}

impl Answer {
    /// A header, of the hub before others.
    pub(super) fn linked(&self, name: &str) -> Option<&str> {
        let value = self.linked.get(name).or_else(|| self.headers.get(name));
        value?.to_str().ok()
    }

    /// What the file is now, as strongly as the server can say it.
    pub(super) fn etag(&self) -> Option<&str> {
        let etag = self.headers.get(ETAG)?.to_str().ok()?;
        etag.starts_with('"').then_some(etag)
    }

    /// The next bytes, in order; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HubError> {
        loop {
            let frame = timeout(IDLE, self.body.frame()).await;
            let frame = frame.map_err(|_| unreachable(&self.url, "it stops in the middle"))?;
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

    /// The whole body.
    pub(super) async fn whole(mut self, most_bytes: usize) -> Result<Vec<u8>, HubError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > most_bytes {
                let cause = format!("it answers more than {most_bytes} bytes");
                return Err(HubError::Invalid(format!("{}: {cause}", shown(&self.url))));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }
}

async fn send(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // It ends with the answer's body, which tells of its errors.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// No server can be trusted.
#[derive(Debug, thiserror::Error)]
#[error(
    "this machine has no certificates that it trusts; install them (ca-certificates) or name a file by SSL_CERT_FILE"
)]
struct NoCertificates;

/// Encrypts for whom this machine trusts.
fn trusting() -> anyhow::Result<TlsConnector> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    anyhow::ensure!(usable > 0, NoCertificates);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Where a redirect leads.
fn next(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or("it leads elsewhere and does not say where")?;
    let to = from
        .join(location)
        .map_err(|error| format!("it leads to {location}: {error}"))?;
    match (from.scheme(), to.scheme()) {
        ("http", "http" | "https") | ("https", "https") => Ok(to),
        ("https", "http") => Err(format!("it leads to {to}, which is not encrypted")),
        _ => Err(format!(
            "it leads to {to}, which is no address of http or https"
        )),
    }
}

/// An address without what is secret in it: a name and a password, or a signature.
pub(super) fn shown(url: &Url) -> String {
    let place = &url[Position::BeforeHost..Position::AfterPath];
    format!("{}://{place}", url.scheme())
}

/// Why a question has no answer. What is wrong with the request or with the server's certificate stays wrong.
fn failed(url: &Url, error: &anyhow::Error) -> HubError {
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
        url: shown(url),
        cause: cause.into(),
    }
}

pub(super) fn unreachable(url: &Url, cause: impl Into<String>) -> HubError {
    HubError::Unreachable {
        url: shown(url),
        cause: cause.into(),
    }
}
