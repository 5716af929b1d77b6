//! Bringing inherited SAs back: resumed as they are, or negotiated anew from what was stored.
//! What becomes of a copy that isn't trusted is told in [`stale`](super::stale).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use vipsec_dataplane::api::Command;
use vipsec_esp::sa::Spi;
use vipsec_ike::{IkeSaId, OperateError};

use super::Core;
use super::inheritance::{Inheritance, Inherited};
use super::stale::StaleSas;
use crate::config::TakeoverPolicy;

/// How many SAs are rekeyed or renegotiated per step, and how often a step comes: 500 a second, so that many don't storm.
pub(super) const PER_STEP: u32 = 5;
pub(super) const STEP: Duration = Duration::from_millis(10);
/// How long a remote peer may take to answer a call: one behind a NAT or that only calls itself never does.
const CALL_MAX: Duration = Duration::from_secs(5);
/// When the first step comes: after a move's old owner can't pass anything on any more, for that comes under the old SAs.
pub(super) const FIRST_STEP: Duration = Duration::from_millis(50);
/// How long traffic is awaited on a renegotiated child SA before the old IKE SA is deleted all the same.
const CARRY_MAX: Duration = Duration::from_secs(5);

/// What is still to be done after a takeover.
#[derive(Debug, Default)]
pub(super) struct Succession {
    tasks: VecDeque<Task>,
    due: Option<Instant>,
    /// What replaced an IKE SA while there was something to be done about it.
    heirs: BTreeMap<IkeSaId, IkeSaId>,
    /// By the new IKE SA.
    replacing: BTreeMap<IkeSaId, Replaced>,
    /// Those that a copy gave that wasn't trusted.
    pub(super) stale: StaleSas,
}

impl Succession {
    /// The child SAs are replaced, then the IKE SA.
    pub(super) fn rekey(&mut self, children: impl IntoIterator<Item = u32>, ike_sa: IkeSaId) {
        self.tasks.extend(children.into_iter().map(Task::RekeyChild));
        self.tasks.push_back(Task::RekeyIke(ike_sa));
    }

    /// The IKE SA's peer is called anew, and the IKE SA deleted.
    pub(super) fn renegotiate(&mut self, ike_sa: IkeSaId) {
        self.tasks.push_back(Task::Renegotiate(ike_sa));
    }

    /// The IKE SA that has taken the place of this one, if another has.
    fn newest(&self, mut id: IkeSaId) -> IkeSaId {
        while let Some(heir) = self.heirs.get(&id) {
            id = *heir;
        }
        id
    }

    /// From when on that is done.
    pub(super) fn begin(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// An IKE SA that another one replaces.
#[derive(Debug)]
struct Replaced {
    old: IkeSaId,
    /// Its child SAs beyond the first, which comes with the new IKE SA.
    children: Vec<String>,
    /// When it is deleted at the latest.
    delete_at: Instant,
}

#[derive(Debug)]
enum Task {
    RekeyChild(u32),
    RekeyIke(IkeSaId),
    Renegotiate(IkeSaId),
}

impl Core {
    /// The group is ours and open: what becomes of the SAs that were read?
    pub(super) fn inherit(&mut self, now: Instant, group: usize, inheritance: Inheritance, trusted: bool) {
        if !trusted {
            return self.inherit_stale(now, group, inheritance);
        }
        let policy = self.takeover_policy();
        let count = inheritance.sets.len();
        for set in inheritance.sets {
            match policy {
                TakeoverPolicy::Resume => self.resume(now, set),
                TakeoverPolicy::Renegotiate => self.renegotiate_from(now, set),
            }
        }
        self.succession.begin(now + if policy == TakeoverPolicy::Resume { FIRST_STEP } else { STEP });
        tracing::info!(group = self.group_name(group), ike_sas = count, ?policy, "SAs taken over");
    }

    /// What the configuration wants to become of inherited SAs.
    pub(super) fn takeover_policy(&self) -> TakeoverPolicy {
        self.config.shared().map_or(TakeoverPolicy::Resume, |peer| peer.takeover)
    }

    pub(super) fn uninstall(&mut self, spi_in: u32) {
        let Ok(spi) = Spi::new(spi_in) else { return };
        if self.children.remove(&spi).is_some() {
            self.tell(Command::RemoveChild(spi));
        }
    }

    /// As it is: the child SAs are installed already, behind horizon and lease.
    fn resume(&mut self, now: Instant, set: Inherited) {
        let Inherited { ike, children, birth } = set;
        let (id, vip) = (ike.id(), ike.vip());
        // Its owner kept it from a copy that wasn't trusted, and is not through with that.
        if children.iter().any(|child| child.record.is_stale()) {
            self.succession.stale.insert(id, ike.remote().ip(), now);
        }
        let spis: Vec<u32> = children.iter().map(|child| child.record.info().spi_in).collect();
        let records = children.into_iter().map(|child| *child.record).collect();
        if let Err(error) = self.ike.import(*ike, records, now) {
            tracing::error!(ike_sa = %id, %error, "IKE SA can't be resumed");
            spis.iter().for_each(|spi| self.uninstall(*spi));
            return;
        }
        self.publications.adopt(id, birth);
        for spi in spis.iter().filter_map(|number| Spi::new(*number).ok()) {
            let Some(child) = self.children.get_mut(&spi) else { continue };
            child.ike = Some(id);
            child.vip = vip;
            // Nobody has a copy yet: no limits until a backup joins.
            self.tell(Command::Grant { spi, horizon: u64::MAX, lease: u64::MAX });
        }
        self.succession.rekey(spis, id);
    }

    /// The original's way: the IKE SA is kept only to say that it goes, once another carries the traffic.
    fn renegotiate_from(&mut self, now: Instant, set: Inherited) {
        let Inherited { ike, children, .. } = set;
        let id = ike.id();
        let records = children.into_iter().map(|child| *child.record).collect();
        match self.ike.import(*ike, records, now) {
            Ok(_) => self.succession.renegotiate(id),
            Err(error) => tracing::error!(ike_sa = %id, %error, "IKE SA can't be used for renegotiation"),
        }
    }

    /// When the next step is due.
    pub(super) fn succession_timeout(&self) -> Option<Instant> {
        let deletions = self.succession.replacing.values().map(|replaced| replaced.delete_at);
        self.succession.due.into_iter().chain(deletions).min()
    }

    pub(super) fn handle_succession_timeout(&mut self, now: Instant) {
        if self.succession.due.is_some_and(|due| due <= now) {
            for _ in 0..PER_STEP {
                let Some(task) = self.succession.tasks.pop_front() else { break };
                self.do_task(now, task);
            }
            self.succession.due = (!self.succession.tasks.is_empty()).then_some(now + STEP);
            if self.succession.tasks.is_empty() {
                self.succession.heirs.clear();
            }
        }
        let replacing = self.succession.replacing.iter();
        let late: Vec<_> = replacing.filter(|(_, replaced)| replaced.delete_at <= now).map(|(new, _)| *new).collect();
        for new in late {
            self.delete_replaced(now, new);
        }
    }

    /// An IKE SA was rekeyed, maybe before its turn came.
    pub(super) fn follow(&mut self, old: IkeSaId, new: IkeSaId) {
        self.succession.stale.follow(old, new);
        if !self.succession.tasks.is_empty() {
            self.succession.heirs.insert(old, new);
        }
    }

    fn do_task(&mut self, now: Instant, task: Task) {
        let result = match task {
            Task::RekeyChild(spi) => self.ike.rekey_child(spi, now),
            // Its heir has fresh keys already.
            Task::RekeyIke(id) if self.succession.heirs.contains_key(&id) => Ok(()),
            Task::RekeyIke(id) => self.ike.rekey_ike(id, now),
            Task::Renegotiate(id) => self.call_anew(now, self.succession.newest(id)),
        };
        if let Err(error) = result {
            tracing::info!(%error, "not done after the takeover");
        }
    }

    fn call_anew(&mut self, now: Instant, old: IkeSaId) -> Result<(), OperateError> {
        let mut children = self.ike.sa(old, now).map(|sa| sa.children).unwrap_or_default();
        // The first worker's brings those of the others with it.
        children.retain(|child| child.lane.is_none_or(|lane| lane == 0));
        let new = self.ike.renegotiate(old, now)?;
        let children = children.into_iter().skip(1).map(|child| child.child).collect();
        self.succession.replacing.insert(new, Replaced { old, children, delete_at: now + CALL_MAX });
        Ok(())
    }

    /// An IKE SA stands: if it replaces another, that one goes once the new one carries traffic.
    pub(super) fn handle_ike_established(&mut self, now: Instant, id: IkeSaId) {
        let Some(replaced) = self.succession.replacing.get_mut(&id) else { return };
        replaced.delete_at = now + CARRY_MAX;
        for child in std::mem::take(&mut replaced.children) {
            if let Err(error) = self.ike.create_child(id, &child, now) {
                tracing::warn!(ike_sa = %id, child, %error, "child SA not negotiated anew");
            }
        }
    }

    /// Traffic came in on a child SA.
    pub(super) fn note_traffic(&mut self, now: Instant, spi: Spi) {
        let Some(ike) = self.children.get(&spi).and_then(|child| child.ike) else { return };
        if self.succession.replacing.contains_key(&ike) {
            self.delete_replaced(now, ike);
        }
    }

    /// The new IKE SA carries traffic, or can't be had: then the remote peer learns by the deletion that it has to call.
    pub(super) fn delete_replaced(&mut self, now: Instant, new: IkeSaId) {
        if let Some(Replaced { old, .. }) = self.succession.replacing.remove(&new) {
            tracing::info!(%old, %new, "renegotiated: delete the old IKE SA");
            if let Err(error) = self.ike.delete_ike(old, now) {
                tracing::info!(%old, %error, "the old IKE SA is gone already");
            }
        }
    }
}
