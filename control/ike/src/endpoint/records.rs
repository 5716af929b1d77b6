//! Handing IKE SAs over to another appliance, and taking them over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use vipsec_wire::iv::Epoch;

use super::Endpoint;
use super::timers::{Lifetime, after};
use crate::child::{ChildPhase, ChildSa};
use crate::config::ConnectionPolicy;
use crate::event::GoneReason;
use crate::record::{ChildSaRecord, IkeSaRecord};
use crate::sa::{Age, Exchange, IkeSa, IkeSaId, Phase, Retry};

/// Why a record can't be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ImportError {
    /// We don't own its VIP.
    #[error("VIP {0} isn't owned here")]
    NotOwned(u16),
    /// Our epoch isn't above its writer's: IVs could repeat.
    #[error("our epoch {ours} isn't above the record's {theirs}")]
    EpochNotAbove {
        /// The VIP's epoch here.
        ours: Epoch,
        /// The one of the record's writer.
        theirs: Epoch,
    },
    /// Too many epochs have passed since an SA was made: the epochs in its IVs would come round.
    #[error("an SA was made in epoch {0}, too long ago")]
    TooOld(Epoch),
    /// The configuration has no such connection on that VIP.
    #[error("the record's connection isn't configured")]
    UnknownConnection,
    /// Keys don't fit algorithms, or a reserved SPI.
    #[error("the record contradicts itself")]
    Inconsistent,
    /// A child SA that the record names is missing, or one is there that it doesn't name.
    #[error("the child SA records aren't those that the IKE SA record names")]
    WrongChildren,
    /// Its copy may be stale, and the peer doesn't synchronise message IDs (RFC 6311).
    #[error("the peer doesn't synchronise message IDs")]
    NotSynchronisable,
    /// The IKE SA or a child SA is here already.
    #[error("the SA is here already")]
    AlreadyHere,
}

/// What an IKE SA's record says of its child SAs' phases. Their own records are written before it, and it is what commits the set: its
/// writer may have died in between.
struct Phases {
    replaced: BTreeSet<u32>,
    deleting: BTreeSet<u32>,
}

impl Phases {
    fn of(sa: &IkeSa, children: &[ChildSaRecord]) -> Self {
        let pending = sa.state.pending.as_ref().map(|pending| &pending.exchange);
        let deleting = if let Some(Exchange::DeleteChildren(spis)) = pending { spis.as_slice() } else { &[] };
        Self {
            replaced: children.iter().filter_map(|child| child.info.replaces).collect(),
            deleting: deleting.iter().copied().collect(),
        }
    }

    /// The peer has heard nothing of a replacement that isn't there, or of a deletion that isn't under way.
    fn committed(&self, child: &ChildSaRecord) -> ChildPhase {
        match child.phase {
            ChildPhase::Rekeyed if !self.replaced.contains(&child.spi_in()) => ChildPhase::Installed,
            ChildPhase::Deleting if !self.deleting.contains(&child.spi_in()) => ChildPhase::Installed,
            phase => phase,
        }
    }
}

/// When records were written, and when what they tell of was made: the epochs under which it may be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vintage {
    /// The latest that a record was written in.
    written: Epoch,
    /// The earliest that an SA was made in.
    born: Epoch,
}

impl Vintage {
    /// An SA isn't gone on with that many epochs after its birth: IVs carry 16 bits of the epoch.
    const EPOCHS_MAX: u32 = 1 << 15;

    /// Of what is gone on with together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { written: self.written.max(other.written), born: self.born.min(other.born) }
    }

    /// May an owner in that epoch go on with it?
    pub fn allows(self, ours: Epoch) -> Result<(), ImportError> {
        // I1: whoever wrote the record may have used any IV up to its epoch.
        if ours <= self.written {
            return Err(ImportError::EpochNotAbove { ours, theirs: self.written });
        }
        if ours.0.saturating_sub(self.born.0) >= Self::EPOCHS_MAX {
            return Err(ImportError::TooOld(self.born));
        }
        Ok(())
    }
}

impl IkeSaRecord {
    fn vintage(&self) -> Vintage {
        Vintage { written: self.epoch(), born: Epoch(self.state.birth_epoch) }
    }
}

impl ChildSaRecord {
    /// Who wrote it, the record of its IKE SA tells.
    fn vintage(&self) -> Vintage {
        Vintage { written: Epoch(0), born: Epoch(self.info.birth_epoch) }
    }
}

impl Endpoint {
    /// The record of an IKE SA and those of its child SAs, as they are now. `None` for an IKE SA that is gone, or of which
    /// nobody is convinced yet: those are not kept.
    pub fn export(&self, id: IkeSaId, now: Instant) -> Option<(IkeSaRecord, Vec<ChildSaRecord>)> {
        let sa = self.sas.get(&id)?;
        let epoch = self.epochs.get(&sa.state.vip)?;
        let record = IkeSaRecord {
            origin: (self.config.appliance.get(), epoch.0),
            age: sa.age.at(now),
            children: sa.children.keys().copied().collect(),
            state: sa.state.clone(),
        };
        let children = sa
            .children
            .values()
            .map(|child| ChildSaRecord {
                age: child.age.at(now),
                phase: child.phase,
                stale: child.stale,
                info: child.info.clone(),
            })
            .collect();
        Some((record, children))
    }

    /// Goes on with an IKE SA of another appliance, or of an earlier load of our own, under the epoch that
    /// [`set_origin`](Self::set_origin) gave the VIP. All records of a VIP have to come before its first message.
    ///
    /// An exchange in progress is finished: the next [`handle_timeout`](Self::handle_timeout) sends the same bytes again.
    /// One whose message IDs were not agreed on yet asks for that when it is told to: see [`synchronise`](Self::synchronise).
    /// Liveness is judged from now on; ages go on. No event is given: what is to be installed is in
    /// [`ChildSaRecord::info`].
    pub fn import(
        &mut self,
        record: IkeSaRecord,
        children: Vec<ChildSaRecord>,
        now: Instant,
    ) -> Result<IkeSaId, ImportError> {
        let sa = self.revive(record, children, now)?;
        let id = sa.id();
        self.settle(sa, now);
        Ok(id)
    }

    /// The same with a copy that may be stale: new message IDs have to be agreed on with the peer (RFC 6311), before any request is
    /// taken or sent. The caller says when: see [`synchronise`](Self::synchronise). What the operator or the
    /// caller wants of the IKE SA meanwhile waits; the child SAs should be rekeyed, since nobody knows where their numbers stand.
    /// They must not be used: don't install them. Their records say so, too, until they are replaced: see
    /// [`ChildSaRecord::is_stale`].
    pub fn import_stale(
        &mut self,
        record: IkeSaRecord,
        children: Vec<ChildSaRecord>,
        now: Instant,
    ) -> Result<IkeSaId, ImportError> {
        if !record.is_synchronisable() {
            return Err(ImportError::NotSynchronisable);
        }
        let mut sa = self.revive(record, children, now)?;
        let id = sa.id();
        sa.children.values_mut().for_each(|child| child.stale = true);
        // Whether the peer has seen what was in progress can't be known.
        self.ask_again(now, &mut sa);
        sa.state.answered = None;
        self.prepare_sync(&mut sa);
        self.settle(sa, now);
        Ok(id)
    }

    /// Would [`import`](Self::import) take these records under that epoch of their VIP? What carries traffic before it is asked must
    /// be asked here; or of each record when it comes ([`check_ike_sa`](Self::check_ike_sa), [`check_child_sa`](Self::check_child_sa)).
    /// That leaves to be seen that the children are those which the IKE SA names, and that all of it is of a vintage which allows the
    /// epoch.
    pub fn check_import<'a>(
        &self,
        record: &IkeSaRecord,
        children: impl IntoIterator<Item = &'a ChildSaRecord>,
        epoch: Epoch,
    ) -> Result<(), ImportError> {
        let children = Vec::from_iter(children);
        children.iter().fold(record.vintage(), |all, child| all.and(child.vintage())).allows(epoch)?;
        let children_here = children.iter().any(|child| self.child_owner.contains_key(&child.spi_in()));
        if self.sas.contains_key(&record.id()) || children_here {
            return Err(ImportError::AlreadyHere);
        }
        self.check_ike_sa(record)?;
        for child in &children {
            Self::check_child_sa(child)?;
            if child.info.vip != record.vip() {
                return Err(ImportError::Inconsistent);
            }
        }
        // Mostly there is one, and ten thousand IKE SAs are looked at.
        let is_one =
            matches!((record.children.as_slice(), children.as_slice()), ([named], [found]) if *named == found.spi_in());
        if !is_one {
            let mut named = record.children.clone();
            let mut found: Vec<u32> = children.iter().map(|child| child.spi_in()).collect();
            named.sort_unstable();
            found.sort_unstable();
            if named != found || named.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
                return Err(ImportError::WrongChildren);
            }
        }
        Ok(())
    }

    /// What can be said of an IKE SA's record by itself: its vintage, if it can be gone on with in an epoch that this allows.
    pub fn check_ike_sa(&self, record: &IkeSaRecord) -> Result<Vintage, ImportError> {
        let pending = record.state.pending.as_ref().map(|pending| &pending.exchange);
        let authenticating = matches!(pending, Some(Exchange::Auth(_)));
        if !record.state.channel.keys.fit(record.state.channel.suite)
            || authenticating != (record.state.phase == Phase::Authenticating)
        {
            return Err(ImportError::Inconsistent);
        }
        self.policy_of(record).ok_or(ImportError::UnknownConnection)?;
        Ok(record.vintage())
    }

    /// The same of a child SA's record.
    pub fn check_child_sa(record: &ChildSaRecord) -> Result<Vintage, ImportError> {
        let info = &record.info;
        let len = info.suite.encryption.keymat_len();
        let is_sound =
            info.spi_in > 255 && info.spi_out > 255 && [&info.key_in, &info.key_out].iter().all(|key| key.len() == len);
        if is_sound { Ok(record.vintage()) } else { Err(ImportError::Inconsistent) }
    }

    /// The connection that a record is one of.
    fn policy_of(&self, record: &IkeSaRecord) -> Option<&Arc<ConnectionPolicy>> {
        let policy = self.connection(record.connection())?;
        (policy.vip == record.vip() && policy.local == record.state.local.ip()).then_some(policy)
    }

    /// An IKE SA from its record.
    fn revive(
        &mut self,
        record: IkeSaRecord,
        children: Vec<ChildSaRecord>,
        now: Instant,
    ) -> Result<IkeSa, ImportError> {
        let id = record.id();
        let ours = *self.epochs.get(&record.vip()).ok_or(ImportError::NotOwned(record.vip()))?;
        self.check_import(&record, &children, ours)?;
        let policy = self.policy_of(&record).cloned().ok_or(ImportError::UnknownConnection)?;
        let mut sa = IkeSa::new(record.state, policy, now);
        sa.age = Age::of(record.age, now);
        sa.heard_first = None;
        if matches!(sa.state.phase, Phase::Rekeyed { .. }) {
            sa.expires_at = Some(after(now, self.config.limits.closed_linger));
        } else {
            (sa.rekey_at, sa.expires_at) = self.lifetime(now, record.age, Lifetime::of_ike(&sa.policy));
        }
        // One without agreed message IDs waits for its caller; one that is to go needs none.
        let waits = sa.state.sync.is_some() && sa.state.phase == Phase::Established;
        if (sa.state.pending.is_some() || sa.state.sync.is_some()) && !waits {
            let interval = self.config.retransmission.first / 2;
            sa.retry = Some(Retry { at: now, interval, tries: 0, unsent: true });
        }
        let phases = Phases::of(&sa, &children);
        let mut by_spi = BTreeMap::new();
        for mut child in children {
            child.phase = phases.committed(&child);
            // An heir takes the children over before its own record says so: whoever names them last has them.
            child.info.ike_sa = id;
            let lifetime = Lifetime::of_child(&sa.policy, &child.info.child);
            let (rekey_at, expires_at) = self.lifetime(now, child.age, lifetime);
            let age = Age::of(child.age, now);
            self.reserved.remove(&child.info.spi_in);
            self.child_owner.insert(child.info.spi_in, id);
            let child = ChildSa {
                info: child.info,
                phase: child.phase,
                stale: child.stale,
                refused: false,
                age,
                rekey_at,
                expires_at,
            };
            by_spi.insert(child.info.spi_in, child);
        }
        sa.children = by_spi;
        sa.reauth_at = sa.policy.reauth_time.map(|time| after(now, time.saturating_sub(record.age)));
        self.hold_addresses(&sa);
        // The caller sums up what became of all of them.
        tracing::debug!(
            ike_sa = %id, connection = %sa.state.connection, remote = %sa.state.remote, peer = %sa.peer(),
            children = sa.children.len(), in_progress = sa.state.pending.is_some(), "IKE SA resumed"
        );
        Ok(sa)
    }

    /// A VIP is no longer ours. Nothing more is done with its SAs, and nothing is said to the remote peers: its new owner goes on with
    /// them. [`forget_some`](Self::forget_some) takes them out. Messages for the VIP are dropped until
    /// [`set_origin`](Self::set_origin).
    pub fn leave_vip(&mut self, vip: u16) {
        if self.epochs.remove(&vip).is_none() {
            return;
        }
        self.leaving.insert(vip, IkeSaId(0));
        let half: Vec<IkeSaId> = self.half_open.iter().filter(|(_, half)| half.vip == vip).map(|(id, _)| *id).collect();
        for id in half {
            self.close_half(id);
        }
        let calls: Vec<IkeSaId> =
            self.initiations.iter().filter(|(_, one)| one.policy.vip == vip).map(|(id, _)| *id).collect();
        for id in calls {
            if let Some(initiation) = self.take_initiation(id) {
                self.fail_initiation(id, &initiation, GoneReason::Forgotten);
            }
        }
    }

    /// Forgets so many IKE SAs of a VIP that was left, with their child SAs. True if there may be more.
    pub fn forget_some(&mut self, vip: u16, most: usize) -> bool {
        let Some(from) = self.leaving.get(&vip).copied() else { return false };
        let of_vip = self.sas.range(from..).filter(|(_, sa)| sa.state.vip == vip);
        let ids: Vec<IkeSaId> = of_vip.take(most).map(|(id, _)| *id).collect();
        for id in &ids {
            if let Some(sa) = self.take_out(*id) {
                self.forget(&sa, GoneReason::Forgotten);
            }
        }
        match ids.last() {
            Some(last) if ids.len() == most => drop(self.leaving.insert(vip, *last)),
            _ => drop(self.leaving.remove(&vip)),
        }
        self.leaving.contains_key(&vip)
    }
}
