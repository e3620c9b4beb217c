//! A file that has its name only when it is whole. Until then it is beside it, and goes when it does not become whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is being written.
pub(super) struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
}

impl NewFile {
    /// Begins the file that is to be at `path`.
    ///
    /// # Errors
    /// The system's, with the path.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name();
        let name = name.with_context(|| format!("{}: it is no file's name", path.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            out: BufWriter::with_capacity(BUFFER_BYTES, file),
        })
    }

    /// Gives it its name; over another of that name only with `force`.
    ///
    /// # Errors
    /// The system's, with the path.
    pub(super) fn finish(mut self, force: bool) -> anyhow::Result<()> {
        let named = || format!("cannot write {}", self.path.display());
        self.out.flush().with_context(named)?;
        self.out.get_ref().sync_all().with_context(named)?;
        free(&self.path, force)?;
        fs::rename(&self.temporary, &self.path).with_context(named)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Where it has its name, there is nothing.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// That nothing is at `path`, or a file that may be written over.
///
/// # Errors
/// There is something.
pub(super) fn free(path: &Path, force: bool) -> anyhow::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let shown = path.display();
    ensure!(!found.is_dir(), "{shown}: there is a folder of that name");
    ensure!(force, "{shown} exists; --force writes over it");
    Ok(())
}
