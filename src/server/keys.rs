//! API keys from the command line and from key files, which are reloaded when they change. The key of a request
//! identifies its caller. Client keys give access; operator keys also give access to the requests of all callers and to
//! server-wide settings.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use poem::http::HeaderMap;
use poem::http::header::{AUTHORIZATION, HeaderName};
use subtle::{Choice, ConstantTimeEq};

use super::reloaded::{FileSource, Reloaded, read_file};
use crate::api::{Caller, KeyId};

/// The header that may contain the key instead of `Authorization`.
const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// Some editors write this character at the start of a UTF-8 file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why the API keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeysError {
    /// A key of `--api-key` is invalid.
    #[error("--api-key: {0}")]
    Direct(&'static str),
    /// A key file cannot be read, contains an invalid key, or contains no key.
    #[error("{option} {}: {cause}", path.display())]
    File {
        /// The option that names the file.
        option: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        cause: String,
    },
}

/// Sources of API keys. If all are empty, every client has access.
#[derive(Debug, Clone, Default)]
pub struct ApiKeySources {
    /// Values of `--api-key`.
    pub keys: Vec<String>,
    /// File with client keys (`--api-key-file`).
    pub file: Option<PathBuf>,
    /// File with operator keys (`--operator-key-file`).
    pub operator_file: Option<PathBuf>,
}

/// The API keys of a server. Without keys, every client has access.
#[derive(Default)]
pub struct ApiKeys {
    direct: Vec<String>,
    file: Option<Reloaded<KeyFile>>,
    operator_file: Option<Reloaded<KeyFile>>,
    /// Whether several client keys have ever existed at a time. If so, a single remaining key does not become an
    /// operator key.
    had_multiple: AtomicBool,
}

struct KeyFile {
    option: &'static str,
    path: PathBuf,
}

impl ApiKeys {
    /// Reads the keys. A key file has one key per line; empty lines and lines that begin with `#` are skipped. When a
    /// key file can no longer be read, its keys become invalid.
    ///
    /// # Errors
    /// If a key cannot be sent in a header, or a file cannot be read or has no key.
    pub fn new(sources: ApiKeySources) -> Result<Self, ApiKeysError> {
        for key in &sources.keys {
            check_key(key).map_err(ApiKeysError::Direct)?;
        }
        let file = |option, path: Option<PathBuf>| {
            let file = path.map(|path| Reloaded::new(KeyFile { option, path }));
            file.transpose()
        };
        let keys = Self {
            direct: sources.keys,
            file: file("--api-key-file", sources.file)?,
            operator_file: file("--operator-key-file", sources.operator_file)?,
            had_multiple: AtomicBool::new(false),
        };
        let file_keys = keys.file.as_ref().map(Reloaded::last_value);
        keys.is_single_key(file_keys.as_deref().map_or(&[][..], Vec::as_slice));
        Ok(keys)
    }

    /// Whether there are no keys, so that every client has access.
    pub fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.file.is_none() && self.operator_file.is_none()
    }

    /// Whether some keys are client keys rather than operator keys.
    pub fn has_client_keys(&self) -> bool {
        self.operator_file.is_some() || self.had_multiple.load(Ordering::Relaxed)
    }

    /// Identifies the caller of a request by its headers. Keys are compared in constant time: the duration depends only
    /// on the number and the lengths of the keys.
    pub fn caller(&self, headers: &HeaderMap) -> Caller {
        if self.is_empty() {
            return Caller::Anyone;
        }
        let file_keys = self.file.as_ref().map(Reloaded::fresh_value);
        let allows_single_operator =
            self.operator_file.is_none() && !matches!(file_keys, Some(None));
        let file_keys = file_keys.flatten();
        let keys = || {
            self.direct
                .iter()
                .chain(file_keys.iter().flat_map(|keys| keys.iter()))
        };
        let is_single_key = allows_single_operator
            && self.is_single_key(file_keys.as_deref().map_or(&[][..], Vec::as_slice));
        let operator_keys = self.operator_file.as_ref().and_then(Reloaded::fresh_value);

        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let header_key = headers
            .get(API_KEY_HEADER)
            .and_then(|value| value.to_str().ok());
        for sent_key in [bearer, header_key].into_iter().flatten() {
            let (mut is_key, mut is_operator) = (Choice::from(0), Choice::from(0));
            for key in keys() {
                is_key |= sent_key.as_bytes().ct_eq(key.as_bytes());
            }
            for key in operator_keys.iter().flat_map(|keys| keys.iter()) {
                is_operator |= sent_key.as_bytes().ct_eq(key.as_bytes());
            }
            let (is_key, is_operator) = (bool::from(is_key), bool::from(is_operator));
            if is_key || is_operator {
                return Caller::KeyHolder {
                    key: KeyId::of(sent_key),
                    is_operator: is_operator || is_single_key,
                };
            }
        }
        Caller::Unknown
    }

    /// Whether there is a single client key and there have never been several at a time. Such a key acts as an operator
    /// key. A key that remains after others were removed must not become an operator key. Updates `had_multiple`.
    fn is_single_key(&self, file_keys: &[String]) -> bool {
        let mut keys = self.direct.iter().chain(file_keys);
        let first = keys.next();
        if keys.any(|key| Some(key) != first) {
            self.had_multiple.store(true, Ordering::Relaxed);
        }
        !self.had_multiple.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiKeys").finish_non_exhaustive()
    }
}

impl FileSource for KeyFile {
    type Value = Vec<String>;
    type Error = ApiKeysError;

    const UNREADABLE_MESSAGE: &'static str =
        "cannot read the API key file: its keys are refused until it is readable";

    fn files(&self) -> Vec<&Path> {
        vec![&self.path]
    }

    fn read(&self) -> Result<Vec<String>, ApiKeysError> {
        let file_error = |cause| ApiKeysError::File {
            option: self.option,
            path: self.path.clone(),
            cause,
        };
        let text = String::from_utf8(read_file(&self.path).map_err(file_error)?);
        let text = text.map_err(|error| file_error(error.to_string()))?;
        if text.starts_with(BYTE_ORDER_MARK) {
            let cause = "the file begins with a byte order mark (BOM): save it without one";
            return Err(file_error(cause.to_owned()));
        }
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            check_key(line).map_err(|cause| file_error(format!("line {number}: {cause}")))?;
            keys.push(line.to_owned());
        }
        match keys.is_empty() {
            true => Err(file_error("no API key found in the file".to_owned())),
            false => Ok(keys),
        }
    }
}

/// Rejects a key that no request can send in a header.
fn check_key(key: &str) -> Result<(), &'static str> {
    let is_visible = |char: char| char.is_ascii_graphic() || char == ' ';
    if key.is_empty() {
        Err("a key is empty")
    } else if key.trim() != key {
        Err("a key begins or ends with whitespace")
    } else if !key.chars().all(is_visible) {
        Err("a key has a character that is not visible ASCII and cannot be sent in a header")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::server::reloaded::tests::{SHORT_INTERVAL, eventually};

    fn direct(keys: &[&str]) -> Result<ApiKeys, ApiKeysError> {
        ApiKeys::new(ApiKeySources {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..ApiKeySources::default()
        })
    }

    fn caller(keys: &ApiKeys, name: &'static str, value: &str) -> Caller {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        keys.caller(&headers)
    }

    fn key_holder(key: &str, is_operator: bool) -> Caller {
        let key = KeyId::of(key);
        Caller::KeyHolder { key, is_operator }
    }

    fn file(path: &Path) -> Reloaded<KeyFile> {
        let file = KeyFile {
            option: "--api-key-file",
            path: path.to_owned(),
        };
        Reloaded::with_interval(file, SHORT_INTERVAL).unwrap()
    }

    #[test]
    fn without_keys_every_client_has_access() {
        let caller = ApiKeys::default().caller(&HeaderMap::new());
        assert_eq!(caller, Caller::Anyone);
    }

    #[test]
    fn a_key_is_accepted_in_either_header() {
        let keys = direct(&["one", "two"]).unwrap();
        assert_eq!(keys.caller(&HeaderMap::new()), Caller::Unknown);
        for (name, value, key) in [
            ("authorization", "Bearer one", Some("one")),
            ("authorization", "bearer two", Some("two")),
            ("authorization", "Basic one", None),
            ("authorization", "one", None),
            ("authorization", "Bearer on", None),
            ("authorization", "Bearer onee", None),
            ("authorization", "Bearer ", None),
            ("x-api-key", "two", Some("two")),
            ("x-api-key", "three", None),
        ] {
            let expected = key.map_or(Caller::Unknown, |key| key_holder(key, false));
            assert_eq!(caller(&keys, name, value), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_single_key_is_an_operator_key_unless_there_is_an_operator_key_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators");
        fs::write(&path, "root\n").unwrap();
        for (keys, operators, key, is_operator) in [
            (&["one"][..], false, "one", true),
            (&["one", "one"], false, "one", true),
            (&["one", "two"], false, "one", false),
            (&["one"], true, "one", false),
            (&["one"], true, "root", true),
            (&["root"], true, "root", true),
            (&[], true, "root", true),
        ] {
            let keys = ApiKeys::new(ApiKeySources {
                keys: keys.iter().map(|key| (*key).to_owned()).collect(),
                file: None,
                operator_file: operators.then(|| path.clone()),
            });
            let caller = caller(&keys.unwrap(), "x-api-key", key);
            assert_eq!(caller, key_holder(key, is_operator));
        }
    }

    #[test]
    fn a_key_that_cannot_be_sent_in_a_header_is_rejected_with_its_location() {
        for (key, cause) in [
            ("", "a key is empty"),
            (" one", "begins or ends with whitespace"),
            ("o\u{feff}ne", "not visible ASCII"),
            ("schlüssel", "not visible ASCII"),
            ("o\tne", "not visible ASCII"),
        ] {
            let error = direct(&["fine", key]).unwrap_err().to_string();
            assert!(error.starts_with("--api-key: "), "{error}");
            assert!(error.contains(cause), "{key:?}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for (bytes, cause) in [
            (&b"# none\n\n"[..], "no API key found in the file"),
            (b"\xef\xbb\xbfone\n", "byte order mark"),
            (b"one\n\xef\xbb\xbftwo\n", "line 2: a key has a character"),
            (b"\xff\xfeo\0n\0e\0", "invalid utf-8"),
            (b"o\0n\0e\0", "line 1: a key has a character"),
        ] {
            fs::write(&path, bytes).unwrap();
            let keys = ApiKeys::new(ApiKeySources {
                file: Some(path.clone()),
                ..ApiKeySources::default()
            });
            let error = keys.unwrap_err().to_string();
            assert!(error.contains("keys: ") && error.contains(cause), "{error}");
        }
    }

    #[test]
    fn keys_that_were_removed_or_whose_file_was_deleted_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "# of Ada\n  one \n").unwrap();
        let keys = ApiKeys {
            direct: vec!["two".to_owned()],
            file: Some(file(&path)),
            ..ApiKeys::default()
        };
        let check =
            |key: &str, expected| eventually(|| caller(&keys, "x-api-key", key) == expected);
        check("one", key_holder("one", false));
        fs::write(&path, "another one\n").unwrap();
        check("another one", key_holder("another one", false));
        check("one", Caller::Unknown);
        fs::write(&path, "").unwrap();
        check("another one", Caller::Unknown);
        // The remaining key does not become an operator key.
        check("two", key_holder("two", false));
        fs::write(&path, "another one\n").unwrap();
        check("another one", key_holder("another one", false));
        fs::remove_file(&path).unwrap();
        check("another one", Caller::Unknown);
        assert_eq!(caller(&keys, "x-api-key", "# of Ada"), Caller::Unknown);
    }

    #[test]
    fn the_last_of_several_keys_is_not_an_operator_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        // Two keys at the start, or one and then two: the remaining key stays a client key.
        for (first, later) in [("one\ntwo\n", "one\ntwo\n"), ("two\n", "one\ntwo\n")] {
            fs::write(&path, first).unwrap();
            let keys = ApiKeys {
                file: Some(file(&path)),
                ..ApiKeys::default()
            };
            let check = |key: &str, expected| {
                eventually(|| caller(&keys, "x-api-key", key) == expected);
            };
            fs::write(&path, later).unwrap();
            check("one", key_holder("one", false));
            fs::write(&path, "two\n").unwrap();
            check("one", Caller::Unknown);
            check("two", key_holder("two", false));
        }
        // A single key that replaces a single key is an operator key.
        fs::write(&path, "one\n").unwrap();
        let keys = ApiKeys {
            file: Some(file(&path)),
            ..ApiKeys::default()
        };
        fs::write(&path, "another one\n").unwrap();
        eventually(|| caller(&keys, "x-api-key", "another one") == key_holder("another one", true));
    }

    #[test]
    fn several_keys_at_the_start_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "one\ntwo\n").unwrap();
        let keys = ApiKeys::new(ApiKeySources {
            file: Some(path),
            ..ApiKeySources::default()
        });
        assert!(keys.unwrap().had_multiple.into_inner());
    }
}
