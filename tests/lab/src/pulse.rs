//! Did the machine have its processors all the time? A virtual one may have them taken away for tens of milliseconds: then whatever runs on them
//! stands still, and an appliance is rightly taken for dead.
//!
//! On each processor a thread with precedence over everything else here wakes again and again, and takes note when it comes late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, available_parallelism};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use thread_priority::{ThreadPriority, ThreadPriorityValue};

use crate::clock::Stamp;

/// Between two beats.
const BEAT: Duration = Duration::from_millis(2);
/// Nobody minds so much.
const LATE: Duration = Duration::from_millis(10);
/// Above all that an appliance uses.
const PRIORITY: u8 = 90;

/// A processor was gone from one moment to the other.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    from: Stamp,
    to: Stamp,
}

impl Gap {
    /// For how long between these two moments?
    pub fn within(&self, from: Stamp, to: Stamp) -> Duration {
        self.to.min(to).since(self.from.max(from))
    }
}

/// Watches the processors until [`end`](Self::end).
#[derive(Debug)]
pub struct Pulse {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Gap>>>,
}

impl Pulse {
    /// Begins to watch. Where precedence isn't permitted nothing is ever found missing.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |processor| {
            let stop = stop.clone();
            thread::spawn(move || if take_over(processor) { watch(&stop) } else { Vec::new() })
        };
        let threads = (0..available_parallelism().map_or(1, usize::from)).map(watch).collect();
        Self { stop, threads }
    }

    /// What was missing, in no order.
    pub fn end(mut self) -> Vec<Gap> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).filter_map(|thread| thread.join().ok()).flatten().collect()
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The calling thread is that processor's, before all others.
fn take_over(processor: usize) -> bool {
    let mut only = CpuSet::new();
    let is_bound = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only)).is_ok();
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let first = |priority| set_thread_priority_and_policy(thread_native_id(), priority, policy).is_ok();
    is_bound && ThreadPriorityValue::try_from(PRIORITY).is_ok_and(|value| first(ThreadPriority::Crossplatform(value)))
}

fn watch(stop: &AtomicBool) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut last = Stamp::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(BEAT);
        let now = Stamp::now();
        if now.since(last) > BEAT + LATE {
            gaps.push(Gap { from: last, to: now });
        }
        last = now;
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_of_a_gap_lies_between_two_moments() {
        let ms = |ms| Stamp::at(Duration::from_millis(ms));
        let gap = Gap { from: ms(100), to: ms(150) };
        let within = |from, to| gap.within(ms(from), ms(to)).as_millis();
        assert_eq!(
            [within(0, 90), within(0, 120), within(110, 120), within(120, 300), within(200, 300)],
            [0, 20, 10, 30, 0]
        );
    }
}
