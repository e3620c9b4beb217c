//! A file's bytes, as model files are looked at: mapped, or read at once; and small files, read up to a limit.

use std::fs::{self, File};
use std::io::{self, Read};
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
    /// The operating system's; the file is not a regular one, or has no room in memory.
    pub fn open(path: &Path, access: FileAccess) -> io::Result<Self> {
        let (file, length) = open_regular(path)?;
        Ok(Self(match access {
            // SAFETY: the mapping is private and read-only. That nobody shortens the file while it is
            // mapped cannot be enforced on any system; a model file that is replaced gets a new inode.
            FileAccess::Map => Contents::Mapped(unsafe { Mmap::map(&file) }?),
            FileAccess::Read => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))?;
                // What is appended meanwhile is not read.
                file.take(length).read_to_end(&mut bytes)?;
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

/// Opens a regular file, or one that a link leads to. Answers its length in bytes, too.
///
/// # Errors
/// The operating system's; at `path` is a folder, a device, a pipe or a socket.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Opening a pipe would wait for its writer.
    check_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    let found = file.metadata()?;
    check_regular(&found)?;
    Ok((file, found.len()))
}

fn check_regular(found: &fs::Metadata) -> io::Result<()> {
    match found {
        _ if found.is_file() => Ok(()),
        _ if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => {
            let problem = "it is a device, pipe or socket, not a regular file";
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
    }
}

/// Reads a file of at most `max_bytes`, whatever length the system gives it: pipes and devices have none.
///
/// # Errors
/// The operating system's; the file has more bytes.
pub fn read_limited(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    take_limited(File::open(path)?, max_bytes)
}

/// Reads a regular file of at most `max_bytes`.
///
/// # Errors
/// The operating system's; the file is not a regular one, or has more bytes.
pub fn read_regular_limited(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    take_limited(open_regular(path)?.0, max_bytes)
}

/// As [`read_limited`], as a text.
///
/// # Errors
/// Also, the bytes are not UTF-8.
pub fn read_text_limited(path: &Path, max_bytes: u64) -> io::Result<String> {
    let text = String::from_utf8(read_limited(path, max_bytes)?);
    text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn take_limited(file: File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max_bytes {
        true => {
            let problem = format!("it has more than {max_bytes} bytes");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, problem))
        }
        false => Ok(bytes),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_for_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wren");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_limited(&path, 4).unwrap(), b"four");
        let refused = read_limited(&path, 3).unwrap_err().to_string();
        assert_eq!(refused, "it has more than 3 bytes");
    }

    #[cfg(unix)]
    #[test]
    fn what_has_no_length_is_not_read_to_its_end() {
        let zeros = Path::new("/dev/zero");
        read_limited(zeros, 1000).unwrap_err();
        for access in [FileAccess::Map, FileAccess::Read] {
            let refused = FileBytes::open(zeros, access).unwrap_err().to_string();
            assert!(refused.contains("not a regular file"), "{refused}");
        }
        let folder = tempfile::tempdir().unwrap();
        let refused = FileBytes::open(folder.path(), FileAccess::Read).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::IsADirectory);
    }
}
