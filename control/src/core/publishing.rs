//! What a successor will need, written into the backup's store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use zeroize::Zeroizing;

use vipsec_dataplane::api::{Command, SaReport};
use vipsec_esp::sa::Spi;
use vipsec_ike::{ChildSaRecord, IkeSaId, IkeSaRecord};
use vipsec_store::{CounterEntry, RecordKey, StoreError};

use super::keying::FIRST_LEASE;
use super::{Core, Effect};

/// Record kinds in the store.
pub(super) const KIND_IKE: u8 = 1;
/// See [`KIND_IKE`].
pub(super) const KIND_CHILD: u8 = 2;
/// See [`KIND_IKE`].
pub(super) const KIND_STANDINGS: u8 = 3;

/// What the successor has to know beside what IKE exports: the peer's process that was paired when the SA was made; 0: none. A
/// successor that doesn't know which epochs it once used resumes only what was made after its own process had begun.
///
/// Stands in front of the record, in one buffer of the final size: one that grows leaves copies of keys behind.
fn envelope(born: u64, body: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(size_of::<u64>() + body.len()));
    bytes.extend_from_slice(&born.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Takes an envelope apart.
fn unwrap_envelope(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (born, body) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*born), body))
}

/// What the copy knows and what it has to learn.
#[derive(Debug, Default)]
pub(super) struct Publications {
    /// The process that is paired now; 0: none.
    pub(super) peer_process: u64,
    /// IKE SAs whose record has to be written before the next message of theirs leaves.
    pub(super) changed: BTreeSet<IkeSaId>,
    /// Under which of the peer's processes an SA was made.
    born: BTreeMap<IkeSaId, u64>,
    /// Records of child SAs that are gone: removed after the IKE record that doesn't name them any more is written.
    orphans: BTreeSet<RecordKey>,
    /// A join waits for these SAs to be bound.
    binding: Option<BTreeSet<Spi>>,
    /// VIPs that stopped for a move: what was published of their SAs before.
    stopped: BTreeMap<u16, Vec<CounterEntry>>,
}

impl Publications {
    /// An inherited IKE SA keeps its birth.
    pub(super) fn adopt(&mut self, id: IkeSaId, born: u64) {
        self.born.insert(id, born);
        self.changed.insert(id);
    }
}

fn ike_key(vip: u16, id: IkeSaId) -> RecordKey {
    RecordKey { kind: KIND_IKE, vip, id: id.get() }
}

fn child_key(vip: u16, spi: Spi) -> RecordKey {
    RecordKey { kind: KIND_CHILD, vip, id: u64::from(spi.get()) }
}

impl Core {
    /// An SA is new: which process of the peer was there?
    pub(super) fn note_birth(&mut self, id: IkeSaId) {
        let process = self.publications.peer_process;
        self.publications.born.entry(id).or_insert(process);
    }

    /// Writes the records of the IKE SAs that changed. True if there were any.
    pub(super) fn publish_changed(&mut self, now: Instant) -> bool {
        let changed = std::mem::take(&mut self.publications.changed);
        let orphans = std::mem::take(&mut self.publications.orphans);
        let any = !changed.is_empty() || !orphans.is_empty();
        let written = self
            .publish_ike_sas(now, changed)
            .and_then(|()| orphans.into_iter().try_for_each(|key| self.replica.remove(key)));
        if let Err(error) = written {
            self.handle_store_error(now, error);
        }
        any
    }

    /// Writes IKE SAs, an heir before its elder: the elder's record, that gives the child SAs away, is what makes a rekeying count.
    fn publish_ike_sas(&mut self, now: Instant, ids: BTreeSet<IkeSaId>) -> Result<(), StoreError> {
        if !self.replica.is_on() {
            return Ok(());
        }
        let mut sets: Vec<_> = ids.into_iter().filter_map(|id| self.ike.export(id, now)).collect();
        sets.sort_by_key(|(ike, _)| ike.age());
        sets.into_iter().try_for_each(|(ike, children)| self.publish_set(&ike, &children))
    }

    /// Writes an IKE SA with its children. Its own record comes last: it is the commit point of the set.
    fn publish_set(&mut self, ike: &IkeSaRecord, children: &[ChildSaRecord]) -> Result<(), StoreError> {
        let Some(epoch) = self.epoch_of(ike.vip()) else { return Ok(()) };
        let born = self.publications.born.get(&ike.id()).copied().unwrap_or(0);
        for child in children {
            let Ok(spi) = Spi::new(child.spi_in()) else { continue };
            let born = self.children.get(&spi).map_or(born, |child| child.born);
            let bytes = envelope(born, &child.encode());
            self.replica.put(child_key(ike.vip(), spi), epoch, &bytes)?;
        }
        let bytes = envelope(born, &ike.encode());
        self.replica.put(ike_key(ike.vip(), ike.id()), epoch, &bytes)
    }

    /// An IKE SA is gone.
    pub(super) fn withdraw_ike_sa(&mut self, id: IkeSaId) {
        self.publications.born.remove(&id);
        self.publications.changed.remove(&id);
        for vip in (0..).take(self.config.vips.len()) {
            self.publications.orphans.insert(ike_key(vip, id));
        }
    }

    /// A child SA is gone.
    pub(super) fn withdraw_child(&mut self, vip: u16, spi: Spi) {
        self.replica.forget_numbers(spi);
        self.publications.orphans.insert(child_key(vip, spi));
        if let Some(binding) = &mut self.publications.binding {
            binding.remove(&spi);
        }
    }

    /// A join: SA by SA, each counts from before its numbers are read.
    pub(super) fn replicate_all(&mut self, now: Instant) {
        let ids: Vec<IkeSaId> = self.ike.sas(now).map(|sa| sa.id).collect();
        self.publications.changed.extend(ids);
        let negotiated = self.children.iter().filter(|(_, child)| child.ike.is_some());
        let binding: BTreeSet<Spi> = negotiated.map(|(spi, _)| *spi).collect();
        for spi in &binding {
            self.tell(Command::Bind(*spi));
        }
        self.publications.binding = Some(binding);
        if let Err(error) = self.put_standings() {
            return self.handle_store_error(now, error);
        }
        self.publish_changed(now);
    }

    /// A worker has told where an SA stands: does the join still wait for it?
    pub(super) fn note_bound(&mut self, spi: Spi) {
        if let Some(binding) = &mut self.publications.binding {
            binding.remove(&spi);
        }
    }

    /// Everything is bound and written: the mark follows the last acknowledgement.
    pub(super) fn finish_join(&mut self) {
        if self.publications.binding.as_ref().is_some_and(BTreeSet::is_empty)
            && self.publications.changed.is_empty()
            && !self.replica.has_unwritten_numbers()
        {
            self.publications.binding = None;
            self.replica.after(Effect::Joined);
        }
    }

    /// No join is under way any more.
    pub(super) fn abandon_join(&mut self) {
        self.publications.binding = None;
    }

    /// They stand there: the successor starts right behind.
    pub(super) fn publish_exact_numbers(&mut self, vip: u16, sas: Vec<SaReport>) {
        let mut stopped = sas;
        stopped.retain(|sa| self.children.get(&sa.spi).is_some_and(|child| child.vip == vip));
        // What is parked is delivered with the grant that is still to come: the numbers are exact only then. And what the store is
        // told when the move is not taken must not be less than what the worker was granted.
        if stopped.iter().any(|sa| sa.awaits_grant) {
            return self.stop_later(vip);
        }
        let before = stopped.iter().map(|sa: &SaReport| {
            let spi = sa.spi.get();
            let exact = CounterEntry { spi, lease: sa.sent, edge: sa.edge, horizon: sa.edge };
            let unreported = CounterEntry { spi, lease: FIRST_LEASE, edge: 0, horizon: 0 };
            self.replica.publish_exact_numbers(exact).unwrap_or(unreported)
        });
        self.publications.stopped.insert(vip, before.collect());
        self.replica.after_numbers(Effect::Stopped(vip));
    }

    /// The move was not taken. The workers still have their old grants, so the store has to know those again before the VIP opens.
    pub(super) fn take_back(&mut self, vip: u16) {
        for before in self.publications.stopped.remove(&vip).unwrap_or_default() {
            self.replica.publish_numbers(before, None);
        }
        self.replica.after_numbers(Effect::Reopen(vip));
    }
}

/// Reads an IKE SA's record and its birth.
pub(super) fn open_ike(bytes: &[u8]) -> Option<(u64, IkeSaRecord)> {
    let (born, body) = unwrap_envelope(bytes)?;
    Some((born, IkeSaRecord::decode(body).ok()?))
}

/// Reads a child SA's record and its birth.
pub(super) fn open_child(bytes: &[u8]) -> Option<(u64, ChildSaRecord)> {
    let (born, body) = unwrap_envelope(bytes)?;
    Some((born, ChildSaRecord::decode(body).ok()?))
}
