//! R5: who isn't the owner any more has stopped before the next one acts.
//!
//! Only tunnels' packets and IKE count. That a VIP's address is claimed wrongly for a moment, by a process that slept and has not
//! looked yet, is put right by the next advertisement; and an owner that no copy waits for has nothing to hand over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vipsec_takeover::decider::{Copy, Role, Status};
use vipsec_wire::iv::Epoch;

use super::Violation;
use crate::frames::{self, Seen};
use crate::scene::{self, APPLIANCES_MAX};

/// The VIP that an appliance acts for when it sends such a frame.
pub(crate) fn acts_for(frame: &[u8]) -> Option<usize> {
    let Some((header, Seen::Udp(..) | Seen::Esp(..))) = frames::read(frame) else { return None };
    scene::vip_of_mac(header.source)
}

/// The VIP that an advertisement is about.
pub(crate) fn advertises(frame: &[u8]) -> Option<usize> {
    let Some((header, Seen::Advertisement)) = frames::read(frame) else { return None };
    scene::vip_of_mac(header.source)
}

/// For so long after the two could not hear each other, an owner may not have heard of another.
const DEAFNESS: Duration = Duration::from_millis(400);

/// A new owner that has not advertised by then has overslept its first deadline, and workers past that lose what they are told to send.
/// The next one comes at once; whether a packet leaves before that doesn't matter (docs/takeover.md, "Taking over", step 7).
const FIRST_DEADLINE: Duration = Duration::from_millis(25);

/// Who owns a group.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    owners: [Option<Epoch>; APPLIANCES_MAX],
    /// The last epoch under which each owned it.
    last: [Epoch; APPLIANCES_MAX],
    /// Since when.
    since: [Option<Instant>; APPLIANCES_MAX],
    /// How often each has come to own it.
    tenures: [u32; APPLIANCES_MAX],
    /// Which have advertised since they own it.
    advertised: [bool; APPLIANCES_MAX],
    /// Owners that no copy waits for.
    unprotected: [bool; APPLIANCES_MAX],
    /// Since when which two can't hear each other, the lower one first.
    deaf: BTreeMap<(usize, usize), Instant>,
    /// Two owned it at once, each serving whom it reached.
    pub(crate) split: bool,
}

impl Owners {
    /// An appliance's process changed its mind, or died.
    pub(crate) fn observe(&mut self, now: Instant, appliance: usize, status: Option<&Status>) {
        let epoch = status.and_then(|status| match status.role {
            Role::Owner { epoch } | Role::HandingOver { epoch, .. } => Some(epoch),
            Role::Standby | Role::Taking { .. } => None,
        });
        self.advertised[appliance] &= epoch.is_some();
        self.owners[appliance] = epoch;
        self.tenures[appliance] += u32::from(epoch.is_some() && self.since[appliance].is_none());
        self.since[appliance] = epoch.and(self.since[appliance].or(Some(now)));
        let may_be_resumed =
            |status: &Status| status.peers.iter().any(|peer| matches!(peer.copy, Copy::Counted | Copy::Leaving { .. }));
        self.unprotected[appliance] = epoch.is_some() && !status.is_some_and(may_be_resumed);
        self.last[appliance] = self.last[appliance].max(epoch.unwrap_or_default());
        self.split |= self.count() > 1;
        // Who tries to take it because it heard nobody does so when a registry says so, however late that is.
        if status.is_some_and(|status| matches!(status.role, Role::Taking { .. })) {
            let with_it = self.deaf.iter_mut().filter(|((a, b), _)| [*a, *b].contains(&appliance));
            with_it.filter(|(_, deaf)| now < **deaf + DEAFNESS).for_each(|(_, deaf)| *deaf = now);
        }
    }

    /// Two can't hear each other, on no path.
    pub(crate) fn note_deafness(&mut self, now: Instant, a: usize, b: usize) {
        self.deaf.insert((a.min(b), a.max(b)), now);
    }

    /// Could some two not hear each other a short while ago?
    pub(crate) fn were_deaf(&self, now: Instant) -> bool {
        self.deaf.values().any(|deaf| now < *deaf + DEAFNESS)
    }

    /// Could these two not?
    fn were_apart(&self, now: Instant, a: usize, b: usize) -> bool {
        self.deaf.get(&(a.min(b), a.max(b))).is_some_and(|deaf| now < *deaf + DEAFNESS)
    }

    /// Does no copy wait for it?
    pub(crate) fn is_unprotected(&self, appliance: usize) -> bool {
        self.unprotected[appliance]
    }

    /// How often has it come to own the group?
    pub(crate) fn tenure(&self, appliance: usize) -> u32 {
        self.tenures[appliance]
    }

    /// Who owns it, if one does.
    pub(crate) fn owner(&self) -> Option<usize> {
        (0..APPLIANCES_MAX).find(|appliance| self.owns(*appliance))
    }

    /// Who of the others owned it last: from whose copy an appliance resumes.
    pub(crate) fn last_before(&self, appliance: usize) -> Option<usize> {
        let others = (0..APPLIANCES_MAX).filter(|other| *other != appliance && self.tenures[*other] > 0);
        others.max_by_key(|other| self.last[*other])
    }

    pub(crate) fn owns(&self, appliance: usize) -> bool {
        self.owners[appliance].is_some()
    }

    pub(crate) fn count(&self) -> usize {
        self.owners.iter().flatten().count()
    }

    /// An appliance sends an advertisement of the group.
    pub(crate) fn note_advertisement(&mut self, appliance: usize) {
        self.advertised[appliance] = true;
    }

    /// An owner sends a frame for the group: it has advertised it before, if it has not slept meanwhile.
    pub(crate) fn check_advertised(&self, now: Instant, appliance: usize) -> Result<(), Violation> {
        let has_slept = self.since[appliance].is_none_or(|since| now >= since + FIRST_DEADLINE);
        let silent = self.owns(appliance) && !self.advertised[appliance] && !has_slept;
        if silent { Err(Violation::NotAdvertised { appliance }) } else { Ok(()) }
    }

    /// An appliance sends a frame for the group.
    pub(crate) fn check(&self, now: Instant, actor: usize) -> Result<(), Violation> {
        let others = (0..APPLIANCES_MAX).filter(|owner| *owner != actor && !self.unprotected[actor]);
        let mut others = others.filter_map(|owner| Some((owner, self.owners[owner]?)));
        let later = others.find(|(owner, epoch)| *epoch > self.last[actor] && !self.were_apart(now, actor, *owner));
        match later {
            Some((owner, epoch)) => Err(Violation::TwoActors { actor, owner, epoch: epoch.0 }),
            None => Ok(()),
        }
    }
}
