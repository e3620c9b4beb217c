//! Identifies a sequence in plans, events and statistics.

/// The id of a sequence, unique within an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);
