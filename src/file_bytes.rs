//! A file's bytes, as model files are looked at: mapped, or read at once.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// How a file comes into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// Mapped: what is used of it, when it is used.
    Map,
    /// Read, all of it.
    Read,
}

/// The bytes of an open file.
#[derive(Debug)]
pub struct FileBytes(Contents);

#[derive(Debug)]
enum Contents {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl FileBytes {
    /// Maps or reads the file at `path`.
    ///
    /// # Errors
    /// The operating system's; a folder is no file.
    pub fn open(path: &Path, access: FileAccess) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory));
        }
        Ok(Self(match access {
            // SAFETY: the mapping is private and read-only. That nobody shortens the file while it is
            // mapped cannot be enforced on any system; a model file that is replaced gets a new inode.
            FileAccess::Map => Contents::Mapped(unsafe { Mmap::map(&file) }?),
            FileAccess::Read => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Contents::Read(bytes)
            }
        }))
    }

    /// Gives back the memory that the bytes looked at so far take, where they are mapped: they come from the file again when
    /// they are needed again.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Contents::Mapped(bytes) = &self.0 {
            // SAFETY: nobody writes to the mapping, so that what is dropped is what the file has.
            let _ = unsafe { bytes.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Contents::Mapped(bytes) => bytes,
            Contents::Read(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
