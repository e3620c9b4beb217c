//! A log line that stands for all that happened since the last one.

use std::time::{Duration, Instant};

/// Counts events, and says when it is time to log them.
pub(super) struct LogInterval {
    interval: Duration,
    last: Option<Instant>,
    events: u64,
}

impl LogInterval {
    /// One line in each `interval` at most.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            events: 0,
        }
    }

    /// Counts an event. Answers how many there were since the last line, if it is time for one.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.events += 1;
        let is_time = |last| now.duration_since(last) >= self.interval;
        if !self.last.is_none_or(is_time) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stands_for_the_events_since_the_last_one() {
        let start = Instant::now();
        let mut interval = LogInterval::new(Duration::from_secs(1));
        let counted = [0, 50, 100, 999, 1000, 1050, 2500]
            .map(|milliseconds| interval.count(start + Duration::from_millis(milliseconds)));
        let expected = [Some(1), None, None, None, Some(4), None, Some(2)];
        assert_eq!(counted, expected);
    }
}
