//! Writes output files of commands atomically, with errors that contain the path.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::atomic_file::{AtomicFile, check_replaceable};

/// Creates a temporary file. [`finish`] renames it to `path`.
///
/// # Errors
/// If the file cannot be created.
pub(super) fn create(path: &Path) -> anyhow::Result<AtomicFile> {
    AtomicFile::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Renames a complete file to its final path. Replaces an existing file only with `force`.
///
/// # Errors
/// If the path is not available, or the file cannot be written.
pub(super) fn finish(file: AtomicFile, force: bool) -> anyhow::Result<()> {
    check_available(file.path(), force)?;
    let context = format!("cannot write {}", file.path().display());
    file.finish().context(context)
}

/// Checks that `path` does not exist, or is a regular file and `force` is set.
///
/// # Errors
/// If the path is not available.
pub(super) fn check_available(path: &Path, force: bool) -> anyhow::Result<()> {
    let path_text = path.display();
    let exists = check_replaceable(path).with_context(|| format!("cannot write {path_text}"))?;
    ensure!(
        !exists || force,
        "{path_text} exists; use --force to overwrite it"
    );
    Ok(())
}
