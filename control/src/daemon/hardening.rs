//! What keeps keys out of swap and core dumps, and the control core on time.

use thread_priority::unix::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
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
/// The same of a worker that sleeps while it is idle: behind the control core, whose heartbeats are worth more than a burst.
const WORKER_PRIORITY: u8 = 5;
/// An ordinary thread's niceness, 0, on the library's scale.
const NICE_0: u8 = 47;
/// The same for -10.
const NICE_MINUS_10: u8 = 72;

/// Precedence of the calling thread over ordinary ones, until it is dropped.
#[must_use]
pub(super) struct Precedence(());

impl Precedence {
    /// Puts the calling thread ahead of ordinary ones: a control core that waits for a processor longer than its workers' deadline
    /// stops them. It sleeps almost always, so it takes nothing from them.
    pub(super) fn take() -> Self {
        if let Err(error) = be_real_time(CONTROL_PRIORITY) {
            tracing::warn!(
                ?error,
                "no real-time priority for the control core: a busy machine may stop its workers for moments"
            );
        }
        Self(())
    }
}

/// What takes long is not for a thread that has precedence: the end of the process, which gives all memory back.
impl Drop for Precedence {
    fn drop(&mut self) {
        be_ordinary();
    }
}

/// Takes the calling thread's precedence away, if it has inherited it from the thread that started it.
pub(super) fn be_ordinary() {
    // Always permitted.
    set_niceness(NICE_0);
}

/// Lets the calling thread, a worker that sleeps while it is idle, have a processor as soon as it wakes: while it waits for one, it
/// looks stuck, and the tunnels stand still. A niceness doesn't do: measured beside busy neighbours, the fair scheduler let a worker with the
/// precedence of -10 wait for hundreds of milliseconds. What it leaves over is the others', and it leaves something to them however busy it
/// is ([`Polling::Adaptive`](vipsec_dataplane::run::Polling)).
pub(super) fn be_ahead_of_ordinary() {
    if be_real_time(WORKER_PRIORITY).is_err() {
        // The control core's warning says what follows.
        set_niceness(NICE_MINUS_10);
    }
}

fn be_real_time(priority: u8) -> Result<(), thread_priority::Error> {
    let priority =
        ThreadPriorityValue::try_from(priority).map_err(|_| thread_priority::Error::PriorityNotInRange(1..=99))?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy)
}

fn set_niceness(on_the_scale: u8) {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    if let Ok(priority) = ThreadPriorityValue::try_from(on_the_scale) {
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Niceness and policy of the calling thread (proc_pid_stat(5), fields 19 and 41).
    fn scheduling() -> (i32, i32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[19 - 3].parse().unwrap(), fields[41 - 3].parse().unwrap())
    }

    #[test]
    fn precedence_ends_and_is_not_handed_down() {
        std::thread::spawn(|| {
            let before = scheduling();
            assert_eq!(before, (0, 0), "SCHED_OTHER, as a test is started");
            let precedence = Precedence::take();
            if scheduling().1 == 0 {
                return; // not permitted here
            }
            std::thread::spawn(move || {
                assert_ne!(scheduling(), before, "inherited");
                be_ordinary();
                assert_eq!(scheduling(), before);
            })
            .join()
            .unwrap();
            drop(precedence);
            assert_eq!(scheduling(), before);
            be_ahead_of_ordinary();
            assert_eq!(scheduling().1, 2, "SCHED_RR");
        })
        .join()
        .unwrap();
    }
}
