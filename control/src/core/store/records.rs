//! Records of a copy, opened; and the copy that a backup keeps warm: each record is opened as it comes, so that a takeover, when
//! every millisecond counts, has only to ask whether that is all.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;
use vipsec_ike::{ChildSaRecord, IkeSaRecord, Vintage};
use vipsec_store::{Change, CounterBlock, Reader, ReaderError, Record, RecordKey, Rejected};
use vipsec_takeover::registry::Process;

use super::in_hand::{HandRecord, open_hand};
use super::pin_table::PinTable;
use super::publishing::{
    Birth, KIND_CHILD, KIND_IKE, KIND_IN_HAND, KIND_PINS, KIND_STANDINGS, child_key, open_child, open_ike,
};
use super::standings::{TargetRecord, open_standings};

/// Writes that are looked at in one go: well below a tick's time even if each was a record; most are counters, which are passed over.
const PLACES_PER_LOOK: u32 = 1024;

/// What a record says.
pub(in crate::core) enum Opened {
    /// A child SA, and whose processes saw it made.
    Child(Vec<Process>, Box<ChildSaRecord>),
    /// How the targets stand.
    Standings(Vec<TargetRecord>),
    /// Whom the owner was dealing with.
    InHand(HandRecord),
    /// Nothing that this build understands.
    Unreadable,
    /// An SA that its heir has taken out.
    Taken,
}

/// The record of an IKE SA.
pub(in crate::core) struct OpenedIke {
    pub(in crate::core) birth: Birth,
    /// In its box, as it was opened: with ten thousand of them a takeover would mostly move memory.
    pub(in crate::core) record: Box<IkeSaRecord>,
    /// It was found good, as far as can be seen before it is taken over.
    pub(in crate::core) good: Option<GoodIke>,
}

/// What a takeover needs of an IKE SA's record that was found good, where it is at hand.
pub(in crate::core) struct GoodIke {
    pub(in crate::core) vintage: Vintage,
    /// Inbound SPIs of its child SAs. Most have one.
    pub(in crate::core) children: SmallVec<[u32; 2]>,
}

impl Opened {
    /// What the record of anything but an IKE SA says.
    fn new(record: &Record) -> Self {
        let bytes = &record.bytes;
        let opened = match record.key.kind {
            KIND_CHILD => open_child(bytes).map(|(born, child)| Self::Child(born, Box::new(child))),
            KIND_STANDINGS => open_standings(bytes).map(Self::Standings),
            KIND_IN_HAND => open_hand(bytes).map(Self::InHand),
            _ => None,
        };
        opened.unwrap_or_else(|| {
            tracing::warn!(key = ?record.key, "record can't be read: left out");
            Self::Unreadable
        })
    }
}

/// Records by their names: IKE SAs, which a takeover goes through one by one, and all others; pins, of which there may be a million, in the
/// table that their next owner goes on with.
#[derive(Default)]
pub(in crate::core) struct Records {
    pub(in crate::core) ikes: HashMap<RecordKey, OpenedIke>,
    pub(in crate::core) opened: HashMap<RecordKey, Opened>,
    pub(in crate::core) pins: PinTable,
}

impl Records {
    fn new(pins_max: u32) -> Self {
        Self { pins: PinTable::new(pins_max), ..Self::default() }
    }

    fn store(&mut self, record: &Record) {
        if let Some(block) = pin_block(&record.key)
            && self.pins.read(block, record.version, &record.bytes).is_ok()
        {
            self.opened.remove(&record.key);
            return;
        }
        if record.key.kind == KIND_IKE
            && let Some((birth, ike)) = open_ike(&record.bytes)
        {
            self.opened.remove(&record.key);
            self.ikes.insert(record.key, OpenedIke { birth, record: Box::new(ike), good: None });
            return;
        }
        self.ikes.remove(&record.key);
        self.opened.insert(record.key, Opened::new(record));
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(block) = pin_block(key) {
            self.pins.read_removal(block);
        }
        self.ikes.remove(key);
        self.opened.remove(key);
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Resync => {
                self.ikes.clear();
                self.opened.clear();
                self.pins.clear();
            }
            Change::Stored(record) => self.store(&record),
            Change::Removed(key) => self.remove(&key),
            // With one left out the copy isn't warm: it will be read as a whole.
            Change::Rejected(_) => {}
        }
    }
}

/// The block of pins that a record is named after.
fn pin_block(key: &RecordKey) -> Option<u32> {
    (key.kind == KIND_PINS).then(|| u32::try_from(key.id).ok()).flatten()
}

/// What has become of an SA's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum News {
    /// It was written, maybe again.
    Stored(RecordKey),
    /// It is gone.
    Removed(RecordKey),
    /// All of them are.
    Cleared,
}

impl News {
    fn of(change: &Change) -> Option<Self> {
        let is_sa = |key: &RecordKey| [KIND_CHILD, KIND_IKE].contains(&key.kind);
        match change {
            Change::Resync => Some(Self::Cleared),
            Change::Stored(record) if is_sa(&record.key) => Some(Self::Stored(record.key)),
            Change::Removed(key) if is_sa(key) => Some(Self::Removed(*key)),
            Change::Stored(_) | Change::Removed(_) | Change::Rejected(_) => None,
        }
    }
}

/// What a fenced region held.
#[derive(Default)]
pub(in crate::core) struct Holding {
    pub(in crate::core) records: Records,
    /// Each counter block that was ever written.
    pub(in crate::core) counters: Vec<Result<CounterBlock, Rejected>>,
    /// Records that did not authenticate.
    pub(in crate::core) rejected: usize,
    /// All of it was known before the fence.
    pub(in crate::core) warm: bool,
}

/// What a fenced region says beside its records, as in [`Holding`].
#[derive(Default)]
struct Rest {
    counters: Vec<Result<CounterBlock, Rejected>>,
    rejected: usize,
    warm: bool,
}

/// The region that the peer writes, and what is known of it already.
pub(in crate::core) struct WarmCopy {
    reader: Reader,
    records: Records,
    rest: Rest,
    pins_max: u32,
    /// From when on somebody wants to know.
    news: Option<VecDeque<News>>,
}

impl WarmCopy {
    /// `pins_max`: connections that find room in it.
    pub(in crate::core) fn new(reader: Reader, pins_max: u32) -> Self {
        Self { reader, records: Records::new(pins_max), rest: Rest::default(), pins_max, news: None }
    }

    /// SAs are news from now on, and those that are there already: IKE SAs in the order in which they were made, before each its child
    /// SAs, the elder before the younger.
    pub(in crate::core) fn tell_news(&mut self) {
        let ikes = self.records.ikes.iter().map(|(key, ike)| (ike.birth.order, *key, ike.record.children()));
        let mut ikes: Vec<_> = ikes.collect();
        ikes.sort_unstable_by_key(|(order, key, _)| (*order, *key));
        let mut there = Vec::new();
        for (_, ike, children) in ikes {
            let keys = children.iter().map(|spi_in| child_key(ike.vip, *spi_in));
            let known = keys.filter_map(|key| Some((Reverse(self.child(&key)?.1.age()), key)));
            let mut known: Vec<_> = known.collect();
            known.sort_unstable();
            there.extend(known.into_iter().map(|(_, key)| key).chain([ike]).map(News::Stored));
        }
        self.news.get_or_insert_default().extend(there);
    }

    /// The next thing that became of an SA's record.
    pub(in crate::core) fn poll_news(&mut self) -> Option<News> {
        self.news.as_mut()?.pop_front()
    }

    /// A child SA's record, and whose processes saw it made.
    pub(in crate::core) fn child(&self, key: &RecordKey) -> Option<(&[Process], &ChildSaRecord)> {
        match self.records.opened.get(key)? {
            Opened::Child(born, record) => Some((born, record)),
            _ => None,
        }
    }

    /// An IKE SA's record.
    pub(in crate::core) fn ike_sa(&mut self, key: &RecordKey) -> Option<&mut OpenedIke> {
        self.records.ikes.get_mut(key)
    }

    /// The region.
    pub(in crate::core) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// How many pinned connections are known of it.
    pub(in crate::core) fn pins(&self) -> usize {
        self.records.pins.len()
    }

    /// Opens what was written since the last look, or a part of it.
    pub(in crate::core) fn follow(&mut self) {
        for change in self.reader.poll_changes(PLACES_PER_LOOK) {
            self.apply(change);
        }
    }

    /// Fences the region, and opens what was written since the last look: no more will come.
    pub(in crate::core) fn conclude(&mut self) {
        self.reader.fence();
        let concluded = match self.reader.conclude() {
            Ok(Some(conclusion)) => {
                conclusion.changes.into_iter().for_each(|change| self.apply(change));
                Ok(Rest { counters: conclusion.counters, rejected: 0, warm: true })
            }
            // Behind, or something was left out: the region itself tells.
            Ok(None) => self.read(),
            Err(error) => Err(error),
        };
        self.rest = concluded.unwrap_or_else(|error| {
            tracing::error!(%error, "the copy can't be read");
            self.records = Records::new(self.pins_max);
            Rest::default()
        });
    }

    /// What the fenced region held.
    pub(in crate::core) fn surrender(&mut self) -> Holding {
        let Rest { counters, rejected, warm } = std::mem::take(&mut self.rest);
        Holding { records: std::mem::take(&mut self.records), counters, rejected, warm }
    }

    fn apply(&mut self, change: Change) {
        if let Some(all) = &mut self.news {
            all.extend(News::of(&change));
        }
        self.records.apply(change);
    }

    /// Copies the fenced region out and opens every record.
    fn read(&mut self) -> Result<Rest, ReaderError> {
        let snapshot = self.reader.copy()?;
        self.records = Records::new(self.pins_max);
        let mut rest = Rest { counters: snapshot.counters().collect(), ..Rest::default() };
        for record in snapshot.records() {
            match record {
                Ok(record) => self.records.store(&record),
                Err(rejected) => {
                    tracing::warn!(?rejected, "record left out");
                    rest.rejected += 1;
                }
            }
        }
        self.tell_news();
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use vipsec_store::WriteId;
    use vipsec_wire::iv::{ApplianceId, Epoch};

    use super::*;

    /// One of a later release: reported, and no reason to leave out the others.
    #[test]
    fn a_kind_of_record_that_is_unknown_is_left_out_by_itself() {
        let record = |kind, id, bytes: Vec<u8>| Record {
            key: RecordKey { kind, vip: 0, id },
            epoch: Epoch(1),
            writer: ApplianceId::new(1).unwrap(),
            version: WriteId(id),
            bytes: bytes.into(),
        };
        let mut records = Records::default();
        records.apply(Change::Stored(record(200, 1, vec![1, 2, 3])));
        records.apply(Change::Stored(record(KIND_STANDINGS, 2, rmp_serde::to_vec(&[0u8; 0]).unwrap())));
        let mut opened: Vec<_> = records.opened.into_iter().map(|(key, opened)| (key.kind, opened)).collect();
        opened.sort_by_key(|(kind, _)| *kind);
        assert!(matches!(&opened[..], [(KIND_STANDINGS, Opened::Standings(_)), (200, Opened::Unreadable)]));
    }
}
