//! `POST /slots/{id_slot}?action=…`: a slot's sequence is kept in a file, put back, or forgotten.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::api::error::Error;
use crate::api::types;
use crate::model::{
    Caller, GenerateError, LoadedModel, RequestOwner, SavedSlotError, SlotError, SlotFolder,
};

/// Most bytes of a file's name.
const MAX_NAME_BYTES: usize = 200;

/// Whose files there are, and where.
pub(in crate::api) struct SlotFiles<'a> {
    /// Where the operator wants the files.
    pub folder: &'a SlotFolder,
    /// Whose they are.
    pub caller: Caller,
    /// As the caller's requests have it.
    pub owner: RequestOwner,
}

impl SlotFiles<'_> {
    /// The folder of the caller's files: an operator's are in the folder itself, every other key has one within it.
    fn path(&self) -> PathBuf {
        let key = self.caller.key().filter(|_| !self.caller.is_operator());
        match key {
            Some(key) => self.folder.of_key(&key.name()),
            None => self.folder.path.clone(),
        }
    }
}

/// Does what `action` says.
pub(in crate::api) async fn answer(
    model: &Arc<LoadedModel>,
    files: SlotFiles<'_>,
    id_slot: &str,
    action: Option<&str>,
    body: types::SlotActionRequest,
) -> Result<types::SlotAction, Error> {
    if !model.details().generates {
        // It computes nothing that could be kept.
        return Err(GenerateError::Encoder.into());
    }
    let slot: usize = id_slot
        .parse()
        .map_err(|_| Error::invalid("id_slot", format!("id_slot: '{id_slot}' is no slot")))?;
    let filename = body.filename;
    match action {
        Some("save") => {
            let (name, path) = file(&files.path(), filename)?;
            let saved = model
                .save_slot(slot, path, files.folder.limits, files.caller)
                .await
                .map_err(|error| told(error, slot, model))?;
            Ok(types::SlotAction::Saved(types::SlotSaved {
                id_slot: slot as u64,
                filename: name,
                n_saved: saved.tokens as u64,
                n_written: saved.bytes,
                timings: types::SlotSavedTimings {
                    save_ms: milliseconds(saved.duration),
                },
            }))
        }
        Some("restore") => {
            let (name, path) = file(&files.path(), filename)?;
            let restored = model
                .restore_slot(slot, path, files.owner, files.caller)
                .await
                .map_err(|error| told(error, slot, model))?;
            Ok(types::SlotAction::Restored(types::SlotRestored {
                id_slot: slot as u64,
                filename: name,
                n_restored: restored.tokens as u64,
                n_read: restored.bytes,
                timings: types::SlotRestoredTimings {
                    restore_ms: milliseconds(restored.duration),
                },
            }))
        }
        Some("erase") => {
            let erased = model
                .erase_slot(slot, files.caller)
                .await
                .map_err(|error| told(error, slot, model))?;
            Ok(types::SlotAction::Erased(types::SlotErased {
                id_slot: slot as u64,
                n_erased: erased as u64,
            }))
        }
        other => {
            let found = other.unwrap_or_default();
            let problem = format!("action: '{found}' is not one of save, restore and erase");
            Err(Error::invalid("action", problem))
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The file of that name: a client's word must not lead out of the folder.
fn file(folder: &Path, name: Option<String>) -> Result<(String, PathBuf), Error> {
    let name = name.unwrap_or_default();
    let plain = !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with('.')
        // A save that was killed may have left a file that ends so.
        && !name.ends_with(".part")
        && !name
            .chars()
            .any(|letter| matches!(letter, '/' | '\\' | ':') || letter.is_control());
    match plain {
        true => Ok((name.clone(), folder.join(name))),
        false => {
            let problem = format!(
                "filename: a plain name of a file, of at most {MAX_NAME_BYTES} bytes and not ending in .part, is needed"
            );
            Err(Error::invalid("filename", problem))
        }
    }
}

/// What the client is told. Where the operator keeps the files is not among it.
fn told(error: SavedSlotError, slot: usize, model: &LoadedModel) -> Error {
    use std::io::ErrorKind::{InvalidInput, IsADirectory, NotFound};
    match error {
        SavedSlotError::Slot(SlotError::Unknown(_)) => {
            let slots = model.details().slots;
            Error::Generate(GenerateError::UnknownSlot { slot, slots })
        }
        SavedSlotError::Slot(SlotError::Busy) => Error::Busy(error.to_string()),
        SavedSlotError::Slot(SlotError::Stopped) => Error::Generate(GenerateError::Stopping),
        SavedSlotError::File(error) if error.kind() == NotFound => {
            Error::invalid("filename", "filename: there is no such file")
        }
        SavedSlotError::File(error) if matches!(error.kind(), InvalidInput | IsADirectory) => {
            Error::invalid("filename", format!("filename: {error}"))
        }
        SavedSlotError::StillAnswering => Error::NoModel(error.to_string()),
        SavedSlotError::AnotherKey => Error::SlotOfAnotherKey(slot),
        SavedSlotError::NoSlot(_)
        | SavedSlotError::TooManyFiles(_)
        | SavedSlotError::TooManyBytes(_)
        | SavedSlotError::AnotherModel
        | SavedSlotError::AnotherAdapter => {
            Error::invalid("filename", format!("filename: {error}"))
        }
        SavedSlotError::Slot(SlotError::Run(_)) | SavedSlotError::File(_) => {
            tracing::error!(%error, slot, "a slot could not be saved or restored");
            Error::Generate(GenerateError::Failed(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_lead_out_of_the_folder() {
        let folder = Path::new("/slots");
        let (_, path) = file(folder, Some("a b-1.bin".to_owned())).unwrap();
        assert_eq!(path, Path::new("/slots/a b-1.bin"));
        for name in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "C:x",
            "a\0",
            ".hidden",
            "a.0123456789abcdef.part",
        ] {
            assert!(file(folder, Some(name.to_owned())).is_err(), "{name:?}");
        }
        assert!(file(folder, None).is_err());
    }
}
