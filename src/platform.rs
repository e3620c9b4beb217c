//! Operating-system services: CPU affinity by NUMA node, memory locking, open-file limit, thread priority, huge pages.
//! Only Linux supports all of them. On other systems, NUMA nodes are unknown and memory pages have the default size.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::num::NonZero;
use std::ops::{Deref, DerefMut, Range};

use memmap2::MmapMut;

/// NUMA strategy (llama.cpp's `--numa`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumaStrategy {
    /// Spreads the threads over all nodes, round-robin.
    Distribute,
    /// Keeps the threads on the cores of the node where the process started.
    Isolate,
    /// Uses the cores that the process was started with, as with `numactl`.
    Inherit,
}

/// Number and CPU affinity of the process's threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Cores to which the process is restricted.
    pub cores: Cores,
    /// Core sets of the compute threads after the first, assigned round-robin. If empty, all of `cores`.
    pub thread_cores: Vec<Cores>,
    /// Number of compute threads; by default the number of physical cores in `cores`.
    pub threads: usize,
}

/// A set of logical cores, by the kernel's core numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cores(pub BTreeSet<usize>);

impl Placement {
    /// Computes the placement for this host. `threads` defaults to one compute thread for each physical core.
    pub fn new(strategy: NumaStrategy, threads: Option<usize>) -> Self {
        let allowed = allowed_cores();
        let siblings = |core: &usize| {
            let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
            fs::read_to_string(path).unwrap_or_else(|_| core.to_string())
        };
        let physical = |cores: &Cores| {
            let cores: BTreeSet<String> = cores.0.iter().map(siblings).collect();
            cores.len()
        };
        Self::for_topology(
            strategy,
            threads,
            allowed,
            &numa_nodes(),
            current_core(),
            physical,
        )
    }

    /// Computes the placement for any host, where the process may use the `allowed` cores and runs on core `current`.
    /// `physical` counts the physical cores of a set of logical cores.
    fn for_topology(
        strategy: NumaStrategy,
        threads: Option<usize>,
        allowed: Cores,
        nodes: &[Cores],
        current: usize,
        physical: impl Fn(&Cores) -> usize,
    ) -> Self {
        let nodes: Vec<Cores> = nodes
            .iter()
            .map(|node| Cores(node.0.intersection(&allowed.0).copied().collect()))
            .filter(|node| !node.0.is_empty())
            .collect();
        let current_node = nodes.iter().find(|node| node.0.contains(&current));
        let cores = match (strategy, current_node) {
            (NumaStrategy::Isolate, Some(node)) => node.clone(),
            _ => allowed,
        };
        let threads = threads.unwrap_or_else(|| physical(&cores).max(1));
        let mut thread_cores = nodes;
        match strategy {
            NumaStrategy::Distribute if thread_cores.len() > 1 => thread_cores.rotate_left(1),
            _ => thread_cores.clear(),
        }
        Self {
            cores,
            thread_cores,
            threads,
        }
    }

    /// Restricts the calling thread to `cores`; threads started later by this thread inherit the restriction.
    #[cfg(target_os = "linux")]
    pub fn restrict_current_thread(&self) -> io::Result<()> {
        let mut set = rustix::thread::CpuSet::new();
        self.cores.0.iter().for_each(|core| set.set(*core));
        Ok(rustix::thread::sched_setaffinity(None, &set)?)
    }

    /// Does nothing: CPU affinity is supported on Linux only.
    #[cfg(not(target_os = "linux"))]
    pub fn restrict_current_thread(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Locks the currently mapped memory of the process into RAM. Each page is locked when it is first used.
///
/// # Errors
/// If the operating system refuses. The message contains the `memlock` limit.
#[cfg(target_os = "linux")]
pub fn lock_memory() -> io::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{Resource, getrlimit};
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).map_err(|error| {
        let limit = match getrlimit(Resource::Memlock).current {
            Some(bytes) => format!("the memlock limit is {} KiB, see `ulimit -l`", bytes / 1024),
            None => "the memlock limit is unlimited".to_owned(),
        };
        io::Error::other(format!("{} ({limit})", io::Error::from(error)))
    })
}

/// Fails: memory locking is supported on Linux only.
///
/// # Errors
/// Always returns [`io::ErrorKind::Unsupported`].
#[cfg(not(target_os = "linux"))]
pub fn lock_memory() -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Raises the limit of open files and sockets (`RLIMIT_NOFILE`) to the hard limit.
///
/// # Errors
/// If the operating system refuses.
#[cfg(target_os = "linux")]
pub fn raise_open_file_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Fails: the open-file limit is raised on Linux only.
///
/// # Errors
/// Always returns [`io::ErrorKind::Unsupported`].
#[cfg(not(target_os = "linux"))]
pub fn raise_open_file_limit() -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Adds `niceness` to the nice value of the calling thread; threads started later by this thread inherit the sum.
///
/// # Errors
/// If the operating system refuses.
#[cfg(target_os = "linux")]
pub fn lower_thread_priority(niceness: i32) -> io::Result<()> {
    // On Linux each thread has a nice value; `None` (process 0) means the calling thread.
    let current = rustix::process::getpriority_process(None)?;
    Ok(rustix::process::setpriority_process(
        None,
        current + niceness,
    )?)
}

/// Fails: outside Linux all threads of a process share one nice value.
///
/// # Errors
/// Always returns [`io::ErrorKind::Unsupported`].
#[cfg(not(target_os = "linux"))]
pub fn lower_thread_priority(_: i32) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Returns the cores that the calling thread may run on.
#[cfg(target_os = "linux")]
fn allowed_cores() -> Cores {
    let set = rustix::thread::sched_getaffinity(None);
    let set = set.map(|set| {
        let max_cores = rustix::thread::CpuSet::MAX_CPU;
        (0..max_cores).filter(|core| set.is_set(*core)).collect()
    });
    set.map_or_else(|_| first_cores(), Cores)
}

#[cfg(not(target_os = "linux"))]
fn allowed_cores() -> Cores {
    first_cores()
}

/// Returns cores 0 to n - 1, where n is the available parallelism.
fn first_cores() -> Cores {
    let count = std::thread::available_parallelism().map_or(1, NonZero::get);
    Cores((0..count).collect())
}

#[cfg(target_os = "linux")]
fn current_core() -> usize {
    rustix::thread::sched_getcpu()
}

#[cfg(not(target_os = "linux"))]
fn current_core() -> usize {
    0
}

/// Returns the cores of each NUMA node, by node number; empty if the operating system does not report nodes.
fn numa_nodes() -> Vec<Cores> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/node") else {
        return Vec::new();
    };
    let mut nodes: Vec<(usize, Cores)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix("node")?
                .parse()
                .ok()?;
            let list = fs::read_to_string(entry.path().join("cpulist")).ok()?;
            Some((number, Cores::parse_list(&list)?))
        })
        .collect();
    nodes.sort_by_key(|(number, _)| *number);
    nodes.into_iter().map(|(_, cores)| cores).collect()
}

impl Cores {
    /// Parses the kernel's list format, such as `0-3,8`; `None` if it is malformed.
    fn parse_list(list: &str) -> Option<Self> {
        /// Larger core numbers are rejected, which bounds the size of the set.
        const MAX_CORES: usize = 1 << 16;
        let mut cores = BTreeSet::new();
        for range in list.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if last >= MAX_CORES {
                return None;
            }
            cores.extend(first..=last);
        }
        Some(Self(cores))
    }
}

/// Zeroed memory, aligned to a huge page, and in huge pages if the operating system provides them. Huge pages avoid
/// TLB misses when large weights are read repeatedly. Pages that are never written take no memory.
#[derive(Debug)]
pub struct HugePages {
    mapping: MmapMut,
    range: Range<usize>,
}

impl HugePages {
    /// Size of a huge page on x86-64, and on AArch64 with default pages of 4 KiB.
    const PAGE_BYTES: usize = 2 << 20;

    /// Maps `bytes` bytes of zeroed memory.
    ///
    /// # Errors
    /// If the operating system cannot map the memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let mapping = MmapMut::map_anon(bytes.saturating_add(Self::PAGE_BYTES))?;
        // Best effort: without huge pages, default pages are used.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let start = mapping.as_ptr().align_offset(Self::PAGE_BYTES);
        Ok(Self {
            mapping,
            range: start..start + bytes,
        })
    }
}

impl Deref for HugePages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.mapping[self.range.clone()]
    }
}

impl DerefMut for HugePages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.mapping[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(list: &str) -> Cores {
        Cores::parse_list(list).unwrap()
    }

    /// Returns the placement on a host with two NUMA nodes of two cores, with two hardware threads per core. The
    /// process runs on core 3, in the second node.
    fn placement(strategy: NumaStrategy, threads: Option<usize>, allowed: &str) -> Placement {
        let nodes = [cores("0-1,4-5"), cores("2-3,6-7")];
        let physical = |cores: &Cores| {
            let cores: BTreeSet<usize> = cores.0.iter().map(|core| core % 4).collect();
            cores.len()
        };
        Placement::for_topology(strategy, threads, cores(allowed), &nodes, 3, physical)
    }

    #[test]
    fn parses_kernel_core_lists() {
        assert_eq!(cores("0-2,5\n").0, BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(cores("").0, BTreeSet::new());
        assert_eq!(Cores::parse_list("0-"), None);
        assert_eq!(Cores::parse_list("0-4294967295"), None);
    }

    #[test]
    fn distribute_spreads_threads_over_all_nodes() {
        let distributed = placement(NumaStrategy::Distribute, None, "0-7");
        assert_eq!(
            (distributed.threads, &distributed.cores),
            (4, &cores("0-7"))
        );
        assert_eq!(distributed.thread_cores, ["2-3,6-7", "0-1,4-5"].map(cores));
        let one = placement(NumaStrategy::Distribute, Some(3), "0-1");
        assert_eq!((one.threads, one.thread_cores), (3, Vec::new()));
    }

    #[test]
    fn isolate_keeps_threads_on_the_current_node() {
        let isolated = placement(NumaStrategy::Isolate, None, "0-6");
        assert_eq!((isolated.threads, isolated.cores), (2, cores("2-3,6")));
        let current_node_not_allowed = placement(NumaStrategy::Isolate, None, "0-1");
        assert_eq!(current_node_not_allowed.cores, cores("0-1"));
    }

    #[test]
    fn inherit_uses_one_thread_per_allowed_physical_core() {
        let placement = placement(NumaStrategy::Inherit, None, "1,2");
        assert_eq!((placement.threads, &placement.cores), (2, &cores("1-2")));
        assert_eq!(placement.thread_cores, Vec::new());
    }

    #[test]
    fn every_strategy_can_be_applied_to_this_host() {
        for strategy in [
            NumaStrategy::Distribute,
            NumaStrategy::Isolate,
            NumaStrategy::Inherit,
        ] {
            let placement = Placement::new(strategy, None);
            assert!(placement.threads >= 1 && !placement.cores.0.is_empty());
            std::thread::scope(|scope| {
                let restricted = scope.spawn(|| {
                    placement.restrict_current_thread().unwrap();
                    allowed_cores()
                });
                assert_eq!(restricted.join().unwrap(), placement.cores);
            });
        }
    }
}
