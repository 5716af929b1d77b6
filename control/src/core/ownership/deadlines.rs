//! One deadline for the workers (R5), out of what every group says of its own.
//!
//! A group counts while it acts here: from its first renewal until the workers have confirmed tables in which its VIPs are elsewhere.
//! The workers may act until the earliest of those that count. So doubt about one group stops the others too, for as long as it
//! lasts; what is not ours stops nobody.

use std::time::Instant;

use vipsec_dataplane::deadline::Deadline;

/// All groups' deadlines.
#[derive(Debug)]
pub(in crate::core) struct Deadlines {
    workers: Deadline,
    /// By group.
    groups: Vec<Standing>,
}

/// Does a group count?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It isn't ours, and every worker knows.
    Elsewhere,
    /// Workers may act for it until then; `None`: not at all.
    Here(Option<Instant>),
    /// It isn't ours any more: workers that don't know these tables yet must not act.
    Leaving { tables: u64 },
}

impl Deadlines {
    /// Nothing is ours: the workers do nothing.
    pub(in crate::core) fn new(workers: Deadline, groups: usize) -> Self {
        workers.expire();
        Self { workers, groups: vec![Standing::Elsewhere; groups] }
    }

    /// Nobody could own anything but we.
    pub(in crate::core) fn lift(&self) {
        self.workers.lift();
    }

    /// Do the workers stand still?
    pub(in crate::core) fn have_passed(&self, now: Instant) -> bool {
        self.workers.has_passed(now)
    }

    /// Workers may act for a group until then; `None`: not at all.
    pub(in crate::core) fn renew(&mut self, group: usize, until: Option<Instant>) {
        match self.groups.get_mut(group) {
            Some(standing @ Standing::Here(_)) => *standing = Standing::Here(until),
            Some(standing) if until.is_some() => *standing = Standing::Here(until),
            _ => {}
        }
        self.settle();
    }

    /// A group isn't ours any more; the tables of that version say so.
    pub(in crate::core) fn leave(&mut self, group: usize, tables: u64) {
        if let Some(standing @ Standing::Here(_)) = self.groups.get_mut(group) {
            *standing = Standing::Leaving { tables };
        }
        self.settle();
    }

    /// A group moved, and every worker had stopped for it before: there is nothing that they could do wrong.
    pub(in crate::core) fn let_go(&mut self, group: usize) {
        if let Some(standing) = self.groups.get_mut(group) {
            *standing = Standing::Elsewhere;
        }
        self.settle();
    }

    /// Every worker has the tables of that version.
    pub(in crate::core) fn confirm(&mut self, version: u64) {
        for standing in &mut self.groups {
            if matches!(standing, Standing::Leaving { tables } if *tables <= version) {
                *standing = Standing::Elsewhere;
            }
        }
        self.settle();
    }

    fn settle(&self) {
        let until = self.groups.iter().filter_map(|standing| match standing {
            Standing::Elsewhere => None,
            Standing::Here(until) => Some(*until),
            Standing::Leaving { .. } => Some(None),
        });
        match until.min() {
            Some(Some(until)) => self.workers.renew(until),
            Some(None) => self.workers.expire(),
            // Nothing is ours: what is set runs out by itself, and until then late frames of a group that moved are passed on.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn deadlines() -> (Deadlines, Deadline, Instant) {
        let now = Instant::now();
        let workers = Deadline::never(now);
        (Deadlines::new(workers.clone(), 2), workers, now)
    }

    #[test]
    fn the_earliest_of_what_is_ours_counts() {
        let (mut deadlines, workers, now) = deadlines();
        assert!(workers.has_passed(now), "nothing is ours");
        deadlines.renew(0, None);
        deadlines.renew(1, Some(now + 30 * MS));
        assert!(!workers.has_passed(now + 29 * MS), "the other one isn't ours and stops nobody");
        deadlines.renew(0, Some(now + 20 * MS));
        assert!(workers.has_passed(now + 20 * MS));
        deadlines.renew(0, Some(now + 40 * MS));
        assert!(!workers.has_passed(now + 29 * MS));
        assert!(workers.has_passed(now + 30 * MS));
    }

    #[test]
    fn doubt_stops_the_workers() {
        let (mut deadlines, workers, now) = deadlines();
        deadlines.renew(0, Some(now + 30 * MS));
        deadlines.renew(1, Some(now + 30 * MS));
        deadlines.renew(0, None);
        assert!(workers.has_passed(now));
        deadlines.renew(1, Some(now + 40 * MS));
        assert!(workers.has_passed(now), "as long as it lasts");
        deadlines.renew(0, Some(now + 30 * MS));
        assert!(!workers.has_passed(now));
    }

    #[test]
    fn a_group_that_was_lost_stops_the_others_until_every_worker_knows() {
        let (mut deadlines, workers, now) = deadlines();
        deadlines.renew(0, Some(now + 30 * MS));
        deadlines.renew(1, Some(now + 30 * MS));
        deadlines.leave(0, 7);
        deadlines.renew(0, None);
        assert!(workers.has_passed(now));
        deadlines.confirm(6);
        deadlines.renew(1, Some(now + 40 * MS));
        assert!(workers.has_passed(now));
        deadlines.confirm(7);
        assert!(!workers.has_passed(now + 39 * MS));
    }

    #[test]
    fn a_group_that_moved_stops_nobody() {
        let (mut deadlines, workers, now) = deadlines();
        deadlines.renew(0, Some(now + 10 * MS));
        deadlines.renew(1, Some(now + 30 * MS));
        deadlines.let_go(0);
        assert!(!workers.has_passed(now + 29 * MS));
        deadlines.let_go(1);
        assert!(!workers.has_passed(now + 29 * MS) && workers.has_passed(now + 30 * MS), "it runs out by itself");
    }
}
