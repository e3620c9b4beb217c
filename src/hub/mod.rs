//! Model files from elsewhere: a URL, or a repository of a hub. A file is in its place only when it is complete, its
//! checksum is right and its content was checked; one that is there is found again without asking anybody.

mod http;
mod repository;
mod transfer;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use http::Http;
use repository::Repository;
pub use repository::Wanted;

use crate::atomic_file::AtomicFile;
use crate::file_bytes::read_regular_limited;

/// Most bytes of the file with the name of the file that was chosen: as long as a path can be.
const MAX_CHOICE_BYTES: u64 = 4096;

/// How to speak to the hub, and where files are kept.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The hub's address.
    pub endpoint: Url,
    /// Says to the hub who asks; nobody else is told.
    pub token: Option<String>,
    /// Where files are kept that are given no other place.
    pub folder: PathBuf,
    /// Whether nobody may be asked.
    pub offline: bool,
    /// How long to wait before the second attempt; each more waits twice as long.
    pub pause: Duration,
    /// Most bytes of a file, whether its server declares a length or not.
    pub max_bytes: u64,
    /// Checks a file before it gets its name; the error is what is wrong with it.
    pub check: fn(&Path) -> Result<(), String>,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Nobody may be asked.
    #[error("{0} is not here, or not whole, and --offline asks nobody for it")]
    Offline(String),
    /// The repository has no such file.
    #[error("{repository} has no {wanted}; its GGUF files: {found}")]
    NoSuchFile {
        /// The repository.
        repository: String,
        /// What was looked for.
        wanted: String,
        /// What it has.
        found: String,
    },
    /// It is not there, or is not to be seen.
    #[error("{0} is not there (404); a private one is shown to --hf-token only")]
    NotFound(String),
    /// It is not for everybody.
    #[error("{url} may not be read ({status}): {}", if *.token { "the token is not one that may" } else { "it takes a token: --hf-token" })]
    Refused {
        /// Whom was asked.
        url: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// It is there to be read by people.
    #[error("{0} is a web page, not a file")]
    Page(String),
    /// An answer that is no file.
    #[error("{url} answers {status}")]
    Status {
        /// Whom was asked.
        url: String,
        /// What was answered.
        status: u16,
    },
    /// Nobody answers, or stops in the middle.
    #[error("{url} cannot be had: {cause}")]
    Unreachable {
        /// Whom was asked.
        url: String,
        /// Why.
        cause: String,
    },
    /// It cannot be fetched from there, however often it is tried.
    #[error("{url} cannot be had: {cause}")]
    Unusable {
        /// Whom was asked.
        url: String,
        /// Why.
        cause: String,
    },
    /// It has more bytes than a file may have.
    #[error("{url} has more than the {limit_bytes} bytes that --model-max-bytes allows")]
    TooLarge {
        /// Whom was asked.
        url: String,
        /// Bytes that a file may have.
        limit_bytes: u64,
    },
    /// What was fetched is no model.
    #[error("what {url} answers is not a model: {cause}")]
    NoModel {
        /// Whom was asked.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// It is not what it should be.
    #[error("{url} is not what its hub says it is: {what} {found} instead of {promised}")]
    Different {
        /// Whom was asked.
        url: String,
        /// What differs: its size, its SHA-256.
        what: &'static str,
        /// What was found.
        found: String,
        /// What was promised.
        promised: String,
    },
    /// This machine refuses.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl HubError {
    /// Whether another attempt would end in the same way until the operator changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::Offline(_)
            | Self::NoSuchFile { .. }
            | Self::NotFound(_)
            | Self::Refused { .. }
            | Self::Page(_)
            | Self::Unusable { .. }
            | Self::TooLarge { .. }
            | Self::NoModel { .. }
            | Self::File { .. } => true,
            Self::Status { .. } | Self::Unreachable { .. } | Self::Different { .. } => false,
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Files that are there.
    pub files_done: usize,
    /// Files of the model.
    pub files: usize,
    /// Bytes of the file that comes.
    pub bytes_done: u64,
    /// Its size, if it is known.
    pub bytes: Option<u64>,
}

impl Progress {
    /// The share that is done, from 0 to 1.
    pub fn share(&self) -> f32 {
        let of_file = match self.bytes {
            Some(bytes @ 1..) => self.bytes_done as f64 / bytes as f64,
            _ => 0.0,
        };
        ((self.files_done as f64 + of_file) / self.files.max(1) as f64) as f32
    }
}

/// A model that is elsewhere.
#[derive(Debug)]
pub struct Download {
    source: Source,
    store: Option<PathBuf>,
    options: HubOptions,
}

#[derive(Debug)]
enum Source {
    Url(Url),
    Repository(Repository, Wanted),
}

/// A file and where it goes.
struct Piece {
    url: Url,
    path: PathBuf,
}

impl Download {
    /// The file at an address, kept at `store` or in the options' folder.
    ///
    /// # Errors
    /// The address is none of a file.
    pub fn of_url(
        text: &str,
        store: Option<PathBuf>,
        options: HubOptions,
    ) -> Result<Self, HubError> {
        let url = web_address(text).map_err(HubError::Invalid)?;
        repository::check_name(&repository::last_segment(&url)).map_err(HubError::Invalid)?;
        Self::new(Source::Url(url), store, options)
    }

    /// A file of a hub's repository `USER/REPO`, kept at `store` or in the options' folder.
    ///
    /// # Errors
    /// A name that cannot be one.
    pub fn of_repository(
        name: &str,
        wanted: Wanted,
        store: Option<PathBuf>,
        options: HubOptions,
    ) -> Result<Self, HubError> {
        let repository = Repository::new(name).map_err(HubError::Invalid)?;
        wanted.check().map_err(HubError::Invalid)?;
        Self::new(Source::Repository(repository, wanted), store, options)
    }

    fn new(source: Source, store: Option<PathBuf>, options: HubOptions) -> Result<Self, HubError> {
        let download = Self {
            source,
            store,
            options,
        };
        // What is wrong with the names is said before anybody is asked.
        if let Some(file) = download.known_file() {
            download.pieces(&file)?;
        }
        Ok(download)
    }

    /// The model's file, or the first of its set, if all of it is here.
    ///
    /// # Errors
    /// It is not, and nobody may be asked.
    pub fn found(&self) -> Result<Option<PathBuf>, HubError> {
        let file = self.known_file().or_else(|| self.chosen_before());
        let pieces = match file {
            Some(file) => self.pieces(&file)?,
            None => Vec::new(),
        };
        let complete = pieces.iter().all(|piece| piece.path.is_file());
        match pieces.into_iter().next() {
            Some(first) if complete => Ok(Some(first.path)),
            _ if self.options.offline => Err(HubError::Offline(self.to_string())),
            _ => Ok(None),
        }
    }

    /// Fetches what is not here and answers the model's file, or the first of its set. `progress` hears how far
    /// it is.
    ///
    /// # Errors
    /// What went wrong, after attempts that may help. What came so far is kept for the next time.
    pub async fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, HubError> {
        if let Some(path) = self.found()? {
            return Ok(path);
        }
        let http = Http::new(&self.options.endpoint, self.options.token.clone());
        let file = match self.known_file() {
            Some(file) => file,
            None => self.choose(&http).await?,
        };
        let pieces = self.pieces(&file)?;
        for (files_done, piece) in pieces.iter().enumerate() {
            let mut tell = |bytes_done, bytes| {
                progress(Progress {
                    files_done,
                    files: pieces.len(),
                    bytes_done,
                    bytes,
                });
            };
            transfer::fetch(&http, &piece.url, &piece.path, &self.options, &mut tell).await?;
        }
        let first = pieces.into_iter().next();
        Ok(first.expect("a model has a file").path)
    }

    /// The file's name, if it needs no list of the repository's files.
    fn known_file(&self) -> Option<String> {
        match &self.source {
            Source::Url(url) => Some(repository::last_segment(url)),
            Source::Repository(_, Wanted::File(file)) => Some(file.clone()),
            Source::Repository(..) => None,
        }
    }

    /// The file that was chosen when the hub was asked.
    fn chosen_before(&self) -> Option<String> {
        let file = read_regular_limited(&self.choice()?, MAX_CHOICE_BYTES).ok()?;
        let file = String::from_utf8(file).ok()?;
        repository::check_file(&file).ok()?;
        Some(file)
    }

    /// Asks the hub for its files and chooses one.
    async fn choose(&self, http: &Http) -> Result<String, HubError> {
        let Source::Repository(repository, wanted) = &self.source else {
            unreachable!("a URL names its file");
        };
        let files = repository.files(http, &self.options).await?;
        let file = wanted.choose(&files).ok_or_else(|| HubError::NoSuchFile {
            repository: repository.to_string(),
            wanted: wanted.to_string(),
            found: repository::models_of(&files).collect::<Vec<_>>().join(", "),
        })?;
        if let Some(choice) = self.choice() {
            let folder = choice.parent().unwrap_or(Path::new("."));
            let written = fs::create_dir_all(folder).and_then(|()| {
                let mut kept = AtomicFile::create(&choice)?;
                kept.write_all(file.as_bytes())?;
                kept.finish()
            });
            written.map_err(|cause| HubError::File {
                path: choice,
                cause,
            })?;
        }
        Ok(file.to_owned())
    }

    /// Where the chosen file's name is kept.
    fn choice(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Repository(repository, wanted) => {
                let folder = repository.folder(&self.options);
                Some(folder.join(format!("{wanted}.choice")))
            }
            Source::Url(_) => None,
        }
    }

    /// All files of a model whose first is `file`.
    fn pieces(&self, file: &str) -> Result<Vec<Piece>, HubError> {
        let names = repository::set_of(file).map_err(HubError::Invalid)?;
        if let (Some(store), 2..) = (&self.store, names.len())
            && store.file_name() != Path::new(file).file_name()
        {
            return Err(HubError::Invalid(format!(
                "{} cannot be stored as {}: it is one of {} files, which find each other by their names",
                self,
                store.display(),
                names.len()
            )));
        }
        let piece = |name: &String| {
            let (url, usual) = match &self.source {
                Source::Url(url) => {
                    // Of a set, the others stand beside the first.
                    let url = match names.len() {
                        1 => url.clone(),
                        _ => repository::beside(url, name),
                    };
                    let place = repository::place_of(&url, &self.options.folder);
                    (url, place)
                }
                Source::Repository(repository, _) => (
                    repository.file_url(&self.options.endpoint, name),
                    repository.folder(&self.options).join(name),
                ),
            };
            let path = match &self.store {
                None => usual,
                Some(store) if names.len() == 1 => store.clone(),
                Some(store) => {
                    store.with_file_name(Path::new(name).file_name().unwrap_or_default())
                }
            };
            Ok(Piece { url, path })
        };
        names.iter().map(piece).collect()
    }
}

impl std::fmt::Display for Download {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Url(url) => formatter.write_str(&http::shown(url)),
            Source::Repository(repository, wanted) => write!(formatter, "{repository}: {wanted}"),
        }
    }
}

/// Bytes in hexadecimal digits.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An address of HTTP.
///
/// # Errors
/// What is wrong with it.
pub fn web_address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text} is no address: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(format!("{text} is no address of http or https")),
    }
}

#[cfg(test)]
mod tests;
