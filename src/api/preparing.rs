//! Preparations as operations have them: work that may take long, and reports fields without effect.

use super::error::Error;
use super::payload::Ignored;
use crate::cancel::CancelFlag;
use crate::model::Preparations;

/// Does a request's work on the threads for that, and waits for it.
///
/// # Errors
/// That of the work, or that too many requests wait.
pub(super) async fn prepare<T: Send + 'static>(
    preparations: &Preparations,
    ignored: &mut Ignored,
    work: impl FnOnce(&mut Ignored, &CancelFlag) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let admitted = preparations.admit()?;
    let mut own = std::mem::take(ignored);
    let work = move |cancel: &CancelFlag| {
        let result = work(&mut own, cancel);
        (result, own)
    };
    let (result, own) = admitted.run(work).await?;
    *ignored = own;
    result
}
