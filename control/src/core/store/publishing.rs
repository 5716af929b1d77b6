//! What a successor will need, written into the backups' stores.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use zeroize::Zeroizing;

use vipsec_dataplane::api::{Command, SaReport};
use vipsec_esp::sa::Spi;
use vipsec_ike::{ChildSaRecord, IkeSaId, IkeSaRecord};
use vipsec_store::{CounterEntry, RecordKey};
use vipsec_takeover::registry::Process;
use vipsec_wire::iv::ApplianceId;

use crate::config::PEERS_MAX;
use crate::core::keying::FIRST_LEASE;
use crate::core::lingering::GoneChild;
use crate::core::ownership::groups::Group;
use crate::core::{Core, Effect, Slices};

/// The kind of an IKE SA's record in the store. Its id is our SPI.
pub const KIND_IKE: u8 = 1;
/// The kind of a child SA's record. Its id is our inbound SPI.
pub const KIND_CHILD: u8 = 2;
/// See [`KIND_IKE`].
pub(in crate::core) const KIND_STANDINGS: u8 = 3;
/// See [`KIND_IKE`].
pub(in crate::core) const KIND_PINS: u8 = 4;
/// See [`KIND_IKE`].
pub(in crate::core) const KIND_IN_HAND: u8 = 5;

/// What the successor has to know of an SA beside what IKE exports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::core) struct Birth {
    /// The processes of other appliances that were paired when the SA was made. A successor that doesn't know which epochs it once
    /// used resumes only what was made after its own process had begun.
    pub(in crate::core) witnesses: Vec<Process>,
    /// IKE SAs in the order in which they were made, an heir behind its elder. Ages don't tell: each is that of its record's writing.
    pub(in crate::core) order: u64,
}

/// Stands in front of the record, in one buffer of the final size: one that grows leaves copies of keys behind.
fn envelope(birth: &Birth, body: &[u8]) -> Zeroizing<Vec<u8>> {
    let witnesses = birth.witnesses.iter().take(PEERS_MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(9 + 9 * witnesses.len() + body.len()));
    bytes.extend_from_slice(&birth.order.to_be_bytes());
    // At most PEERS_MAX.
    bytes.push(witnesses.len() as u8);
    for witness in witnesses {
        bytes.push(witness.appliance.get());
        bytes.extend_from_slice(&witness.incarnation.to_be_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Takes an envelope apart.
fn unwrap_envelope(bytes: &[u8]) -> Option<(Birth, &[u8])> {
    let (order, rest) = bytes.split_first_chunk()?;
    let (count, mut rest) = rest.split_first()?;
    let mut witnesses = Vec::new();
    for _ in 0..*count {
        let (id, more) = rest.split_first()?;
        let (incarnation, more) = more.split_first_chunk()?;
        let appliance = ApplianceId::new(*id).ok()?;
        witnesses.push(Process { appliance, incarnation: u64::from_be_bytes(*incarnation) });
        rest = more;
    }
    Some((Birth { witnesses, order: u64::from_be_bytes(*order) }, rest))
}

/// What is still to be done for a group's joins, or when nobody holds a copy any more. There may be a hundred thousand SAs, and meanwhile
/// heartbeats have to leave.
#[derive(Debug, Default)]
pub(in crate::core) struct ToCopy {
    /// IKE SAs whose records are to be written.
    ike_sas: BTreeSet<IkeSaId>,
    /// Child SAs that are to be bound.
    children: BTreeSet<Spi>,
    /// Child SAs that are not bound any more.
    freed: BTreeSet<Spi>,
}

impl ToCopy {
    /// There is no copy any more: every limit goes.
    pub(in crate::core) fn free(children: impl IntoIterator<Item = Spi>) -> Self {
        Self { freed: children.into_iter().collect(), ..Self::default() }
    }

    /// More that are to be bound.
    pub(in crate::core) fn bind(&mut self, children: impl IntoIterator<Item = Spi>) {
        self.children.extend(children);
    }

    pub(in crate::core) fn is_empty(&self) -> bool {
        self.ike_sas.is_empty() && self.children.is_empty() && self.freed.is_empty()
    }
}

/// What the copy knows and what it has to learn.
#[derive(Debug, Default)]
pub(in crate::core) struct Publications {
    /// IKE SAs whose record has to be written before the next message of theirs leaves.
    pub(in crate::core) changed: BTreeSet<IkeSaId>,
    births: BTreeMap<IkeSaId, Birth>,
    /// The newest IKE SA's order.
    newest: u64,
    /// Records of child SAs that are gone: removed after the IKE record that doesn't name them any more is written.
    orphans: BTreeSet<RecordKey>,
    /// Child SAs that IKE has deleted, each with its VIP: they go when that is written.
    pub(in crate::core) gone: Vec<GoneChild>,
}

impl Publications {
    /// An inherited IKE SA keeps its birth.
    pub(in crate::core) fn adopt(&mut self, id: IkeSaId, birth: Birth) {
        self.newest = self.newest.max(birth.order);
        self.births.insert(id, birth);
        self.changed.insert(id);
    }
}

fn ike_key(vip: u16, id: IkeSaId) -> RecordKey {
    RecordKey { kind: KIND_IKE, vip, id: id.get() }
}

/// The name of a child SA's record, by our inbound SPI.
pub(in crate::core) fn child_key(vip: u16, spi_in: u32) -> RecordKey {
    RecordKey { kind: KIND_CHILD, vip, id: u64::from(spi_in) }
}

impl Core {
    /// An SA is new: which process of the peer was there?
    pub(in crate::core) fn note_birth(&mut self, id: IkeSaId) {
        let group = self.ike.vip_of(id).and_then(|vip| self.groups.get(self.group_of(vip)));
        let witnesses = group.map_or_else(Vec::new, |group| group.witnesses());
        let Publications { births, newest, .. } = &mut self.publications;
        births.entry(id).or_insert_with(|| {
            *newest += 1;
            Birth { witnesses, order: *newest }
        });
    }

    /// Writes the records of the IKE SAs that changed. True if there were any.
    pub(in crate::core) fn publish_changed(&mut self, now: Instant) -> bool {
        let changed = std::mem::take(&mut self.publications.changed);
        let orphans = std::mem::take(&mut self.publications.orphans);
        let any = !changed.is_empty() || !orphans.is_empty();
        self.publish_ike_sas(now, changed);
        for key in orphans {
            if let Some(replica) = self.replica_of(key.vip) {
                replica.remove(key);
            }
        }
        for gone in std::mem::take(&mut self.publications.gone) {
            match self.replica_of(gone.vip) {
                Some(replica) => replica.after(Effect::Gone(gone)),
                None => self.let_go_of_child(now, gone),
            }
        }
        any
    }

    /// Writes IKE SAs, an heir before its elder: the elder's record, that gives the child SAs away, is what makes a rekeying count.
    fn publish_ike_sas(&mut self, now: Instant, ids: BTreeSet<IkeSaId>) {
        let ike = &self.ike;
        let replicated = |id: &IkeSaId| ike.vip_of(*id).is_some_and(|vip| self.is_replicated(vip));
        let mut sets: Vec<_> = ids.into_iter().filter(replicated).filter_map(|id| ike.export(id, now)).collect();
        sets.sort_by_key(|(ike, _)| ike.age());
        for (ike, children) in sets {
            self.publish_set(&ike, &children);
        }
    }

    /// Writes an IKE SA with its children. Its own record comes last: it is the commit point of the set.
    fn publish_set(&mut self, ike: &IkeSaRecord, children: &[ChildSaRecord]) {
        let Some(epoch) = self.epoch_of(ike.vip()) else { return };
        let birth = self.publications.births.get(&ike.id()).cloned().unwrap_or_default();
        let group = self.group_of(ike.vip());
        let Some(replica) = self.groups.get_mut(group).map(|group| &mut group.replica) else { return };
        for child in children {
            let Ok(spi) = Spi::new(child.spi_in()) else { continue };
            let witnesses = self.children.get(&spi).map_or(&birth.witnesses, |child| &child.born).clone();
            let bytes = envelope(&Birth { witnesses, order: 0 }, &child.encode());
            replica.put(child_key(ike.vip(), child.spi_in()), epoch, &bytes);
        }
        let bytes = envelope(&birth, &ike.encode());
        replica.put(ike_key(ike.vip(), ike.id()), epoch, &bytes);
    }

    /// An IKE SA is gone.
    pub(in crate::core) fn withdraw_ike_sa(&mut self, id: IkeSaId) {
        self.publications.births.remove(&id);
        self.publications.changed.remove(&id);
        self.groups.iter_mut().for_each(|group| {
            group.to_copy.ike_sas.remove(&id);
        });
        for vip in (0..).take(self.config.vips.len()) {
            self.publications.orphans.insert(ike_key(vip, id));
        }
    }

    /// A child SA is gone.
    pub(in crate::core) fn withdraw_child(&mut self, vip: u16, spi: Spi) {
        self.publications.orphans.insert(child_key(vip, spi.get()));
        let group = self.group_of(vip);
        let Some(group) = self.groups.get_mut(group) else { return };
        group.replica.forget_numbers(spi);
        group.binding.remove(&spi);
    }

    /// A join begins: all that there is now is copied, slice by slice ([`Core::go_on_copying`]).
    pub(in crate::core) fn replicate_all(&mut self, now: Instant, group: usize) {
        let ike_sas = self.ike.ids().filter(|(_, vip)| self.group_of(*vip) == group).map(|(id, _)| id).collect();
        let mut children: BTreeSet<Spi> = self.children_of(group).into_iter().collect();
        children.retain(|spi| self.children.get(spi).is_some_and(|child| child.ike.is_some()));
        if let Some(group) = self.groups.get_mut(group) {
            group.to_copy = ToCopy { ike_sas, children, ..ToCopy::default() };
        }
        self.put_standings(group);
        self.put_hand(now, group);
    }

    /// A slice of a group's join: SA by SA, each counts from before its numbers are read. True if there was anything.
    pub(in crate::core) fn go_on_copying(&mut self, now: Instant) -> bool {
        let Slices { copied, freed, .. } = self.slices;
        let Some(entry) = self.groups.iter_mut().find(|group| group.is_copying()) else { return false };
        if let Some((vip, epoch)) = entry.vips.first().copied().zip(entry.ownership.epoch_of_sas()) {
            entry.replica.copy_pins(vip, epoch);
        }
        let binding: Vec<Spi> = std::iter::from_fn(|| entry.to_copy.children.pop_first()).take(copied).collect();
        let (mut ike_sas, mut records) = (BTreeSet::new(), 0);
        while records < copied
            && let Some(id) = entry.to_copy.ike_sas.pop_first()
        {
            records += 1 + self.ike.children_of(id).count();
            ike_sas.insert(id);
        }
        // What is gone meanwhile has nothing to say.
        entry.binding.extend(binding.iter().filter(|spi| self.children.contains_key(spi)));
        // One that is bound already says its numbers once more.
        let freed: Vec<Spi> = std::iter::from_fn(|| entry.to_copy.freed.pop_first()).take(freed).collect();
        for spi in binding {
            self.tell(Command::Bind(spi));
        }
        for spi in freed {
            self.tell(Command::Grant { spi, horizon: u64::MAX, lease: u64::MAX });
        }
        self.publish_ike_sas(now, ike_sas);
        true
    }

    /// Is there a join to go on with?
    pub(in crate::core) fn is_copying(&self) -> bool {
        self.groups.iter().any(Group::is_copying)
    }

    /// Everything is bound and written: the mark follows the last acknowledgement.
    pub(in crate::core) fn finish_join(&mut self, group: usize) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let is_under_way = !group.binding.is_empty() || !group.to_copy.is_empty() || group.inheriting.is_some();
        if is_under_way || !self.publications.changed.is_empty() {
            return;
        }
        let replica = &mut group.replica;
        group.joining.retain(|peer| {
            let is_written = !replica.has_unwritten_numbers(*peer) && replica.unwritten_pin_blocks(*peer) == 0;
            if is_written {
                replica.after_at(*peer, Effect::Joined(*peer));
            }
            !is_written
        });
    }

    /// They stand there: the successor starts right behind.
    pub(in crate::core) fn publish_exact_numbers(&mut self, group: usize, sas: Vec<SaReport>) {
        let mut stopped = sas;
        stopped.retain(|sa| self.children.get(&sa.spi).is_some_and(|child| self.group_of(child.vip) == group));
        // What is parked is delivered with the grant that is still to come: the numbers are exact only then. And what the store is
        // told when the move is not taken must not be less than what the worker was granted.
        if stopped.iter().any(|sa| sa.awaits_grant) {
            return self.stop_later(group);
        }
        let Some(group) = self.groups.get_mut(group) else { return };
        let before = stopped.iter().map(|sa: &SaReport| {
            let spi = sa.spi.get();
            let exact = CounterEntry { spi, lease: sa.sent, edge: sa.edge, horizon: sa.edge };
            let unreported = CounterEntry { spi, lease: FIRST_LEASE, edge: 0, horizon: 0 };
            group.replica.publish_exact_numbers(exact).unwrap_or(unreported)
        });
        group.stopped = before.collect();
        group.replica.after_numbers(Effect::Stopped);
    }

    /// The move was not taken. The workers still have their old grants, so the store has to know those again before the VIPs open.
    pub(in crate::core) fn take_back(&mut self, group: usize) {
        let Some(group) = self.groups.get_mut(group) else { return };
        for before in std::mem::take(&mut group.stopped) {
            group.replica.publish_numbers(before, None);
        }
        group.replica.after_numbers(Effect::Reopen);
    }
}

/// Reads an IKE SA's record and its birth.
pub(in crate::core) fn open_ike(bytes: &[u8]) -> Option<(Birth, IkeSaRecord)> {
    let (birth, body) = unwrap_envelope(bytes)?;
    Some((birth, IkeSaRecord::decode(body).ok()?))
}

/// Reads a child SA's record, and whose processes saw it made.
pub(in crate::core) fn open_child(bytes: &[u8]) -> Option<(Vec<Process>, ChildSaRecord)> {
    let (birth, body) = unwrap_envelope(bytes)?;
    Some((birth.witnesses, ChildSaRecord::decode(body).ok()?))
}
