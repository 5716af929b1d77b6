//! Hugepages for the time of the measurement, where the kernel has too few and lets us ask for more.

use std::fs;
use std::path::PathBuf;

/// The kernel's pool of hugepages, as it was before. Set back when dropped.
pub(crate) struct Borrowed {
    pages: PathBuf,
    before: u64,
}

const MIB: u64 = 1 << 20;

impl Borrowed {
    /// Adds as much memory to the pool. `None`: there is enough, or it can't be had; DPDK then takes what there is.
    pub(crate) fn new(memory_mib: u32) -> Option<Self> {
        // The size that every kernel of this architecture has.
        const PAGE: u64 = 2 * MIB;
        let folder = PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{}kB", PAGE / 1024));
        let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        let (before, free) = (number("nr_hugepages")?, number("free_hugepages")?);
        let wanted = (u64::from(memory_mib) * MIB).div_ceil(PAGE);
        let missing = wanted.checked_sub(free).filter(|missing| *missing > 0)?;
        let pages = folder.join("nr_hugepages");
        fs::write(&pages, (before + missing).to_string()).ok()?;
        Some(Self { pages, before })
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let _ = fs::write(&self.pages, self.before.to_string());
    }
}
