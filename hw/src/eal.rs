//! DPDK's environment abstraction layer: once per process.

use std::ffi::{CString, c_char, c_int};
use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::{env, fs, io, mem, ptr};

use thiserror::Error;
use vipsec_dpdk_sys as sys;

use crate::errno::Errno;
use crate::netdev;

/// DPDK's memory may come from hugepages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hugepages {
    /// If the kernel has enough of them free.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Always; fail without.
    Always,
}

/// Where DPDK's memory came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBacking {
    /// Hugepages.
    Hugepages,
    /// Ordinary pages: slower, and only virtual devices work.
    OrdinaryPages,
}

/// How to start the EAL.
#[derive(Debug, Clone)]
pub struct EalOptions {
    /// Name of this DPDK process on the machine; letters, digits, `-`, `_` and `.`.
    pub file_prefix: String,
    /// Memory for mempools and rings, in MiB.
    pub memory_mib: u32,
    /// Where that memory comes from.
    pub hugepages: Hugepages,
}

impl EalOptions {
    /// 256 MiB, from hugepages if there are any.
    pub fn new(file_prefix: impl Into<String>) -> Self {
        Self { file_prefix: file_prefix.into(), memory_mib: 256, hugepages: Hugepages::Auto }
    }
}

/// The EAL didn't start.
#[derive(Debug, Error)]
pub enum EalError {
    /// DPDK allows one start per process, even after a failure or a cleanup.
    #[error("DPDK was started in this process before; it can't be started twice")]
    AlreadyInitialized,
    /// The file prefix would not be one name in a folder.
    #[error("\"{0}\" is no file prefix: use letters, digits, '-', '_' and '.'")]
    BadFilePrefix(String),
    /// Another process has it.
    #[error("the file prefix \"{0}\" is in use by another process on this machine")]
    FilePrefixInUse(String),
    /// The lock that guards the file prefix can't be made.
    #[error("can't lock the file prefix with {}: {error}", path.display())]
    FilePrefixLock {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// [`Hugepages::Always`], and there are too few.
    #[error("{needed_mib} MiB of hugepages wanted, {free_mib} MiB are free (see /sys/kernel/mm/hugepages)")]
    TooFewHugepages {
        /// Wanted, in MiB.
        needed_mib: u32,
        /// Free, in MiB.
        free_mib: u64,
    },
    /// DPDK refused; its own message is on stderr.
    #[error("DPDK doesn't start: {0}; its own message is on stderr")]
    Init(Errno),
}

/// The EAL, started. Clones are handles on the one that there is; it is cleaned up when the last of them, and everything made
/// from it, is gone.
#[derive(Debug, Clone)]
pub struct Eal {
    pub(crate) inner: Arc<EalInner>,
}

#[derive(Debug)]
pub(crate) struct EalInner {
    backing: MemoryBacking,
    /// Has an lcore id, and with it a cache in every mempool, from its start on.
    pub(crate) init_thread: ThreadId,
    /// How many threads got an lcore id later (see [`crate::thread`]).
    pub(crate) registered: AtomicUsize,
    /// DPDK's lists of devices are not made for threads.
    pub(crate) hotplug: Mutex<()>,
    _prefix_lock: File,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK in this process, once. No device of the machine is probed: those come with [`crate::Port::start`].
    /// Warnings and errors of DPDK's own go to stderr. The CPU affinity of the calling thread stays what it is.
    pub fn init(options: &EalOptions) -> Result<Self, EalError> {
        let prefix = &options.file_prefix;
        if prefix.is_empty()
            || prefix.starts_with('.')
            || !prefix.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(EalError::BadFilePrefix(prefix.clone()));
        }
        if STARTED.load(Ordering::Relaxed) {
            return Err(EalError::AlreadyInitialized);
        }
        let prefix_lock = lock_file_prefix(prefix)?;
        let backing = choose_backing(options)?;
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(EalError::AlreadyInitialized);
        }

        let mut arguments: Vec<*mut c_char> = arguments(options, backing)
            .into_iter()
            .filter_map(|a| CString::new(a).ok())
            .map(CString::into_raw)
            .collect();
        let count = c_int::try_from(arguments.len()).unwrap_or(c_int::MAX);
        arguments.push(ptr::null_mut());
        // SAFETY: a null-terminated argv of `count` strings that live, as DPDK wants them, until the process ends (each was
        // leaked by `into_raw`, and the array is leaked here). STARTED makes sure that this happens once.
        let result = unsafe {
            sys::shim_log_to_stderr();
            sys::rte_eal_init(count, arguments.leak().as_mut_ptr())
        };
        if result < 0 {
            return Err(EalError::Init(Errno::last()));
        }
        tracing::info!(file_prefix = %prefix, memory_mib = options.memory_mib, ?backing, "DPDK started");
        Ok(Self {
            inner: Arc::new(EalInner {
                backing,
                init_thread: std::thread::current().id(),
                registered: AtomicUsize::new(0),
                hotplug: Mutex::new(()),
                _prefix_lock: prefix_lock,
            }),
        })
    }

    /// Where the memory came from.
    pub fn memory_backing(&self) -> MemoryBacking {
        self.inner.backing
    }
}

/// The version of the DPDK that the process runs with, as it calls itself: "DPDK 22.11.7".
pub fn dpdk_version() -> String {
    // SAFETY: a static string.
    unsafe { netdev::owned_text(sys::rte_version()) }
}

impl Drop for EalInner {
    fn drop(&mut self) {
        // SAFETY: ports, mempools and registered threads each hold this Arc, and a mempool that still has buffers out leaks
        // its own, so nothing of DPDK's is in use any more. STARTED stays set: nobody starts it again.
        let result = unsafe { sys::rte_eal_cleanup() };
        if let Err(error) = Errno::check(result) {
            tracing::warn!(%error, "DPDK's cleanup failed");
        }
    }
}

/// DPDK's command line.
fn arguments(options: &EalOptions, backing: MemoryBacking) -> Vec<String> {
    let mut arguments = vec![
        "vipsec".to_owned(),
        "--no-pci".to_owned(),
        "--no-telemetry".to_owned(),
        "--log-level=warning".to_owned(),
        format!("--file-prefix={}", options.file_prefix),
        "-m".to_owned(),
        options.memory_mib.to_string(),
        // One lcore, for the calling thread, free to run wherever it may run now: DPDK would otherwise pin it, and all
        // threads that it starts later, to one CPU, and start a thread of its own on each other CPU.
        format!("--lcores=0@({})", allowed_cpus()),
    ];
    match backing {
        // Neither leaves files behind or lets a secondary process in.
        MemoryBacking::Hugepages => arguments.push("--in-memory".to_owned()),
        MemoryBacking::OrdinaryPages => arguments.extend(["--no-huge", "--no-shconf"].map(str::to_owned)),
    }
    arguments
}

/// CPUs that the calling thread may run on, comma separated.
fn allowed_cpus() -> String {
    // SAFETY: cpu_set_t is a plain array of bits, for which zeroes are valid; the call fills at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return "0".to_owned();
        }
        set
    };
    let bits = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: `cpu` is below the set's size.
    let cpus = (0..bits).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).map(|cpu| cpu.to_string());
    cpus.collect::<Vec<_>>().join(",")
}

fn choose_backing(options: &EalOptions) -> Result<MemoryBacking, EalError> {
    if options.hugepages == Hugepages::Never {
        return Ok(MemoryBacking::OrdinaryPages);
    }
    let free_mib = free_hugepages_mib(Path::new("/sys/kernel/mm/hugepages"));
    if free_mib >= u64::from(options.memory_mib) {
        Ok(MemoryBacking::Hugepages)
    } else if options.hugepages == Hugepages::Auto {
        Ok(MemoryBacking::OrdinaryPages)
    } else {
        Err(EalError::TooFewHugepages { needed_mib: options.memory_mib, free_mib })
    }
}

/// Memory in free hugepages of all sizes, in MiB: `hugepages-<size>kB/free_hugepages` in `folder`.
fn free_hugepages_mib(folder: &Path) -> u64 {
    let kib = |entry: fs::DirEntry| -> Option<u64> {
        let name = entry.file_name().into_string().ok()?;
        let size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free: u64 = fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        size.checked_mul(free)
    };
    let sizes = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(kib);
    sizes.fold(0u64, u64::saturating_add) / 1024
}

/// DPDK guards a file prefix only for processes that share their memory with secondary ones, which we never do. Two appliances
/// with one name on one machine are still a mistake, so we take a lock of our own beside DPDK's files. It goes with the process.
fn lock_file_prefix(prefix: &str) -> Result<File, EalError> {
    let folder = runtime_folder();
    let path = folder.join(format!("{prefix}.lock"));
    let lock = || -> Result<File, TryLockError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(TryLockError::Error)?;
        let file = File::options().create(true).append(true).open(&path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(file)
    };
    lock().map_err(|error| match error {
        TryLockError::WouldBlock => EalError::FilePrefixInUse(prefix.to_owned()),
        TryLockError::Error(error) => EalError::FilePrefixLock { path: path.clone(), error },
    })
}

/// Where DPDK keeps its runtime files.
fn runtime_folder() -> PathBuf {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let base = match env::var_os("RUNTIME_DIRECTORY") {
        Some(folder) => folder.into(),
        None if is_root => PathBuf::from("/var/run"),
        None => env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from),
    };
    base.join("dpdk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_hugepages_of_all_sizes_count() {
        let folder = env::temp_dir().join(format!("vipsec-hw-hugepages-{}", std::process::id()));
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "1\n")] {
            fs::create_dir_all(folder.join(size)).unwrap();
            fs::write(folder.join(size).join("free_hugepages"), free).unwrap();
        }
        fs::create_dir_all(folder.join("unrelated")).unwrap();
        assert_eq!(free_hugepages_mib(&folder), 6 + 1024);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(free_hugepages_mib(&folder), 0);
    }

    #[test]
    fn a_file_prefix_is_one_plain_name() {
        for prefix in ["", "../a", "a/b", "a%d", ".", "a b"] {
            assert!(matches!(Eal::init(&EalOptions::new(prefix)), Err(EalError::BadFilePrefix(_))), "{prefix:?}");
        }
    }
}
