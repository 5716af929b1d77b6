//! What both sides know: the operations that follow from a seed, and what a region holds after each of them.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vipsec_store::pairing::PairingSecret;
use vipsec_store::{CounterEntry, RecordKey, Setup, SizeClass, Sizes, Snapshot, Versions};
use vipsec_wire::iv::ApplianceId;
use zeroize::Zeroizing;

const KEYS: u64 = 24;
const BLOCKS: u32 = 3;

pub(crate) const OWNER: u8 = 1;
pub(crate) const BACKUP: u8 = 2;

pub(crate) const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };

pub(crate) fn sizes() -> Sizes {
    let class = |records, bytes| SizeClass { records, bytes };
    Sizes { classes: vec![class(32, 128), class(32, 700)], counter_blocks: BLOCKS, journal_entries: 64 }
}

pub(crate) fn setup(id: u8) -> Setup {
    Setup {
        appliance: ApplianceId::new(id).unwrap(),
        incarnation: rand::rng().random(),
        versions: VERSIONS,
        config_digest: [5; 32],
        sizes: sizes(),
    }
}

pub(crate) fn secret() -> PairingSecret {
    PairingSecret::new(Zeroizing::new(vec![3; 32])).unwrap()
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    Put(u64),
    Remove(u64),
    Counters(u32),
    Poll,
}

pub(crate) fn next_op(rng: &mut StdRng) -> Op {
    match rng.random_range(0..10) {
        0..5 => Op::Put(rng.random_range(0..KEYS)),
        5 => Op::Remove(rng.random_range(0..KEYS)),
        6 => Op::Counters(rng.random_range(0..BLOCKS)),
        _ => Op::Poll,
    }
}

pub(crate) fn key(n: u64) -> RecordKey {
    RecordKey { kind: 1, vip: 2, id: n }
}

/// What write `number` writes into a record: any mix of two writes shows.
pub(crate) fn payload(number: u64) -> Vec<u8> {
    let len = 8 + number.wrapping_mul(0x9e37_79b9) % 600;
    number.to_le_bytes().iter().copied().cycle().take(len as usize).collect()
}

pub(crate) fn entries(number: u64) -> Vec<CounterEntry> {
    (0..=(number % 32) as u32).map(|spi| CounterEntry { spi, lease: number, edge: number, horizon: number }).collect()
}

/// The snapshot is what all writes of the script up to its cut make, no more and no less.
pub(crate) fn assert_contents(snapshot: &Snapshot, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut records, mut blocks) = (BTreeMap::new(), BTreeMap::new());
    let mut next = 1;
    while next <= snapshot.cut().0 {
        let wrote = match next_op(&mut rng) {
            Op::Put(n) => {
                records.insert(key(n), next);
                true
            }
            Op::Remove(n) => records.remove(&key(n)).is_some(),
            Op::Counters(block) => {
                blocks.insert(block, next);
                true
            }
            Op::Poll => false,
        };
        next += u64::from(wrote);
    }
    let found: BTreeMap<_, _> = snapshot.records().map(|record| record.unwrap()).map(|r| (r.key, r)).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), records.keys().collect::<Vec<_>>());
    for (key, number) in records {
        assert_eq!((found[&key].version.0, &*found[&key].bytes), (number, &payload(number)));
    }
    let found: BTreeMap<_, _> = snapshot.counters().map(|block| block.unwrap()).map(|b| (b.index, b.entries)).collect();
    let expected: BTreeMap<_, _> = blocks.into_iter().map(|(block, number)| (block, entries(number))).collect();
    assert_eq!(found, expected);
}
