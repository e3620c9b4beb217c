//! What the program asks of the machine beside its computing: on which cores its threads are, that its memory stays in place, and
//! how large its pages are. Linux tells and does all of it; elsewhere there is one node, nothing is locked and pages are small.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::num::NonZero;
use std::ops::{Deref, DerefMut, Range};

use memmap2::MmapMut;

/// What is done where some cores reach some memory sooner than others (llama.cpp's `--numa`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Threads on all nodes in turn.
    Distribute,
    /// Threads only on the cores of the node where the program started.
    Isolate,
    /// As many threads as the program was left cores.
    Inherit,
}

/// On which cores the program's threads are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// All of them.
    pub cores: Cores,
    /// Where the threads are that compute, from the second on, in turn. Empty: the system decides.
    pub turns: Vec<Cores>,
    /// How many threads compute; if nobody says it, one for each physical core of `cores`.
    pub threads: usize,
}

/// Logical cores, by the system's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cores(pub BTreeSet<usize>);

impl Placement {
    /// For a program on this machine whose `threads` threads compute; `None` is as many as it is placed for.
    pub fn new(strategy: Strategy, threads: Option<usize>) -> Self {
        let allowed = allowed();
        let siblings = |core: &usize| {
            let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
            fs::read_to_string(path).unwrap_or_else(|_| core.to_string())
        };
        let physical = |cores: &Cores| {
            let cores: BTreeSet<String> = cores.0.iter().map(siblings).collect();
            cores.len()
        };
        Self::on(
            strategy,
            threads,
            allowed,
            &nodes(),
            current_core(),
            physical,
        )
    }

    /// The same on any machine.
    fn on(
        strategy: Strategy,
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
        let here = nodes.iter().find(|node| node.0.contains(&current));
        let cores = match (strategy, here) {
            (Strategy::Isolate, Some(here)) => here.clone(),
            _ => allowed,
        };
        let threads = threads.unwrap_or_else(|| physical(&cores).max(1));
        let mut turns = nodes;
        match strategy {
            Strategy::Distribute if turns.len() > 1 => turns.rotate_left(1),
            _ => turns.clear(),
        }
        Self {
            cores,
            turns,
            threads,
        }
    }

    /// Keeps this thread, and those that it starts from now on, on the cores.
    #[cfg(target_os = "linux")]
    pub fn confine(&self) -> io::Result<()> {
        let mut set = rustix::thread::CpuSet::new();
        self.cores.0.iter().for_each(|core| set.set(*core));
        Ok(rustix::thread::sched_setaffinity(None, &set)?)
    }

    /// There is one node: nothing is to be done.
    #[cfg(not(target_os = "linux"))]
    pub fn confine(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps all memory of the process in place that it has now, each page from when it is first used.
///
/// # Errors
/// The system does not allow it; the words say how much it does.
#[cfg(target_os = "linux")]
pub fn lock_memory() -> io::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{Resource, getrlimit};
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).map_err(|error| {
        let limit = match getrlimit(Resource::Memlock).current {
            Some(bytes) => format!("the limit is {} KiB, see `ulimit -l`", bytes / 1024),
            None => "there is no limit".to_owned(),
        };
        io::Error::other(format!("{} ({limit})", io::Error::from(error)))
    })
}

/// Not here.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn lock_memory() -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Lets the process open as many files and connections as the system allows it to ask for.
///
/// # Errors
/// The system refuses.
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

/// Not here.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn raise_open_file_limit() -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Lowers the priority of the calling thread, and of those it starts, by that niceness.
///
/// # Errors
/// The system refuses.
#[cfg(target_os = "linux")]
pub fn lower_thread_priority(niceness: i32) -> io::Result<()> {
    // Linux has a niceness for each thread, and 0 is the calling one.
    let own = rustix::process::getpriority_process(None)?;
    Ok(rustix::process::setpriority_process(None, own + niceness)?)
}

/// Not here: elsewhere all threads of a process have one niceness.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn lower_thread_priority(_: i32) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// The cores that the program may use.
#[cfg(target_os = "linux")]
fn allowed() -> Cores {
    let set = rustix::thread::sched_getaffinity(None);
    let set = set.map(|set| {
        let most = rustix::thread::CpuSet::MAX_CPU;
        (0..most).filter(|core| set.is_set(*core)).collect()
    });
    set.map_or_else(|_| counted(), Cores)
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Cores {
    counted()
}

/// As many cores as the program may use, by the first numbers.
fn counted() -> Cores {
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

/// The cores of each node; none where the system does not tell.
fn nodes() -> Vec<Cores> {
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
            Some((number, Cores::listed(&list)?))
        })
        .collect();
    nodes.sort_by_key(|(number, _)| *number);
    nodes.into_iter().map(|(_, cores)| cores).collect()
}

impl Cores {
    /// Reads the kernel's form, as `0-3,8`; `None` if it is another.
    fn listed(list: &str) -> Option<Self> {
        /// More than any machine has.
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

/// Zeros in pages as large as the system gives, from the beginning of one on: who reads all of much memory again and again waits
/// for the addresses of small ones. What is not written takes no memory.
#[derive(Debug)]
pub struct LargePages {
    memory: MmapMut,
    place: Range<usize>,
}

impl LargePages {
    /// What is a large page where there are such.
    const PAGE_BYTES: usize = 2 << 20;

    /// So many bytes, which are more than none.
    ///
    /// # Errors
    /// The system's: there is no memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(bytes.saturating_add(Self::PAGE_BYTES))?;
        // Where the system does not want to, small ones serve.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let start = memory.as_ptr().align_offset(Self::PAGE_BYTES);
        Ok(Self {
            memory,
            place: start..start + bytes,
        })
    }
}

impl Deref for LargePages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.place.clone()]
    }
}

impl DerefMut for LargePages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.place.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(list: &str) -> Cores {
        Cores::listed(list).unwrap()
    }

    /// Two nodes of two cores with two threads each, the program being on the second.
    fn placed(strategy: Strategy, threads: Option<usize>, allowed: &str) -> Placement {
        let nodes = [cores("0-1,4-5"), cores("2-3,6-7")];
        let physical = |cores: &Cores| {
            let cores: BTreeSet<usize> = cores.0.iter().map(|core| core % 4).collect();
            cores.len()
        };
        Placement::on(strategy, threads, cores(allowed), &nodes, 3, physical)
    }

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!(cores("0-2,5\n").0, BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(cores("").0, BTreeSet::new());
        assert_eq!(Cores::listed("0-"), None);
        assert_eq!(Cores::listed("0-4294967295"), None);
    }

    #[test]
    fn threads_are_spread_over_the_nodes() {
        let placement = placed(Strategy::Distribute, None, "0-7");
        assert_eq!((placement.threads, &placement.cores), (4, &cores("0-7")));
        assert_eq!(placement.turns, ["2-3,6-7", "0-1,4-5"].map(cores));
        let one = placed(Strategy::Distribute, Some(3), "0-1");
        assert_eq!((one.threads, one.turns), (3, Vec::new()));
    }

    #[test]
    fn threads_stay_on_the_node() {
        let placement = placed(Strategy::Isolate, None, "0-6");
        assert_eq!((placement.threads, placement.cores), (2, cores("2-3,6")));
        let elsewhere = placed(Strategy::Isolate, None, "0-1");
        assert_eq!(elsewhere.cores, cores("0-1"));
    }

    #[test]
    fn there_are_as_many_threads_as_cores_were_left() {
        let placement = placed(Strategy::Inherit, None, "1,2");
        assert_eq!((placement.threads, &placement.cores), (2, &cores("1-2")));
        assert_eq!(placement.turns, Vec::new());
    }

    #[test]
    fn this_machine_can_be_placed_on() {
        for strategy in [Strategy::Distribute, Strategy::Isolate, Strategy::Inherit] {
            let placement = Placement::new(strategy, None);
            assert!(placement.threads >= 1 && !placement.cores.0.is_empty());
            std::thread::scope(|scope| {
                let confined = scope.spawn(|| {
                    placement.confine().unwrap();
                    allowed()
                });
                assert_eq!(confined.join().unwrap(), placement.cores);
            });
        }
    }
}
