//! The model hub client: downloads model files from a URL or from a hub's repository. A downloaded file gets its final
//! name only after its checksum and content are verified. Existing files are found without network access.

mod http;
mod repository;
mod transfer;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use http::Http;
pub use repository::FileSelector;
use repository::Repository;

use crate::atomic_file::AtomicFile;
use crate::file_bytes::read_regular_limited;

/// Maximum size in bytes of the file that stores a selected file name: the maximum length of a path.
const MAX_SELECTION_BYTES: u64 = 4096;

/// Address, credentials and limits of the hub client.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Base URL of the hub.
    pub endpoint: Url,
    /// Access token. It is sent only to the origin of `endpoint`.
    pub token: Option<String>,
    /// Folder for downloads without an explicit destination path.
    pub folder: PathBuf,
    /// Whether network access is forbidden.
    pub offline: bool,
    /// Delay before the first retry. The delay doubles with each further retry.
    pub retry_delay: Duration,
    /// Maximum size of a file in bytes, also of files whose size the server does not declare.
    pub max_bytes: u64,
    /// Verifies a downloaded file before it gets its final name. The error describes the defect.
    pub check: fn(&Path) -> Result<(), String>,
}

/// Why a model file cannot be found or downloaded.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The URL, repository name or file name is invalid, or a repository listing is too large.
    #[error("{0}")]
    Invalid(String),
    /// A file of the model is missing, and network access is forbidden.
    #[error("{0} is not available locally, and --offline forbids downloading it")]
    Offline(String),
    /// The repository has no file that matches the selector.
    #[error("{selector} not found in {repository}; its GGUF files: {available}")]
    FileNotFound {
        /// Repository as `USER/REPO`.
        repository: String,
        /// The requested file or quantization.
        selector: String,
        /// GGUF files of the repository, separated by commas.
        available: String,
    },
    /// The server responded with status 404: the file does not exist or is private.
    #[error("{0} not found (404); a private repository requires --hf-token")]
    NotFound(String),
    /// The server denied access with status 401 or 403.
    #[error("{url} denied access ({status}): {}", if *.token { "the token has no access" } else { "set --hf-token" })]
    AccessDenied {
        /// URL of the request, without secrets.
        url: String,
        /// Status of the response: 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// The response is an HTML page.
    #[error("{0} is a web page, not a file")]
    WebPage(String),
    /// The response has another error status.
    #[error("{url} answered with status {status}")]
    UnexpectedStatus {
        /// URL of the request, without secrets.
        url: String,
        /// Status of the response.
        status: u16,
    },
    /// The connection failed or the response is incomplete. A retry may succeed.
    #[error("cannot download {url}: {cause}")]
    Unreachable {
        /// URL of the request, without secrets.
        url: String,
        /// The cause.
        cause: String,
    },
    /// The URL, certificate or redirect is unusable. A retry fails in the same way.
    #[error("cannot download {url}: {cause}")]
    Unusable {
        /// URL of the request, without secrets.
        url: String,
        /// The cause.
        cause: String,
    },
    /// The file exceeds the size limit.
    #[error("{url} is larger than {limit_bytes} bytes (--model-max-bytes)")]
    TooLarge {
        /// URL of the request, without secrets.
        url: String,
        /// Maximum size in bytes.
        limit_bytes: u64,
    },
    /// [`HubOptions::check`] rejected the downloaded file.
    #[error("{url} is not a model: {cause}")]
    NotAModel {
        /// URL of the request, without secrets.
        url: String,
        /// The defect.
        cause: String,
    },
    /// Size or digest of the file differ from the hub's metadata.
    #[error("{url} does not match the hub's metadata: {property} {actual} instead of {expected}")]
    Mismatch {
        /// URL of the request, without secrets.
        url: String,
        /// Name of the property: "size" or "SHA-256".
        property: &'static str,
        /// Value of the downloaded file.
        actual: String,
        /// Value in the hub's metadata.
        expected: String,
    },
    /// A local file or folder cannot be created, read or written.
    #[error("{}: {cause}", path.display())]
    LocalFile {
        /// Path of the file or folder.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
}

impl HubError {
    /// Whether a retry fails in the same way unless the operator changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::Offline(_)
            | Self::FileNotFound { .. }
            | Self::NotFound(_)
            | Self::AccessDenied { .. }
            | Self::WebPage(_)
            | Self::Unusable { .. }
            | Self::TooLarge { .. }
            | Self::NotAModel { .. }
            | Self::LocalFile { .. } => true,
            Self::UnexpectedStatus { .. } | Self::Unreachable { .. } | Self::Mismatch { .. } => {
                false
            }
        }
    }
}

/// Progress of a model's download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadProgress {
    /// Number of complete files.
    pub files_done: usize,
    /// Number of files of the model.
    pub files: usize,
    /// Received bytes of the current file.
    pub bytes_done: u64,
    /// Size of the current file in bytes, if known.
    pub bytes: Option<u64>,
}

impl DownloadProgress {
    /// Returns the progress from 0 to 1. Each file counts equally.
    pub fn fraction(&self) -> f32 {
        let file_fraction = match self.bytes {
            Some(bytes @ 1..) => self.bytes_done as f64 / bytes as f64,
            _ => 0.0,
        };
        ((self.files_done as f64 + file_fraction) / self.files.max(1) as f64) as f32
    }
}

/// A download of a model, which may consist of several shards.
#[derive(Debug)]
pub struct Download {
    source: Source,
    destination: Option<PathBuf>,
    options: HubOptions,
}

#[derive(Debug)]
enum Source {
    Url(Url),
    Repository(Repository, FileSelector),
}

/// A file's URL and local path.
struct RemoteFile {
    url: Url,
    path: PathBuf,
}

impl Download {
    /// Creates a download from a URL, to `destination` or into the folder of `options`.
    ///
    /// # Errors
    /// If the URL is not HTTP or HTTPS, or does not end with a valid file name.
    pub fn from_url(
        text: &str,
        destination: Option<PathBuf>,
        options: HubOptions,
    ) -> Result<Self, HubError> {
        let url = parse_http_url(text).map_err(HubError::Invalid)?;
        repository::check_name(&repository::last_segment(&url)).map_err(HubError::Invalid)?;
        Self::new(Source::Url(url), destination, options)
    }

    /// Creates a download from the hub's repository `name`, as `USER/REPO`, to `destination` or into the folder of
    /// `options`.
    ///
    /// # Errors
    /// If the name of the repository, file or quantization is invalid.
    pub fn from_repository(
        name: &str,
        selector: FileSelector,
        destination: Option<PathBuf>,
        options: HubOptions,
    ) -> Result<Self, HubError> {
        let repository = Repository::new(name).map_err(HubError::Invalid)?;
        selector.check().map_err(HubError::Invalid)?;
        Self::new(
            Source::Repository(repository, selector),
            destination,
            options,
        )
    }

    fn new(
        source: Source,
        destination: Option<PathBuf>,
        options: HubOptions,
    ) -> Result<Self, HubError> {
        let download = Self {
            source,
            destination,
            options,
        };
        // Rejects invalid names before any network access.
        if let Some(file) = download.known_file() {
            download.files_of_model(&file)?;
        }
        Ok(download)
    }

    /// Returns the path of the model file or its first shard, if all files exist locally.
    ///
    /// # Errors
    /// If a file is missing and network access is forbidden.
    pub fn find_local(&self) -> Result<Option<PathBuf>, HubError> {
        let file = self.known_file().or_else(|| self.stored_selection());
        let files = match file {
            Some(file) => self.files_of_model(&file)?,
            None => Vec::new(),
        };
        let complete = files.iter().all(|file| file.path.is_file());
        match files.into_iter().next() {
            Some(first) if complete => Ok(Some(first.path)),
            _ if self.options.offline => Err(HubError::Offline(self.to_string())),
            _ => Ok(None),
        }
    }

    /// Downloads missing files. Returns the path of the model file or its first shard.
    ///
    /// # Errors
    /// If a file cannot be downloaded after all retries. Received bytes are kept, so that a later download resumes.
    pub async fn run(
        &self,
        progress: &mut dyn FnMut(DownloadProgress),
    ) -> Result<PathBuf, HubError> {
        if let Some(path) = self.find_local()? {
            return Ok(path);
        }
        let http = Http::new(&self.options.endpoint, self.options.token.clone());
        let file = match self.known_file() {
            Some(file) => file,
            None => self.select_file(&http).await?,
        };
        let files = self.files_of_model(&file)?;
        for (files_done, file) in files.iter().enumerate() {
            let mut report = |bytes_done, bytes| {
                progress(DownloadProgress {
                    files_done,
                    files: files.len(),
                    bytes_done,
                    bytes,
                });
            };
            transfer::fetch(&http, &file.url, &file.path, &self.options, &mut report).await?;
        }
        let first = files.into_iter().next();
        Ok(first.expect("a model has a file").path)
    }

    /// Returns the file name if it is known without listing the repository.
    fn known_file(&self) -> Option<String> {
        match &self.source {
            Source::Url(url) => Some(repository::last_segment(url)),
            Source::Repository(_, FileSelector::Path(file)) => Some(file.clone()),
            Source::Repository(..) => None,
        }
    }

    /// Returns the file that an earlier download with the same selector selected.
    fn stored_selection(&self) -> Option<String> {
        let file = read_regular_limited(&self.selection_path()?, MAX_SELECTION_BYTES).ok()?;
        let file = String::from_utf8(file).ok()?;
        repository::check_file(&file).ok()?;
        Some(file)
    }

    /// Lists the repository, selects a file and stores the selection.
    async fn select_file(&self, http: &Http) -> Result<String, HubError> {
        let Source::Repository(repository, selector) = &self.source else {
            unreachable!("a URL names its file");
        };
        let files = repository.files(http, &self.options).await?;
        let file = selector
            .select(&files)
            .ok_or_else(|| HubError::FileNotFound {
                repository: repository.to_string(),
                selector: selector.to_string(),
                available: repository::models_of(&files).collect::<Vec<_>>().join(", "),
            })?;
        if let Some(path) = self.selection_path() {
            let folder = path.parent().unwrap_or(Path::new("."));
            let written = fs::create_dir_all(folder).and_then(|()| {
                let mut selection = AtomicFile::create(&path)?;
                selection.write_all(file.as_bytes())?;
                selection.finish()
            });
            written.map_err(|cause| HubError::LocalFile { path, cause })?;
        }
        Ok(file.to_owned())
    }

    /// Returns the path of the file that stores the selected file name; `None` for a URL.
    fn selection_path(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Repository(repository, selector) => {
                let folder = repository.folder(&self.options);
                Some(folder.join(format!("{selector}.choice")))
            }
            Source::Url(_) => None,
        }
    }

    /// Returns the files of a model: all shards if `file` is the first shard, else only `file`.
    fn files_of_model(&self, file: &str) -> Result<Vec<RemoteFile>, HubError> {
        let names = repository::shard_names(file).map_err(HubError::Invalid)?;
        if let (Some(destination), 2..) = (&self.destination, names.len())
            && destination.file_name() != Path::new(file).file_name()
        {
            return Err(HubError::Invalid(format!(
                "{} cannot be stored as {}: the model has {} files, which must keep their names",
                self,
                destination.display(),
                names.len()
            )));
        }
        let remote_file = |name: &String| {
            let (url, default_path) = match &self.source {
                Source::Url(url) => {
                    // All shards are in the same folder of the server.
                    let url = match names.len() {
                        1 => url.clone(),
                        _ => repository::sibling_url(url, name),
                    };
                    let path = repository::local_path(&url, &self.options.folder);
                    (url, path)
                }
                Source::Repository(repository, _) => (
                    repository.file_url(&self.options.endpoint, name),
                    repository.folder(&self.options).join(name),
                ),
            };
            let path = match &self.destination {
                None => default_path,
                Some(destination) if names.len() == 1 => destination.clone(),
                Some(destination) => {
                    destination.with_file_name(Path::new(name).file_name().unwrap_or_default())
                }
            };
            Ok(RemoteFile { url, path })
        };
        names.iter().map(remote_file).collect()
    }
}

impl std::fmt::Display for Download {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Url(url) => formatter.write_str(&http::redacted(url)),
            Source::Repository(repository, selector) => {
                write!(formatter, "{repository}: {selector}")
            }
        }
    }
}

/// Formats bytes as lowercase hexadecimal digits.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses a URL whose scheme is `http` or `https`.
///
/// # Errors
/// If the URL is invalid or has another scheme.
pub fn parse_http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("invalid URL {text}: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(format!(
            "invalid URL {text}: it must begin with http:// or https://"
        )),
    }
}

#[cfg(test)]
mod tests;
