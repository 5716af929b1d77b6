//! The owner's writer into a copy. It keeps book of what is acknowledged, and tells something else where a fault is planted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use vipsec_control::core::{KIND_CHILD, KIND_IKE};
use vipsec_store::{CounterEntry, RecordKey, StoreError, StoreWriter, Usage, WriteId};
use vipsec_wire::iv::Epoch;

/// What was written into a copy, and how far it is acknowledged: the truth, whatever the owner is told.
#[derive(Debug, Default)]
pub(crate) struct Known {
    acknowledged: WriteId,
    /// What a successor acts on holds nothing newer.
    fenced: Option<WriteId>,
    /// IKE SAs and child SAs: each version, with its number; `None`: removed. Of a child SA it is enough that it is there.
    versions: BTreeMap<RecordKey, Vec<Version>>,
}

/// A version of a record, and its number.
type Version = (WriteId, Option<Vec<u8>>);

/// Shared by the writer and the world.
pub(crate) type SharedKnown = Arc<Mutex<Known>>;

/// Runs `f` on what is known behind a handle.
pub(crate) fn with<T>(known: &SharedKnown, f: impl FnOnce(&mut Known) -> T) -> T {
    f(&mut known.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Known {
    pub(crate) fn acknowledged(&self) -> WriteId {
        self.acknowledged
    }

    /// A successor has fenced the copy: nothing that is acknowledged from now on does it know.
    pub(crate) fn fence(&mut self, newest: WriteId) {
        self.fenced.get_or_insert(newest);
    }

    /// Was a write acknowledged that the successor doesn't know?
    pub(crate) fn leaks(&self) -> bool {
        self.fenced.is_some_and(|newest| self.acknowledged > newest)
    }

    /// It will be written.
    fn expect(&mut self, key: RecordKey) {
        self.versions.entry(key).or_default();
    }

    fn note(&mut self, key: RecordKey, write: WriteId, bytes: Option<&[u8]>) {
        let bytes = match key.kind {
            KIND_IKE => bytes.map(<[u8]>::to_vec),
            KIND_CHILD => bytes.map(|_| Vec::new()),
            _ => return,
        };
        self.versions.entry(key).or_default().push((write, bytes));
    }

    /// Versions of a record that were acknowledged when everything up to `by` was.
    fn versions(&self, key: RecordKey, by: WriteId) -> impl Iterator<Item = Option<&[u8]>> {
        let versions = self.versions.get(&key).into_iter().flatten();
        versions.filter(move |(write, _)| *write <= by).map(|(_, bytes)| bytes.as_deref())
    }

    /// Is an IKE message acknowledged, with what it changed? Its bytes stand in the IKE SA's record; the last word over an IKE SA that
    /// is gone from the copy, or was before it was filled, stands nowhere.
    pub(crate) fn holds_message(&self, key: RecordKey, message: &[u8]) -> bool {
        let says = |record: &[u8]| record.windows(message.len()).any(|bytes| bytes == message);
        let newest = self.versions(key, self.acknowledged).last();
        let is_gone = newest.map_or(!self.versions.contains_key(&key), |newest| newest.is_none());
        is_gone || self.versions(key, self.acknowledged).flatten().any(says)
    }

    /// Was the record of an SA acknowledged, when everything up to `by` was?
    pub(crate) fn holds(&self, key: RecordKey, by: WriteId) -> bool {
        self.versions(key, by).any(|bytes| bytes.is_some())
    }
}

/// What an owner is told instead of the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// R1: a child SA counts as acknowledged before its record is written.
    EarlySas,
    /// R2: the same of an IKE SA's record, which holds its messages.
    EarlyMessages,
    /// Writes are acknowledged though the grant is gone.
    NeverRefused,
    /// Of records that are written together the last one is written first.
    CommitFirst,
}

/// The owner's writer.
pub(crate) struct WatchedWriter<W> {
    inner: W,
    lie: Option<Lie>,
    written: WriteId,
    /// Planted: records that are still to be written, the last one first.
    held_back: Vec<(RecordKey, Epoch, Vec<u8>)>,
    known: SharedKnown,
}

impl<W: StoreWriter> WatchedWriter<W> {
    pub(crate) fn new(inner: W, lie: Option<Lie>, known: SharedKnown) -> Self {
        Self { inner, lie, written: WriteId::default(), held_back: Vec::new(), known }
    }

    fn put_now(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) -> Result<WriteId, StoreError> {
        let truth = self.inner.put(key, epoch, bytes);
        if let Ok(write) = &truth {
            with(&self.known, |known| known.note(key, *write, Some(bytes)));
        }
        self.written = self.tell(truth, self.written)?;
        Ok(self.written)
    }

    fn write_held_back(&mut self) -> Result<(), StoreError> {
        while let Some((key, epoch, bytes)) = self.held_back.pop() {
            self.put_now(key, epoch, &bytes)?;
            // What is published together is seen together, in whatever order it was written.
            self.inner.publish()?;
        }
        Ok(())
    }

    /// Those of [`Lie::CommitFirst`] come with the next write of another kind; the others when all else is acknowledged.
    fn write_commit_first(&mut self) -> Result<(), StoreError> {
        if self.lie == Some(Lie::CommitFirst) { self.write_held_back() } else { Ok(()) }
    }

    fn tell<T>(&mut self, truth: Result<T, StoreError>, instead: T) -> Result<T, StoreError> {
        match truth {
            Err(StoreError::Refused) if self.lie == Some(Lie::NeverRefused) => Ok(instead),
            truth => truth,
        }
    }
}

impl<W: StoreWriter> StoreWriter for WatchedWriter<W> {
    fn put(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) -> Result<WriteId, StoreError> {
        match (self.lie, key.kind) {
            (Some(Lie::CommitFirst), _) => {
                self.held_back.push((key, epoch, bytes.to_vec()));
                Ok(WriteId(self.written.0 + self.held_back.len() as u64))
            }
            (Some(Lie::EarlySas), KIND_CHILD) | (Some(Lie::EarlyMessages), KIND_IKE) => {
                with(&self.known, |known| known.expect(key));
                self.held_back.push((key, epoch, bytes.to_vec()));
                Ok(self.written)
            }
            _ => self.put_now(key, epoch, bytes),
        }
    }

    fn remove(&mut self, key: RecordKey) -> Result<Option<WriteId>, StoreError> {
        self.write_commit_first()?;
        self.held_back.retain(|(held, ..)| *held != key);
        let truth = self.inner.remove(key);
        if let Ok(Some(write)) = &truth {
            with(&self.known, |known| known.note(key, *write, None));
        }
        let removed = self.tell(truth, None)?;
        self.written = removed.unwrap_or(self.written);
        Ok(removed)
    }

    fn put_counters(&mut self, block: u32, entries: &[CounterEntry]) -> Result<WriteId, StoreError> {
        self.write_commit_first()?;
        let truth = self.inner.put_counters(block, entries);
        self.written = self.tell(truth, self.written)?;
        Ok(self.written)
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        self.write_commit_first()?;
        let truth = self.inner.publish();
        self.tell(truth, ())
    }

    fn poll_acknowledged(&mut self) -> Result<WriteId, StoreError> {
        self.write_commit_first()?;
        let truth = self.inner.poll_acknowledged();
        if let Ok(acknowledged) = truth {
            with(&self.known, |known| known.acknowledged = known.acknowledged.max(acknowledged));
            if acknowledged >= self.written {
                self.write_held_back()?;
            }
        }
        self.tell(truth, self.written)
    }

    fn free_slots(&self, bytes: usize) -> u32 {
        self.inner.free_slots(bytes)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}
