//! Values that are read from files and reloaded when a file changes. A background thread checks the files, so a slow
//! file system does not delay requests. Requests use the last loaded value.

use std::fmt::Display;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Maximum size of a file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Time between two checks of the files. An API key that is removed from its file is refused after the next check.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Number of consecutive failed checks after which the value is no longer fresh. A few failures are tolerated, because
/// some editors empty a file before they write the new contents.
const MAX_FAILED_CHECKS: u32 = 5;

/// A set of files, and how their contents are parsed into a value.
pub(super) trait FileSource: Send + Sync + 'static {
    type Value: Send + Sync;
    type Error: Display;

    /// Log message for files that can no longer be read; it states the consequence.
    const UNREADABLE_MESSAGE: &'static str;

    fn files(&self) -> Vec<&Path>;

    fn read(&self) -> Result<Self::Value, Self::Error>;
}

/// A value that is reloaded when the files of its source change.
pub(super) struct Reloaded<S: FileSource> {
    shared: Arc<Shared<S>>,
    interval: Duration,
}

struct Shared<S: FileSource> {
    source: S,
    current: RwLock<CurrentValue<S::Value>>,
}

struct CurrentValue<V> {
    value: Arc<V>,
    /// When a check of the files last succeeded.
    verified_at: Instant,
}

impl<S: FileSource> Reloaded<S> {
    /// Reads the files, then checks them once a second until this is dropped.
    ///
    /// # Errors
    /// If the files cannot be read or parsed.
    pub(super) fn new(source: S) -> Result<Self, S::Error> {
        Self::with_interval(source, CHECK_INTERVAL)
    }

    /// Like [`Reloaded::new`], with a check every `interval`.
    pub(super) fn with_interval(source: S, interval: Duration) -> Result<Self, S::Error> {
        // The versions are taken before the files are read, so the next check detects a change in between.
        let versions = file_versions(&source);
        let current = CurrentValue {
            value: Arc::new(source.read()?),
            verified_at: Instant::now(),
        };
        let shared = Arc::new(Shared {
            source,
            current: RwLock::new(current),
        });
        let weak = Arc::downgrade(&shared);
        thread::spawn(move || watch(&weak, versions, interval));
        Ok(Self { shared, interval })
    }

    /// Returns the last loaded value, even if it is no longer fresh.
    pub(super) fn last_value(&self) -> Arc<S::Value> {
        let current = self.shared.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner).value)
    }

    /// Returns the last loaded value, or `None` once [`MAX_FAILED_CHECKS`] checks have failed.
    pub(super) fn fresh_value(&self) -> Option<Arc<S::Value>> {
        let current = self.shared.current.read();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        let is_fresh = current.verified_at.elapsed() < MAX_FAILED_CHECKS * self.interval;
        is_fresh.then(|| Arc::clone(&current.value))
    }
}

/// Checks the files until the [`Reloaded`] is dropped. An error is logged once, not at every check.
fn watch<S: FileSource>(
    weak: &Weak<Shared<S>>,
    mut last_versions: Vec<FileVersion>,
    interval: Duration,
) {
    let mut last_error = None;
    loop {
        thread::sleep(interval);
        let Some(shared) = weak.upgrade() else {
            return;
        };
        let versions = file_versions(&shared.source);
        let value = if versions == last_versions && last_error.is_none() {
            None
        } else {
            match shared.source.read() {
                Ok(value) => Some(Arc::new(value)),
                Err(error) => {
                    let error = error.to_string();
                    if last_error.as_ref() != Some(&error) {
                        tracing::error!(error, "{}", S::UNREADABLE_MESSAGE);
                        last_error = Some(error);
                    }
                    last_versions = versions;
                    continue;
                }
            }
        };
        let current = shared.current.write();
        let mut current = current.unwrap_or_else(PoisonError::into_inner);
        let previous = value.map(|value| std::mem::replace(&mut current.value, value));
        current.verified_at = Instant::now();
        // Requests wait for this lock, so the log line is written and the previous value dropped without it.
        drop(current);
        if previous.is_some() {
            tracing::info!(files = ?shared.source.files(), "files reloaded");
        }
        (last_versions, last_error) = (versions, None);
    }
}

/// Modification time, size and identity of a file; a changed file differs in at least one of them. `None` if the file
/// does not exist or is not a regular file: a pipe can be read only once.
type FileVersion = Option<(SystemTime, u64, FileIdentity)>;

/// Device, inode and time of the last status change. They detect a replacement with the same size and modification
/// time.
#[cfg(unix)]
type FileIdentity = (u64, u64, i64, i64);

#[cfg(unix)]
fn identity(data: &Metadata) -> FileIdentity {
    use std::os::unix::fs::MetadataExt;
    (data.dev(), data.ino(), data.ctime(), data.ctime_nsec())
}

#[cfg(not(unix))]
type FileIdentity = ();

#[cfg(not(unix))]
fn identity(_: &Metadata) -> FileIdentity {}

fn file_versions(source: &impl FileSource) -> Vec<FileVersion> {
    let version = |path| {
        let data = fs::metadata(path).ok().filter(Metadata::is_file)?;
        Some((data.modified().ok()?, data.len(), identity(&data)))
    };
    source.files().into_iter().map(version).collect()
}

/// Reads a file of at most [`MAX_FILE_BYTES`], whatever size the file system reports.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(format!("the file is larger than {MAX_FILE_BYTES} bytes")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;
    use std::sync::{Mutex, mpsc};

    use super::*;

    /// Time between two checks of the files in tests.
    pub(in crate::server) const SHORT_INTERVAL: Duration = Duration::from_millis(20);

    /// Waits until the condition holds, because the time of the next check is not known.
    #[track_caller]
    pub(in crate::server) fn eventually(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "the condition does not hold in time"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    struct TextFile(PathBuf);

    impl FileSource for TextFile {
        type Value = Vec<u8>;
        type Error = String;

        const UNREADABLE_MESSAGE: &'static str = "the text cannot be read";

        fn files(&self) -> Vec<&Path> {
            vec![&self.0]
        }

        fn read(&self) -> Result<Vec<u8>, String> {
            let bytes = read_file(&self.0)?;
            match bytes.is_empty() {
                true => Err("the file is empty".to_owned()),
                false => Ok(bytes),
            }
        }
    }

    /// A file on a slow file system: reading waits for a message, until the sender is dropped.
    struct SlowFile {
        file: TextFile,
        messages: Mutex<mpsc::Receiver<()>>,
    }

    impl FileSource for SlowFile {
        type Value = Vec<u8>;
        type Error = String;

        const UNREADABLE_MESSAGE: &'static str = TextFile::UNREADABLE_MESSAGE;

        fn files(&self) -> Vec<&Path> {
            self.file.files()
        }

        fn read(&self) -> Result<Vec<u8>, String> {
            let _ = self.messages.lock().unwrap().recv();
            self.file.read()
        }
    }

    fn has_text(text: &Reloaded<impl FileSource<Value = Vec<u8>>>, expected: &str) -> bool {
        text.fresh_value()
            .is_some_and(|text| *text == expected.as_bytes())
    }

    #[test]
    fn a_changed_file_is_reloaded_and_an_unreadable_file_has_no_fresh_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let text = || Reloaded::with_interval(TextFile(path.clone()), SHORT_INTERVAL);
        assert!(text().is_err());
        fs::write(&path, "one").unwrap();
        let text = text().unwrap();
        eventually(|| has_text(&text, "one"));
        fs::write(&path, "two").unwrap();
        eventually(|| has_text(&text, "two"));
        let make_unreadable: [&dyn Fn(); 3] = [
            &|| fs::remove_file(&path).unwrap(),
            &|| fs::write(&path, "").unwrap(),
            &|| {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            },
        ];
        for make_unreadable in make_unreadable {
            make_unreadable();
            eventually(|| text.fresh_value().is_none());
            assert_eq!(*text.last_value(), b"two");
            // The value is fresh again once the file is readable.
            let _ = fs::remove_dir(&path);
            fs::write(&path, "two").unwrap();
            eventually(|| has_text(&text, "two"));
        }
    }

    #[test]
    fn a_slow_file_system_delays_no_reader_of_the_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "one").unwrap();
        let (send, messages) = mpsc::channel();
        send.send(()).unwrap();
        let file = SlowFile {
            file: TextFile(path.clone()),
            messages: Mutex::new(messages),
        };
        let text = Arc::new(Reloaded::with_interval(file, SHORT_INTERVAL).unwrap());
        fs::write(&path, "two").unwrap();
        let (finish, finished) = mpsc::channel();
        let reader = Arc::clone(&text);
        thread::spawn(move || {
            // The check that detects the change waits for the file system, so the value is no longer fresh.
            eventually(|| reader.fresh_value().is_none());
            finish.send(reader.last_value()).unwrap();
        });
        let value = finished.recv_timeout(Duration::from_secs(30));
        assert_eq!(
            *value.expect("the reader waits for the file system"),
            b"one"
        );
        drop(send);
        eventually(|| has_text(&text, "two"));
    }

    #[cfg(unix)]
    #[test]
    fn a_replacement_of_the_same_size_and_modification_time_is_reloaded() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("text"), folder.path().join("other"));
        fs::write(&path, "one").unwrap();
        fs::write(&other, "two").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        File::options()
            .write(true)
            .open(&other)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        let text = Reloaded::with_interval(TextFile(path.clone()), SHORT_INTERVAL).unwrap();
        fs::rename(&other, &path).unwrap();
        eventually(|| has_text(&text, "two"));
    }

    #[cfg(unix)]
    #[test]
    fn reading_stops_at_the_size_limit_even_if_the_file_reports_no_size() {
        let error = read_file(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error, "the file is larger than 1048576 bytes");
    }
}
