//! The API keys that let a request in: from the command line, and from files that are read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use poem::http::HeaderMap;
use poem::http::header::{AUTHORIZATION, HeaderName};
use subtle::{Choice, ConstantTimeEq};

use super::reloaded::{Reloaded, Source, bytes_of};
use crate::api::{Caller, KeyId};

/// Carries a key beside `Authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The mark that some editors write before UTF-8 text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// What is wrong with the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key of the command line cannot be sent in a header.
    #[error("--api-key: {0}")]
    Given(&'static str),
    /// A file cannot be read, or has no keys.
    #[error("{option} {}: {cause}", path.display())]
    File {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// Where keys come from.
#[derive(Debug, Clone, Default)]
pub struct KeySources {
    /// Keys themselves.
    pub given: Vec<String>,
    /// A file with keys.
    pub file: Option<PathBuf>,
    /// A file with operators' keys.
    pub operator_file: Option<PathBuf>,
}

/// The keys of a server. Without any, every request is let in.
#[derive(Default)]
pub struct Keys {
    given: Vec<String>,
    file: Option<Reloaded<KeyFile>>,
    operator_file: Option<Reloaded<KeyFile>>,
    /// Whether clients have had several keys since the start. Then the last key that is left is no operator's.
    had_several: AtomicBool,
}

struct KeyFile {
    option: &'static str,
    path: PathBuf,
}

impl Keys {
    /// Reads the keys. A file has one in each line; empty lines and those that begin with `#` are skipped. A file that
    /// can no longer be read grants no access.
    ///
    /// # Errors
    /// A key that cannot be sent in a header, or a file that cannot be read or has no key.
    pub fn new(sources: KeySources) -> Result<Self, KeysError> {
        for key in &sources.given {
            check(key).map_err(KeysError::Given)?;
        }
        let file = |option, path: Option<PathBuf>| {
            let file = path.map(|path| Reloaded::new(KeyFile { option, path }));
            file.transpose()
        };
        let keys = Self {
            given: sources.given,
            file: file("--api-key-file", sources.file)?,
            operator_file: file("--operator-key-file", sources.operator_file)?,
            had_several: AtomicBool::new(false),
        };
        let filed = keys.file.as_ref().map(Reloaded::last);
        keys.is_sole(filed.as_deref().map_or(&[][..], Vec::as_slice));
        Ok(keys)
    }

    /// Whether every request is let in.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.file.is_none() && self.operator_file.is_none()
    }

    /// Whether there are clients that are no operators.
    pub fn has_clients(&self) -> bool {
        self.operator_file.is_some() || self.had_several.load(Ordering::Relaxed)
    }

    /// The caller that these headers identify. How long it takes depends on the number of keys and their lengths alone.
    pub fn caller(&self, headers: &HeaderMap) -> Caller {
        if self.is_empty() {
            return Caller::Anyone;
        }
        let filed = self.file.as_ref().map(Reloaded::fresh);
        let can_be_sole = self.operator_file.is_none() && !matches!(filed, Some(None));
        let filed = filed.flatten();
        let keys = || {
            self.given
                .iter()
                .chain(filed.iter().flat_map(|keys| keys.iter()))
        };
        let is_sole = can_be_sole && self.is_sole(filed.as_deref().map_or(&[][..], Vec::as_slice));
        let operators = self.operator_file.as_ref().and_then(Reloaded::fresh);

        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let plain = headers.get(API_KEY).and_then(|value| value.to_str().ok());
        for sent in [bearer, plain].into_iter().flatten() {
            let (mut is_key, mut is_operator) = (Choice::from(0), Choice::from(0));
            for key in keys() {
                is_key |= sent.as_bytes().ct_eq(key.as_bytes());
            }
            for key in operators.iter().flat_map(|keys| keys.iter()) {
                is_operator |= sent.as_bytes().ct_eq(key.as_bytes());
            }
            let (is_key, is_operator) = (bool::from(is_key), bool::from(is_operator));
            if is_key || is_operator {
                return Caller::KeyHolder {
                    key: KeyId::of(sent),
                    is_operator: is_operator || is_sole,
                };
            }
        }
        Caller::Unknown
    }

    /// Whether clients have one key, whose holder is the operator, and never had several: a client must not become
    /// an operator because the keys of all others were removed.
    fn is_sole(&self, filed: &[String]) -> bool {
        let mut keys = self.given.iter().chain(filed);
        let first = keys.next();
        if keys.any(|key| Some(key) != first) {
            self.had_several.store(true, Ordering::Relaxed);
        }
        !self.had_several.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Source for KeyFile {
    type Value = Vec<String>;
    type Error = KeysError;

    const WITHOUT_FILES: &'static str =
        "the keys of this file are refused until it can be read again";

    fn files(&self) -> Vec<&Path> {
        vec![&self.path]
    }

    fn read(&self) -> Result<Vec<String>, KeysError> {
        let failed = |cause| KeysError::File {
            option: self.option,
            path: self.path.clone(),
            cause,
        };
        let text = String::from_utf8(bytes_of(&self.path).map_err(failed)?);
        let text = text.map_err(|error| failed(error.to_string()))?;
        if text.starts_with(BYTE_ORDER_MARK) {
            let cause = "it begins with a byte order mark (BOM), which no client would send: save it without";
            return Err(failed(cause.to_owned()));
        }
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            check(line).map_err(|cause| failed(format!("line {number}: {cause}")))?;
            keys.push(line.to_owned());
        }
        match keys.is_empty() {
            true => Err(failed("there is no key in it".to_owned())),
            false => Ok(keys),
        }
    }
}

/// Refuses a key that no header can carry, which would never let anybody in.
fn check(key: &str) -> Result<(), &'static str> {
    let is_visible = |char: char| char.is_ascii_graphic() || char == ' ';
    if key.is_empty() {
        Err("a key is empty")
    } else if key.trim() != key {
        Err("a key begins or ends with a space")
    } else if !key.chars().all(is_visible) {
        Err("a key has a character that is not visible ASCII, which no header can carry")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::server::reloaded::tests::{SHORT, eventually};

    fn given(keys: &[&str]) -> Result<Keys, KeysError> {
        Keys::new(KeySources {
            given: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..KeySources::default()
        })
    }

    fn caller(keys: &Keys, name: &'static str, value: &str) -> Caller {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        keys.caller(&headers)
    }

    fn holder(key: &str, is_operator: bool) -> Caller {
        let key = KeyId::of(key);
        Caller::KeyHolder { key, is_operator }
    }

    fn file(path: &Path) -> Reloaded<KeyFile> {
        let file = KeyFile {
            option: "--api-key-file",
            path: path.to_owned(),
        };
        Reloaded::with_interval(file, SHORT).unwrap()
    }

    #[test]
    fn without_keys_every_request_is_let_in() {
        let caller = Keys::default().caller(&HeaderMap::new());
        assert_eq!(caller, Caller::Anyone);
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let keys = given(&["one", "two"]).unwrap();
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
            let expected = key.map_or(Caller::Unknown, |key| holder(key, false));
            assert_eq!(caller(&keys, name, value), expected, "{name}: {value}");
        }
    }

    #[test]
    fn the_only_key_is_an_operators_unless_there_is_a_file_of_these() {
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
            let keys = Keys::new(KeySources {
                given: keys.iter().map(|key| (*key).to_owned()).collect(),
                file: None,
                operator_file: operators.then(|| path.clone()),
            });
            let caller = caller(&keys.unwrap(), "x-api-key", key);
            assert_eq!(caller, holder(key, is_operator));
        }
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_with_its_place() {
        for (key, cause) in [
            ("", "a key is empty"),
            (" one", "begins or ends with a space"),
            ("o\u{feff}ne", "not visible ASCII"),
            ("schlüssel", "not visible ASCII"),
            ("o\tne", "not visible ASCII"),
        ] {
            let error = given(&["fine", key]).unwrap_err().to_string();
            assert!(error.starts_with("--api-key: "), "{error}");
            assert!(error.contains(cause), "{key:?}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for (bytes, cause) in [
            (&b"# none\n\n"[..], "there is no key in it"),
            (b"\xef\xbb\xbfone\n", "byte order mark"),
            (b"one\n\xef\xbb\xbftwo\n", "line 2: a key has a character"),
            (b"\xff\xfeo\0n\0e\0", "invalid utf-8"),
            (b"o\0n\0e\0", "line 1: a key has a character"),
        ] {
            fs::write(&path, bytes).unwrap();
            let keys = Keys::new(KeySources {
                file: Some(path.clone()),
                ..KeySources::default()
            });
            let error = keys.unwrap_err().to_string();
            assert!(error.contains("keys: ") && error.contains(cause), "{error}");
        }
    }

    #[test]
    fn a_key_that_leaves_its_file_is_refused_and_a_file_that_goes_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "# of Ada\n  one \n").unwrap();
        let keys = Keys {
            given: vec!["two".to_owned()],
            file: Some(file(&path)),
            ..Keys::default()
        };
        let is = |key: &str, expected| eventually(|| caller(&keys, "x-api-key", key) == expected);
        is("one", holder("one", false));
        fs::write(&path, "another one\n").unwrap();
        is("another one", holder("another one", false));
        is("one", Caller::Unknown);
        fs::write(&path, "").unwrap();
        is("another one", Caller::Unknown);
        // The key that is left is not taken for the only one.
        is("two", holder("two", false));
        fs::write(&path, "another one\n").unwrap();
        is("another one", holder("another one", false));
        fs::remove_file(&path).unwrap();
        is("another one", Caller::Unknown);
        assert_eq!(caller(&keys, "x-api-key", "# of Ada"), Caller::Unknown);
    }
    #[test]
    fn the_last_of_several_keys_is_no_operators() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        // Two keys at the start, or one and then two: the one that is left stays a client.
        for (first, later) in [("one\ntwo\n", "one\ntwo\n"), ("two\n", "one\ntwo\n")] {
            fs::write(&path, first).unwrap();
            let keys = Keys {
                file: Some(file(&path)),
                ..Keys::default()
            };
            let is = |key: &str, expected| {
                eventually(|| caller(&keys, "x-api-key", key) == expected);
            };
            fs::write(&path, later).unwrap();
            is("one", holder("one", false));
            fs::write(&path, "two\n").unwrap();
            is("one", Caller::Unknown);
            is("two", holder("two", false));
        }
        // The only key may be replaced.
        fs::write(&path, "one\n").unwrap();
        let keys = Keys {
            file: Some(file(&path)),
            ..Keys::default()
        };
        fs::write(&path, "another one\n").unwrap();
        eventually(|| caller(&keys, "x-api-key", "another one") == holder("another one", true));
    }

    #[test]
    fn keys_are_counted_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "one\ntwo\n").unwrap();
        let keys = Keys::new(KeySources {
            file: Some(path),
            ..KeySources::default()
        });
        assert!(keys.unwrap().had_several.into_inner());
    }
}
