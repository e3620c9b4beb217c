//! Runs the CPU work of an operation on the preparation threads.

use super::error::Error;
use super::payload::IgnoredFields;
use crate::cancel::CancelFlag;
use crate::model::PreparationPool;

/// Runs `work` on the preparation threads and waits for its result. `work` may add to the ignored fields.
///
/// # Errors
/// If `work` fails, or if too many requests are waiting.
pub(super) async fn prepare<T: Send + 'static>(
    preparations: &PreparationPool,
    ignored: &mut IgnoredFields,
    work: impl FnOnce(&mut IgnoredFields, &CancelFlag) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let admitted = preparations.admit()?;
    let mut request_ignored = std::mem::take(ignored);
    let work = move |cancel: &CancelFlag| {
        let result = work(&mut request_ignored, cancel);
        (result, request_ignored)
    };
    let (result, request_ignored) = admitted.run(work).await?;
    *ignored = request_ignored;
    result
}
