//! What a takeover reads out of the copy: sets of an IKE SA and its child SAs, and where their numbers stand.

use std::cmp::Reverse;
use std::collections::HashMap;

use vipsec_dataplane::api::Wake;
use vipsec_esp::sa::Spi;
use vipsec_ike::{Callee, ChildSaRecord, IkeSaId, IkeSaRecord};
use vipsec_store::RecordKey;
use vipsec_takeover::registry::Process;
use vipsec_wire::iv::Epoch;

use super::ladder::Why;
use super::standby::Prepared;
use crate::core::keying::{FIRST_LEASE, Start};
use crate::core::store::in_hand::HandRecord;
use crate::core::store::pin_table::PinTable;
use crate::core::store::publishing::{Birth, child_key};
use crate::core::store::records::{Holding, Opened, OpenedIke, Records};
use crate::core::store::standings::TargetRecord;

/// An IKE SA as it was read, with its children.
pub(in crate::core) struct Inherited {
    pub(in crate::core) ike: Box<IkeSaRecord>,
    pub(in crate::core) children: Vec<InheritedChild>,
    /// Among the IKE SAs, and whose processes saw it made.
    pub(in crate::core) birth: Birth,
    /// Why some of its child SAs aren't to be used, where they aren't.
    pub(in crate::core) shut: Option<Why>,
    /// The others carry traffic already.
    pub(in crate::core) carries: bool,
}

impl Inherited {
    /// Numbers that its peer is still to use, and that count as seen: the largest room among the child SAs.
    pub(in crate::core) fn ahead(&self) -> u64 {
        self.children.iter().map(|child| child.start.horizon.saturating_sub(child.edge)).max().unwrap_or(0)
    }
}

/// An IKE SA whose records can't be gone on with, but whose peer is known from them.
pub(in crate::core) struct Unusable {
    pub(in crate::core) id: IkeSaId,
    pub(in crate::core) callee: Callee,
    pub(in crate::core) why: Why,
}

/// A child SA as it was read.
pub(in crate::core) struct InheritedChild {
    pub(in crate::core) record: Box<ChildSaRecord>,
    /// Where its numbers go on.
    pub(in crate::core) start: Start,
    /// The highest number that was delivered, as far as was said.
    pub(in crate::core) edge: u64,
    /// Whose processes saw it made.
    pub(in crate::core) born: Vec<Process>,
}

/// What a takeover finds in a copy.
pub(in crate::core) enum Found {
    Set(Inherited),
    Unusable(Unusable),
}

/// Everything that a copy holds of a group: its SAs come out of it one after the other, in the order in which they were made.
pub(in crate::core) struct Inheritance {
    /// Its child SAs, by their records' names.
    children: HashMap<RecordKey, Opened>,
    /// Its IKE SAs, in that order.
    ikes: std::vec::IntoIter<Heirloom>,
    /// How many of them were looked at ahead.
    seen: usize,
    /// How many of those can't be woken without a look at their records.
    asleep: usize,
    /// Where numbers stand, and the highest that was delivered.
    starts: HashMap<u32, (Start, u64)>,
    /// The same for an SA that hasn't said so, unless what it said may be lost.
    unreported: Option<(Start, u64)>,
    heir: Heir,
    /// Whom the owner was dealing with.
    pub(in crate::core) hand: HandRecord,
    /// How the targets stood.
    pub(in crate::core) standings: Vec<TargetRecord>,
    /// Connections that can't be computed.
    pub(in crate::core) pins: PinTable,
    /// Records that did not authenticate or could not be read.
    pub(in crate::core) left_out: usize,
    /// The copy's records were open before it was fenced.
    pub(in crate::core) warm: bool,
}

/// An IKE SA that has yet to come out.
struct Heirloom {
    key: RecordKey,
    ike: OpenedIke,
    /// Its child SAs were woken ahead.
    is_awake: bool,
}

/// What this appliance may resume.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Heir {
    /// The epochs that it once used are known.
    pub(in crate::core) floor_known: bool,
    /// This process.
    pub(in crate::core) process: Process,
}

impl Heir {
    /// May keys be used that were made when this process of ours was paired? Not if this appliance may have used them already
    /// under an epoch that it forgot.
    pub(in crate::core) fn may_resume(&self, born: &[Process]) -> bool {
        self.floor_known || born.contains(&self.process)
    }
}

impl Inheritance {
    /// What a copy holds of these VIPs.
    pub(in crate::core) fn new(holding: Holding, vips: &[u16], heir: Heir) -> Self {
        let Holding { records: Records { ikes, mut opened, pins }, counters, rejected, warm } = holding;
        let (mut hand, mut standings, mut left_out) = (HandRecord::default(), Vec::new(), rejected);
        let ikes = ikes.into_iter().filter(|(key, _)| vips.contains(&key.vip));
        let mut ikes: Vec<_> = ikes.map(|(key, ike)| Heirloom { key, ike, is_awake: false }).collect();
        opened.retain(|key, opened| match opened {
            _ if !vips.contains(&key.vip) => false,
            Opened::Child(..) => true,
            Opened::InHand(read) => {
                hand = std::mem::take(read);
                false
            }
            Opened::Standings(read) => {
                standings = std::mem::take(read);
                false
            }
            Opened::Unreadable => {
                left_out += 1;
                false
            }
            Opened::Taken => false,
        });
        ikes.sort_by_cached_key(|heirloom| (heirloom.ike.birth.order, heirloom.key));
        let mut starts = HashMap::with_capacity(ikes.len());
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
        Self {
            children: opened,
            ikes: ikes.into_iter(),
            seen: 0,
            asleep: 0,
            starts,
            unreported,
            heir,
            hand,
            standings,
            pins,
            left_out,
            warm,
        }
    }

    /// IKE SAs that have yet to come out.
    pub(in crate::core) fn len(&self) -> usize {
        self.ikes.len()
    }

    /// Not all of its IKE SAs were looked at ahead yet.
    pub(in crate::core) fn is_unseen(&self) -> bool {
        self.seen < self.ikes.len()
    }

    /// Child SAs sleep that may be woken yet.
    pub(in crate::core) fn may_sleep(&self) -> bool {
        self.is_unseen() || (self.asleep > 0 && self.len() > 0)
    }

    /// How many IKE SAs were not looked at ahead, and of how many that were the child SAs sleep.
    pub(in crate::core) fn sleepers(&self) -> (usize, usize) {
        (self.ikes.len().saturating_sub(self.seen), self.asleep)
    }

    /// Looks at the next IKE SA ahead of its coming out, and adds to `wakes` what wakes its child SAs, if everything about it was found
    /// good when its records came. These aren't touched: ten thousand are wherever memory is slowest. What is left is what only a
    /// takeover knows. `prepared`: what the workers have.
    ///
    /// What is woken here comes out as a set: child SAs are claimed in the order, and by the rules, of [`adopt`](Self::adopt).
    pub(in crate::core) fn look_ahead(
        &mut self,
        epoch: Epoch,
        prepared: &mut HashMap<Spi, Prepared>,
        wakes: &mut Vec<Wake>,
    ) -> Option<(u16, IkeSaId)> {
        let heirloom = self.ikes.as_mut_slice().get_mut(self.seen)?;
        self.seen += 1;
        let (vip, id) = (heirloom.key.vip, IkeSaId::from(heirloom.key.id));
        let children = heirloom.ike.good.as_ref().map_or_else(|| heirloom.ike.record.children(), |good| &good.children);
        // A copy that had to be read anew may lack what its news told.
        let is_usual = self.warm && !is_poison(&self.hand, id);
        let mut good = heirloom.ike.good.as_ref().map(|good| good.vintage).filter(|_| is_usual);
        let before = wakes.len();
        for spi_in in children {
            let Ok(spi) = Spi::new(*spi_in) else {
                good = None;
                continue;
            };
            let child = prepared.get_mut(&spi).and_then(|child| child.claim().then(|| child.good_at(vip))?);
            let start = self.starts.get(spi_in).copied().or(self.unreported);
            good = good.zip(child).zip(start).map(|((good, (lifetime, vintage)), (start, _))| {
                wakes.push(Wake { spi, edge: start.horizon, sent: start.sent, lifetime });
                good.and(vintage)
            });
        }
        if good.is_some_and(|good| good.allows(epoch).is_ok()) {
            heirloom.is_awake = true;
            for wake in wakes.iter().skip(before) {
                prepared.get_mut(&wake.spi).into_iter().for_each(Prepared::set_awake);
            }
        } else {
            wakes.truncate(before);
            self.asleep += 1;
        }
        Some((vip, id))
    }

    /// Puts a set together: a child that no IKE record names doesn't exist.
    fn adopt(&mut self, heirloom: Heirloom) -> Option<Found> {
        let Heirloom { key: RecordKey { vip, .. }, ike: OpenedIke { birth, record: ike, .. }, is_awake } = heirloom;
        // Two name the same child SA where an owner died while it wrote a rekeying. The remote peer has not heard of it, or will
        // answer the elder's request once more: so the elder has it, and the heir isn't there yet.
        let spis = ike.children().iter();
        let named: Vec<_> = spis.map(|spi| (*spi, self.children.insert(child_key(vip, *spi), Opened::Taken))).collect();
        if named.iter().any(|(_, record)| matches!(record, Some(Opened::Taken))) {
            debug_assert!(!is_awake, "an heir that isn't there was woken");
            tracing::debug!(ike_sa = %ike.id(), "an heir whose rekeying was not written to the end is left out");
            for (spi, record) in named {
                match record {
                    Some(record) => self.children.insert(child_key(vip, spi), record),
                    None => self.children.remove(&child_key(vip, spi)),
                };
            }
            return None;
        }
        let mut own = Vec::with_capacity(named.len());
        let is_poison = is_poison(&self.hand, ike.id());
        let is_old = !self.heir.may_resume(&birth.witnesses);
        let mut unusable = is_poison.then_some(Why::Poison).or(is_old.then_some(Why::BornBeforeFloor));
        let mut shut = None;
        for (spi, record) in named {
            let Some(Opened::Child(born, mut record)) = record else {
                let spi = format_args!("{spi:08x}");
                tracing::warn!(ike_sa = %ike.id(), spi_in = %spi, "the record of this child SA is missing");
                unusable.get_or_insert(Why::RecordLost);
                continue;
            };
            let known = self.starts.get(&spi).copied().or(self.unreported);
            let obstacle = match known {
                _ if !self.heir.may_resume(&born) => Some(Why::BornBeforeFloor),
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
        debug_assert!(!is_awake || (unusable.is_none() && shut.is_none()), "what must not be used was woken");
        match unusable {
            None => Some(Found::Set(Inherited { ike, children: own, birth, shut, carries: is_awake })),
            // Nobody misses it.
            Some(_) if ike.is_leaving() => None,
            Some(why) => {
                let records: Vec<ChildSaRecord> = own.into_iter().map(|child| *child.record).collect();
                Some(Found::Unusable(Unusable { id: ike.id(), callee: ike.callee(&records), why }))
            }
        }
    }
}

/// Was the old owner dealing with it when it died, for the second time?
fn is_poison(hand: &HandRecord, id: IkeSaId) -> bool {
    hand.poison().is_some_and(|hand| hand.ike_sa == id.get())
}

impl Iterator for Inheritance {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let heirloom = self.ikes.next()?;
            if let Some(found) = self.adopt(heirloom) {
                return Some(found);
            }
        }
    }
}
