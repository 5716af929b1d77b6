//! Bringing inherited IKE SAs back, rung by rung: see [`ladder`](super::ladder).
//! What is special about a copy that isn't trusted is told in [`stale`](super::stale).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vipsec_dataplane::api::Command;
use vipsec_esp::sa::Spi;
use vipsec_ike::{GoneReason, IkeSaId, ImportError, OperateError};

use super::inheritance::Inherited;
use super::ladder::{Climb, Ladder, Rung, Why};
use super::stale::StaleSas;
use crate::config::TakeoverPolicy;
use crate::core::Core;

/// How long a remote peer may take to answer a call: one behind a NAT or that only calls itself never does.
const CALL_MAX: Duration = Duration::from_secs(5);
/// When the first turn comes: after a move's old owner can't pass anything on any more, for that comes under the old SAs.
pub(in crate::core) const FIRST_TURN: Duration = Duration::from_millis(50);
/// How long traffic is awaited on a renegotiated child SA before the old IKE SA is deleted all the same.
const CARRY_MAX: Duration = Duration::from_secs(5);
/// The largest jump of a peer's outbound numbers: a receiver takes half the number space for an old number.
const DELTA_MAX: u64 = (1 << 31) - 1;

/// What is still to be done after takeovers.
#[derive(Debug)]
pub(in crate::core) struct Succession {
    pub(in crate::core) ladder: Ladder,
    /// By the new IKE SA.
    replacing: BTreeMap<IkeSaId, Replaced>,
    /// Those that a copy gave that wasn't trusted.
    pub(in crate::core) stale: StaleSas,
}

impl Succession {
    /// `rate`: how many IKE SAs are dealt with in a second.
    pub(in crate::core) fn new(rate: u32, now: Instant) -> Self {
        Self { ladder: Ladder::new(rate, now), replacing: BTreeMap::new(), stale: StaleSas::default() }
    }
}

/// IKE SAs that another one replaces: one, but where an owner died between a call and the end of what that replaces.
#[derive(Debug)]
struct Replaced {
    old: Vec<IkeSaId>,
    /// Their child SAs beyond the first, which comes with the new IKE SA.
    children: Vec<String>,
    /// It is set up anew as at a reauthentication: IKE makes the other child SAs, and deletes the old one.
    is_reauthenticated: bool,
    /// When they are deleted at the latest, if they aren't yet.
    delete_at: Option<Instant>,
    /// The new one stands.
    is_established: bool,
}

impl Core {
    /// What its last owner had nobody knows.
    pub(in crate::core) fn report_nothing_inherited(&self, group: usize) {
        let Some(entry) = self.groups.get(group) else { return };
        let me = self.config.appliance.id;
        if let Some(owner) = entry.moves.owner().filter(|owner| *owner != me) {
            tracing::warn!(group = entry.name, %owner, "taken over without a copy: what SAs there were is not known, remote peers have to call");
        }
    }

    pub(in crate::core) fn report_takeover(&self, group: usize, policy: TakeoverPolicy) {
        let Some((takeover, _)) = self.succession.ladder.takeover(group) else { return };
        let ways = takeover.census.iter().map(|((rung, why), count)| format!("{count} {rung} ({why})"));
        let (ways, name) = (ways.collect::<Vec<_>>().join(", "), self.group_name(group));
        let ike_sas: u64 = takeover.census.values().sum();
        if takeover.trusted {
            tracing::info!(group = name, ike_sas, ?policy, ways, "SAs taken over");
        } else {
            tracing::warn!(group = name, ike_sas, ?policy, ways, "the copy is not trusted: its child SAs are shut");
        }
    }

    /// What the configuration wants to become of inherited SAs.
    pub(in crate::core) fn takeover_policy(&self) -> TakeoverPolicy {
        self.config.shared().map_or(TakeoverPolicy::Resume, |peer| peer.takeover)
    }

    pub(in crate::core) fn uninstall(&mut self, spi_in: u32) {
        let Ok(spi) = Spi::new(spi_in) else { return };
        if self.children.remove(&spi).is_some() {
            self.tell(Command::RemoveChild(spi));
        }
    }

    /// As it is: the child SAs carry traffic already, behind horizon and lease.
    pub(in crate::core) fn resume(&mut self, now: Instant, group: usize, set: Inherited) {
        let ahead = set.ahead();
        let Inherited { ike, children, birth, shut, carries } = set;
        let id = ike.id();
        let spis: Vec<u32> = children.iter().map(|child| child.record.spi_in()).collect();
        let was_stale = shut.is_none() && children.iter().any(|child| child.record.is_stale());
        let records: Vec<_> = children.into_iter().map(|child| *child.record).collect();
        let (rung, why) = match (shut, ahead) {
            // The original's way, but that traffic flows until another one carries it.
            _ if self.takeover_policy() == TakeoverPolicy::Renegotiate => (Rung::Renegotiate, Why::Policy),
            _ if ike.is_unsynchronised() => (Rung::MessageIdSync, Why::NotTrusted),
            (Some(why), _) => (Rung::Rekey, why),
            _ if was_stale => (Rung::Rekey, Why::NotTrusted),
            (None, 0) => (Rung::Keep, Why::Trusted),
            (None, _) if ike.peer_skips_numbers() => (Rung::ReplaySync, Why::NumbersAhead),
            (None, _) => (Rung::Rekey, Why::NoReplaySync),
        };
        let (callee, is_leaving, remote) = (ike.callee(&records), ike.is_leaving(), ike.remote().ip());
        if let Err(error) = self.ike.import(*ike, records, now) {
            if carries {
                for spi in &spis {
                    self.uninstall(*spi);
                    self.ike.release_spi(*spi);
                }
            }
            return self.call_instead(group, id, callee, error);
        }
        // An owner kept it from a copy that wasn't trusted, and was not through with that.
        if was_stale {
            self.succession.stale.insert(id, remote, now);
        }
        self.publications.adopt(id, birth);
        if !is_leaving {
            let mut climb = Climb::new(group, rung, why, callee);
            climb.children = spis;
            climb.is_shut = shut.is_some() || was_stale;
            climb.delta = (rung == Rung::ReplaySync).then_some(ahead.min(DELTA_MAX));
            self.succession.ladder.place(id, climb);
        }
    }

    /// Its records can't be gone on with.
    pub(in crate::core) fn call_instead(
        &mut self,
        group: usize,
        id: IkeSaId,
        callee: vipsec_ike::Callee,
        error: ImportError,
    ) {
        tracing::warn!(ike_sa = %id, connection = callee.connection, %error, "IKE SA can't be resumed");
        if error != ImportError::AlreadyHere {
            self.succession.ladder.place(id, Climb::new(group, Rung::Renegotiate, Why::NotResumable, callee));
        }
    }

    /// When the next turn comes, or patience ends.
    pub(in crate::core) fn succession_timeout(&self) -> Option<Instant> {
        let deletions = self.succession.replacing.values().filter_map(|replaced| replaced.delete_at);
        let turns = self.succession.ladder.poll_timeout().filter(|_| self.may_take_turns());
        deletions.chain(turns).min()
    }

    /// Turns wait until it is known which SAs carry traffic, and which are ours.
    fn may_take_turns(&self) -> bool {
        !self.is_inheriting() && !self.is_forgetting()
    }

    pub(in crate::core) fn handle_succession_timeout(&mut self, now: Instant) {
        while self.may_take_turns()
            && let Some(id) = self.succession.ladder.poll_impatient(now)
        {
            self.lose_patience(now, id);
        }
        while self.may_take_turns()
            && let Some(id) = self.succession.ladder.poll_turn(now)
        {
            self.take_turn(now, id);
            self.finish_with(now);
        }
        let replacing = self.succession.replacing.iter();
        let is_late = |replaced: &Replaced| replaced.delete_at.is_some_and(|at| at <= now);
        let late: Vec<_> = replacing.filter(|(_, replaced)| is_late(replaced)).map(|(new, _)| *new).collect();
        for new in late {
            self.delete_replaced(now, new);
        }
    }

    /// An IKE SA was rekeyed, maybe before its turn came.
    pub(in crate::core) fn follow(&mut self, old: IkeSaId, new: IkeSaId) {
        self.succession.stale.follow(old, new);
        self.succession.ladder.follow(old, new);
        for replaced in self.succession.replacing.values_mut() {
            if let Some(called) = replaced.old.iter_mut().find(|called| **called == old) {
                *called = new;
                // IKE knows the old one by name.
                replaced.is_reauthenticated = false;
            }
        }
    }

    /// Does what the rung takes. IKE asks the peer for one thing after the other.
    fn take_turn(&mut self, now: Instant, id: IkeSaId) {
        let Some(climb) = self.succession.ladder.standing(id) else { return };
        let (rung, why, is_rekeyed, delta) = (climb.rung, climb.why, climb.is_rekeyed, climb.delta);
        let (callee, children) = (climb.callee.clone(), climb.children.clone());
        let (connection, remote) = (callee.connection, callee.remote);
        self.take_in_hand(now, callee.vip, Some(id), remote.ip());
        if rung == Rung::Keep {
            tracing::debug!(ike_sa = %id, connection, %remote, %rung, %why, "taken over");
        } else {
            tracing::info!(ike_sa = %id, connection, %remote, %rung, %why, "taken over");
        }
        if rung == Rung::Renegotiate {
            return self.call_anew(now, id);
        }
        let synchronised = match rung {
            Rung::MessageIdSync => self.ike.synchronise(id, now),
            Rung::ReplaySync => delta.map_or(Ok(()), |delta| self.ike.sync_replay_counters(id, delta, now)),
            _ => Ok(()),
        };
        let children = children.into_iter().map(|spi| self.ike.rekey_child(spi, now));
        let rekeyed: Vec<Result<(), OperateError>> = children.collect();
        let rekeyed = rekeyed.into_iter().chain((!is_rekeyed).then(|| self.ike.rekey_ike(id, now)));
        for error in [synchronised].into_iter().chain(rekeyed).filter_map(Result::err) {
            // What the peer has replaced or deleted meanwhile, for one.
            tracing::debug!(ike_sa = %id, %error, "not done after the takeover");
        }
        if is_rekeyed {
            self.succession.ladder.finish(id);
        }
    }

    /// Nothing came of what its turn brought. Where the other appliance may be serving the peer that isn't a reason to give anything up, but
    /// one to call: who is served there answers there, and nothing comes of the call; who has forgotten the IKE SA, or never heard of
    /// what the copy knows, has a way to go on.
    fn lose_patience(&mut self, now: Instant, id: IkeSaId) {
        let Some(climb) = self.succession.ladder.standing(id) else { return };
        let (rung, is_client) = (climb.rung, climb.callee.is_client);
        match rung {
            _ if !self.stays(id) => self.fall(now, id, Why::NoAnswer),
            _ if is_client => self.succession.ladder.note_progress(now, id),
            Rung::Renegotiate => self.succession.ladder.wait_again(id),
            _ => self.fall(now, id, Why::NoAnswer),
        }
    }

    /// Does it stay, whether its peer answers or not? Not what the policy replaces.
    fn stays(&self, id: IkeSaId) -> bool {
        let climb = self.succession.ladder.standing(id);
        climb.is_some_and(|climb| climb.why != Why::Policy && self.is_patient(climb.group))
            && self.ike.callee(id).is_some()
    }

    /// A rung has failed.
    fn fall(&mut self, now: Instant, id: IkeSaId, why: Why) {
        let Some(climb) = self.succession.ladder.standing(id) else { return };
        let (from, connection, remote) = (climb.rung, climb.callee.connection.clone(), climb.callee.remote);
        let stays = self.stays(id);
        let Some(rung) = self.succession.ladder.fall(id, why) else { return };
        tracing::warn!(ike_sa = %id, connection, %remote, %from, to = %rung, %why, "a way to take it over has failed");
        if from == Rung::MessageIdSync && !stays {
            // Should its peer answer after all, there is one thing left to say.
            let _ = self.ike.delete_ike(id, now);
        }
    }

    /// Calls the peer of an IKE SA, or the peer that it once had; and for all that the same call replaces.
    fn call_anew(&mut self, now: Instant, id: IkeSaId) {
        let old = self.succession.ladder.join_turns(id);
        let Some(called) = old.first().copied() else { return };
        let Some(climb) = self.succession.ladder.standing(called) else { return };
        let (known, is_kept) = (climb.callee.clone(), climb.is_kept);
        let callee = self.ike.callee(called).unwrap_or(known);
        let stays = old.iter().any(|old| self.stays(*old));
        // Whose child SAs could not be rekeyed: that the old one goes when the new one has what it had is in the new one's record, so it
        // goes, too, where we die before. There is nothing to be gained from waiting for traffic.
        let reauthenticated = if is_kept { self.ike.reauthenticate(called, now).ok() } else { None };
        let is_reauthenticated = reauthenticated.is_some();
        match reauthenticated.map_or_else(|| self.ike.call(&callee, now), Ok) {
            Ok(new) => {
                let children = callee.children.into_iter().skip(1).collect();
                let delete_at = (!stays).then_some(now + CALL_MAX);
                let replaced = Replaced { old, children, is_reauthenticated, delete_at, is_established: false };
                self.succession.replacing.insert(new, replaced);
            }
            Err(error) => {
                tracing::info!(ike_sa = %called, connection = callee.connection, %error, "not called after the takeover");
                for old in old {
                    self.fall(now, old, Why::NotCallable);
                    if !stays {
                        // Where it can hear us it learns by this that it has to call.
                        let _ = self.ike.delete_ike(old, now);
                    }
                }
            }
        }
    }

    /// An IKE SA stands: what it replaces goes once the new one carries traffic.
    pub(in crate::core) fn handle_ike_established(&mut self, now: Instant, id: IkeSaId) {
        let Some(replaced) = self.succession.replacing.get_mut(&id) else { return };
        replaced.delete_at = Some(now + CARRY_MAX);
        replaced.is_established = true;
        let (old, mut children) = (replaced.old.clone(), std::mem::take(&mut replaced.children));
        if replaced.is_reauthenticated && old.first().is_some_and(|old| self.ike.callee(*old).is_some()) {
            children.clear();
        }
        for child in children {
            if let Err(error) = self.ike.create_child(id, &child, now) {
                tracing::warn!(ike_sa = %id, child, %error, "child SA not negotiated anew");
            }
        }
        old.into_iter().for_each(|old| self.succession.ladder.finish(old));
    }

    /// Traffic came in on a child SA.
    pub(in crate::core) fn note_traffic(&mut self, now: Instant, spi: Spi) {
        let Some(ike) = self.children.get(&spi).and_then(|child| child.ike) else { return };
        self.succession.ladder.note_traffic(ike);
        if self.succession.replacing.contains_key(&ike) {
            self.delete_replaced(now, ike);
        }
    }

    /// Message IDs are agreed on: what waits for that follows.
    pub(in crate::core) fn note_synchronised(&mut self, now: Instant, id: IkeSaId) {
        self.succession.ladder.note_progress(now, id);
    }

    /// The peer has refused a child SA.
    pub(in crate::core) fn note_child_refused(&mut self, now: Instant, id: IkeSaId) {
        if self.succession.ladder.note_refusal(id) {
            self.fall(now, id, Why::Refused);
        }
    }

    /// An IKE SA, or an attempt at one, is over.
    pub(in crate::core) fn note_ike_gone(&mut self, now: Instant, id: IkeSaId, reason: GoneReason) {
        self.succession.stale.forget(id);
        if reason == GoneReason::Forgotten {
            self.succession.ladder.finish(id);
            self.succession.replacing.remove(&id);
            return;
        }
        let failed = match reason {
            GoneReason::PeerDead => Some(Why::NoAnswer),
            GoneReason::ProtocolError | GoneReason::NumbersExhausted | GoneReason::Refused(_) => Some(Why::Refused),
            // The peer's will or ours: who deletes it or calls by itself knows what it wants.
            _ => None,
        };
        let fallen = |why| why != Why::Policy && reason == GoneReason::Deleted;
        match (self.succession.ladder.standing(id).map(|climb| (climb.rung, climb.why)), failed) {
            // It was to be called all the same, and once it is called, what becomes of the new one counts.
            (Some((Rung::Renegotiate, why)), _)
                if failed.is_some() || fallen(why) || self.succession.ladder.has_turn(id) => {}
            (Some(_), Some(why)) => self.fall(now, id, why),
            (Some(_), None) => self.succession.ladder.finish(id),
            (None, _) => {}
        }
        if let Some(replaced) = self.succession.replacing.get(&id) {
            if !replaced.is_established {
                self.note_call_failed(now, id, failed.unwrap_or(Why::Refused));
            }
            self.delete_replaced(now, id);
            self.succession.replacing.remove(&id);
        }
    }

    /// Nothing came of a call: what it was to replace falls, or stays and calls again later.
    fn note_call_failed(&mut self, now: Instant, new: IkeSaId, why: Why) {
        let Some(replaced) = self.succession.replacing.get_mut(&new) else { return };
        // What has an heir by now has gone on by itself.
        let standing = std::mem::take(&mut replaced.old).into_iter();
        let standing: Vec<_> = standing.filter(|old| self.succession.ladder.standing(*old).is_some()).collect();
        let (staying, fallen): (Vec<_>, Vec<_>) = standing.into_iter().partition(|old| self.stays(*old));
        staying.into_iter().for_each(|old| self.succession.ladder.begin_patience(now, old));
        fallen.iter().for_each(|old| self.fall(now, *old, why));
        if let Some(replaced) = self.succession.replacing.get_mut(&new) {
            replaced.old = fallen;
        }
    }

    /// The new IKE SA carries traffic, or can't be had: then the remote peer learns by the deletion that it has to call.
    fn delete_replaced(&mut self, now: Instant, new: IkeSaId) {
        let Some(replaced) = self.succession.replacing.get_mut(&new) else { return };
        replaced.delete_at = None;
        let old = replaced.old.clone();
        if replaced.is_established {
            self.succession.replacing.remove(&new);
        }
        for old in old {
            match self.ike.delete_ike(old, now) {
                Ok(()) => tracing::info!(%old, %new, "renegotiated: delete the old IKE SA"),
                Err(error) => tracing::debug!(%old, %error, "the old IKE SA is gone already"),
            }
        }
    }
}
