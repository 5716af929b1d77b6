//! Hugepages for the time of the measurement, where the kernel has too few and lets us ask for more.

use std::fs;
use std::path::{Path, PathBuf};

/// Pages that were added to the kernel's pool of hugepages. Taken away again when dropped.
pub(crate) struct Borrowed {
    pages: PathBuf,
    added: u64,
}

const MIB: u64 = 1 << 20;

impl Borrowed {
    /// Adds as much memory to the pool. `None`: there is enough, or it can't be had; DPDK then takes what there is.
    pub(crate) fn new(memory_mib: u32) -> Option<Self> {
        // The size that every kernel of this architecture has.
        const PAGE: u64 = 2 * MIB;
        let folder = PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{}kB", PAGE / 1024));
        let (pages, free) = (folder.join("nr_hugepages"), number(&folder.join("free_hugepages"))?);
        let wanted = (u64::from(memory_mib) * MIB).div_ceil(PAGE);
        let added = wanted.checked_sub(free).filter(|missing| *missing > 0)?;
        fs::write(&pages, (number(&pages)? + added).to_string()).ok()?;
        Some(Self { pages, added })
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // Others may have added some, too.
        if let Some(pages) = number(&self.pages) {
            let _ = fs::write(&self.pages, pages.saturating_sub(self.added).to_string());
        }
    }
}
