//! What poem and poem-openapi name of quick-xml 0.36, which has known vulnerabilities (RUSTSEC-2026-0194, RUSTSEC-2026-0195) and no
//! repaired release that they accept. They compile it in whether it is used or not; the server neither reads nor writes XML, so
//! that every function here fails.

use std::borrow::Cow;

/// Why nothing was read or written.
#[derive(Debug)]
pub enum DeError {
    /// XML is not supported.
    Unsupported(Cow<'static, str>),
}

impl std::fmt::Display for DeError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Unsupported(what) = self;
        write!(formatter, "not supported: {what}")
    }
}

impl std::error::Error for DeError {}

fn unsupported<T>() -> Result<T, DeError> {
    Err(DeError::Unsupported("XML".into()))
}

/// Reading XML.
pub mod de {
    pub use crate::DeError;

    /// Fails.
    ///
    /// # Errors
    /// XML is not supported.
    pub fn from_str<'a, T: serde::Deserialize<'a>>(_: &'a str) -> Result<T, DeError> {
        crate::unsupported()
    }

    /// Fails.
    ///
    /// # Errors
    /// XML is not supported.
    pub fn from_reader<R: std::io::BufRead, T: serde::de::DeserializeOwned>(
        _: R,
    ) -> Result<T, DeError> {
        crate::unsupported()
    }
}

/// Writing XML.
pub mod se {
    use serde::Serialize;

    use crate::DeError;

    /// Fails.
    ///
    /// # Errors
    /// XML is not supported.
    pub fn to_string<T: Serialize + ?Sized>(_: &T) -> Result<String, DeError> {
        crate::unsupported()
    }

    /// Fails.
    ///
    /// # Errors
    /// XML is not supported.
    pub fn to_string_with_root<T: Serialize + ?Sized>(
        _: &str,
        _: &T,
    ) -> Result<String, DeError> {
        crate::unsupported()
    }
}
