//! Threads that run health checks.

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::hardening;
use crate::config::Check;
use crate::health::{self, Outcome, RUNNING_MAX, Run};

/// A check reads a few hundred bytes; and all memory of the process is locked.
const STACK_BYTES: usize = 256 << 10;

/// As many threads as checks may run at once.
pub(super) struct Prober {
    orders: Sender<(Run, Box<Check>)>,
    results: Receiver<(Run, Outcome)>,
    inbox: Receiver<(Run, Box<Check>)>,
    threads: usize,
    /// Without a sender the results would be at their end, which is always ready to be received: with nothing to check, the control
    /// core would never sleep.
    outbox: Sender<(Run, Outcome)>,
}

impl Prober {
    /// Starts threads for that many checks.
    pub(super) fn start(checks: usize) -> io::Result<Self> {
        let (orders, inbox) = bounded::<(Run, Box<Check>)>(RUNNING_MAX);
        let (outbox, results) = bounded(RUNNING_MAX);
        let mut prober = Self { orders, results, inbox, threads: 0, outbox };
        prober.grow(checks)?;
        Ok(prober)
    }

    /// Starts more threads, if that many checks need them.
    pub(super) fn grow(&mut self, checks: usize) -> io::Result<()> {
        for number in self.threads..checks.min(RUNNING_MAX) {
            let (inbox, outbox) = (self.inbox.clone(), self.outbox.clone());
            let thread = thread::Builder::new().name(format!("health-{number}")).stack_size(STACK_BYTES);
            thread.spawn(move || {
                hardening::be_ordinary();
                for (run, check) in inbox {
                    if outbox.send((run, health::probe::run(&check))).is_err() {
                        return;
                    }
                }
            })?;
            self.threads = number + 1;
        }
        Ok(())
    }

    /// Runs a check, later. There are never more than fit: so many may run at once.
    pub(super) fn run(&self, run: Run, check: Box<Check>) {
        if self.orders.try_send((run, check)).is_err() {
            tracing::error!("the threads for health checks are gone or stuck");
        }
    }

    /// What came of the checks.
    pub(super) fn results(&self) -> &Receiver<(Run, Outcome)> {
        &self.results
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::TryRecvError;

    use super::*;

    #[test]
    fn nothing_to_check_leaves_the_control_core_asleep() {
        let prober = Prober::start(0).unwrap();
        assert_eq!(prober.results().try_recv().map(drop), Err(TryRecvError::Empty));
    }
}
