//! A live reader's warm copy: what it holds when it has caught up is what the region holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vipsec_wire::iv::Epoch;

use super::support::{Contents, Model, Op, Pair, Step, Stepped, contents, key, op, record, small_sizes};
use crate::geometry::AT_JOURNAL;
use crate::{Change, Conclusion, RecordKey, SizeClass, Sizes, StoreWriter};

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

/// What a follower has in the end.
fn concluded(mut warm: BTreeMap<RecordKey, Vec<u8>>, conclusion: Conclusion) -> Contents {
    apply(&mut warm, conclusion.changes);
    let counters = conclusion.counters.into_iter().map(|block| {
        let block = block.unwrap();
        (block.index, block.entries)
    });
    Contents { records: warm, counters: counters.collect() }
}

proptest! {
    /// The fence falls between any two steps of a writer that goes on, wherever a follower is: what it concludes is a prefix of the
    /// writes, with all acknowledged ones. Or it concludes nothing; that it concludes at all, another test says.
    #[test]
    fn at_the_fence_the_warm_copy_is_the_region(
        ops in prop::collection::vec(op(), 1..60),
        seed: u64,
        follows in prop::collection::vec((0..400usize, 1..20u32), 0..12),
        fence in any::<prop::sample::Index>(),
        pace in prop::collection::vec(prop_oneof![3 => Just(0usize), 2 => Just(1), 1 => 2..12usize], 8..64),
    ) {
        let mut recording = record(&ops, seed);
        let steps = std::mem::take(&mut recording.steps);
        let fence_at = fence.index(steps.len() + 1);
        let mut memory = vec![0; recording.pair.region.geometry().words()];
        let mut warm = BTreeMap::new();
        let mut acknowledged = 0;
        for (nth, step) in steps[..fence_at].iter().enumerate() {
            for (_, places_max) in follows.iter().filter(|(at, _)| *at == nth) {
                apply(&mut warm, recording.pair.reader.follow(&Stepped::new(&memory, &[], |_| 0), *places_max));
            }
            match *step {
                Step::Store { at, word } => memory[at] = word,
                Step::Learn { look } => {
                    let Step::Look { upto } = steps[look] else { panic!("no look") };
                    acknowledged = upto;
                }
                Step::Look { .. } => {}
            }
        }
        // A look behind the fence finds the grant revoked: nothing comes after the writer has learned of it.
        let revoked = |step: &Step| matches!(step, Step::Learn { look } if *look >= fence_at);
        let end = steps.iter().position(revoked).unwrap_or(steps.len()).max(fence_at);
        for step in &steps[fence_at..end] {
            if let Step::Learn { look } = *step && let Step::Look { upto } = steps[look] {
                acknowledged = upto;
            }
        }
        let late = Stepped::new(&memory, &steps[fence_at..end], |load| pace[load % pace.len()]);
        if let Some(conclusion) = recording.pair.reader.conclude_in(&late) {
            let cut = conclusion.cut.0;
            prop_assert!(cut >= acknowledged);
            prop_assert_eq!(&concluded(warm, conclusion), &recording.model.after[cut as usize]);
        }
    }

    /// A journal that leads the follower astray is found out.
    #[test]
    fn a_damaged_journal_hides_nothing(
        ops in prop::collection::vec(op(), 1..60),
        damage in prop::collection::vec((0..16usize, prop_oneof![any::<u64>(), 0..40u64]), 1..6),
        followed in 0..60usize,
    ) {
        let mut pair = Pair::new(small_sizes());
        let mut writer = pair.join();
        let (mut model, mut warm) = (Model::new(), BTreeMap::new());
        for (nth, op) in ops.iter().enumerate() {
            model.run(&mut writer, op);
            if nth < followed {
                apply(&mut warm, pair.reader.poll_changes(100));
            }
        }
        writer.poll_acknowledged().unwrap();
        pair.reader.fence();
        for (at, word) in damage {
            pair.region.word(AT_JOURNAL + at).unwrap().store(word, std::sync::atomic::Ordering::SeqCst);
        }
        if let Some(conclusion) = pair.reader.conclude().unwrap() {
            prop_assert_eq!(&concluded(warm, conclusion), model.now());
        }
    }

    #[test]
    fn the_warm_copy_catches_up(
        events in prop::collection::vec(
            prop_oneof![8 => op().prop_map(Event::Write), 1 => (1..8u32).prop_map(Event::Follow)],
            1..300,
        ),
        journal_entries in prop_oneof![Just(8u32), Just(16), Just(32), Just(256)],
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
        writer.publish().unwrap();
        // A resync copies all places, then opens them, then follows again.
        for _ in 0..60 {
            apply(&mut warm, pair.reader.poll_changes(8));
        }
        prop_assert_eq!(&warm, &model.now().records);
        pair.reader.fence();
        let conclusion = pair.reader.conclude().unwrap().expect("it is up to date");
        prop_assert_eq!(&concluded(warm, conclusion), model.now());
        // And what it remembers rejects nothing that is right.
        prop_assert_eq!(&contents(&pair.reader.copy().unwrap()), model.now());
    }
}

#[test]
fn a_lapped_reader_starts_over() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    for _ in 0..17 {
        writer.put(key(0), Epoch(3), b"again").unwrap();
        writer.poll_acknowledged().unwrap();
    }
    assert_eq!(pair.reader.poll_changes(100), [Change::Resync]);
    let changes: Vec<_> = (0..3).flat_map(|_| pair.reader.poll_changes(100)).collect();
    assert!(matches!(&changes[..], [Change::Stored(record)] if record.version.0 == 17), "{changes:?}");
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
    writer.publish().unwrap();
    assert_eq!(pair.reader.poll_changes(100).len(), 1);
    // Moved, removed, and long acknowledged.
    writer.put(key(0), Epoch(3), b"y").unwrap();
    writer.remove(key(0)).unwrap();
    for n in 0..4 {
        writer.poll_acknowledged().unwrap();
        writer.put_counters(n % 2, &[]).unwrap();
    }
    writer.publish().unwrap();
    assert_eq!(pair.reader.poll_changes(100), [Change::Removed(key(0))]);
}

#[test]
fn what_is_missing_or_was_put_back_is_not_concluded() {
    let mut pair = Pair::new(Sizes { journal_entries: 32, ..small_sizes() });
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"old").unwrap();
    writer.poll_acknowledged().unwrap();
    let old: Vec<u64> =
        (0..pair.region.geometry().words()).map(|at| crate::words::Words::load(&*pair.region, at)).collect();
    writer.put(key(0), Epoch(3), b"new").unwrap();
    writer.poll_acknowledged().unwrap();
    assert_eq!(pair.reader.poll_changes(100).len(), 1, "the older version is gone already");
    pair.reader.fence();
    assert!(pair.reader.conclude().unwrap().is_some());

    let geometry = pair.region.geometry();
    let places: Vec<_> = geometry.record_places().filter_map(|place| geometry.version_at(place)).collect();
    let word = |at: usize| pair.region.word(at).unwrap();
    let emptied = places.iter().find(|at| old[**at] != 0).unwrap();
    word(*emptied).store(old[*emptied], std::sync::atomic::Ordering::SeqCst);
    assert!(pair.reader.conclude().unwrap().is_none(), "the old version was put back");
    word(*emptied).store(0, std::sync::atomic::Ordering::SeqCst);
    assert!(pair.reader.conclude().unwrap().is_some());
    let full = places.iter().find(|at| crate::words::Words::load(&*pair.region, **at) != 0).unwrap();
    word(*full).store(0, std::sync::atomic::Ordering::SeqCst);
    assert!(pair.reader.conclude().unwrap().is_none(), "the record was blanked");
}

/// Otherwise it would look at everything, again and again, until the join is over: a resync of 100,000 SAs took five times as long.
#[test]
fn a_reader_that_sleeps_through_a_join_is_not_lapped() {
    let records = 3000u32;
    let class = |bytes| SizeClass { records, bytes };
    let sizes = Sizes {
        classes: vec![class(16), class(40)],
        counter_blocks: records.div_ceil(32),
        journal_entries: Sizes::journal_for(records),
    };
    let mut pair = Pair::new(sizes);
    let mut writer = pair.join();
    for n in 0..u64::from(records) {
        for bytes in [&b"child"[..], b"an IKE SA with its last response"] {
            writer.put(RecordKey { kind: bytes.len() as u8, vip: 0, id: n }, Epoch(3), bytes).unwrap();
        }
        writer.poll_acknowledged().unwrap();
    }
    for block in 0..records.div_ceil(32) {
        writer.put_counters(block, &[]).unwrap();
    }
    let mut stored = 0;
    while stored < 2 * records {
        let changes = pair.reader.poll_changes(1024);
        assert!(!changes.is_empty() && changes.iter().all(|change| matches!(change, Change::Stored(_))));
        stored += changes.len() as u32;
    }
}

/// The follower believed it, although the record lay where it had read it.
#[test]
fn a_journal_that_says_a_record_is_gone_is_not_believed() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"stays").unwrap();
    writer.publish().unwrap();
    let place = match &pair.reader.poll_changes(100)[..] {
        [Change::Stored(_)] => u64::from(pair.region.geometry().record_places().start),
        other => panic!("{other:?}"),
    };
    let second = writer.put_counters(0, &[]).unwrap();
    writer.poll_acknowledged().unwrap();
    pair.reader.fence();
    let entry = pair.region.word(pair.region.geometry().journal_at(second.0)).unwrap();
    let right = entry.swap(place | u64::from(u32::MAX) << 32, std::sync::atomic::Ordering::SeqCst);
    assert_ne!(right as u32, place as u32);
    assert!(pair.reader.conclude().unwrap().is_none());
}
