//! Limits how often an event is logged: each log line covers all events since the previous line.

use std::time::{Duration, Instant};

/// Counts events and decides when to log their number.
pub(super) struct LogInterval {
    interval: Duration,
    last_logged_at: Option<Instant>,
    events: u64,
}

impl LogInterval {
    /// Allows at most one log line per `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            last_logged_at: None,
            events: 0,
        }
    }

    /// Counts an event. If a log line is due, returns the number of events since the previous line.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.events += 1;
        let is_due = |last_logged_at| now.duration_since(last_logged_at) >= self.interval;
        if !self.last_logged_at.is_none_or(is_due) {
            return None;
        }
        self.last_logged_at = Some(now);
        Some(std::mem::take(&mut self.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_covers_the_events_since_the_previous_line() {
        let start = Instant::now();
        let mut interval = LogInterval::new(Duration::from_secs(1));
        let counted = [0, 50, 100, 999, 1000, 1050, 2500]
            .map(|milliseconds| interval.count(start + Duration::from_millis(milliseconds)));
        let expected = [Some(1), None, None, None, Some(4), None, Some(2)];
        assert_eq!(counted, expected);
    }
}
