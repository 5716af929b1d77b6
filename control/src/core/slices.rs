//! Work that would keep everything else waiting if it were done in one go, for there may be ten or a hundred thousand SAs to do it for: taking
//! them over, copying them for a join, forgetting them. It is done slice by slice, and after each there is a pause. In it come heartbeats,
//! messages, what else is due; and a worker that has to share our processor gets it, which it doesn't while we, who have precedence, are
//! busy.

use std::time::{Duration, Instant};

use super::Core;

/// How much is done in a slice, at least one each: some hundred microseconds' work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    /// IKE SAs whose child SAs are woken at a takeover, found good beforehand.
    pub woken: usize,
    /// IKE SAs whose records are read then.
    pub read: usize,
    /// IKE SAs that IKE is given then.
    pub given: usize,
    /// Child SAs that a backup prepares: about a millisecond's work, here and in a worker.
    pub prepared: usize,
    /// IKE SAs that are forgotten, with their child SAs.
    pub forgotten: usize,
    /// Records of SAs that are written for a join, and SAs that are bound.
    pub copied: usize,
    /// SAs whose limits are taken away when nobody has a copy of them any more.
    pub freed: usize,
}

impl Default for Slices {
    fn default() -> Self {
        Self { woken: 2048, read: 512, given: 32, copied: 64, freed: 512, prepared: 256, forgotten: 64 }
    }
}

/// Between two slices. Long enough for a worker to deal with what has come meanwhile.
const PAUSE: Duration = Duration::from_micros(100);

/// For how long slices wait for the workers to follow new tables, which say where a VIP is: traffic waits for that.
const PATIENCE: Duration = Duration::from_millis(2);

/// When the next slice comes.
#[derive(Debug)]
pub(super) struct Slicing {
    due: Instant,
    /// The same, while the workers have not followed the newest tables.
    patient_until: Instant,
    /// A slice was done in this step.
    done: bool,
    /// The workers were given tables in this step.
    given_tables: bool,
}

impl Slicing {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, patient_until: now, done: false, given_tables: false }
    }

    /// The work at hand is a slice.
    fn note(&mut self, now: Instant) {
        self.due = now + PAUSE;
        self.done = true;
    }

    /// The workers are given tables.
    pub(super) fn note_tables(&mut self) {
        self.given_tables = true;
    }
}

impl Core {
    /// A step is over, and its outputs are on their way. The pause after a slice begins here: how long the slice took, only the clock knows.
    pub fn end_step(&mut self, now: Instant) {
        if std::mem::take(&mut self.slicing.done) {
            self.slicing.due = now + PAUSE;
        }
        if std::mem::take(&mut self.slicing.given_tables) {
            self.slicing.patient_until = now + PATIENCE;
        }
    }

    /// When the next slice is due, if there is anything to do.
    pub(super) fn slices_timeout(&self) -> Option<Instant> {
        let Slicing { due, patient_until, .. } = self.slicing;
        let due = if self.workers.tables_in_force() < self.tables_version { due.max(patient_until) } else { due };
        (self.is_inheriting() || self.is_forgetting() || self.is_copying()).then_some(due)
    }

    pub(super) fn slice_is_due(&self, now: Instant) -> bool {
        self.slices_timeout().is_some_and(|due| due <= now)
    }

    /// Does a slice of what is waited for most.
    pub(super) fn do_slice(&mut self, now: Instant) {
        self.slicing.note(now);
        if self.inherit_some(now) || self.go_on_forgetting() || self.go_on_copying(now) {
            self.settle(now);
        }
    }
}
