//! What keeps keys out of swap and core dumps, and the control core on time.

use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use thread_priority::{ThreadPriority, ThreadPriorityValue};

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

/// Real-time priority of the control core's thread: above everything ordinary, below the kernel's own threads.
const CONTROL_PRIORITY: u8 = 10;

/// Puts the calling thread ahead of ordinary ones: a control core that waits for a processor longer than its workers' deadline
/// stops them. It sleeps almost always, so it takes nothing from them.
pub(super) fn prefer_this_thread() {
    let Ok(priority) = ThreadPriorityValue::try_from(CONTROL_PRIORITY) else { return };
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    if let Err(error) =
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy)
    {
        tracing::warn!(
            ?error,
            "no real-time priority for the control core: a busy machine may stop its workers for moments"
        );
    }
}
