//! The real steps of writer and reader under a model checker, which tries every order that the memory model allows, as far as the
//! bound on preemptions goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::model::Builder;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::support::{Pair, key};
use crate::geometry::AT_GRANT;
use crate::place::{Content, Header, Look, look_at, version_word};
use crate::words::{Words, WordsMut, ask, last_entry, order, set_grant, write};
use crate::{Answer, Geometry, OneSided, SizeClass, Sizes, StoreError, StoreWriter, WriteId, Writer};

const GRANT: u64 = 77;

/// Memory whose every access the checker orders.
#[derive(Debug, Clone)]
struct Modelled {
    words: Arc<BTreeMap<usize, AtomicU64>>,
}

impl Modelled {
    /// The words at these offsets; nobody touches others.
    fn new(words: impl IntoIterator<Item = (usize, u64)>) -> Self {
        Self { words: Arc::new(words.into_iter().map(|(at, word)| (at, AtomicU64::new(word))).collect()) }
    }
}

impl Words for Modelled {
    fn load(&self, at: usize) -> u64 {
        self.words.get(&at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }
}

impl WordsMut for Modelled {
    fn store(&self, at: usize, word: u64) {
        self.words[&at].store(word, Ordering::Relaxed);
    }

    fn swap(&self, at: usize, word: u64) {
        self.words[&at].swap(word, Ordering::SeqCst);
    }
}

fn check(preemptions_max: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.check(model);
}

/// Grant and the numbers of two writes.
fn head() -> Modelled {
    let last = [last_entry(1, 1), last_entry(2, 2)].into_iter().flat_map(|(at, _)| [(at, 0), (at + 1, 0)]);
    Modelled::new(last.chain([(AT_GRANT, GRANT)]))
}

/// I3, and that nothing acknowledged is lost: who writes, then sees the grant, is seen by whoever took it back.
#[test]
fn a_write_that_saw_its_grant_is_seen_behind_the_fence() {
    check(3, || {
        let memory = head();
        let writer = thread::spawn({
            let memory = memory.clone();
            move || {
                let mut acknowledged = 0;
                for number in 1..=2 {
                    let (at, words) = last_entry(number, number);
                    order(&memory);
                    write(&memory, at, &words);
                    if ask(&memory) == GRANT {
                        acknowledged = number;
                    }
                }
                acknowledged
            }
        });
        set_grant(&memory, 0);
        let cut = memory.last();
        let acknowledged = writer.join().unwrap();
        assert!(cut >= acknowledged, "the cut is {cut}, but {acknowledged} was acknowledged");
    });
}

/// One class of one-word records: the smallest region there is.
fn sizes() -> Sizes {
    Sizes { classes: vec![SizeClass { records: 1, bytes: 8 }], counter_blocks: 0, journal_entries: 1 }
}

/// A place that is emptied and filled again while somebody looks has the old content, the new one, or none.
#[test]
fn a_place_is_seen_whole_or_not_at_all() {
    check(2, || {
        let geometry = Geometry::new(sizes()).unwrap();
        let (at, version_at) = (geometry.place(0).unwrap().at, geometry.version_at(0).unwrap());
        let content = |version| {
            let header = Header {
                version,
                content: Content::Record,
                key: key(0),
                epoch: Epoch(version as u32),
                writer: ApplianceId::new(1).unwrap(),
                len: 8,
            };
            // Tag and sealed bytes of this version, too.
            let [_, meta, id, len] = header.encode();
            [meta, id, len, version, version, version]
        };
        let memory = Modelled::new((at..).zip(content(1)).chain([(version_at, version_word(1))]));
        let writer = thread::spawn({
            let memory = memory.clone();
            move || {
                write(&memory, version_at, &[0]);
                order(&memory);
                write(&memory, at, &content(2));
                order(&memory);
                write(&memory, version_at, &[version_word(2)]);
            }
        });
        if let Look::Found(copied) = look_at(&memory, &geometry, 0) {
            let header = copied.header().unwrap();
            assert_eq!(u64::from(header.epoch.0), header.version, "a header of two versions");
            let version = header.version.to_le_bytes();
            assert_eq!(
                (copied.tag, copied.sealed.as_deref()),
                ([version, version].concat().try_into().unwrap(), Some(&version[..]))
            );
        }
        writer.join().unwrap();
    });
}

/// The link to modelled memory.
struct Near {
    geometry: Geometry,
    memory: Modelled,
    answer: Option<Answer>,
}

impl OneSided for Near {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn write(&mut self, at: usize, words: &[u64]) -> Result<(), StoreError> {
        write(&self.memory, at, words);
        Ok(())
    }

    fn order(&mut self) -> Result<(), StoreError> {
        order(&self.memory);
        Ok(())
    }

    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError> {
        self.answer = Some(Answer { upto, grant: ask(&self.memory) });
        Ok(())
    }

    fn answered(&mut self) -> Result<Option<Answer>, StoreError> {
        Ok(self.answer.take())
    }
}

/// The whole of it: a record is written anew, counted, and its old place emptied, while the fence falls and the region is copied.
#[test]
fn a_snapshot_has_what_was_acknowledged() {
    check(1, || {
        let mut pair = Pair::new(sizes());
        let grant = pair.reader.join(&mut pair.rng).unwrap();
        let word = u64::from_le_bytes(grant.to_bytes());
        let geometry = pair.region.geometry().clone();
        // What two writes touch: head, journal, and the first three places.
        let places = (0..3).flat_map(|place| {
            let at = geometry.place(place).unwrap().at;
            (at..at + 8).chain(geometry.version_at(place))
        });
        let (even, odd) = (last_entry(2, 2).0, last_entry(1, 1).0);
        let words = places.chain([even, even + 1, odd, odd + 1, geometry.journal_at(1)]).map(|at| (at, 0));
        let memory = Modelled::new(words.chain([(AT_GRANT, word)]));
        let near = Near { geometry, memory: memory.clone(), answer: None };
        let mut writer = Writer::new(near, &mut pair.owner.writer, grant).unwrap();
        writer.put(key(0), Epoch(3), &1u64.to_le_bytes()).unwrap();
        writer.poll_acknowledged().unwrap();
        let writer = thread::spawn(move || {
            writer.put(key(0), Epoch(3), &2u64.to_le_bytes()).unwrap();
            writer.poll_acknowledged().map_or(1, |acknowledged| acknowledged.0)
        });
        set_grant(&memory, 0);
        let snapshot = pair.reader.copy_of(&memory);
        let acknowledged = writer.join().unwrap();
        let records: Vec<_> = snapshot.records().map(Result::unwrap).collect();
        let cut = snapshot.cut().0;
        assert!(cut >= acknowledged);
        assert_eq!(records.iter().map(|record| &record.bytes[..]).collect::<Vec<_>>(), [&cut.to_le_bytes()[..]]);
    });
}
