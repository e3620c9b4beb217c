//! Values that are read from files, and read again when a file changes. A thread of its own looks at the files, so that a
//! slow file system delays no request; a request takes what was read last.

use std::fmt::Display;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How often files are looked at: a key that is removed from its file is refused this much later at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks without success, after which what was read is no longer fresh: an editor that empties a file before it writes
/// it does no harm, and a file that is deleted does not keep a door open.
const STALE_LOOKS: u32 = 5;

/// Files and what they say.
pub(super) trait Source: Send + Sync + 'static {
    type Value: Send + Sync;
    type Error: Display;

    /// What follows when the files can no longer be read, for the log.
    const WITHOUT_FILES: &'static str;

    fn files(&self) -> Vec<&Path>;

    fn read(&self) -> Result<Self::Value, Self::Error>;
}

/// What the files of a source say.
pub(super) struct Reloaded<S: Source> {
    shared: Arc<Shared<S>>,
    interval: Duration,
}

struct Shared<S: Source> {
    source: S,
    current: RwLock<Current<S::Value>>,
}

struct Current<V> {
    value: Arc<V>,
    /// When a look at the files last found them in order.
    confirmed: Instant,
}

impl<S: Source> Reloaded<S> {
    /// Reads the files, and looks at them again and again until this is dropped.
    ///
    /// # Errors
    /// The source's, of the first reading.
    pub(super) fn new(source: S) -> Result<Self, S::Error> {
        Self::with_interval(source, LOOK_INTERVAL)
    }

    /// The same, with a look at every `interval`.
    pub(super) fn with_interval(source: S, interval: Duration) -> Result<Self, S::Error> {
        // Before the files are read: a change in between is noticed at the next look.
        let stamps = stamps(&source);
        let current = Current {
            value: Arc::new(source.read()?),
            confirmed: Instant::now(),
        };
        let shared = Arc::new(Shared {
            source,
            current: RwLock::new(current),
        });
        let watched = Arc::downgrade(&shared);
        thread::spawn(move || watch(&watched, stamps, interval));
        Ok(Self { shared, interval })
    }

    /// What was read last, however long ago.
    pub(super) fn last(&self) -> Arc<S::Value> {
        let current = self.shared.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner).value)
    }

    /// What was read last, unless the files cannot be read any more.
    pub(super) fn fresh(&self) -> Option<Arc<S::Value>> {
        let current = self.shared.current.read();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        let is_fresh = current.confirmed.elapsed() < STALE_LOOKS * self.interval;
        is_fresh.then(|| Arc::clone(&current.value))
    }
}

/// Looks at the files until the value is no longer wanted. A problem is logged once.
fn watch<S: Source>(watched: &Weak<Shared<S>>, mut seen: Vec<Stamp>, interval: Duration) {
    let mut problem = None;
    loop {
        thread::sleep(interval);
        let Some(shared) = watched.upgrade() else {
            return;
        };
        let stamps = stamps(&shared.source);
        let value = if stamps == seen && problem.is_none() {
            None
        } else {
            match shared.source.read() {
                Ok(value) => Some(Arc::new(value)),
                Err(error) => {
                    let found = error.to_string();
                    if problem.as_ref() != Some(&found) {
                        tracing::error!(error = found, "{}", S::WITHOUT_FILES);
                        problem = Some(found);
                    }
                    seen = stamps;
                    continue;
                }
            }
        };
        let current = shared.current.write();
        let mut current = current.unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = value {
            let files: Vec<_> = shared.source.files();
            tracing::info!(?files, "read again");
            current.value = value;
        }
        current.confirmed = Instant::now();
        (seen, problem) = (stamps, None);
    }
}

/// What shows that a file has changed. `None` if it is not there, or no regular file: a pipe is read once.
type Stamp = Option<(SystemTime, u64, Identity)>;

/// The file behind the path, and when anything of it changed last: a file that is replaced by one of the same length and
/// time of modification has another identity.
#[cfg(unix)]
type Identity = (u64, u64, i64, i64);

#[cfg(unix)]
fn identity(data: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (data.dev(), data.ino(), data.ctime(), data.ctime_nsec())
}

#[cfg(not(unix))]
type Identity = ();

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {}

fn stamps(source: &impl Source) -> Vec<Stamp> {
    let stamp = |path| {
        let data = fs::metadata(path).ok().filter(Metadata::is_file)?;
        Some((data.modified().ok()?, data.len(), identity(&data)))
    };
    source.files().into_iter().map(stamp).collect()
}

/// A file's bytes. No more than the limit is read, whatever length the file claims to have.
pub(super) fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(format!("it has more than {MAX_FILE_BYTES} bytes")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Between two looks in tests.
    pub(in crate::server) const SHORT: Duration = Duration::from_millis(20);

    /// Waits until something holds; how often files are looked at is not exact.
    #[track_caller]
    pub(in crate::server) fn eventually(holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "it does not come to hold");
            thread::sleep(Duration::from_millis(5));
        }
    }

    struct Text(PathBuf);

    impl Source for Text {
        type Value = Vec<u8>;
        type Error = String;

        const WITHOUT_FILES: &'static str = "the text is gone";

        fn files(&self) -> Vec<&Path> {
            vec![&self.0]
        }

        fn read(&self) -> Result<Vec<u8>, String> {
            let bytes = bytes_of(&self.0)?;
            match bytes.is_empty() {
                true => Err("it is empty".to_owned()),
                false => Ok(bytes),
            }
        }
    }

    fn is(text: &Reloaded<Text>, expected: &str) -> bool {
        text.fresh()
            .is_some_and(|text| *text == expected.as_bytes())
    }

    #[test]
    fn a_change_is_noticed_and_what_cannot_be_read_is_no_longer_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let text = || Reloaded::with_interval(Text(path.clone()), SHORT);
        assert!(text().is_err());
        fs::write(&path, "one").unwrap();
        let text = text().unwrap();
        eventually(|| is(&text, "one"));
        fs::write(&path, "two").unwrap();
        eventually(|| is(&text, "two"));
        let break_it: [&dyn Fn(); 3] = [
            &|| fs::remove_file(&path).unwrap(),
            &|| fs::write(&path, "").unwrap(),
            &|| {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            },
        ];
        for break_it in break_it {
            break_it();
            eventually(|| text.fresh().is_none());
            assert_eq!(*text.last(), b"two");
            // And what can be read again counts again.
            let _ = fs::remove_dir(&path);
            fs::write(&path, "two").unwrap();
            eventually(|| is(&text, "two"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_of_the_same_length_and_time_is_noticed() {
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
        let text = Reloaded::with_interval(Text(path.clone()), SHORT).unwrap();
        fs::rename(&other, &path).unwrap();
        eventually(|| is(&text, "two"));
    }

    #[cfg(unix)]
    #[test]
    fn no_more_is_read_than_the_limit_whatever_length_a_file_claims() {
        let error = bytes_of(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error, "it has more than 1048576 bytes");
    }
}
