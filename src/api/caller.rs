//! Extracts the caller of a request, which the `server` module identifies before the request reaches an operation.

use poem::{FromRequest, Request, RequestBody};

use super::error::Error;
pub use crate::model::{Caller, KeyId};

/// Proof that the request has a valid API key or that the server has no keys. Every operation whose `security` in the
/// OpenAPI document is not empty takes this argument. Unlike the middleware of `server`, this check does not compare
/// paths, so no spelling of a path bypasses it.
pub(super) struct Admitted;

/// Returns the caller that `server` attached to the request; [`Caller::Unknown`] if `server` attached none.
pub(super) fn caller_of(request: &Request) -> Caller {
    let caller = request.data::<Caller>().copied();
    caller.unwrap_or(Caller::Unknown)
}

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(caller_of(request))
    }
}

impl<'a> FromRequest<'a> for Admitted {
    /// # Errors
    /// If the caller is unknown.
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        match caller_of(request) {
            Caller::Unknown => Err(Error::Unauthorized.into()),
            Caller::Anyone | Caller::KeyHolder { .. } => Ok(Self),
        }
    }
}
