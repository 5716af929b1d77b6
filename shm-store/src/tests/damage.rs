//! A region that holds something else than what the owner wrote.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::support::{Model, Op, Pair, contents, key, op, small_sizes};
use crate::geometry::{AT_GRANT, AT_LAST, HEADER_WORDS, LAST_WORDS};
use crate::place::{Content, Header, version_word};
use crate::seal::Sealer;
use crate::words::{Words, last_entry};
use crate::{Change, Reason, Region, StoreWriter};

fn image(region: &Region) -> Vec<u64> {
    (0..region.geometry().words()).map(|at| region.load(at)).collect()
}

fn put_back(region: &Region, at: std::ops::Range<usize>, image: &[u64]) {
    for at in at {
        region.word(at).unwrap().store(image[at], Ordering::SeqCst);
    }
}

/// A place's header with its version as a number.
fn head_of(region: &Region, place: u32) -> [u64; 4] {
    let (at, word) = (region.geometry().place(place).unwrap().at, region.load(version_at(region, place)));
    let [meta, id, len_writer] = [0, 1, 2].map(|nth| region.load(at + nth));
    [word << 8 >> 16, meta, id, len_writer]
}

fn version_at(region: &Region, place: u32) -> usize {
    region.geometry().version_at(place).unwrap()
}

/// Sets the number of the newest write, and no other beside it.
fn set_last(region: &Region, number: u64) {
    (AT_LAST..AT_LAST + LAST_WORDS).for_each(|at| region.word(at).unwrap().store(0, Ordering::SeqCst));
    let (at, words) = last_entry(number, number);
    (at..).zip(words).for_each(|(at, word)| region.word(at).unwrap().store(word, Ordering::SeqCst));
}

/// Everything written and acknowledged; the region is at rest.
fn written(ops: &[Op]) -> (Pair, Model) {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    let mut model = Model::new();
    ops.iter().for_each(|op| model.run(&mut writer, op));
    writer.poll_acknowledged().unwrap();
    (pair, model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// No bit of a place can change without the record being reported; what is returned is what was written.
    #[test]
    fn every_bit_of_a_place_counts(ops in prop::collection::vec(op(), 1..40), bit in 0..64u32) {
        let (mut pair, model) = written(&ops);
        pair.reader.fence();
        let region = pair.region.clone();
        for n in 0..region.geometry().places() {
            let place = region.geometry().place(n).unwrap();
            let head = head_of(&region, n);
            let Some(header) = Header::decode(head).filter(|header| header.version != 0) else { continue };
            let sealed_words = (header.len as usize).div_ceil(8);
            let version_at = version_at(&region, n);
            for at in [version_at].into_iter().chain(place.at..place.at + HEADER_WORDS + sealed_words) {
                // Bits that only fill up the last word mean nothing.
                let bits = if at + 1 == place.at + HEADER_WORDS + sealed_words && !header.len.is_multiple_of(8) {
                    header.len % 8 * 8
                } else {
                    64
                };
                let word = region.word(at).unwrap();
                let right = word.fetch_xor(1 << (bit % bits), Ordering::SeqCst);
                let emptied = at == version_at && word.load(Ordering::SeqCst) == 0;

                let snapshot = pair.reader.copy().unwrap();
                let (records, rejected): (Vec<_>, Vec<_>) = snapshot.records().partition(|record| record.is_ok());
                for record in records.iter().flatten() {
                    prop_assert_eq!(Some(&*record.bytes), model.now().records.get(&record.key));
                }
                let blocks: Vec<_> = snapshot.counters().collect();
                for block in blocks.iter().flatten() {
                    prop_assert_eq!(Some(&block.entries), model.now().counters.get(&block.index));
                }
                let bad = rejected.len() + blocks.iter().filter(|block| block.is_err()).count();
                // A place whose version reads 0 is empty.
                prop_assert!(bad == 1 || emptied, "{bad} rejected");
                word.store(right, Ordering::SeqCst);
            }
        }
    }

    /// Garbage is reported, never used, never a panic: live and behind a fence.
    #[test]
    fn garbage_is_no_record(
        words in prop::collection::vec(prop_oneof![any::<u64>(), 0..20u64, Just(1 << 32)], 64..128),
        head in prop_oneof![any::<u64>(), 0..20u64],
    ) {
        let mut pair = Pair::new(small_sizes());
        pair.join();
        for (nth, at) in (AT_LAST..pair.region.geometry().words()).enumerate() {
            pair.region.word(at).unwrap().store(words[nth % words.len()], Ordering::SeqCst);
        }
        set_last(&pair.region, head);
        for _ in 0..8 {
            for change in pair.reader.poll_changes(50) {
                prop_assert!(matches!(change, Change::Resync | Change::Rejected(_)), "{change:?}");
            }
        }
        pair.reader.fence();
        let snapshot = pair.reader.copy().unwrap();
        prop_assert!(snapshot.records().all(|record| record.is_err()));
        prop_assert!(snapshot.counters().all(|block| block.is_err()));
    }
}

fn only_reason(pair: &Pair) -> Reason {
    let found: Vec<_> = pair.reader.copy().unwrap().records().collect();
    match &found[..] {
        [Err(rejected)] => rejected.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn old_bytes_put_back_are_refused() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"old").unwrap();
    writer.poll_acknowledged().unwrap();
    assert_eq!(pair.reader.poll_changes(10).len(), 1);
    let old = image(&pair.region);
    writer.put(key(0), Epoch(3), b"new").unwrap();
    writer.poll_acknowledged().unwrap();
    assert_eq!(pair.reader.poll_changes(10).len(), 1);

    let grant = AT_GRANT..AT_GRANT + 1;
    put_back(&pair.region, grant.end..old.len(), &old);
    pair.reader.fence();
    assert_eq!(only_reason(&pair), Reason::Rollback);
}

#[test]
fn a_removed_record_put_back_is_refused() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"old").unwrap();
    writer.poll_acknowledged().unwrap();
    let old = image(&pair.region);
    pair.reader.poll_changes(10);
    writer.remove(key(0)).unwrap();
    writer.poll_acknowledged().unwrap();
    assert_eq!(pair.reader.poll_changes(10), [Change::Removed(key(0))]);

    put_back(&pair.region, AT_LAST..old.len(), &old);
    pair.reader.fence();
    assert_eq!(only_reason(&pair), Reason::Rollback);
}

#[test]
fn bytes_moved_to_another_place_are_refused() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"here").unwrap();
    writer.poll_acknowledged().unwrap();
    pair.reader.fence();
    let full = (0..pair.region.geometry().places()).find_map(|n| {
        let place = pair.region.geometry().place(n).unwrap();
        (pair.region.load(version_at(&pair.region, n)) != 0).then_some((n, place))
    });
    let (n, from) = full.unwrap();
    let to = pair.region.geometry().place(n + 1).unwrap();
    let versions = (version_at(&pair.region, n), version_at(&pair.region, n + 1));
    for (from, to) in (from.at..from.at + 8).zip(to.at..).chain([versions]) {
        let word = pair.region.word(from).unwrap().swap(0, Ordering::SeqCst);
        pair.region.word(to).unwrap().store(word, Ordering::SeqCst);
    }
    assert_eq!(only_reason(&pair), Reason::BadTag);
}

#[test]
fn a_damaged_new_version_is_not_replaced_by_the_old_one() {
    let mut pair = Pair::new(small_sizes());
    let mut writer = pair.join();
    writer.put(key(0), Epoch(3), b"old").unwrap();
    writer.poll_acknowledged().unwrap();
    let old = image(&pair.region);
    writer.put(key(0), Epoch(3), b"new").unwrap();
    writer.publish().unwrap();
    pair.reader.fence();
    // Both versions are there; of the new one, a tag bit flips.
    let new = (0..pair.region.geometry().places())
        .find(|n| pair.region.load(version_at(&pair.region, *n)) == version_word(2))
        .unwrap();
    assert_eq!(old[version_at(&pair.region, new)], 0);
    pair.region.word(pair.region.geometry().place(new).unwrap().at + 3).unwrap().fetch_xor(1, Ordering::SeqCst);
    assert_eq!(only_reason(&pair), Reason::BadTag);
}

#[test]
fn a_head_that_was_set_back_hides_nothing_silently() {
    let ops: Vec<_> = (0..4).chain([2, 3]).map(|n| Op::Put(n, 16)).collect();
    let (mut pair, _) = written(&ops);
    set_last(&pair.region, 1);
    pair.reader.fence();
    let snapshot = pair.reader.copy().unwrap();
    let reasons: BTreeMap<_, _> = snapshot
        .records()
        .map(|record| record.map_or_else(|r| (r.claimed, Some(r.reason)), |r| (Some(r.key), None)))
        .collect();
    // A batch right behind the head can't be told from one that was under way; it is counted as such: writes 2 and 5.
    assert_eq!((snapshot.unfinished(), pair.region.geometry().batch_writes_max()), (2, 4));
    let expected = [(Some(key(0)), None), (Some(key(3)), Some(Reason::Unpublished))];
    assert_eq!(reasons, BTreeMap::from(expected));
}

#[test]
fn another_writer_and_another_layout_have_reasons_of_their_own() {
    let (mut pair, _) = written(&[Op::Put(0, 16)]);
    pair.reader.fence();
    let n = 2 * pair.region.geometry().sizes().counter_blocks;
    let place = pair.region.geometry().place(n).unwrap();
    let head = head_of(&pair.region, n);
    let header = Header::decode(head).unwrap();
    let store = |head: [u64; 4]| {
        let [version, rest @ ..] = head;
        for (at, word) in (place.at..).zip(rest).chain([(version_at(&pair.region, n), version_word(version))]) {
            pair.region.word(at).unwrap().store(word, Ordering::SeqCst);
        }
    };
    store(Header { writer: ApplianceId::new(7).unwrap(), ..header }.encode());
    assert_eq!(only_reason(&pair), Reason::ForeignWriter);
    store(Header { len: 17, ..header }.encode());
    assert_eq!(only_reason(&pair), Reason::UnknownLayout);
    store(Header { content: Content::Counters, ..header }.encode());
    assert_eq!(only_reason(&pair), Reason::UnknownLayout);
    store([head[0], head[1] | 0x80 << 8, head[2], head[3]]);
    assert_eq!(only_reason(&pair), Reason::UnknownLayout);
    store(head);
    assert_eq!(contents(&pair.reader.copy().unwrap()).records.len(), 1);
}

#[test]
fn a_stranger_who_can_write_but_has_no_key_writes_nothing() {
    let (mut pair, _) = written(&[]);
    let header = Header {
        version: 0,
        content: Content::Record,
        key: key(0),
        epoch: Epoch(3),
        writer: ApplianceId::new(1).unwrap(),
        len: 0,
    };
    let n = 2 * pair.region.geometry().sizes().counter_blocks;
    let mut words = Vec::new();
    let version = Sealer::new(&[0x55; 32]).seal(n, header, b"forged", &mut words).unwrap();
    let at = pair.region.geometry().place(n).unwrap().at;
    for (at, word) in (at..).zip(words).chain([(version_at(&pair.region, n), version_word(version))]) {
        pair.region.word(at).unwrap().store(word, Ordering::SeqCst);
    }
    set_last(&pair.region, 1);
    pair.reader.fence();
    assert_eq!(only_reason(&pair), Reason::BadTag);
}
