//! Queue of log lines for standard error. A separate thread writes them, so that a blocked pipe does not delay
//! requests. Lines that do not fit into the queue are dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

/// Maximum total size of queued lines in bytes: about 20,000 lines of the access log.
const MAX_QUEUED_BYTES: usize = 4 << 20;

/// How long the exiting program waits until queued lines are written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// The sending side of the queue. Each call of `write` is one line.
#[derive(Clone)]
pub(super) struct LineQueue {
    sender: Sender<Message>,
    counts: Arc<Counts>,
}

enum Message {
    Line(Vec<u8>),
    /// Requests a notification once all earlier lines are written.
    Flush(Sender<()>),
}

#[derive(Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    dropped_lines: AtomicU64,
}

impl LineQueue {
    /// Creates a queue that writes to `output`. `report` is called with the number of dropped lines once the queue has
    /// room again.
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

    /// Waits until all queued lines are written, at most for [`FLUSH_DEADLINE`].
    pub(super) fn flush(&self) {
        let (done, is_done) = mpsc::channel();
        if self.sender.send(Message::Flush(done)).is_ok() {
            // The program exits in either case.
            let _ = is_done.recv_timeout(FLUSH_DEADLINE);
        }
    }
}

impl Write for LineQueue {
    /// Queues or drops a line. Never blocks or fails.
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

/// Writes lines until all senders are dropped. Write errors are ignored, because there is nowhere else to report them.
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

    /// A pipe that blocks writes until it is opened.
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
    fn a_blocked_pipe_does_not_block_writers_and_dropped_lines_are_counted() {
        let pipe = Arc::new(Pipe::default());
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let mut queue = LineQueue::new(Output(Arc::clone(&pipe)), move |lines| {
            counted.fetch_add(lines, Ordering::Relaxed);
        });
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let line_capacity = MAX_QUEUED_BYTES / line.len();
        for _ in 0..line_capacity + 7 {
            queue.write_all(&line).unwrap();
        }
        pipe.open();
        LineQueue::flush(&queue);
        assert_eq!(
            pipe.written.lock().unwrap().len(),
            line_capacity * line.len()
        );
        assert_eq!(dropped.load(Ordering::Relaxed), 7);
        // The queue has room again.
        queue.write_all(b"last\n").unwrap();
        LineQueue::flush(&queue);
        assert!(pipe.written.lock().unwrap().ends_with(b"x\nlast\n"));
    }
}
