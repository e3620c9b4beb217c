//! Repositories of a hub: validates names, selects the file to download, and derives URLs and local paths.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use url::Url;

use super::http::{Http, unreachable};
use super::{HubError, HubOptions, hexadecimal};

/// Maximum size of a repository listing in bytes.
const MAX_LISTING_BYTES: usize = 16 << 20;
/// Maximum number of shards per model.
const MAX_SHARDS: usize = 1000;
/// Default of `--hf-endpoint`. Downloads from this hub are stored below `hub`, those from other hubs below `hubs`.
const DEFAULT_HUB: &str = "https://huggingface.co/";
/// Suffixes of the auxiliary files next to downloads. A download must not have such a name.
const RESERVED_SUFFIXES: [&str; 4] = [".part", ".part.json", ".lock", ".choice"];
/// Quantizations that [`FileSelector::Default`] selects, in order of preference.
const DEFAULT_QUANTS: [&str; 2] = ["Q4_K_M", "Q4_0"];

/// Selects the file of a repository to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSelector {
    /// The file with this path.
    Path(String),
    /// The first GGUF file whose name ends with this quantization, such as `Q8_0`.
    Quantization(String),
    /// The first Q4_K_M file, else the first Q4_0 file, else the first GGUF file.
    Default,
}

impl FileSelector {
    /// Checks that the path is a GGUF file's, or that the quantization is a single word.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_word = |text: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !text.is_empty() && !text.starts_with('.') && text.chars().all(fits)
        };
        match self {
            Self::Path(file) => check_file(file),
            Self::Quantization(quant) if !is_word(quant) => Err(format!(
                "invalid quantization '{quant}': expected a name such as Q8_0"
            )),
            Self::Quantization(_) | Self::Default => Ok(()),
        }
    }

    /// Returns the selected file, given the sorted paths of the repository's GGUF files.
    pub(super) fn select<'a>(&'a self, files: &'a [String]) -> Option<&'a str> {
        let find = |quant: &str| models_of(files).find(|file| has_quantization(file, quant));
        match self {
            Self::Path(file) => Some(file),
            Self::Quantization(quant) => find(quant),
            Self::Default => {
                let default = DEFAULT_QUANTS.into_iter().find_map(find);
                default.or_else(|| models_of(files).next())
            }
        }
    }
}

impl fmt::Display for FileSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(name) | Self::Quantization(name) => formatter.write_str(name),
            Self::Default => formatter.write_str("GGUF file"),
        }
    }
}

/// A repository, named `USER/REPO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    user: String,
    name: String,
}

impl Repository {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let is_valid = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        match text.split_once('/') {
            Some((user, name)) if is_valid(user) && is_valid(name) => Ok(Self {
                user: user.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!("invalid repository \"{text}\": expected USER/REPO")),
        }
    }

    /// Returns the local folder for the repository's files. Each hub has its own folders.
    pub(super) fn folder(&self, options: &HubOptions) -> PathBuf {
        let hub = match options.endpoint.as_str() == DEFAULT_HUB {
            true => options.folder.join("hub"),
            false => path_for_url(options.folder.join("hubs"), &options.endpoint),
        };
        hub.join(&self.user).join(&self.name)
    }

    pub(super) fn file_url(&self, endpoint: &Url, file: &str) -> Url {
        let segments = [&self.user, &self.name, "resolve", "main"];
        url_below(endpoint, segments.into_iter().chain(file.split('/')))
    }

    /// Requests the paths of the repository's GGUF files. Returns them sorted.
    pub(super) async fn files(
        &self,
        http: &Http,
        options: &HubOptions,
    ) -> Result<Vec<String>, HubError> {
        #[derive(Deserialize)]
        struct Entry {
            path: String,
        }
        let segments = ["api", "models", &self.user, &self.name, "tree", "main"];
        let mut url = url_below(&options.endpoint, segments.into_iter());
        url.set_query(Some("recursive=true"));
        let text = http
            .with_retries(
                options.retry_delay,
                || 0,
                async || {
                    let response = http.get(&url, None).await?;
                    response.read_body(MAX_LISTING_BYTES).await
                },
            )
            .await?;
        let entries: Vec<Entry> = serde_json::from_slice(&text)
            .map_err(|error| unreachable(&url, format!("invalid repository listing: {error}")))?;
        let mut files: Vec<String> = entries.into_iter().map(|entry| entry.path).collect();
        files.retain(|file| check_file(file).is_ok());
        files.sort();
        Ok(files)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.user, self.name)
    }
}

/// Checks that a path is relative, has no `..`, and has the extension `.gguf`.
pub(super) fn check_file(path: &str) -> Result<(), String> {
    let is_normal = |part| matches!(part, Component::Normal(_));
    let is_relative = !path.contains('\\') && Path::new(path).components().all(is_normal);
    match is_relative && path.to_ascii_lowercase().ends_with(".gguf") {
        true => Ok(()),
        false => Err(format!(
            "invalid file \"{path}\": expected the path of a GGUF file in the repository"
        )),
    }
}

/// Returns the text models among GGUF files, without multimodal projectors. Of several shards, only the first.
pub(super) fn models_of(files: &[String]) -> impl Iterator<Item = &str> {
    let models = files.iter().map(String::as_str);
    models.filter(|file| {
        let is_projector = file.to_ascii_lowercase().contains("mmproj");
        !is_projector && parse_shard_name(file).is_none_or(|(_, number, _)| number == 1)
    })
}

fn has_quantization(file: &str, quant: &str) -> bool {
    let stem = match parse_shard_name(file) {
        Some((stem, ..)) => stem,
        None => file.get(..file.len() - ".gguf".len()).unwrap_or(file),
    };
    let start = stem.len().checked_sub(quant.len());
    let Some((before, end)) = start.and_then(|start| stem.split_at_checked(start)) else {
        return false;
    };
    // "Q4_XS" must not match "IQ4_XS".
    end.eq_ignore_ascii_case(quant) && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Parses a file name such as `STEM-00001-of-00003.gguf` into stem, shard number and shard count.
fn parse_shard_name(file: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| match text.len() {
        5 => text.parse().ok(),
        _ => None,
    };
    Some((stem, digits(number)?, digits(count)?))
}

/// Returns the names of all shards if `file` is the first shard, else only `file`. Fails for other shards.
pub(super) fn shard_names(file: &str) -> Result<Vec<String>, String> {
    match parse_shard_name(file) {
        None => Ok(vec![file.to_owned()]),
        Some((stem, 1, count @ 1..=MAX_SHARDS)) => {
            let name = |number| format!("{stem}-{number:05}-of-{count:05}.gguf");
            Ok((1..=count).map(name).collect())
        }
        Some((stem, _, count)) => Err(format!(
            "{file} is not the first shard, {stem}-00001-of-{count:05}.gguf, \
             or the model has more than {MAX_SHARDS} shards"
        )),
    }
}

/// Returns the last path segment of a URL, which is the file name.
pub(super) fn last_segment(url: &Url) -> String {
    let segments = url.path_segments();
    let last = segments.and_then(|mut segments| segments.next_back());
    last.unwrap_or_default().to_owned()
}

/// Checks that a download may have this file name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_reserved = RESERVED_SUFFIXES
        .iter()
        .any(|ending| name.ends_with(ending));
    match name.is_empty() || is_reserved {
        true => Err(format!("invalid model file name '{name}'")),
        false => Ok(()),
    }
}

/// Returns the local path for a URL. Different URLs have different paths. `#` marks ports and queries, because it
/// cannot occur in a URL's host or path.
pub(super) fn local_path(url: &Url, root: &Path) -> PathBuf {
    let mut path = path_for_url(root.join("url"), url);
    if let (Some(query), Some(name)) = (url.query(), path.file_name()) {
        let digest = digest(&SHA256, query.as_bytes());
        let name = name.to_owned();
        path.set_file_name(format!(
            "#{}",
            hexadecimal(&digest.as_ref()[..DIGEST_BYTES])
        ));
        path.push(name);
    }
    path
}

/// Number of bytes of a query's digest that a local path contains.
const DIGEST_BYTES: usize = 16;

/// Returns the host and path of a URL as folders below `root`. The host includes the port, unless it is 443 with HTTPS.
fn path_for_url(mut root: PathBuf, url: &Url) -> PathBuf {
    let host = url.host_str().unwrap_or_default();
    match (url.scheme(), url.port_or_known_default()) {
        ("https", Some(443)) | (_, None) => root.push(host),
        (_, Some(port)) => root.push(format!("{host}#{port}")),
    }
    // A parsed URL contains no `..`, and percent escapes stay escaped.
    let path = url.path();
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() {
        root.extend(
            path.split('/')
                .map(|name| if name.is_empty() { "#" } else { name }),
        );
    }
    root
}

/// Returns the URL of the file `name` in the same folder, with the same query.
pub(super) fn sibling_url(url: &Url, name: &str) -> Url {
    let mut url = url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop().push(name);
    }
    url
}

fn url_below<'a>(endpoint: &Url, segments: impl Iterator<Item = &'a str>) -> Url {
    let mut url = endpoint.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_files_by_quantization() {
        let files = [
            "IQ/m-IQ4_XS.gguf",
            "Q6_K/m-00001-of-00002.gguf",
            "Q6_K/m-00002-of-00002.gguf",
            "m-Q4_0.gguf",
            "m-Q4_K_M.gguf",
            "m-mmproj-Q3_K.gguf",
            "m.q8_0-00001-of-00002.gguf",
            "m.q8_0-00002-of-00002.gguf",
        ]
        .map(str::to_owned);
        let select = |quant: &str| {
            FileSelector::Quantization(quant.to_owned())
                .select(&files)
                .map(str::to_owned)
        };
        for (quant, file) in [
            ("Q4_0", Some("m-Q4_0.gguf")),
            ("q4_k_m", Some("m-Q4_K_M.gguf")),
            ("Q8_0", Some("m.q8_0-00001-of-00002.gguf")),
            ("IQ4_XS", Some("IQ/m-IQ4_XS.gguf")),
            ("Q4_XS", None),
            ("K_M", None),
            ("Q3_K", None),
            ("a name longer than any file of the repository", None),
        ] {
            assert_eq!(select(quant).as_deref(), file, "{quant}");
        }
        assert_eq!(FileSelector::Default.select(&files), Some("m-Q4_K_M.gguf"));
        assert_eq!(
            FileSelector::Default.select(&files[..4]),
            Some("m-Q4_0.gguf")
        );
        assert_eq!(
            FileSelector::Default.select(&files[..3]),
            Some("IQ/m-IQ4_XS.gguf")
        );
        assert_eq!(FileSelector::Default.select(&[]), None);
    }

    #[test]
    fn rejects_invalid_repository_and_file_names() {
        for name in [
            "", "user", "user/", "/repo", "a/b/c", "a/..", "./b", "a/b c",
        ] {
            assert!(Repository::new(name).is_err(), "{name}");
        }
        for file in [
            "",
            "x.bin",
            "../x.gguf",
            "/x.gguf",
            "a/../x.gguf",
            "a\\x.gguf",
        ] {
            assert!(check_file(file).is_err(), "{file}");
        }
        assert_eq!(check_file("a/x.GGUF"), Ok(()));
    }

    #[test]
    fn different_urls_have_different_local_paths() {
        let path = |url: &str| local_path(&Url::parse(url).unwrap(), Path::new("/cache"));
        let default_port = path("https://a.example/m/x.gguf");
        assert_eq!(default_port, Path::new("/cache/url/a.example/m/x.gguf"));
        assert_eq!(path("https://a.example:443/m/x.gguf"), default_port);
        assert_eq!(
            path("https://b\u{fc}cher.example/m/x.gguf"),
            Path::new("/cache/url/xn--bcher-kva.example/m/x.gguf")
        );
        let mut paths = std::collections::BTreeSet::from([default_port]);
        for url in [
            "http://a.example/m/x.gguf",
            "https://a.example:8443/m/x.gguf",
            "http://a.example:443/m/x.gguf",
            "https://a.example/m/x.gguf?",
            "https://a.example/m/x.gguf?v=1",
            "https://a.example/m/x.gguf?v=2",
            "https://a.example/m//x.gguf",
            "https://a.example//m/x.gguf",
            "https://a.example/m%2Fx.gguf",
            "https://b.example/m/x.gguf",
        ] {
            let path = path(url);
            assert!(path.starts_with("/cache/url"), "{path:?}");
            assert!(paths.insert(path), "{url}");
        }
        for name in ["", "x.gguf.part", "x.gguf.lock", "Q8_0.choice"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn lists_all_shards_from_the_first() {
        let names = shard_names("a/m-00001-of-00003.gguf").unwrap();
        assert_eq!(names.len(), 3);
        assert_eq!(names[2], "a/m-00003-of-00003.gguf");
        assert_eq!(shard_names("m-1-of-3.gguf").unwrap(), ["m-1-of-3.gguf"]);
        assert!(shard_names("m-00002-of-00003.gguf").is_err());
        assert!(shard_names("m-00001-of-01001.gguf").is_err());
    }
}
