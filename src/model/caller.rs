//! The client behind a request, as far as API keys identify it, and what it may see and change of other clients'
//! requests. Which keys exist, and how a request carries one, is `server`'s.

use ring::digest::{SHA256, digest};

/// Bytes of a key's digest that stand in [`KeyId::name`].
const NAME_BYTES: usize = 16;

/// The SHA-256 digest of an API key. It identifies the key and cannot be used as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The identity of a key.
    pub fn of(key: &str) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(id)
    }

    /// A name for files: 32 hexadecimal digits.
    pub fn name(self) -> String {
        let bytes = self.0.iter().take(NAME_BYTES);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The client that sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Any client of a server without API keys. Such a server keeps nothing apart.
    Anyone,
    /// A client that sent no valid key to a server with keys.
    Unknown,
    /// The holder of a key.
    KeyHolder {
        /// The key.
        key: KeyId,
        /// Whether the key may see and change what belongs to all keys.
        is_operator: bool,
    },
}

impl Caller {
    /// The key, if there is one.
    pub fn key(self) -> Option<KeyId> {
        match self {
            Self::Anyone | Self::Unknown => None,
            Self::KeyHolder { key, .. } => Some(key),
        }
    }

    /// Whether the caller may see and change what belongs to all keys.
    pub fn is_operator(self) -> bool {
        match self {
            Self::Anyone => true,
            Self::Unknown => false,
            Self::KeyHolder { is_operator, .. } => is_operator,
        }
    }

    /// Whether the caller may see a request that was made with the key `owner`.
    pub fn may_see(self, owner: Option<KeyId>) -> bool {
        self.is_operator() || (owner.is_some() && owner == self.key())
    }
}

/// The key that a request was made with, and what of the prefix cache the request may reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestOwner {
    /// The key; `None` if the server has no keys.
    pub key: Option<KeyId>,
    /// Cache namespace: only requests of the same one reuse each other's blocks. `None` is the shared one.
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
