//! The end of a schedule: the faults are over, and within bounded time everything is as it should be.

use std::time::{Duration, Instant};

use vipsec_takeover::pair::Copy;

use super::World;
use crate::checks::Violation;

/// Within that time everything flows and is protected again. The remote peer needs 1.5 s to find out that its SAs are lost.
const RECOVERY_MAX: Duration = Duration::from_secs(8);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// And it stays that way.
const CALM: Duration = Duration::from_millis(400);

impl World {
    pub(super) fn finale(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.mend_all();
        let mended = self.agenda.now();
        let end = self.agenda.elapsed() + RECOVERY_MAX;
        loop {
            self.run_until(self.agenda.elapsed() + LOOK);
            if self.violation.is_some() {
                return;
            }
            match self.what_is_missing(mended) {
                None => break,
                Some(missing) if self.agenda.elapsed() >= end => {
                    return self.broken(Violation::Stuck(missing.to_owned()));
                }
                Some(_) => {}
            }
        }
        self.run_until(self.agenda.elapsed() + CALM);
        if self.owners.count() > 1 {
            self.broken(Violation::TwoOwners);
        }
    }

    fn what_is_missing(&self, mended: Instant) -> Option<&'static str> {
        let now = self.agenda.now();
        if self.owners.count() != 1 {
            return Some("not exactly one appliance owns the VIP");
        }
        let owner = self.appliances.iter().filter_map(|appliance| appliance.process.as_ref());
        let mut owner = owner.filter(|process| self.owners.owns(process.id.appliance));
        let copy =
            owner.next().and_then(|process| process.core.pair_status(now - process.behind)).map(|status| status.copy);
        if copy != Some(Copy::Counted) {
            return Some("the owner has no counted copy");
        }
        if self.remote.answered.is_none_or(|answered| answered <= mended) {
            return Some("no packet that left after the last fault was answered");
        }
        None
    }
}
