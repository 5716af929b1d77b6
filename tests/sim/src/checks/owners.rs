//! R5: who isn't the owner any more has stopped before the next one acts.
//!
//! Only tunnels' packets and IKE count. That a VIP's address is claimed wrongly for a moment, by a process that slept and has not
//! looked yet, is put right by the next advertisement; and an owner that no copy waits for has nothing to hand over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vipsec_takeover::decider::{Copy, Role, Status};
use vipsec_wire::iv::Epoch;

use super::Violation;
use super::lines::Lines;
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
    /// Which have advertised since they own it.
    advertised: [bool; APPLIANCES_MAX],
    /// Owners that no copy waits for.
    unprotected: [bool; APPLIANCES_MAX],
    /// Since when which two can't hear each other, the lower one first.
    deaf: BTreeMap<(usize, usize), Instant>,
    /// Who tried last to take it, from whom it did not hear.
    claims: BTreeMap<(usize, usize), Instant>,
    /// Whose deliveries each knows.
    pub(crate) lines: Lines,
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
        self.since[appliance] = epoch.and(self.since[appliance].or(Some(now)));
        let may_be_resumed =
            |status: &Status| status.peers.iter().any(|peer| matches!(peer.copy, Copy::Counted | Copy::Leaving { .. }));
        self.unprotected[appliance] = epoch.is_some() && !status.is_some_and(may_be_resumed);
        self.last[appliance] = self.last[appliance].max(epoch.unwrap_or_default());
        self.split |= self.count() > 1;
    }

    /// An appliance has asked a registry for it. If that was because it heard nobody, it gets it when the registry says so, however late
    /// that is.
    pub(crate) fn note_claim(&mut self, now: Instant, claimant: usize) {
        for other in 0..APPLIANCES_MAX {
            if self.were_apart(now, other, claimant) {
                self.claims.insert((claimant, other), now);
            }
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

    /// Could these two not, or not when the owner came to ask for it?
    fn were_apart(&self, now: Instant, actor: usize, owner: usize) -> bool {
        let is_fresh = |moment: Option<&Instant>| moment.is_some_and(|moment| now < *moment + DEAFNESS);
        let deaf = self.deaf.get(&(actor.min(owner), actor.max(owner)));
        is_fresh(deaf) || is_fresh(self.claims.get(&(owner, actor)))
    }

    /// Does another one own it under a higher epoch?
    pub(crate) fn is_superseded(&self, appliance: usize) -> bool {
        self.owners.iter().flatten().any(|epoch| *epoch > self.last[appliance])
    }

    /// Does no copy wait for it?
    pub(crate) fn is_unprotected(&self, appliance: usize) -> bool {
        self.unprotected[appliance]
    }

    /// Who owns it, if one does.
    pub(crate) fn owner(&self) -> Option<usize> {
        (0..APPLIANCES_MAX).find(|appliance| self.owns(*appliance))
    }

    /// Who of the others owned it last: from whose copy an appliance resumes.
    pub(crate) fn last_before(&self, appliance: usize) -> Option<usize> {
        let others = (0..APPLIANCES_MAX).filter(|other| *other != appliance && self.last[*other] > Epoch::default());
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
