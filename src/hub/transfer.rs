//! One file from the network to its place: what was begun is gone on with, what is whole is checked, and only
//! what is right gets the file's name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use url::Url;

use super::http::{Answer, Http, Resume, shown, unreachable};
use super::{HubError, HubOptions, hexadecimal};
use crate::atomic_file::{AtomicFile, check_replaceable};
use crate::file_bytes::read_regular_limited;

/// How often to look whether another process is ready with the same file.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// Bytes after which a part's digest is recorded: so many are fetched again at most after a crash.
const RECORD_BYTES: u64 = 64 << 20;

/// Most bytes of a part's record.
const MAX_RECORD_BYTES: u64 = 16 << 10;

/// Hears how many bytes there are, and of how many.
pub(super) type Tell<'a> = dyn FnMut(u64, Option<u64>) + 'a;

/// Fetches the file at `url` to `path`.
pub(super) async fn fetch(
    http: &Http,
    url: &Url,
    path: &Path,
    options: &HubOptions,
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
    let lock = open_beside(&lock_path).map_err(refused(&lock_path))?;
    wait_for(&lock, path).await.map_err(refused(&lock_path))?;
    // Another process may have fetched it meanwhile.
    if !path.is_file() {
        check_replaceable(path).map_err(refused(path))?;
        let part = Part {
            path: beside(path, ".part"),
            record: beside(path, ".part.json"),
            max_bytes: options.max_bytes,
        };
        let length = || fs::metadata(&part.path).map_or(0, |data| data.len());
        http.patiently(options.pause, length, async || {
            let begun = part.begun().map_err(refused(&part.path))?;
            let resume = begun.as_ref().map(|begun| &begun.resume);
            let answer = http.get(url, resume).await?;
            part.receive(answer, begun, tell).await
        })
        .await?;
        if let Err(cause) = (options.check)(&part.path) {
            part.discard();
            let url = shown(url);
            return Err(HubError::NoModel { url, cause });
        }
        check_replaceable(path).map_err(refused(path))?;
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

/// Opens a file of our own beside a download, which may be there already: a regular file, and no link.
fn open_beside(path: &Path) -> io::Result<File> {
    check_replaceable(path)?;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).open(path)
}

/// What is here of a file.
struct Part {
    path: PathBuf,
    record: PathBuf,
    max_bytes: u64,
}

/// What was received of a file: a part without it, or with other content, is not continued.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Which file it is a part of.
    etag: String,
    /// Bytes that were received.
    bytes: u64,
    /// Their SHA-256.
    sha256: String,
}

/// A part that can be continued: its content is what was received.
struct Begun {
    resume: Resume,
    digest: Context,
}

impl Part {
    /// What can be continued. What was received after the last record is cut off; a part that differs from its record is
    /// removed.
    fn begun(&self) -> io::Result<Option<Begun>> {
        let record = read_regular_limited(&self.record, MAX_RECORD_BYTES).ok();
        let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let Some(record) = record.filter(|record| record.bytes > 0 && !record.etag.is_empty())
        else {
            return Ok(None);
        };
        let file = open_beside(&self.path)?;
        let mut digest = Context::new(&SHA256);
        let found = hash(&mut (&file).take(record.bytes), &mut digest)?;
        let sha256 = hexadecimal(digest.clone().finish().as_ref());
        if found != record.bytes || sha256 != record.sha256 {
            tracing::warn!(path = %self.path.display(), "the part was changed: the download starts again");
            self.discard();
            return Ok(None);
        }
        file.set_len(record.bytes)?;
        let resume = Resume {
            bytes: record.bytes,
            etag: record.etag,
        };
        Ok(Some(Begun { resume, digest }))
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.record);
    }

    /// Removes what can be no part of the file.
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
        self.forget();
    }

    /// Takes what an answer brings, until the file is complete.
    async fn receive(
        &self,
        mut answer: Answer,
        begun: Option<Begun>,
        tell: &mut Tell<'_>,
    ) -> Result<(), HubError> {
        let refused = |cause| HubError::File {
            path: self.path.clone(),
            cause,
        };
        let url = shown(&answer.url);
        let kind = answer.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if kind.is_some_and(|kind| kind.starts_with(b"text/html")) {
            return Err(HubError::Page(url));
        }
        let follows = |bytes: Option<u64>, etag: Option<&str>| {
            let begun = begun.as_ref().map(|begun| &begun.resume);
            begun.is_some_and(|begun| {
                bytes == Some(begun.bytes) && etag.is_none_or(|etag| etag == begun.etag)
            })
        };
        let expected = Expected::of(&answer);
        let continued = match answer.status {
            StatusCode::OK => None,
            StatusCode::PARTIAL_CONTENT if follows(expected.start, answer.etag()) => begun,
            // There is nothing after what is here.
            StatusCode::RANGE_NOT_SATISFIABLE if follows(expected.bytes, None) => begun,
            status if begun.is_none() => {
                let status = status.as_u16();
                return Err(HubError::Status { url, status });
            }
            status => {
                self.discard();
                let cause = format!("it answers {status} with another part than was asked for");
                return Err(unreachable(&answer.url, cause));
            }
        };
        let limit_bytes = self.max_bytes.min(expected.bytes.unwrap_or(u64::MAX));
        let passes = |bytes: u64| match bytes > limit_bytes {
            false => Ok(()),
            true => {
                self.discard();
                let url = url.clone();
                Err(
                    match expected.bytes.filter(|bytes| *bytes < self.max_bytes) {
                        Some(promised) => HubError::Different {
                            url,
                            what: "size",
                            found: format!("at least {bytes}"),
                            promised: promised.to_string(),
                        },
                        None => HubError::TooLarge { url, limit_bytes },
                    },
                )
            }
        };
        passes(
            expected
                .bytes
                .unwrap_or(0)
                .min(self.max_bytes.saturating_add(1)),
        )?;
        let etag = answer.etag().unwrap_or_default().to_owned();
        let file = open_beside(&self.path).map_err(refused)?;
        let mut received = match continued {
            Some(Begun { resume, digest }) => Received {
                part: self,
                file,
                digest,
                bytes: resume.bytes,
                recorded: resume.bytes,
                etag: resume.etag,
            },
            None => {
                file.set_len(0).map_err(refused)?;
                Received {
                    part: self,
                    file,
                    digest: Context::new(&SHA256),
                    bytes: 0,
                    recorded: 0,
                    etag,
                }
            }
        };
        tell(received.bytes, expected.bytes);
        if answer.status != StatusCode::RANGE_NOT_SATISFIABLE {
            while let Some(bytes) = answer.next().await? {
                passes(received.bytes + bytes.len() as u64)?;
                received.take(&bytes).map_err(refused)?;
                tell(received.bytes, expected.bytes);
            }
        }
        let done = received.bytes;
        if let Some(bytes) = expected.bytes.filter(|bytes| done < *bytes) {
            let cause = format!("it ends after {done} of {bytes} bytes");
            return Err(unreachable(&answer.url, cause));
        }
        received.record().map_err(refused)?;
        let digest = hexadecimal(received.digest.clone().finish().as_ref());
        match expected.sha256 {
            Some(sha256) if !sha256.eq_ignore_ascii_case(&digest) => {
                drop(received);
                self.discard();
                Err(HubError::Different {
                    url,
                    what: "SHA-256",
                    found: digest,
                    promised: sha256,
                })
            }
            _ => Ok(()),
        }
    }
}

/// A part that grows. However its download ends, what was received is recorded.
struct Received<'a> {
    part: &'a Part,
    file: File,
    digest: Context,
    bytes: u64,
    /// Bytes when it was last recorded.
    recorded: u64,
    etag: String,
}

impl Received<'_> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        match self.bytes - self.recorded >= RECORD_BYTES {
            true => self.record(),
            false => Ok(()),
        }
    }

    /// Writes down what was received, once it is on the disk.
    fn record(&mut self) -> io::Result<()> {
        if self.recorded == self.bytes {
            return Ok(());
        }
        self.file.sync_all()?;
        let record = Record {
            etag: self.etag.clone(),
            bytes: self.bytes,
            sha256: hexadecimal(self.digest.clone().finish().as_ref()),
        };
        let mut file = AtomicFile::create(&self.part.record)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        file.finish()?;
        self.recorded = self.bytes;
        Ok(())
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        // Without a record the download starts again. A part that was discarded has none.
        if self.part.path.exists() {
            let _ = self.record();
        }
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
fn hash(file: &mut impl Read, digest: &mut Context) -> io::Result<u64> {
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
