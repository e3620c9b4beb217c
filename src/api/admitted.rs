//! Checks in the routes that `server` admitted the request.

use poem::{FromRequest, Request, RequestBody};

use super::caller::{Caller, caller_of};
use super::error::Error;

/// Proof that the request has a valid API key or that the server has no keys. Every operation whose `security` in the
/// OpenAPI document is not empty takes this argument. Unlike the middleware of `server`, this check does not compare
/// paths, so no spelling of a path bypasses it.
pub(super) struct Admitted;

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
