//! The caller of a request, identified by its API key, and the caller's access to other callers' requests. `server`
//! reads the keys and authenticates requests.

use ring::digest::{SHA256, digest};

/// Number of digest bytes in [`KeyId::name`].
const NAME_BYTES: usize = 16;

/// SHA-256 digest of an API key. It identifies the key but cannot authenticate a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// Hashes an API key.
    pub fn of(key: &str) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(id)
    }

    /// Returns the first half of the digest as 32 hexadecimal digits, for file and folder names.
    pub fn name(self) -> String {
        let bytes = self.0.iter().take(NAME_BYTES);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The client that sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A client of a server without API keys. Every such client has an operator's access.
    Anyone,
    /// A client without a valid key, on a server with API keys.
    Unknown,
    /// A client with a valid key.
    KeyHolder {
        /// Digest of the key.
        key: KeyId,
        /// Whether the key belongs to an operator, who may see and change the data of all keys.
        is_operator: bool,
    },
}

impl Caller {
    /// The API key; `None` without a valid key.
    pub fn key(self) -> Option<KeyId> {
        match self {
            Self::Anyone | Self::Unknown => None,
            Self::KeyHolder { key, .. } => Some(key),
        }
    }

    /// Whether the caller may see and change the data of all keys.
    pub fn is_operator(self) -> bool {
        match self {
            Self::Anyone => true,
            Self::Unknown => false,
            Self::KeyHolder { is_operator, .. } => is_operator,
        }
    }

    /// Whether the caller may see a request that was sent with the key `owner`.
    pub fn may_see(self, owner: Option<KeyId>) -> bool {
        self.is_operator() || (owner.is_some() && owner == self.key())
    }
}

/// API key and cache namespace of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestOwner {
    /// API key; `None` if the server has no keys.
    pub key: Option<KeyId>,
    /// Key that identifies the cache namespace; only requests with an equal value share cached blocks. `None` is the
    /// namespace that all keys share.
    pub cache_namespace: Option<KeyId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(key: &str, is_operator: bool) -> Caller {
        let key = KeyId::of(key);
        Caller::KeyHolder { key, is_operator }
    }

    #[test]
    fn a_caller_sees_its_own_requests_and_an_operator_sees_all() {
        let (ada, ben) = (Some(KeyId::of("ada")), Some(KeyId::of("ben")));
        for (caller, owner, expected) in [
            (Caller::Anyone, None, true),
            (Caller::Anyone, ada, true),
            (Caller::Unknown, None, false),
            (Caller::Unknown, ada, false),
            (holder("ada", false), None, false),
            (holder("ada", false), ada, true),
            (holder("ada", false), ben, false),
            (holder("ada", true), ben, true),
            (holder("ada", true), None, true),
        ] {
            assert_eq!(caller.may_see(owner), expected, "{caller:?} {owner:?}");
        }
    }
}
