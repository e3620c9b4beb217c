//! Log lines on their way to standard error. A thread of its own writes them, so that a pipe that nobody reads delays no
//! request: lines that do not fit into the queue are dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

/// Bytes of lines that wait to be written: some 20,000 lines of the access log.
const MAX_QUEUED_BYTES: usize = 4 << 20;

/// How long the end of the program waits for lines to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// The end of the queue where lines are put in. Each write is one line.
#[derive(Clone)]
pub(super) struct LineQueue {
    sender: Sender<Message>,
    counts: Arc<Counts>,
}

enum Message {
    Line(Vec<u8>),
    /// Everything before this is written; the sender waits for it.
    Flush(Sender<()>),
}

#[derive(Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    dropped_lines: AtomicU64,
}

impl LineQueue {
    /// A queue whose lines are written to `output`. `report` is called with the number of lines that were dropped, when
    /// there is room again.
    pub(super) fn new(
        output: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> Self {
        let (sender, messages) = mpsc::channel();
        let counts = Arc::new(Counts::default());
        let written = Arc::clone(&counts);
        thread::spawn(move || write_lines(output, &messages, &written, report));
        Self { sender, counts }
    }

    /// Waits until the lines that are queued are written, or for [`FLUSH_DEADLINE`].
    pub(super) fn flush(&self) {
        let (done, is_done) = mpsc::channel();
        if self.sender.send(Message::Flush(done)).is_ok() {
            // Whether it was done or took too long: the program ends.
            let _ = is_done.recv_timeout(FLUSH_DEADLINE);
        }
    }
}

impl Write for LineQueue {
    /// Queues a line or drops it; never waits, never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Counts {
            queued_bytes,
            dropped_lines,
        } = &*self.counts;
        let queued = queued_bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        let is_queued =
            queued <= MAX_QUEUED_BYTES && self.sender.send(Message::Line(line.to_vec())).is_ok();
        if !is_queued {
            queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what comes until nothing can come any more. A line that cannot be written is lost: there is no other place to
/// say so.
fn write_lines(
    mut output: impl Write,
    messages: &Receiver<Message>,
    counts: &Counts,
    report: impl Fn(u64),
) {
    for message in messages {
        match message {
            Message::Line(line) => {
                let _ = output.write_all(&line);
                counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => {
                let _ = output.flush();
                let _ = done.send(());
            }
        }
        let dropped = counts.dropped_lines.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            report(dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// A pipe that takes nothing until it is opened.
    #[derive(Default)]
    struct Pipe {
        is_open: Mutex<bool>,
        opened: Condvar,
        written: Mutex<Vec<u8>>,
    }

    impl Pipe {
        fn open(&self) {
            *self.is_open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    struct Output(Arc<Pipe>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let is_open = self.0.is_open.lock().unwrap();
            drop(
                self.0
                    .opened
                    .wait_while(is_open, |is_open| !*is_open)
                    .unwrap(),
            );
            self.0.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_delays_nothing_and_dropped_lines_are_counted() {
        let pipe = Arc::new(Pipe::default());
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let mut queue = LineQueue::new(Output(Arc::clone(&pipe)), move |lines| {
            counted.fetch_add(lines, Ordering::Relaxed);
        });
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let fitting = MAX_QUEUED_BYTES / line.len();
        for _ in 0..fitting + 7 {
            queue.write_all(&line).unwrap();
        }
        pipe.open();
        LineQueue::flush(&queue);
        assert_eq!(pipe.written.lock().unwrap().len(), fitting * line.len());
        assert_eq!(dropped.load(Ordering::Relaxed), 7);
        // There is room again.
        queue.write_all(b"last\n").unwrap();
        LineQueue::flush(&queue);
        assert!(pipe.written.lock().unwrap().ends_with(b"x\nlast\n"));
    }
}
