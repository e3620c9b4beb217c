//! The keys that let a request in: from the command line, and from a file that is read anew when it changes.

use std::path::{Path, PathBuf};

use poem::http::HeaderMap;
use poem::http::header::{AUTHORIZATION, HeaderName};
use subtle::{Choice, ConstantTimeEq};

use super::reloaded::{Reloaded, Source, bytes_of};
use crate::api::Caller;

/// Carries a key beside `Authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// One of those given has no characters.
    #[error("--api-key: a key of nothing")]
    Empty,
    /// A file has none.
    #[error("--api-key-file {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// Who may ask: everybody, if there are no keys.
#[derive(Debug, Default)]
pub struct Keys {
    given: Vec<String>,
    file: Option<Reloaded<KeyFile>>,
}

#[derive(Debug)]
struct KeyFile(PathBuf);

impl Keys {
    /// Those given, and those of a file: one in each line; empty lines and those that begin with `#` are passed
    /// over.
    ///
    /// # Errors
    /// A key of nothing, or a file that cannot be read or has no key.
    pub fn new(given: Vec<String>, file: Option<PathBuf>) -> Result<Self, KeysError> {
        if given.iter().any(String::is_empty) {
            return Err(KeysError::Empty);
        }
        let file = file.map(|path| Reloaded::new(KeyFile(path)));
        Ok(Self {
            given,
            file: file.transpose()?,
        })
    }

    /// Who asks with these headers, if it may be answered. How long it takes tells nothing of the keys but their
    /// lengths.
    pub fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        if self.given.is_empty() && self.file.is_none() {
            return Some(Caller::EVERYBODY);
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let plain = headers.get(API_KEY).and_then(|value| value.to_str().ok());
        let filed = self.file.as_ref().map(Reloaded::now);
        let mut caller = None;
        for sent in [bearer, plain].into_iter().flatten() {
            let mut known = Choice::from(0);
            let filed = filed.iter().flat_map(|keys| keys.iter());
            for key in self.given.iter().chain(filed) {
                known |= sent.as_bytes().ct_eq(key.as_bytes());
            }
            if known.into() {
                caller.get_or_insert(sent);
            }
        }
        caller.map(Caller::of_key)
    }
}

impl Source for KeyFile {
    type Value = Vec<String>;
    type Error = KeysError;

    fn files(&self) -> Vec<&Path> {
        vec![&self.0]
    }

    fn read(&self) -> Result<Vec<String>, KeysError> {
        let failed = |cause| KeysError::File {
            path: self.0.clone(),
            cause,
        };
        let text = String::from_utf8(bytes_of(&self.0).map_err(failed)?);
        let text = text.map_err(|error| failed(error.to_string()))?;
        let lines = text.lines().map(str::trim);
        let keys: Vec<String> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        match keys.is_empty() {
            true => Err(failed("there is no key in it".to_owned())),
            false => Ok(keys),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn allow(keys: &Keys, name: &'static str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        keys.caller(&headers).is_some()
    }

    #[test]
    fn without_keys_everybody_may_ask() {
        let caller = Keys::default().caller(&HeaderMap::new());
        assert_eq!(caller, Some(Caller::EVERYBODY));
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let keys = Keys::new(vec!["one".to_owned(), "two".to_owned()], None).unwrap();
        assert_eq!(keys.caller(&HeaderMap::new()), None);
        for (name, value, allowed) in [
            ("authorization", "Bearer one", true),
            ("authorization", "bearer two", true),
            ("authorization", "Basic one", false),
            ("authorization", "one", false),
            ("authorization", "Bearer on", false),
            ("authorization", "Bearer onee", false),
            ("authorization", "Bearer ", false),
            ("x-api-key", "two", true),
            ("x-api-key", "three", false),
        ] {
            assert_eq!(allow(&keys, name, value), allowed, "{name}: {value}");
        }
        assert!(Keys::new(vec![String::new()], None).is_err());
    }

    #[test]
    fn a_file_is_read_anew_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        assert!(Keys::new(Vec::new(), Some(path.clone())).is_err());
        fs::write(&path, "# none\n\n").unwrap();
        assert!(Keys::new(Vec::new(), Some(path.clone())).is_err());
        fs::write(&path, "# of Ada\n  one \n").unwrap();
        let keys = Keys::new(vec!["two".to_owned()], Some(path.clone())).unwrap();
        assert!(allow(&keys, "x-api-key", "one") && allow(&keys, "x-api-key", "two"));
        fs::write(&path, "another one\n").unwrap();
        assert!(allow(&keys, "x-api-key", "another one") && !allow(&keys, "x-api-key", "one"));
        // One that is gone, or empty, changes nothing.
        fs::remove_file(&path).unwrap();
        assert!(allow(&keys, "x-api-key", "another one"));
        assert!(!allow(&keys, "x-api-key", "# of Ada"));
    }
}
