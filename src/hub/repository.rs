//! What a hub's repositories and their files are called, and which file is meant.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use url::Url;

use super::http::{Http, unreachable};
use super::{HubError, HubOptions, hexadecimal};

/// Most bytes of a list of files.
const MAX_LISTING_BYTES: usize = 16 << 20;
/// Most files of a set.
const MAX_SET_FILES: usize = 1000;
/// The hub of `--hf-endpoint`, if it is not given.
const USUAL_HUB: &str = "https://huggingface.co/";
/// Endings of files that stand beside downloads: a download of such a name could be taken for one of them.
const OWN_ENDINGS: [&str; 4] = [".part", ".part.json", ".lock", ".choice"];
/// What is taken if nothing is said, the first that there is.
const USUAL_QUANTS: [&str; 2] = ["Q4_K_M", "Q4_0"];

/// Which of a repository's files is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The one of this path.
    File(String),
    /// The one whose name ends with this: `Q8_0`.
    Quant(String),
    /// Q4_K_M, or Q4_0, or the first GGUF file.
    Usual,
}

impl Wanted {
    /// Checks that the file is a GGUF file, and that the quantization is a word.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_word = |text: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !text.is_empty() && !text.starts_with('.') && text.chars().all(fits)
        };
        match self {
            Self::File(file) => check_file(file),
            Self::Quant(quant) if !is_word(quant) => Err(format!(
                "invalid quantization '{quant}': expected one as Q8_0"
            )),
            Self::Quant(_) | Self::Usual => Ok(()),
        }
    }

    /// The file, of a repository's paths.
    pub(super) fn choose<'a>(&'a self, files: &'a [String]) -> Option<&'a str> {
        let of = |quant: &str| models_of(files).find(|file| is_quant(file, quant));
        match self {
            Self::File(file) => Some(file),
            Self::Quant(quant) => of(quant),
            Self::Usual => {
                let usual = USUAL_QUANTS.into_iter().find_map(of);
                usual.or_else(|| models_of(files).next())
            }
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) | Self::Quant(name) => formatter.write_str(name),
            Self::Usual => formatter.write_str("GGUF file"),
        }
    }
}

/// `USER/REPO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    user: String,
    name: String,
}

impl Repository {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let fine = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        match text.split_once('/') {
            Some((user, name)) if fine(user) && fine(name) => Ok(Self {
                user: user.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!("\"{text}\" is no repository: USER/REPO")),
        }
    }

    /// Where its files are kept: those of another hub are other files.
    pub(super) fn folder(&self, options: &HubOptions) -> PathBuf {
        let hub = match options.endpoint.as_str() == USUAL_HUB {
            true => options.folder.join("hub"),
            false => place_below(options.folder.join("hubs"), &options.endpoint),
        };
        hub.join(&self.user).join(&self.name)
    }

    pub(super) fn file_url(&self, endpoint: &Url, file: &str) -> Url {
        let words = [&self.user, &self.name, "resolve", "main"];
        below(endpoint, words.into_iter().chain(file.split('/')))
    }

    /// The paths of all its files, in order.
    pub(super) async fn files(
        &self,
        http: &Http,
        options: &HubOptions,
    ) -> Result<Vec<String>, HubError> {
        #[derive(Deserialize)]
        struct Entry {
            path: String,
        }
        let words = ["api", "models", &self.user, &self.name, "tree", "main"];
        let mut url = below(&options.endpoint, words.into_iter());
        url.set_query(Some("recursive=true"));
        let text = http
            .patiently(
                options.pause,
                || 0,
                async || {
                    let answer = http.get(&url, None).await?;
                    answer.whole(MAX_LISTING_BYTES).await
                },
            )
            .await?;
        let entries: Vec<Entry> = serde_json::from_slice(&text).map_err(|error| {
            unreachable(&url, format!("its list of files cannot be read: {error}"))
        })?;
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

/// Whether the path stays in its folder and is one of a GGUF file.
pub(super) fn check_file(path: &str) -> Result<(), String> {
    let inside = |part| matches!(part, Component::Normal(_));
    let plain = !path.contains('\\') && Path::new(path).components().all(inside);
    match plain && path.to_ascii_lowercase().ends_with(".gguf") {
        true => Ok(()),
        false => Err(format!("\"{path}\" is no GGUF file of a repository")),
    }
}

/// The files that are models of text, of a set the first.
pub(super) fn models_of(files: &[String]) -> impl Iterator<Item = &str> {
    let models = files.iter().map(String::as_str);
    models.filter(|file| {
        let projector = file.to_ascii_lowercase().contains("mmproj");
        !projector && part_of(file).is_none_or(|(_, number, _)| number == 1)
    })
}

fn is_quant(file: &str, quant: &str) -> bool {
    let stem = match part_of(file) {
        Some((stem, ..)) => stem,
        None => file.get(..file.len() - ".gguf".len()).unwrap_or(file),
    };
    let start = stem.len().checked_sub(quant.len());
    let Some((before, end)) = start.and_then(|start| stem.split_at_checked(start)) else {
        return false;
    };
    // "IQ4_XS" is no "Q4_XS".
    end.eq_ignore_ascii_case(quant) && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Stem, number and count of one file of a set: `STEM-00001-of-00003.gguf`.
fn part_of(file: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| match text.len() {
        5 => text.parse().ok(),
        _ => None,
    };
    Some((stem, digits(number)?, digits(count)?))
}

/// All files of the set whose first is `file`; itself, if it is alone.
pub(super) fn set_of(file: &str) -> Result<Vec<String>, String> {
    match part_of(file) {
        None => Ok(vec![file.to_owned()]),
        Some((stem, 1, count @ 1..=MAX_SET_FILES)) => {
            let name = |number| format!("{stem}-{number:05}-of-{count:05}.gguf");
            Ok((1..=count).map(name).collect())
        }
        Some((stem, _, count)) => Err(format!(
            "{file} is not the first of its set, {stem}-00001-of-{count:05}.gguf, \
             or the set has more than {MAX_SET_FILES} files"
        )),
    }
}

/// The name of the file at an address.
pub(super) fn last_segment(url: &Url) -> String {
    let segments = url.path_segments();
    let last = segments.and_then(|mut segments| segments.next_back());
    last.unwrap_or_default().to_owned()
}

/// Whether a file can be kept under this name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_own = OWN_ENDINGS.iter().any(|ending| name.ends_with(ending));
    match name.is_empty() || is_own {
        true => Err(format!("'{name}' is not the name of a model file")),
        false => Ok(()),
    }
}

/// Where the file at an address is kept. Different addresses have different places: a URL's host and path have no `#`, so that it
/// marks what comes from elsewhere in the URL.
pub(super) fn place_of(url: &Url, root: &Path) -> PathBuf {
    let mut place = place_below(root.join("url"), url);
    if let (Some(query), Some(name)) = (url.query(), place.file_name()) {
        let digest = digest(&SHA256, query.as_bytes());
        let name = name.to_owned();
        place.set_file_name(format!("#{}", hexadecimal(&digest.as_ref()[..QUERY_BYTES])));
        place.push(name);
    }
    place
}

/// Bytes of a query's digest in a place.
const QUERY_BYTES: usize = 16;

/// The host and path of an address as folders below `root`, and the port unless it is that of HTTPS.
fn place_below(mut root: PathBuf, url: &Url) -> PathBuf {
    let host = url.host_str().unwrap_or_default();
    match (url.scheme(), url.port_or_known_default()) {
        ("https", Some(443)) | (_, None) => root.push(host),
        (_, Some(port)) => root.push(format!("{host}#{port}")),
    }
    // An address has no `..`, but it can have escapes; they stay escaped.
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

/// The address of a file that stands beside another, with the same query.
pub(super) fn beside(url: &Url, name: &str) -> Url {
    let mut url = url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop().push(name);
    }
    url
}

fn below<'a>(endpoint: &Url, words: impl Iterator<Item = &'a str>) -> Url {
    let mut url = endpoint.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(words);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_meant_is_chosen() {
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
        let chosen = |wanted: &str| {
            Wanted::Quant(wanted.to_owned())
                .choose(&files)
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
            assert_eq!(chosen(quant).as_deref(), file, "{quant}");
        }
        assert_eq!(Wanted::Usual.choose(&files), Some("m-Q4_K_M.gguf"));
        assert_eq!(Wanted::Usual.choose(&files[..4]), Some("m-Q4_0.gguf"));
        assert_eq!(Wanted::Usual.choose(&files[..3]), Some("IQ/m-IQ4_XS.gguf"));
        assert_eq!(Wanted::Usual.choose(&[]), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_none() {
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
    fn different_addresses_have_different_places() {
        let place = |url: &str| place_of(&Url::parse(url).unwrap(), Path::new("/cache"));
        let usual = place("https://a.example/m/x.gguf");
        assert_eq!(usual, Path::new("/cache/url/a.example/m/x.gguf"));
        assert_eq!(place("https://a.example:443/m/x.gguf"), usual);
        let mut places = std::collections::BTreeSet::from([usual]);
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
            let place = place(url);
            assert!(place.starts_with("/cache/url"), "{place:?}");
            assert!(places.insert(place), "{url}");
        }
        for name in ["", "x.gguf.part", "x.gguf.lock", "Q8_0.choice"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_set_is_known_by_its_first_file() {
        let set = set_of("a/m-00001-of-00003.gguf").unwrap();
        assert_eq!(set.len(), 3);
        assert_eq!(set[2], "a/m-00003-of-00003.gguf");
        assert_eq!(set_of("m-1-of-3.gguf").unwrap(), ["m-1-of-3.gguf"]);
        assert!(set_of("m-00002-of-00003.gguf").is_err());
        assert!(set_of("m-00001-of-01001.gguf").is_err());
    }
}
