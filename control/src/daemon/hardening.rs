//! What keeps keys out of swap and core dumps, and the control core on time.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, setrlimit};

/// Locks all memory and forbids core dumps (I7). What isn't permitted is reported, once: software mode runs without it.
pub(super) fn protect_memory() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "core dumps can't be switched off: keys may reach one");
    }
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "the process stays dumpable");
    }
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        tracing::warn!(%error, "memory can't be locked: keys may reach swap");
    }
}
