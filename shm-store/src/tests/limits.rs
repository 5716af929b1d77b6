//! A region that is full, and records that don't fit.

use vipsec_wire::iv::Epoch;

use super::support::{Pair, contents, key, small_sizes};
use crate::{BLOCK_ENTRIES_MAX, CounterEntry, StoreError, StoreWriter};

#[test]
fn a_full_region_says_so_and_loses_nothing() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    assert_eq!((writer.free_slots(16), writer.free_slots(17), writer.free_slots(41)), (6, 4, 0));
    let small = |n: u8| [n; 16];
    // Two fit their class, four go to the larger one.
    for n in 0..6 {
        writer.put(key(n), Epoch(3), &small(n)).unwrap();
    }
    assert_eq!(writer.free_slots(16), 0);
    assert_eq!(writer.put(key(6), Epoch(3), &small(6)), Err(StoreError::Full));
    writer.poll_acknowledged().unwrap();
    assert_eq!(writer.put(key(6), Epoch(3), &small(6)), Err(StoreError::Full));

    let usage = writer.usage();
    let full = usage.classes.iter().map(|class| (class.bytes, class.records, class.records_max)).collect::<Vec<_>>();
    assert_eq!(full, [(16, 2, 2), (40, 4, 4)]);
    assert_eq!((usage.counter_blocks, usage.counter_blocks_max), (0, 2));
    assert_eq!((usage.written.0, usage.acknowledged.0, usage.bytes), (6, 6, pair.region.geometry().bytes()));
    assert_eq!(pair.reader.written(), usage.written);

    // What is there can still be rewritten and removed, which makes room.
    writer.put(key(0), Epoch(3), &small(100)).unwrap();
    writer.remove(key(5)).unwrap().unwrap();
    writer.put(key(6), Epoch(3), &small(6)).unwrap();
    writer.poll_acknowledged().unwrap();
    pair.reader.fence();
    let found = contents(&pair.reader.copy().unwrap()).records;
    let firsts: Vec<_> = [0, 1, 2, 3, 4, 6].map(|n| found[&key(n)][0]).into();
    assert_eq!((firsts, found.len()), (vec![100, 1, 2, 3, 4, 6], 6));
}

#[test]
fn a_writer_that_never_polls_is_told_to_and_can_go_on() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    let mut rewrites = 0;
    let stopped = loop {
        match writer.put(key(0), Epoch(3), &[rewrites; 16]) {
            Ok(_) => rewrites += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(stopped, StoreError::Behind);
    assert!(rewrites >= 16, "some writes may be in flight");
    assert_eq!(writer.remove(key(0)), Err(StoreError::Behind));
    writer.poll_acknowledged().unwrap();
    writer.put(key(0), Epoch(3), &[99; 16]).unwrap();
    writer.publish().unwrap();
    pair.reader.fence();
    assert_eq!(contents(&pair.reader.copy().unwrap()).records[&key(0)], [99; 16]);
}

#[test]
fn removing_and_putting_back_goes_on_for_ever() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    for n in 0..2 {
        writer.put(key(n), Epoch(3), &[n; 16]).unwrap();
    }
    for _ in 0..200 {
        for n in 0..2 {
            writer.remove(key(n)).unwrap().unwrap();
            writer.poll_acknowledged().unwrap();
            writer.put(key(n), Epoch(3), &[n; 16]).unwrap();
            writer.poll_acknowledged().unwrap();
        }
    }
    assert_eq!(writer.free_slots(16), 4);
}

#[test]
fn what_fits_nowhere_is_refused() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    assert_eq!(writer.put(key(0), Epoch(3), &[0; 41]), Err(StoreError::TooLarge { bytes: 41, bytes_max: 40 }));
    assert_eq!(writer.put_counters(2, &[]), Err(StoreError::NoSuchBlock));
    let entries = [CounterEntry::default(); BLOCK_ENTRIES_MAX + 1];
    assert_eq!(writer.put_counters(0, &entries), Err(StoreError::NoSuchBlock));
    writer.put_counters(0, &entries[1..]).unwrap();
    assert_eq!(writer.put_counters(0, &entries[1..]), Err(StoreError::Behind));
    writer.poll_acknowledged().unwrap();
    writer.put_counters(0, &entries[..3]).unwrap();
    assert_eq!(writer.remove(key(0)), Ok(None));
}
