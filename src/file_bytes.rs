//! Reads files: maps model files or reads them completely, and reads small files up to a size limit.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// How a file is loaded into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// Memory-mapped: the operating system loads a page on first access.
    Map,
    /// Read into memory completely when the file is opened.
    Read,
}

/// The contents of a file, mapped or read into memory. Dereferences to bytes.
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
    /// If the file cannot be opened or read, is not a regular file, or does not fit in memory.
    pub fn open(path: &Path, access: FileAccess) -> io::Result<Self> {
        let (file, length) = open_regular(path)?;
        Ok(Self(match access {
            // SAFETY: The mapping is read-only. Another process could change or truncate the file while it is mapped;
            // no portable API prevents that. Replacing a model file by renaming creates a new inode, so this mapping
            // stays valid.
            FileAccess::Map => Contents::Mapped(unsafe { Mmap::map(&file) }?),
            FileAccess::Read => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))?;
                // Do not read bytes that another process has appended in the meantime.
                file.take(length).read_to_end(&mut bytes)?;
                Contents::Read(bytes)
            }
        }))
    }

    /// Releases the resident pages of a mapped file. The next access to a page reads the page from the file again.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Contents::Mapped(bytes) = &self.0 {
            // SAFETY: The mapping is never written to, so dropping its pages loses no data.
            let _ = unsafe { bytes.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

/// Opens a regular file, following links. Returns the file and its length in bytes.
///
/// # Errors
/// If the file cannot be opened, or `path` is a folder, a device, a pipe or a socket.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Check before opening: opening a pipe blocks until the pipe has a writer.
    check_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    check_regular(&metadata)?;
    Ok((file, metadata.len()))
}

fn check_regular(metadata: &fs::Metadata) -> io::Result<()> {
    match metadata {
        _ if metadata.is_file() => Ok(()),
        _ if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => {
            let problem = "it is a device, pipe or socket, not a regular file";
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
    }
}

/// Reads a file of at most `max_bytes` bytes. The file may be a pipe or a device.
///
/// # Errors
/// If the file cannot be read, or has more than `max_bytes` bytes.
pub fn read_limited(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    take_limited(File::open(path)?, max_bytes)
}

/// Reads a regular file of at most `max_bytes` bytes.
///
/// # Errors
/// If the file cannot be read, is not a regular file, or has more than `max_bytes` bytes.
pub fn read_regular_limited(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    take_limited(open_regular(path)?.0, max_bytes)
}

/// Reads a UTF-8 file of at most `max_bytes` bytes. The file may be a pipe or a device.
///
/// # Errors
/// If the file cannot be read, has more than `max_bytes` bytes, or is not valid UTF-8.
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
            let problem = format!("the file is larger than {max_bytes} bytes");
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
    fn rejects_a_file_over_the_size_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wren");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_limited(&path, 4).unwrap(), b"four");
        let error = read_limited(&path, 3).unwrap_err().to_string();
        assert_eq!(error, "the file is larger than 3 bytes");
    }

    #[cfg(unix)]
    #[test]
    fn rejects_devices_and_folders() {
        let zeros = Path::new("/dev/zero");
        read_limited(zeros, 1000).unwrap_err();
        for access in [FileAccess::Map, FileAccess::Read] {
            let error = FileBytes::open(zeros, access).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error = FileBytes::open(folder.path(), FileAccess::Read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }
}
