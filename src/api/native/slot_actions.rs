//! `POST /slots/{id_slot}?action=…`: saves the KV cache of a slot to a file, restores it, or erases it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::api::error::Error;
use crate::api::types;
use crate::model::{
    Caller, GenerateError, LoadedModel, RequestOwner, SavedSlotError, SlotError, SlotFolder,
};

/// Longest file name in bytes.
const MAX_NAME_BYTES: usize = 200;

/// The folder of saved slots, for the requests of one caller.
pub(in crate::api) struct SlotFiles<'a> {
    /// The folder of all saved slots, which the operator set.
    pub folder: &'a SlotFolder,
    pub caller: Caller,
    /// Owner of the caller's requests: key and cache namespace.
    pub owner: RequestOwner,
}

impl SlotFiles<'_> {
    /// Returns the folder of the caller's files: `folder` for operators and on servers without keys, otherwise a
    /// subfolder for the caller's key.
    fn path(&self) -> PathBuf {
        let key = self.caller.key().filter(|_| !self.caller.is_operator());
        match key {
            Some(key) => self.folder.of_key(&key.name()),
            None => self.folder.path.clone(),
        }
    }
}

/// Handles `POST /slots/{id_slot}`.
pub(in crate::api) async fn handle(
    model: &Arc<LoadedModel>,
    files: SlotFiles<'_>,
    id_slot: &str,
    action: Option<&str>,
    body: types::SlotActionRequest,
) -> Result<types::SlotAction, Error> {
    if !model.details().generates {
        // Encoders have no KV cache.
        return Err(GenerateError::GenerationUnsupported.into());
    }
    let slot: usize = id_slot.parse().map_err(|_| {
        Error::invalid(
            "id_slot",
            format!("id_slot: '{id_slot}' is not a slot number"),
        )
    })?;
    let filename = body.filename;
    match action {
        Some("save") => {
            let (name, path) = slot_file(&files.path(), filename)?;
            let saved = model
                .save_slot(slot, path, files.folder.limits, files.caller)
                .await
                .map_err(|error| client_error(error, slot, model))?;
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
            let (name, path) = slot_file(&files.path(), filename)?;
            let restored = model
                .restore_slot(slot, path, files.owner, files.caller)
                .await
                .map_err(|error| client_error(error, slot, model))?;
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
                .map_err(|error| client_error(error, slot, model))?;
            Ok(types::SlotAction::Erased(types::SlotErased {
                id_slot: slot as u64,
                n_erased: erased as u64,
            }))
        }
        other => {
            let action = other.unwrap_or_default();
            let problem =
                format!("action: '{action}' is not supported: use save, restore or erase");
            Err(Error::invalid("action", problem))
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Returns the name and the path of a file. Rejects names that could lead out of the folder.
fn slot_file(folder: &Path, name: Option<String>) -> Result<(String, PathBuf), Error> {
    let name = name.unwrap_or_default();
    let is_valid = !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with('.')
        // Interrupted saves leave temporary files with this suffix.
        && !name.ends_with(".part")
        && !name
            .chars()
            .any(|letter| matches!(letter, '/' | '\\' | ':') || letter.is_control());
    match is_valid {
        true => Ok((name.clone(), folder.join(name))),
        false => {
            let problem = format!(
                "filename: invalid filename: use a plain name of at most {MAX_NAME_BYTES} bytes, not ending in .part"
            );
            Err(Error::invalid("filename", problem))
        }
    }
}

/// Converts an error for the client, without the paths of the operator's files.
fn client_error(error: SavedSlotError, slot: usize, model: &LoadedModel) -> Error {
    use std::io::ErrorKind::{InvalidInput, IsADirectory, NotFound};
    match error {
        SavedSlotError::Slot(SlotError::Unknown(_)) => {
            let slots = model.details().slots;
            Error::Generate(GenerateError::UnknownSlot { slot, slots })
        }
        SavedSlotError::Slot(SlotError::Busy) => Error::TooManyRequests(error.to_string()),
        SavedSlotError::Slot(SlotError::Stopped) => Error::Generate(GenerateError::Stopping),
        SavedSlotError::File(error) if error.kind() == NotFound => {
            Error::invalid("filename", "filename: file not found")
        }
        SavedSlotError::File(error) if matches!(error.kind(), InvalidInput | IsADirectory) => {
            Error::invalid("filename", format!("filename: {error}"))
        }
        SavedSlotError::StillRunning => Error::ModelUnavailable(error.to_string()),
        SavedSlotError::OwnedByAnotherKey => Error::SlotOfAnotherKey(slot),
        SavedSlotError::InvalidFile(_)
        | SavedSlotError::TooManyFiles(_)
        | SavedSlotError::TooManyBytes(_)
        | SavedSlotError::ModelMismatch
        | SavedSlotError::AdapterMissing => {
            Error::invalid("filename", format!("filename: {error}"))
        }
        SavedSlotError::Slot(SlotError::Run(_)) | SavedSlotError::File(_) => {
            tracing::error!(%error, slot, "saving or restoring a slot failed");
            Error::Generate(GenerateError::Failed(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_file_names_that_lead_out_of_the_folder() {
        let folder = Path::new("/slots");
        let (_, path) = slot_file(folder, Some("a b-1.bin".to_owned())).unwrap();
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
            assert!(
                slot_file(folder, Some(name.to_owned())).is_err(),
                "{name:?}"
            );
        }
        assert!(slot_file(folder, None).is_err());
    }
}
