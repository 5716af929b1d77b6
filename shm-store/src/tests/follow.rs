//! A live reader's warm copy: what it holds when it has caught up is what the region holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vipsec_wire::iv::Epoch;

use super::support::{Model, Op, Pair, contents, key, op, small_sizes};
use crate::{Change, RecordKey, Sizes, StoreWriter};

#[derive(Debug, Clone)]
enum Event {
    Write(Op),
    Follow(u32),
}

fn apply(warm: &mut BTreeMap<RecordKey, Vec<u8>>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Resync => warm.clear(),
            Change::Stored(record) => drop(warm.insert(record.key, record.bytes.to_vec())),
            Change::Removed(key) => drop(warm.remove(&key)),
            Change::Rejected(rejected) => panic!("{rejected:?}"),
        }
    }
}

proptest! {
    #[test]
    fn the_warm_copy_catches_up(
        events in prop::collection::vec(
            prop_oneof![8 => op().prop_map(Event::Write), 1 => (1..8u32).prop_map(Event::Follow)],
            1..300,
        ),
        journal_entries in prop_oneof![Just(8u32), Just(32), Just(256)],
    ) {
        let mut pair = Pair::new(Sizes { journal_entries, ..small_sizes() });
        let mut writer = pair.join();
        let (mut model, mut warm) = (Model::new(), BTreeMap::new());
        for event in events {
            match event {
                Event::Write(op) => model.run(&mut writer, &op),
                Event::Follow(places_max) => apply(&mut warm, pair.reader.poll_changes(places_max)),
            }
        }
        // A resync copies all places, then opens them, then follows again.
        for _ in 0..60 {
            apply(&mut warm, pair.reader.poll_changes(8));
        }
        prop_assert_eq!(&warm, &model.now().records);
        // And what it remembers rejects nothing that is right.
        pair.reader.fence();
        prop_assert_eq!(&contents(&pair.reader.copy().unwrap()), model.now());
    }
}

#[test]
fn a_lapped_reader_starts_over() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    for _ in 0..9 {
        writer.put(key(0), Epoch(3), b"again").unwrap();
        writer.poll_acknowledged().unwrap();
    }
    assert_eq!(pair.reader.poll_changes(100), [Change::Resync]);
    let changes: Vec<_> = (0..3).flat_map(|_| pair.reader.poll_changes(100)).collect();
    assert!(matches!(&changes[..], [Change::Stored(record)] if record.version.0 == 9), "{changes:?}");
}

#[test]
fn nothing_is_followed_behind_the_fence() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"x").unwrap();
    pair.reader.fence();
    assert_eq!(pair.reader.poll_changes(100), []);
}

#[test]
fn a_reader_that_comes_late_still_meets_the_tombstone() {
    let mut pair = Pair::new(Sizes { journal_entries: 32, ..small_sizes() });
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"x").unwrap();
    assert_eq!(pair.reader.poll_changes(100).len(), 1);
    // Moved, removed, and long acknowledged.
    writer.put(key(0), Epoch(3), b"y").unwrap();
    writer.remove(key(0)).unwrap();
    for n in 0..4 {
        writer.poll_acknowledged().unwrap();
        writer.put_counters(n % 2, &[]).unwrap();
    }
    assert_eq!(pair.reader.poll_changes(100), [Change::Removed(key(0))]);
}
