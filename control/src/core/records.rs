//! Records of a copy, opened; and the copy that a backup keeps warm: each record is opened as it comes, so that a takeover, when
//! every millisecond counts, has only to ask whether that is all.

use std::collections::BTreeMap;

use vipsec_ike::{ChildSaRecord, IkeSaRecord};
use vipsec_store::{Change, CounterBlock, Reader, ReaderError, Record, RecordKey, Rejected, WriteId};
use vipsec_takeover::registry::Process;

use super::publishing::{Birth, KIND_CHILD, KIND_IKE, KIND_PINS, KIND_STANDINGS, open_child, open_ike};
use super::standings::{TargetRecord, open_standings};

/// Writes that are looked at in one go: well below a tick's time even if each was a record; most are counters, which are passed over.
const PLACES_PER_LOOK: u32 = 1024;

/// What a record says.
pub(super) enum Opened {
    /// An IKE SA.
    Ike(Birth, Box<IkeSaRecord>),
    /// A child SA, and whose processes saw it made.
    Child(Vec<Process>, Box<ChildSaRecord>),
    /// How the targets stand.
    Standings(Vec<TargetRecord>),
    /// Pinned connections, as they were written with that write. They change often: a takeover reads them.
    Pins(WriteId, Box<[u8]>),
    /// Nothing that this build understands.
    Unreadable,
}

impl Opened {
    fn new(record: &Record) -> Self {
        let bytes = &record.bytes;
        let opened = match record.key.kind {
            KIND_IKE => open_ike(bytes).map(|(birth, ike)| Self::Ike(birth, Box::new(ike))),
            KIND_CHILD => open_child(bytes).map(|(born, child)| Self::Child(born, Box::new(child))),
            KIND_STANDINGS => open_standings(bytes).map(Self::Standings),
            KIND_PINS => Some(Self::Pins(record.version, bytes.as_slice().into())),
            _ => None,
        };
        opened.unwrap_or_else(|| {
            tracing::warn!(key = ?record.key, "record can't be read: left out");
            Self::Unreadable
        })
    }
}

/// Records by their names.
#[derive(Default)]
pub(super) struct Records(BTreeMap<RecordKey, Opened>);

impl Records {
    fn store(&mut self, record: &Record) {
        self.0.insert(record.key, Opened::new(record));
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Resync => self.0.clear(),
            Change::Stored(record) => self.store(&record),
            Change::Removed(key) => drop(self.0.remove(&key)),
            // With one left out the copy isn't warm: it will be read as a whole.
            Change::Rejected(_) => {}
        }
    }

    /// All of them, in the order of their names.
    pub(super) fn into_opened(self) -> impl Iterator<Item = (RecordKey, Opened)> {
        self.0.into_iter()
    }
}

/// What a fenced region held.
#[derive(Default)]
pub(super) struct Holding {
    pub(super) records: Records,
    /// Each counter block that was ever written.
    pub(super) counters: Vec<Result<CounterBlock, Rejected>>,
    /// Records that did not authenticate.
    pub(super) rejected: usize,
    /// All of it was known before the fence.
    pub(super) warm: bool,
}

/// The region that the peer writes, and what is known of it already.
pub(super) struct WarmCopy {
    reader: Reader,
    records: Records,
}

impl WarmCopy {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, records: Records::default() }
    }

    /// The region.
    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Opens what was written since the last look, or a part of it.
    pub(super) fn follow(&mut self) {
        for change in self.reader.poll_changes(PLACES_PER_LOOK) {
            self.records.apply(change);
        }
    }

    /// Fences the region; returns what it holds.
    pub(super) fn conclude(&mut self) -> Holding {
        self.reader.fence();
        let mut records = std::mem::take(&mut self.records);
        let holding = match self.reader.conclude() {
            Ok(Some(conclusion)) => {
                conclusion.changes.into_iter().for_each(|change| records.apply(change));
                return Holding { records, counters: conclusion.counters, rejected: 0, warm: true };
            }
            // Behind, or something was left out: the region itself tells.
            Ok(None) => self.read(),
            Err(error) => Err(error),
        };
        holding.unwrap_or_else(|error| {
            tracing::error!(%error, "the copy can't be read");
            Holding::default()
        })
    }

    /// Copies the fenced region out and opens every record.
    fn read(&self) -> Result<Holding, ReaderError> {
        let snapshot = self.reader.copy()?;
        let mut holding = Holding { counters: snapshot.counters().collect(), ..Holding::default() };
        for record in snapshot.records() {
            match record {
                Ok(record) => holding.records.store(&record),
                Err(rejected) => {
                    tracing::warn!(?rejected, "record left out");
                    holding.rejected += 1;
                }
            }
        }
        Ok(holding)
    }
}
