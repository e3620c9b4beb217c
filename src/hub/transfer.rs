//! One file from the network to its place: what was begun is gone on with, what is whole is checked, and only
//! what is right gets the file's name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use ring::digest::{Context, SHA256};
use url::Url;

use super::HubError;
use super::http::{Answer, Http, Resume, shown, unreachable};

/// How often to look whether another process is ready with the same file.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// Hears how many bytes there are, and of how many.
pub(super) type Tell<'a> = dyn FnMut(u64, Option<u64>) + 'a;

/// Fetches the file at `url` to `path`.
pub(super) async fn fetch(
    http: &Http,
    url: &Url,
    path: &Path,
    pause: Duration,
    tell: &mut Tell<'_>,
) -> Result<(), HubError> {
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |cause| HubError::File { path, cause }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(refused(folder))?;
    }
    let lock_path = beside(path, ".lock");
    let lock = File::create(&lock_path).map_err(refused(&lock_path))?;
    wait_for(&lock, path).await.map_err(refused(&lock_path))?;
    // Another process may have fetched it meanwhile.
    if !path.is_file() {
        let part = Part {
            path: beside(path, ".part"),
            etag: beside(path, ".part.etag"),
        };
        let length = || fs::metadata(&part.path).map_or(0, |data| data.len());
        http.patiently(pause, length, async || {
            part.receive(http.get(url, part.begun().as_ref()).await?, tell)
                .await
        })
        .await?;
        fs::rename(&part.path, path).map_err(refused(path))?;
        part.forget();
    }
    // Who waits for it finds the file in its place, whatever becomes of the lock.
    let _ = fs::remove_file(lock_path);
    Ok(())
}

async fn wait_for(lock: &File, path: &Path) -> io::Result<()> {
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(path = %path.display(), "another process fetches it: waiting");
                }
                tokio::time::sleep(LOCK_PAUSE).await;
            }
        }
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// What is here of a file, and which one it is a part of.
struct Part {
    path: PathBuf,
    etag: PathBuf,
}

impl Part {
    /// What can be gone on with.
    fn begun(&self) -> Option<Resume> {
        let bytes = fs::metadata(&self.path).ok()?.len();
        let etag = fs::read_to_string(&self.etag).ok()?;
        (bytes > 0 && !etag.is_empty()).then_some(Resume { bytes, etag })
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.etag);
    }

    /// Removes what can be no part of the file.
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
        self.forget();
    }

    /// Takes what an answer brings, until the file is whole.
    async fn receive(&self, mut answer: Answer, tell: &mut Tell<'_>) -> Result<(), HubError> {
        let refused = |cause| HubError::File {
            path: self.path.clone(),
            cause,
        };
        let kind = answer.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if kind.is_some_and(|kind| kind.starts_with(b"text/html")) {
            return Err(HubError::Page(shown(&answer.url)));
        }
        let begun = self.begun();
        let follows = |bytes: Option<u64>, etag: Option<&str>| {
            let begun = begun.as_ref();
            begun.is_some_and(|begun| {
                bytes == Some(begun.bytes) && etag.is_none_or(|etag| etag == begun.etag)
            })
        };
        let expected = Expected::of(&answer);
        let goes_on = match answer.status {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT if follows(expected.start, answer.etag()) => true,
            // There is nothing after what is here.
            StatusCode::RANGE_NOT_SATISFIABLE if follows(expected.bytes, None) => true,
            status => {
                self.discard();
                let cause = format!("it answers {status} with another part than was asked for");
                return Err(unreachable(&answer.url, cause));
            }
        };
        let mut digest = Context::new(&SHA256);
        let mut file = OpenOptions::new();
        let file = file.read(true).append(true).create(true);
        let mut file = file.open(&self.path).map_err(refused)?;
        if !goes_on {
            file.set_len(0).map_err(refused)?;
            fs::write(&self.etag, answer.etag().unwrap_or_default()).map_err(refused)?;
        }
        let mut done = hash(&mut file, &mut digest).map_err(refused)?;
        tell(done, expected.bytes);
        if answer.status != StatusCode::RANGE_NOT_SATISFIABLE {
            while let Some(bytes) = answer.next().await? {
                file.write_all(&bytes).map_err(refused)?;
                digest.update(&bytes);
                done += bytes.len() as u64;
                tell(done, expected.bytes);
            }
        }
        file.sync_all().map_err(refused)?;
        let digest = hexadecimal(digest.finish().as_ref());
        let url = answer.url;
        let (what, found, promised) = match (expected.bytes, expected.sha256) {
            (Some(bytes), _) if done < bytes => {
                let cause = format!("it ends after {done} of {bytes} bytes");
                return Err(unreachable(&url, cause));
            }
            (Some(bytes), _) if done > bytes => ("size", done.to_string(), bytes.to_string()),
            (_, Some(sha256)) if !sha256.eq_ignore_ascii_case(&digest) => {
                ("SHA-256", digest, sha256)
            }
            _ => return Ok(()),
        };
        self.discard();
        Err(HubError::Different {
            url: shown(&url),
            what,
            found,
            promised,
        })
    }
}

/// What an answer says of the whole file.
struct Expected {
    bytes: Option<u64>,
    /// Where the part begins that it brings.
    start: Option<u64>,
    sha256: Option<String>,
}

impl Expected {
    fn of(answer: &Answer) -> Self {
        let text = |name| answer.headers.get(name)?.to_str().ok();
        // `bytes 7-9/10` or `bytes */10`
        let range: Option<&str> = text(CONTENT_RANGE);
        let range = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
        let length = || text(CONTENT_LENGTH)?.parse().ok();
        let bytes = match range {
            Some((_, bytes)) => bytes.parse().ok(),
            None => length(),
        };
        let linked = answer.linked("x-linked-size");
        let etag = answer.linked("x-linked-etag");
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        Self {
            bytes: linked.and_then(|bytes| bytes.parse().ok()).or(bytes),
            start: range.and_then(|(range, _)| range.split_once('-')?.0.parse().ok()),
            // Small files that are kept otherwise have a shorter one.
            sha256: etag
                .filter(|etag| etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()))
                .map(str::to_owned),
        }
    }
}

/// Reads a file to its end and answers its length.
fn hash(file: &mut File, digest: &mut Context) -> io::Result<u64> {
    let (mut done, mut part) = (0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(done),
            bytes => {
                digest.update(&part[..bytes]);
                done += bytes as u64;
            }
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
