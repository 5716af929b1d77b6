//! The CPU that is measured.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread on the last of the CPUs that it may use: the first ones have more of the system's own work.
pub(crate) fn pin() {
    let this_thread = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this_thread) else { return };
    let Some(last) = (0..CpuSet::count()).rev().find(|&cpu| allowed.is_set(cpu).unwrap_or(false)) else { return };
    let mut only = CpuSet::new();
    if only.set(last).is_ok() {
        let _ = sched_setaffinity(this_thread, &only);
    }
}
