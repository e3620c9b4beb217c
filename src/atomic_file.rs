//! Atomic file creation: writes a hidden temporary file (part file) in the target's folder, then renames it to the
//! target. Replaces regular files only, never folders, links or devices.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const BUFFER_BYTES: usize = 1 << 20;

/// Number of digits of the random hexadecimal number in a part file's name. The number gives concurrent writers of the
/// same target different part files.
const PART_DIGITS: usize = 16;

const PART_SUFFIX: &str = ".part";

/// A file that is being written. Dropping an `AtomicFile` before [`AtomicFile::finish`] removes the part file.
///
/// The writer locks the part file, `.NAME.0123456789abcdef.part`. An unlocked part file was left by a killed process.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    part_path: PathBuf,
    out: BufWriter<File>,
}

impl AtomicFile {
    /// Creates the part file for `path`, and removes part files for `path` that killed processes left.
    ///
    /// # Errors
    /// If `path` exists and is not a regular file, or a file operation fails.
    pub fn create(path: &Path) -> io::Result<Self> {
        check_replaceable(path)?;
        let name = path.file_name();
        let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        remove_stale_part_files(folder, |target| Some(target) == name.to_str())?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{:016x}{PART_SUFFIX}", rand::random::<u64>()));
        let part_path = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&part_path)?;
        // On file systems without locks, such as some network file systems, part files of killed processes are never
        // removed.
        let _ = file.try_lock();
        Ok(Self {
            path: path.to_owned(),
            part_path,
            out: BufWriter::with_capacity(BUFFER_BYTES, file),
        })
    }

    /// Syncs the data to disk and renames the part file to its target, replacing a regular file of that name.
    ///
    /// # Errors
    /// If the target exists and is not a regular file, or a file operation fails.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        check_replaceable(&self.path)?;
        fs::rename(&self.part_path, &self.path)
    }

    /// The target path.
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
        // After the rename the part file no longer exists.
        let _ = fs::remove_file(&self.part_path);
    }
}

/// Checks that `path` does not exist or is a regular file. Returns whether it exists.
///
/// # Errors
/// If `path` is a folder, a link, a device, a pipe or a socket, or its metadata cannot be read.
pub fn check_replaceable(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(true),
        Ok(metadata) => {
            let kind = match metadata {
                _ if metadata.is_dir() => "a folder",
                _ if metadata.is_symlink() => "a symbolic link",
                _ => "a device, pipe or socket",
            };
            let problem = format!("it is {kind}; only regular files can be overwritten");
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes part files in `folder` that killed processes left and whose target's name `is_wanted` accepts. Returns the
/// number of removed files.
///
/// # Errors
/// If `folder` cannot be read, or a part file cannot be removed.
pub fn remove_stale_part_files(
    folder: &Path,
    is_wanted: impl Fn(&str) -> bool,
) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = name.to_str().and_then(target_of_part);
        let is_matching = target.is_some_and(&is_wanted);
        if is_matching && entry.file_type()?.is_file() && is_abandoned(&entry.path()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Returns the name of the target of the part file `name`; `None` if `name` is not a part file's name. Part files of
/// earlier versions of ortolan do not start with a dot.
fn target_of_part(name: &str) -> Option<&str> {
    let (target, number) = name.strip_suffix(PART_SUFFIX)?.rsplit_once('.')?;
    let is_number = number.len() == PART_DIGITS && number.bytes().all(|b| b.is_ascii_hexdigit());
    is_number.then(|| target.strip_prefix('.').unwrap_or(target))
}

/// Whether no process holds the lock of the part file.
fn is_abandoned(part_path: &Path) -> bool {
    File::open(part_path).is_ok_and(|file| file.try_lock().is_ok())
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
    fn keeps_part_files_of_running_writers() {
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
        assert!(!first.part_path.with_file_name(abandoned[0]).exists());
        assert!(first.part_path.with_file_name(abandoned[2]).exists());
        let second = AtomicFile::create(&folder.path().join("wren")).unwrap();
        assert_eq!(remove_stale_part_files(folder.path(), |_| true).unwrap(), 1);
        assert!(first.part_path.exists() && second.part_path.exists());
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
            let error = AtomicFile::create(&at(name)).unwrap_err().to_string();
            assert!(error.contains(kind), "{name}: {error}");
            // `finish` does not replace a folder, link or socket that appeared at the target during writing.
            let mut file = AtomicFile::create(&at("new")).unwrap();
            file.path = at(name);
            file.finish().unwrap_err();
        }
        assert_eq!(fs::read(at("target")).unwrap(), b"kept");
        assert_eq!(names(folder.path()).len(), 5);
    }
}
