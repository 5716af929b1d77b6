//! What a takeover reads out of the copy: sets of an IKE SA and its child SAs, and where their numbers stand.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use vipsec_ike::{Callee, ChildSaRecord, IkeSaId, IkeSaRecord};
use vipsec_takeover::registry::Process;

use super::in_hand::HandRecord;
use super::keying::{FIRST_LEASE, Start};
use super::ladder::Why;
use super::pin_table::PinTable;
use super::publishing::Birth;
use super::records::{Holding, Opened, Records};
use super::standings::TargetRecord;

/// An IKE SA as it was read, with its children.
pub(super) struct Inherited {
    /// In their boxes, as they were opened: with ten thousand of them a takeover would mostly move memory.
    pub(super) ike: Box<IkeSaRecord>,
    pub(super) children: Vec<InheritedChild>,
    /// Among the IKE SAs, and whose processes saw it made.
    pub(super) birth: Birth,
    /// Why some of its child SAs aren't to be used, where they aren't.
    pub(super) shut: Option<Why>,
}

impl Inherited {
    /// Numbers that its peer is still to use, and that count as seen: the largest room among the child SAs.
    pub(super) fn ahead(&self) -> u64 {
        self.children.iter().map(|child| child.start.horizon.saturating_sub(child.edge)).max().unwrap_or(0)
    }
}

/// An IKE SA whose records can't be gone on with, but whose peer is known from them.
pub(super) struct Unusable {
    pub(super) id: IkeSaId,
    pub(super) callee: Callee,
    pub(super) why: Why,
}

/// A child SA as it was read.
pub(super) struct InheritedChild {
    pub(super) record: Box<ChildSaRecord>,
    /// Where its numbers go on.
    pub(super) start: Start,
    /// The highest number that was delivered, as far as was said.
    pub(super) edge: u64,
    /// Whose processes saw it made.
    pub(super) born: Vec<Process>,
}

/// Everything that a copy holds of a group.
#[derive(Default)]
pub(super) struct Inheritance {
    pub(super) sets: Vec<Inherited>,
    /// Those that take a call, or that nobody is to touch.
    pub(super) unusable: Vec<Unusable>,
    /// Whom the owner was dealing with.
    pub(super) hand: HandRecord,
    /// How the targets stood.
    pub(super) standings: Vec<TargetRecord>,
    /// Connections that can't be computed.
    pub(super) pins: PinTable,
    /// Records that did not authenticate or could not be read.
    pub(super) left_out: usize,
    /// The copy's records were open before it was fenced.
    pub(super) warm: bool,
}

/// What this appliance may resume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heir {
    /// The epochs that it once used are known.
    pub(super) floor_known: bool,
    /// This process.
    pub(super) process: Process,
}

impl Heir {
    /// May keys be used that were made when this process of ours was paired? Not if this appliance may have used them already
    /// under an epoch that it forgot.
    fn may_resume(&self, born: &[Process]) -> bool {
        self.floor_known || born.contains(&self.process)
    }
}

impl Inheritance {
    /// Puts together what a copy holds of these VIPs.
    pub(super) fn new(holding: Holding, vips: &[u16], heir: Heir) -> Self {
        let Holding { records: Records { opened, pins }, counters, rejected, warm } = holding;
        let mut inheritance = Self { left_out: rejected, warm, pins, ..Self::default() };
        let mut ikes = Vec::new();
        let mut children = HashMap::new();
        for (key, opened) in opened.into_iter().filter(|(key, _)| vips.contains(&key.vip)) {
            match opened {
                Opened::Ike(birth, record) => ikes.push((birth, record)),
                Opened::Child(born, record) => drop(children.insert(key.id, (born, record))),
                Opened::InHand(read) => inheritance.hand = read,
                Opened::Standings(read) => inheritance.standings = read,
                Opened::Unreadable => inheritance.left_out += 1,
            }
        }
        let mut starts = HashMap::new();
        let mut whole = true;
        for block in counters {
            match block {
                Ok(block) => starts.extend(block.entries.iter().map(|entry| {
                    let start = Start { horizon: entry.horizon, sent: entry.lease, lease: entry.lease };
                    (entry.spi, (start, entry.edge))
                })),
                Err(rejected) => {
                    tracing::warn!(?rejected, "counter block left out: its child SAs can't be resumed");
                    whole = false;
                }
            }
        }
        // An SA without an entry has reported nothing yet, and used nothing beyond what it began with. With a block lost that can't
        // be told from an SA whose numbers are lost.
        let unreported = whole.then_some((Start { horizon: 0, sent: FIRST_LEASE, lease: FIRST_LEASE }, 0));
        let start = |spi: u32| starts.get(&spi).copied().or(unreported);
        // Two name the same child SA where an owner died while it wrote a rekeying. The remote peer has not heard of it, or will
        // answer the elder's request once more: so the elder has it, and the heir isn't there yet.
        let mut taken = HashSet::new();
        ikes.sort_by_key(|(birth, _): &(Birth, Box<IkeSaRecord>)| birth.order);
        for (birth, ike) in ikes {
            inheritance.adopt(birth, ike, &mut children, &mut taken, &start, heir);
        }
        inheritance
    }

    /// Puts a set together: a child that no IKE record names doesn't exist.
    fn adopt(
        &mut self,
        birth: Birth,
        ike: Box<IkeSaRecord>,
        children: &mut HashMap<u64, (Vec<Process>, Box<ChildSaRecord>)>,
        taken: &mut HashSet<u32>,
        start: &impl Fn(u32) -> Option<(Start, u64)>,
        heir: Heir,
    ) {
        // The elder that it is to take the place of has the child SAs: it isn't there yet.
        if ike.children().iter().any(|spi| taken.contains(spi)) {
            return tracing::debug!(ike_sa = %ike.id(), "an heir whose rekeying was not written to the end is left out");
        }
        taken.extend(ike.children());
        let mut own = Vec::new();
        let is_poison = self.hand.poison().is_some_and(|hand| hand.ike_sa == ike.id().get());
        let is_old = !heir.may_resume(&birth.witnesses);
        let mut unusable = is_poison.then_some(Why::Poison).or(is_old.then_some(Why::BornBeforeFloor));
        let mut shut = None;
        for spi in ike.children() {
            let Some((born, mut record)) = children.remove(&u64::from(*spi)) else {
                let spi = format_args!("{spi:08x}");
                tracing::warn!(ike_sa = %ike.id(), spi_in = %spi, "the record of this child SA is missing");
                unusable.get_or_insert(Why::RecordLost);
                continue;
            };
            let known = start(*spi);
            let obstacle = match known {
                _ if !heir.may_resume(&born) => Some(Why::BornBeforeFloor),
                None => Some(Why::NumbersLost),
                Some(_) => None,
            };
            if obstacle.is_some() {
                record.set_stale();
                shut = obstacle;
            }
            let (start, edge) = known.unwrap_or((Start { horizon: 0, sent: 0, lease: 0 }, 0));
            own.push(InheritedChild { record, start, edge, born });
        }
        // Of several for the same traffic the newest carries it.
        own.sort_by_key(|child| Reverse(child.record.age()));
        match unusable {
            None => self.sets.push(Inherited { ike, children: own, birth, shut }),
            // Nobody misses it.
            Some(_) if ike.is_leaving() => {}
            Some(why) => {
                let records: Vec<ChildSaRecord> = own.into_iter().map(|child| *child.record).collect();
                self.unusable.push(Unusable { id: ike.id(), callee: ike.callee(&records), why });
            }
        }
    }
}
