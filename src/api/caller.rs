//! Who asks: what is kept for one is not shown to another.

use poem::{FromRequest, Request, RequestBody};
use ring::digest::{SHA256, digest};

/// Whoever has one key. Where there are no keys, everybody is the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller(Option<[u8; 32]>);

impl Caller {
    /// Everybody, where there are no keys.
    pub const EVERYBODY: Self = Self(None);

    /// Whoever has that key; it cannot be told from the caller.
    pub fn of_key(key: &str) -> Self {
        let mut own = [0; 32];
        own.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(Some(own))
    }
}

impl<'a> FromRequest<'a> for Caller {
    /// The one that the server found out.
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().copied().unwrap_or(Self::EVERYBODY))
    }
}
