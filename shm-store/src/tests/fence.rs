//! The fence falls between any two steps of a writer that goes on until it looks at the grant: the snapshot holds a
//! prefix of its writes, with all that it counted as acknowledged, whatever it stores while the copy is made.

use proptest::prelude::*;

use super::support::{Op, Pair, Recording, Step, Stepped, contents, key, op, record, small_sizes};
use crate::LocalMemory;
use crate::{Reader, ReaderError, StoreError, StoreWriter, Writer};
use std::sync::Arc;
use vipsec_wire::iv::Epoch;

/// Calls `check` for each place of the fence with memory, acknowledged write, and the steps that come too late.
fn for_each_fence(recording: &Recording, mut check: impl FnMut(&Reader, &[u64], u64, &[Step])) {
    let mut memory = vec![0; recording.pair.region.geometry().words()];
    for fence_at in 0..=recording.steps.len() {
        // A look behind the fence finds the grant revoked: nothing comes after the writer has learned of it. Until then it
        // goes on, and counts what looks before the fence tell it.
        let revoked = |step: &Step| matches!(step, Step::Learn { look } if *look >= fence_at);
        let end = recording.steps.iter().position(revoked).unwrap_or(recording.steps.len());
        let learned = recording.steps[..end].iter().filter_map(|step| match step {
            Step::Learn { look } => Some(recording.looked(*look)),
            _ => None,
        });
        let acknowledged = learned.max().unwrap_or(0);
        check(&recording.pair.reader, &memory, acknowledged, &recording.steps[fence_at..end.max(fence_at)]);
        if let Some(&Step::Store { at, word }) = recording.steps.get(fence_at) {
            memory[at] = word;
        }
    }
}

fn assert_prefix(recording: &Recording, reader: &Reader, memory: &Stepped<'_>, acknowledged: u64) {
    let snapshot = reader.copy_of(memory);
    let cut = snapshot.cut().0;
    assert!(cut >= acknowledged, "write {acknowledged} was acknowledged, the snapshot ends at {cut}");
    assert_eq!(contents(&snapshot), recording.model.after[cut as usize]);
}

/// All late steps at once, before each single load of the copy.
#[test]
fn every_late_burst_at_every_load_of_the_copy() {
    use Op::{Counters, Poll, Put, Remove};
    let mixed = [Put(0, 16), Remove(1), Poll, Put(1, 30), Counters(0, 2), Put(0, 3), Poll];
    let removals = [Put(1, 16), Poll, Poll, Remove(1), Poll, Put(0, 5), Poll, Put(0, 5), Poll];
    let mut schedules = 0;
    for (rounds, seed) in [(&mixed[..], 0), (&removals, 1), (&removals, 2), (&removals, 3)] {
        let ops: Vec<Op> = rounds.iter().cycle().take(10 * rounds.len()).cloned().collect();
        let recording = record(&ops, seed);
        for_each_fence(&recording, |reader, memory, acknowledged, late| {
            let quiet = Stepped::new(memory, late, |_| 0);
            assert_prefix(&recording, reader, &quiet, acknowledged);
            for load in 0..if late.is_empty() { 0 } else { quiet.loads() } {
                let burst = Stepped::new(memory, late, |now| if now == load { usize::MAX } else { 0 });
                assert_prefix(&recording, reader, &burst, acknowledged);
                schedules += 1;
            }
        });
    }
    assert!(schedules > 10_000, "{schedules}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Late steps spread over the copy at random.
    #[test]
    fn late_steps_change_nothing(
        ops in prop::collection::vec(op(), 1..60),
        seed: u64,
        pace in prop::collection::vec(prop_oneof![3 => Just(0usize), 2 => Just(1), 1 => 2..12usize], 8..64),
        offset in 0..64usize,
    ) {
        let recording = record(&ops, seed);
        for_each_fence(&recording, |reader, memory, acknowledged, late| {
            let stepped = Stepped::new(memory, late, |load| pace[(load + offset) % pace.len()]);
            assert_prefix(&recording, reader, &stepped, acknowledged);
        });
    }
}

#[test]
fn a_write_behind_the_fence_is_refused_for_ever() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    let counted = writer.put(key(0), Epoch(3), b"counted").unwrap();
    assert_eq!(writer.poll_acknowledged(), Ok(counted));
    let late = writer.put(key(1), Epoch(3), b"late").unwrap();
    pair.reader.fence();
    assert_eq!(writer.poll_acknowledged(), Err(StoreError::Refused));
    assert_eq!(writer.poll_acknowledged(), Err(StoreError::Refused));
    assert_eq!(writer.put(key(1), Epoch(3), b"more"), Err(StoreError::Refused));
    assert_eq!(writer.remove(key(0)), Err(StoreError::Refused));
    assert_eq!(writer.put_counters(0, &[]), Err(StoreError::Refused));
    // Published before the fence, though never acknowledged: the successor may know more than the owner counted on.
    assert_eq!(pair.reader.copy().unwrap().cut(), late);
}

#[test]
fn an_idle_writer_learns_of_the_fence_too() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    assert_eq!(writer.poll_acknowledged().map(|id| id.0), Ok(0));
    pair.reader.fence();
    assert_eq!(writer.poll_acknowledged(), Err(StoreError::Refused));
}

#[test]
fn copying_takes_a_grant_and_a_fence() {
    let mut pair = Pair::new(small_sizes());
    assert_eq!(pair.reader.copy().unwrap_err(), ReaderError::NothingGranted);
    pair.join();
    assert_eq!(pair.reader.copy().unwrap_err(), ReaderError::NotFenced);
    pair.reader.fence();
    assert_eq!(contents(&pair.reader.copy().unwrap()), Default::default());
}

#[test]
fn a_new_join_starts_empty_and_old_grants_write_nothing_into_it() {
    let mut pair = Pair::new(small_sizes());
    let first = pair.reader.join(&mut pair.rng).unwrap();
    let again = crate::Grant::from_bytes(first.to_bytes());
    let mut old = Writer::new(LocalMemory::new(pair.region.clone()), &mut pair.owner.writer, first).unwrap();
    old.put(key(0), Epoch(3), b"old").unwrap();
    old.poll_acknowledged().unwrap();

    let mut new = pair.join();
    // A late write under the old grant, in the middle of the new one.
    old.put(key(1), Epoch(3), b"late").unwrap();
    assert_eq!(old.poll_acknowledged(), Err(StoreError::Refused));
    let stale = Writer::new(LocalMemory::new(pair.region.clone()), &mut pair.owner.writer, again);
    assert!(matches!(stale, Err(StoreError::StaleGrant)));

    new.put(key(2), Epoch(3), b"new").unwrap();
    new.put(key(3), Epoch(3), b"newer").unwrap();
    new.poll_acknowledged().unwrap();
    pair.reader.fence();
    let snapshot = pair.reader.copy().unwrap();
    let keys: Vec<_> = snapshot.records().filter_map(Result::ok).map(|record| record.key).collect();
    assert_eq!(keys, [key(2), key(3)]);
}

/// Writer and fence race on two cores: either the writer sees the fence, or the fencing side sees the write.
#[test]
fn no_write_that_saw_its_grant_is_missed() {
    use crate::geometry::{AT_GRANT, Geometry};
    use crate::words::{Words, last_entry, set_grant};
    use crate::{OneSided, Region, RegionId, WriteId};
    use std::sync::atomic::{AtomicU64, Ordering};

    const RACES: u64 = 20_000;
    let region = Arc::new(Region::anonymous(Geometry::new(small_sizes()).unwrap(), RegionId([1; 16])));
    let (round, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut memory = LocalMemory::new(region.clone());
            let mut race = |number| {
                let mut spins = 0u32;
                while round.load(Ordering::Acquire) < number {
                    spins += 1;
                    if spins.is_multiple_of(4096) {
                        std::thread::yield_now();
                    }
                }
                // Now the grant word is in this core's cache and the other isn't: a look that can overtake the write does.
                std::hint::black_box(region.load(AT_GRANT));
                let (at, words) = last_entry(number, number);
                memory.order().unwrap();
                memory.write(at, &words).unwrap();
                memory.ask(WriteId(number)).unwrap();
                let saw = memory.answered().unwrap().unwrap().grant == number;
                done.store(number, Ordering::Release);
                saw
            };
            (1..=RACES).map(&mut race).collect()
        });
        let mut visible = Vec::new();
        for number in 1..=RACES {
            set_grant(&*region, number);
            round.store(number, Ordering::Release);
            // Meet the writer at different steps.
            (0..number % 64).for_each(|_| std::hint::spin_loop());
            set_grant(&*region, 0);
            visible.push(region.last() == number);
            while done.load(Ordering::Acquire) < number {
                std::thread::yield_now();
            }
        }
        let acknowledged: Vec<bool> = writer.join().unwrap();
        for (number, (acknowledged, visible)) in acknowledged.iter().zip(visible).enumerate() {
            assert!(visible || !acknowledged, "race {number}");
        }
    });
}
