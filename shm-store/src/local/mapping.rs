//! A shared mapping of a memory file.

use std::ffi::c_void;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Sender};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl, posix_fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};

use crate::error::{LinkError, system};

/// How well a mapping's content is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// It never goes to swap. Needs `RLIMIT_MEMLOCK` or `CAP_IPC_LOCK`.
    pub locked: bool,
    /// It is left out of core dumps, and forked children don't get it.
    pub private: bool,
}

/// Shared memory of whole 64-bit words, mapped until dropped.
#[derive(Debug)]
pub struct Mapping {
    range: Option<Range>,
    protection: Protection,
}

/// Addresses of this process that nothing else lives at.
///
/// Thousands of locked pages are not mapped or given back in a moment, and while the kernel is at it nobody else in the process can
/// get memory from it. So both happen in chunks; and giving back, which is done for whoever drops a mapping, perhaps in the middle
/// of a takeover, happens on a thread of its own.
#[derive(Debug)]
struct Range {
    base: NonNull<c_void>,
    bytes: NonZeroUsize,
}

/// What is mapped or given back at once: well below a millisecond.
const CHUNK_BYTES: usize = 1 << 20;

// SAFETY: addresses belong to no thread.
unsafe impl Send for Range {}
// SAFETY: the mapping belongs to no thread; all access goes through `words`, which hands out atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Creates a zeroed memory file of `bytes`, whose size nobody can change any more.
pub(crate) fn create_memory(bytes: usize) -> Result<OwnedFd, LinkError> {
    // A memory file has no file system that could be full: the kernel would look for other processes to end instead.
    if let Some(free) = free_memory()
        && bytes as u64 > free
    {
        return Err(LinkError::NoMemory { wanted_mib: bytes as u64 >> 20, free_mib: free >> 20 });
    }
    let create = || {
        let fd = memfd_create("vipsec-store", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let size = i64::try_from(bytes).map_err(|_| Errno::EFBIG)?;
        // Takes the memory now: later, there would be nobody to tell that it has run out.
        posix_fallocate(&fd, 0, size)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SIZE_SEALS))?;
        Ok(fd)
    };
    create().map_err(system("memory file"))
}

/// Bytes that the system could give without taking them from anybody (proc_meminfo(5), `MemAvailable`).
fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

impl Mapping {
    /// Maps the first `bytes` of a memory file, whoever made it. Refuses (`EINVAL`) one that is shorter, or that could
    /// become so: touching the missing part would be fatal.
    pub(crate) fn new(fd: impl AsFd, bytes: usize) -> Result<Self, Errno> {
        let fd = fd.as_fd();
        let seals = SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        let size = File::from(fd.try_clone_to_owned().map_err(|_| Errno::EMFILE)?)
            .metadata()
            .map_err(|_| Errno::EINVAL)?
            .len();
        if !seals.contains(SealFlag::F_SEAL_SHRINK) || size < bytes as u64 {
            return Err(Errno::EINVAL);
        }
        let range = Range::reserve(NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?)?;
        let protection = range.map(fd)?;
        giving_back();
        Ok(Self { range: Some(range), protection })
    }

    /// What could be done for its content. What could not is worth a warning.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        let Some(range) = &self.range else { return &[] };
        // SAFETY: the range is page-aligned, mapped readable and writable, `bytes` long, initialised (a memory file starts as
        // zeros) and stays until `self` is dropped, which the lifetime of the slice excludes. Its file can't shrink. Every
        // bit pattern is an AtomicU64. The peer process writes to it: with word-sized stores, which relaxed atomic loads
        // here are made for; whatever it writes, these are numbers that the callers check.
        unsafe { std::slice::from_raw_parts(range.base.as_ptr().cast::<AtomicU64>(), range.bytes.get() / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let (Some(range), Some(thread)) = (self.range.take(), giving_back()) {
            // A range that can't be sent is dropped here.
            let _ = thread.send(range);
        }
    }
}

/// The thread that gives back. It has the precedence of who asks for it first: of who maps, which takes as long.
fn giving_back() -> Option<&'static Sender<Range>> {
    static GIVING_BACK: OnceLock<Option<Sender<Range>>> = OnceLock::new();
    let thread = GIVING_BACK.get_or_init(|| {
        let (ranges, inbox) = mpsc::channel::<Range>();
        let thread = thread::Builder::new().name("store-memory".into());
        thread.spawn(move || inbox.into_iter().for_each(drop)).ok().map(|_| ranges)
    });
    thread.as_ref()
}

impl Range {
    /// Takes addresses, and no memory.
    fn reserve(bytes: NonZeroUsize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address that the kernel chooses; it aliases no memory of this process.
        let base = unsafe { mmap_anonymous(None, bytes, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)? };
        Ok(Self { base, bytes })
    }

    /// Maps the file's first bytes there.
    fn map(&self, fd: BorrowedFd) -> Result<Protection, Errno> {
        let mut protection = Protection { locked: true, private: true };
        for (offset, base, bytes) in self.chunks() {
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
            let offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
            // SAFETY: the chunk lies in the reserved range, which `self` alone has; nothing refers to it yet.
            unsafe { mmap(Some(base), bytes, access, flags, fd, offset)? };
            let base = self.at(base);
            // SAFETY: the chunk was just mapped. MADV_DONTDUMP and MADV_DONTFORK change no byte of it.
            protection.private &= unsafe {
                madvise(base, bytes.get(), MmapAdvise::MADV_DONTDUMP).is_ok()
                    && madvise(base, bytes.get(), MmapAdvise::MADV_DONTFORK).is_ok()
            };
            // SAFETY: the chunk was just mapped.
            protection.locked &= unsafe { mlock(base, bytes.get()).is_ok() };
        }
        Ok(protection)
    }

    /// Offset, address and length of each chunk.
    fn chunks(&self) -> impl Iterator<Item = (usize, NonZeroUsize, NonZeroUsize)> + use<> {
        let (base, bytes) = (self.base.addr(), self.bytes.get());
        (0..bytes).step_by(CHUNK_BYTES).filter_map(move |offset| {
            Some((offset, base.checked_add(offset)?, NonZeroUsize::new(CHUNK_BYTES.min(bytes - offset))?))
        })
    }

    /// The pointer to an address of the range.
    fn at(&self, address: NonZeroUsize) -> NonNull<c_void> {
        self.base.with_addr(address)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        for (_, base, bytes) in self.chunks() {
            // SAFETY: reserved by mmap, given back once; no slice of `words` outlives the mapping that had it.
            let _ = unsafe { munmap(self.at(base), bytes.get()) };
        }
    }
}
