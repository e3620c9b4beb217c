//! The files that commands write, with errors that name them.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::atomic_file::{AtomicFile, check_replaceable};

/// Begins the file that is to be at `path`.
///
/// # Errors
/// The system's, with the path.
pub(super) fn create(path: &Path) -> anyhow::Result<AtomicFile> {
    AtomicFile::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Gives it its name; over another of that name only with `force`.
///
/// # Errors
/// The system's, with the path.
pub(super) fn finish(file: AtomicFile, force: bool) -> anyhow::Result<()> {
    free(file.path(), force)?;
    let named = format!("cannot write {}", file.path().display());
    file.finish().context(named)
}

/// Checks that nothing is at `path`, or a regular file that may be written over.
///
/// # Errors
/// There is something else.
pub(super) fn free(path: &Path, force: bool) -> anyhow::Result<()> {
    let shown = path.display();
    let exists = check_replaceable(path).with_context(|| format!("cannot write {shown}"))?;
    ensure!(!exists || force, "{shown} exists; --force writes over it");
    Ok(())
}
