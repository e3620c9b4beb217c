//! Child processes of tests and benches.

use std::process::Child;

/// A process that is killed when it is dropped.
pub(crate) struct KillOnDrop(pub(crate) Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Errors mean that the process has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Memory of a running process in bytes: `VmRSS` (resident) or `VmHWM` (peak) of `/proc/ID/status`.
///
/// # Panics
/// If the process is not running. Linux only.
pub(crate) fn memory_bytes(process_id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status"));
    let status = status.expect("the process is running");
    let line = status.lines().find(|line| line.starts_with(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes = kibibytes.and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("the process is running") << 10
}
