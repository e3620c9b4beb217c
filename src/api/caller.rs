//! The caller of a request, as `server` identified it before the request reached an operation.

use poem::{FromRequest, Request, RequestBody};

use super::error::Error;
pub use crate::model::{Caller, KeyId};

/// Proof that a request came with a valid key, if the server has keys. Every operation whose `security` in the document
/// is not empty takes it, so that no spelling of a path gets around the check that compares paths.
pub(super) struct Admitted;

/// The caller; unknown if nothing identified it.
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
    /// [`Error::Unauthorized`] if the caller is unknown.
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        match caller_of(request) {
            Caller::Unknown => Err(Error::Unauthorized.into()),
            Caller::Anyone | Caller::KeyHolder { .. } => Ok(Self),
        }
    }
}
