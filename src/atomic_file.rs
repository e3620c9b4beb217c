//! Files that appear under their name only when they are complete: written beside it as a hidden part, then renamed.
//! Only regular files are replaced, never devices, folders or links.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Hexadecimal digits of the number in a part's name, which keeps concurrent writers of one file apart.
const PART_DIGITS: usize = 16;

const PART_ENDING: &str = ".part";

/// A file that is being written. Dropped before [`AtomicFile::finish`], it leaves nothing behind.
///
/// The part, `.NAME.0123456789abcdef.part`, stays locked as long as its writer lives: an unlocked one is what a killed process
/// left.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
}

impl AtomicFile {
    /// Creates the part of the file that will be at `path`, and removes parts of it that killed processes left.
    ///
    /// # Errors
    /// Something that is not a regular file is at `path`, or the operating system's error.
    pub fn create(path: &Path) -> io::Result<Self> {
        check_replaceable(path)?;
        let name = path.file_name();
        let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        remove_parts(folder, |target| Some(target) == name.to_str())?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{:016x}{PART_ENDING}", rand::random::<u64>()));
        let part = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&part)?;
        // Some network file systems have no locks; there a part of a killed process stays.
        let _ = file.try_lock();
        Ok(Self {
            path: path.to_owned(),
            part,
            out: BufWriter::with_capacity(BUFFER_BYTES, file),
        })
    }

    /// Writes everything to the disk and gives the file its name, replacing a regular file of that name.
    ///
    /// # Errors
    /// Something that is not a regular file is there, or the operating system's error.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        check_replaceable(&self.path)?;
        fs::rename(&self.part, &self.path)
    }

    /// The path that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After the rename there is no part.
        let _ = fs::remove_file(&self.part);
    }
}

/// Checks that nothing is at `path`, or a regular file. Answers whether there is one.
///
/// # Errors
/// A folder, a link, a device, a pipe or a socket is there.
pub fn check_replaceable(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(found) => {
            let kind = match found {
                _ if found.is_dir() => "a folder",
                _ if found.is_symlink() => "a symbolic link",
                _ => "a device, pipe or socket",
            };
            let problem = format!("it is {kind}; only regular files are written over");
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the parts in `folder` that killed processes left, of files whose name `is_wanted`. Answers how many there were.
///
/// # Errors
/// The folder cannot be read.
pub fn remove_parts(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = name.to_str().and_then(target_of_part);
        let is_part = target.is_some_and(&is_wanted);
        if is_part && entry.file_type()?.is_file() && is_abandoned(&entry.path()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The name of the file that a part of this name is of: hidden, or visible, as earlier versions wrote them.
fn target_of_part(name: &str) -> Option<&str> {
    let (target, number) = name.strip_suffix(PART_ENDING)?.rsplit_once('.')?;
    let is_number = number.len() == PART_DIGITS && number.bytes().all(|b| b.is_ascii_hexdigit());
    is_number.then(|| target.strip_prefix('.').unwrap_or(target))
}

/// Whether no process writes the part.
fn is_abandoned(part: &Path) -> bool {
    File::open(part).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wren");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        drop(AtomicFile::create(&path).unwrap());
        assert_eq!(names(folder.path()), ["wren"]);
    }

    #[test]
    fn parts_of_living_writers_stay() {
        let folder = tempfile::tempdir().unwrap();
        let abandoned = [
            ".wren.0123456789abcdef.part",
            "wren.0123456789abcdef.part",
            ".robin.0123456789abcdef.part",
        ];
        let kept = [".wren.gguf.part", "robin.part", "wren.123.part"];
        for name in abandoned.iter().chain(&kept) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let first = AtomicFile::create(&folder.path().join("wren")).unwrap();
        assert!(!first.part.with_file_name(abandoned[0]).exists());
        assert!(first.part.with_file_name(abandoned[2]).exists());
        let second = AtomicFile::create(&folder.path().join("wren")).unwrap();
        assert_eq!(remove_parts(folder.path(), |_| true).unwrap(), 1);
        assert!(first.part.exists() && second.part.exists());
        drop((first, second));
        assert_eq!(names(folder.path()), kept);
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_replaced() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("target"), "kept").unwrap();
        symlink(at("target"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, kind) in [
            ("folder", "a folder"),
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("socket", "a device"),
        ] {
            let refused = AtomicFile::create(&at(name)).unwrap_err().to_string();
            assert!(refused.contains(kind), "{name}: {refused}");
            // What is put there while the file is written stays, too.
            let mut file = AtomicFile::create(&at("new")).unwrap();
            file.path = at(name);
            file.finish().unwrap_err();
        }
        assert_eq!(fs::read(at("target")).unwrap(), b"kept");
        assert_eq!(names(folder.path()).len(), 5);
    }
}
