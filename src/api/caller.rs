//! Extracts the caller of a request, which the `server` module identifies before the request reaches an operation.

use poem::{FromRequest, Request, RequestBody};

pub use crate::model::{Caller, KeyId};

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
