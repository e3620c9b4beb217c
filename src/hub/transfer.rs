//! Downloads one file: resumes a partial file, verifies size and digest, and renames the complete file to its final
//! path.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use url::Url;

use super::http::{Http, HttpResponse, Resume, redacted, unreachable};
use super::{HubError, HubOptions, hexadecimal};
use crate::atomic_file::{AtomicFile, check_replaceable};
use crate::file_bytes::read_regular_limited;

/// Interval for polling a lock that another process holds.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Number of received bytes after which the record is updated. After a crash, at most these are downloaded again.
const RECORD_INTERVAL_BYTES: u64 = 64 << 20;

/// Maximum size of a record file in bytes.
const MAX_RECORD_BYTES: u64 = 16 << 10;

/// Receives the number of received bytes and, if known, the size of the file.
pub(super) type ProgressCallback<'a> = dyn FnMut(u64, Option<u64>) + 'a;

/// Downloads the file at `url` to `path`, unless the file exists. A lock file excludes other processes.
pub(super) async fn fetch(
    http: &Http,
    url: &Url,
    path: &Path,
    options: &HubOptions,
    report: &mut ProgressCallback<'_>,
) -> Result<(), HubError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |cause| HubError::LocalFile { path, cause }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file_error(folder))?;
    }
    let lock_path = with_suffix(path, ".lock");
    let lock = open_auxiliary(&lock_path).map_err(file_error(&lock_path))?;
    lock_exclusively(&lock, path)
        .await
        .map_err(file_error(&lock_path))?;
    // Another process may have downloaded the file during the wait for the lock.
    if !path.is_file() {
        check_replaceable(path).map_err(file_error(path))?;
        let part = PartialFile {
            path: with_suffix(path, ".part"),
            record: with_suffix(path, ".part.json"),
            max_bytes: options.max_bytes,
        };
        let received_bytes = || fs::metadata(&part.path).map_or(0, |data| data.len());
        http.with_retries(options.retry_delay, received_bytes, async || {
            let resumable = part.resumable().map_err(file_error(&part.path))?;
            let resume = resumable.as_ref().map(|resumable| &resumable.resume);
            let response = http.get(url, resume).await?;
            part.receive(response, resumable, report).await
        })
        .await?;
        if let Err(cause) = (options.check)(&part.path) {
            part.discard();
            let url = redacted(url);
            return Err(HubError::NotAModel { url, cause });
        }
        check_replaceable(path).map_err(file_error(path))?;
        fs::rename(&part.path, path).map_err(file_error(path))?;
        part.remove_record();
    }
    // Even if the lock file cannot be removed, a process that waits for the lock finds the complete file.
    let _ = fs::remove_file(lock_path);
    Ok(())
}

async fn lock_exclusively(lock: &File, path: &Path) -> io::Result<()> {
    let mut logged = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::info!(path = %path.display(), "another process is downloading this file: waiting");
                }
                tokio::time::sleep(LOCK_POLL_INTERVAL).await;
            }
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens or creates an auxiliary file next to a download. An existing file must be a regular file, not a link.
fn open_auxiliary(path: &Path) -> io::Result<File> {
    check_replaceable(path)?;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).open(path)
}

/// Paths of a partial file and its record.
struct PartialFile {
    path: PathBuf,
    record: PathBuf,
    max_bytes: u64,
}

/// Record of a partial file's content. A partial file without a matching record is not resumed.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Entity tag of the complete file.
    etag: String,
    /// Number of received bytes.
    bytes: u64,
    /// SHA-256 of the received bytes, in hexadecimal.
    sha256: String,
}

/// A partial file whose content matches its record. `digest` has hashed this content.
struct ResumableDownload {
    resume: Resume,
    digest: Context,
}

impl PartialFile {
    /// Prepares a resumed download. Truncates the partial file to the bytes of the record; discards a partial file
    /// whose content differs from the record.
    fn resumable(&self) -> io::Result<Option<ResumableDownload>> {
        let record = read_regular_limited(&self.record, MAX_RECORD_BYTES).ok();
        let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let Some(record) = record.filter(|record| record.bytes > 0 && !record.etag.is_empty())
        else {
            return Ok(None);
        };
        let file = open_auxiliary(&self.path)?;
        let mut digest = Context::new(&SHA256);
        let length = hash(&mut (&file).take(record.bytes), &mut digest)?;
        let sha256 = hexadecimal(digest.clone().finish().as_ref());
        if length != record.bytes || sha256 != record.sha256 {
            tracing::warn!(path = %self.path.display(), "the partial file was changed: restarting the download");
            self.discard();
            return Ok(None);
        }
        file.set_len(record.bytes)?;
        let resume = Resume {
            bytes: record.bytes,
            etag: record.etag,
        };
        Ok(Some(ResumableDownload { resume, digest }))
    }

    fn remove_record(&self) {
        let _ = fs::remove_file(&self.record);
    }

    /// Removes a partial file that cannot be resumed, and its record.
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
        self.remove_record();
    }

    /// Writes a response's body to the partial file, then verifies size and digest.
    async fn receive(
        &self,
        mut response: HttpResponse,
        resumable: Option<ResumableDownload>,
        report: &mut ProgressCallback<'_>,
    ) -> Result<(), HubError> {
        let file_error = |cause| HubError::LocalFile {
            path: self.path.clone(),
            cause,
        };
        let url = redacted(&response.url);
        let kind = response
            .headers
            .get(CONTENT_TYPE)
            .map(HeaderValue::as_bytes);
        if kind.is_some_and(|kind| kind.starts_with(b"text/html")) {
            return Err(HubError::WebPage(url));
        }
        let continues_at = |bytes: Option<u64>, etag: Option<&str>| {
            let resume = resumable.as_ref().map(|resumable| &resumable.resume);
            resume.is_some_and(|resume| {
                bytes == Some(resume.bytes) && etag.is_none_or(|etag| etag == resume.etag)
            })
        };
        let expected = ExpectedFile::from_response(&response);
        let resumed = match response.status {
            StatusCode::OK => None,
            StatusCode::PARTIAL_CONTENT if continues_at(expected.start, response.etag()) => {
                resumable
            }
            // The partial file is already complete.
            StatusCode::RANGE_NOT_SATISFIABLE if continues_at(expected.bytes, None) => resumable,
            status if resumable.is_none() => {
                let status = status.as_u16();
                return Err(HubError::UnexpectedStatus { url, status });
            }
            status => {
                self.discard();
                let cause = format!("status {status} with another range than requested");
                return Err(unreachable(&response.url, cause));
            }
        };
        let limit_bytes = self.max_bytes.min(expected.bytes.unwrap_or(u64::MAX));
        let check_size = |bytes: u64| match bytes > limit_bytes {
            false => Ok(()),
            true => {
                self.discard();
                let url = url.clone();
                Err(
                    match expected.bytes.filter(|bytes| *bytes < self.max_bytes) {
                        Some(expected) => HubError::Mismatch {
                            url,
                            property: "size",
                            actual: format!("at least {bytes}"),
                            expected: expected.to_string(),
                        },
                        None => HubError::TooLarge { url, limit_bytes },
                    },
                )
            }
        };
        check_size(
            expected
                .bytes
                .unwrap_or(0)
                .min(self.max_bytes.saturating_add(1)),
        )?;
        let etag = response.etag().unwrap_or_default().to_owned();
        let file = open_auxiliary(&self.path).map_err(file_error)?;
        let mut writer = match resumed {
            Some(ResumableDownload { resume, digest }) => PartialFileWriter {
                part: self,
                file,
                digest,
                bytes: resume.bytes,
                recorded_bytes: resume.bytes,
                etag: resume.etag,
            },
            None => {
                file.set_len(0).map_err(file_error)?;
                PartialFileWriter {
                    part: self,
                    file,
                    digest: Context::new(&SHA256),
                    bytes: 0,
                    recorded_bytes: 0,
                    etag,
                }
            }
        };
        report(writer.bytes, expected.bytes);
        if response.status != StatusCode::RANGE_NOT_SATISFIABLE {
            while let Some(bytes) = response.next_bytes().await? {
                check_size(writer.bytes + bytes.len() as u64)?;
                writer.write(&bytes).map_err(file_error)?;
                report(writer.bytes, expected.bytes);
            }
        }
        let done = writer.bytes;
        if let Some(bytes) = expected.bytes.filter(|bytes| done < *bytes) {
            let cause = format!("the response ended after {done} of {bytes} bytes");
            return Err(unreachable(&response.url, cause));
        }
        writer.record().map_err(file_error)?;
        let digest = hexadecimal(writer.digest.clone().finish().as_ref());
        match expected.sha256 {
            Some(sha256) if !sha256.eq_ignore_ascii_case(&digest) => {
                drop(writer);
                self.discard();
                Err(HubError::Mismatch {
                    url,
                    property: "SHA-256",
                    actual: digest,
                    expected: sha256,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Writer of a partial file. Dropping it updates the record.
struct PartialFileWriter<'a> {
    part: &'a PartialFile,
    file: File,
    digest: Context,
    bytes: u64,
    /// Value of `bytes` at the last record.
    recorded_bytes: u64,
    etag: String,
}

impl PartialFileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        match self.bytes - self.recorded_bytes >= RECORD_INTERVAL_BYTES {
            true => self.record(),
            false => Ok(()),
        }
    }

    /// Syncs the received bytes to disk, then updates the record.
    fn record(&mut self) -> io::Result<()> {
        if self.recorded_bytes == self.bytes {
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
        self.recorded_bytes = self.bytes;
        Ok(())
    }
}

impl Drop for PartialFileWriter<'_> {
    fn drop(&mut self) {
        // Errors are ignored: without a record, a later download starts from the beginning. A discarded file needs no
        // record.
        if self.part.path.exists() {
            let _ = self.record();
        }
    }
}

/// Metadata of the complete file, from the headers of a response.
struct ExpectedFile {
    bytes: Option<u64>,
    /// Offset of the body's first byte in the file, if the response is partial.
    start: Option<u64>,
    sha256: Option<String>,
}

impl ExpectedFile {
    fn from_response(response: &HttpResponse) -> Self {
        let text = |name| response.headers.get(name)?.to_str().ok();
        // Formats: `bytes 7-9/10` or `bytes */10`.
        let range: Option<&str> = text(CONTENT_RANGE);
        let range = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
        let length = || text(CONTENT_LENGTH)?.parse().ok();
        let bytes = match range {
            Some((_, bytes)) => bytes.parse().ok(),
            None => length(),
        };
        let linked_size = response.hub_header("x-linked-size");
        let etag = response.hub_header("x-linked-etag");
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        Self {
            bytes: linked_size.and_then(|bytes| bytes.parse().ok()).or(bytes),
            start: range.and_then(|(range, _)| range.split_once('-')?.0.parse().ok()),
            // For files in Git LFS the tag is their SHA-256; the tags of other files are shorter.
            sha256: etag
                .filter(|etag| etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()))
                .map(str::to_owned),
        }
    }
}

/// Adds the rest of a file's content to a digest. Returns the number of bytes.
fn hash(file: &mut impl Read, digest: &mut Context) -> io::Result<u64> {
    let (mut done, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(done),
            bytes => {
                digest.update(&buffer[..bytes]);
                done += bytes as u64;
            }
        }
    }
}
