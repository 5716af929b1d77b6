//! What comes over the store link, and what is read from a region that somebody else may write.
//!
//! What is sealed can't be guessed, so inputs are what is done to the real thing: bytes to be turned, words to be changed. Nothing but
//! the real thing may be taken.

use std::cell::RefCell;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use vipsec_store::pairing::{Handshake, Pairing, PairingSecret, Side};
use vipsec_store::{
    Change, CounterBlock, CounterEntry, Geometry, LocalMemory, OneSided, Reader, Record, RecordKey, Region, RegionId,
    SizeClass, Sizes, StoreWriter, Versions, Writer,
};
use vipsec_wire::iv::{ApplianceId, Epoch};
use zeroize::Zeroizing;

fn sizes() -> Sizes {
    let class = |records, bytes| SizeClass { records, bytes };
    Sizes { classes: vec![class(2, 16), class(4, 40)], counter_blocks: 2, journal_entries: 16 }
}

fn handshake(id: u8) -> Handshake {
    let side = Side {
        appliance: ApplianceId::new(id).expect("not 0"),
        incarnation: [id; 16],
        versions: Versions { oldest: 1, newest: 1 },
        config_digest: [7; 32],
        region: RegionId([id; 16]),
        sizes: sizes(),
    };
    let secret = PairingSecret::new(Zeroizing::new(vec![9; 32])).expect("long enough");
    Handshake::new(side, secret, &mut StdRng::seed_from_u64(u64::from(id))).expect("sensible sizes")
}

/// Both ends of a pairing; each message passes through `change` with its number.
fn paired(mut change: impl FnMut(usize, &mut Vec<u8>)) -> Option<(Pairing, Pairing)> {
    let (mut owner, mut backup) = (handshake(1), handshake(2));
    for nth in 0..2 {
        let (mut out, mut back) = (owner.poll_transmit()?, backup.poll_transmit()?);
        change(2 * nth, &mut out);
        change(2 * nth + 1, &mut back);
        let (to_backup, to_owner) = (backup.handle_message(&out), owner.handle_message(&back));
        if to_backup.is_err() || to_owner.is_err() {
            assert!(backup.poll_transmit().is_none() || to_backup.is_ok(), "nothing is said after an error");
            return None;
        }
    }
    Some((owner.finish().ok()?, backup.finish().ok()?))
}

/// Turns bits of a message; true if any was turned. The first byte says what is cut off.
fn turn(message: &mut Vec<u8>, how: &[u8]) -> bool {
    let Some((cut, mask)) = how.split_first() else { return false };
    let before = message.clone();
    message.truncate(message.len() - usize::from(*cut).min(message.len()));
    for (byte, mask) in message.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    *message != before
}

/// A pairing in which one message was changed, or another one came instead.
pub(crate) fn pairing(bytes: &[u8]) {
    let Some((which, how)) = bytes.split_first() else { return };
    let mut changed = false;
    let pairing = paired(|number, message| {
        if number == usize::from(which % 4) {
            if which & 0x80 == 0 {
                changed = turn(message, how);
            } else {
                changed = message != how;
                *message = how.to_vec();
            }
        }
    });
    assert_eq!(pairing.is_none(), changed, "both believe in a pairing whose messages were changed, or neither in one");
}

/// A message of the pair that was changed on its way.
pub(crate) fn message(bytes: &[u8]) {
    thread_local! {
        static PAIRED: RefCell<(Pairing, Pairing)> = RefCell::new(paired(|_, _| {}).expect("nobody interferes"));
    }
    PAIRED.with_borrow_mut(|(owner, backup)| message_between(owner, backup, bytes));
}

fn message_between(owner: &mut Pairing, backup: &mut Pairing, bytes: &[u8]) {
    let mut sealed = owner.channel.seal_message(b"heartbeat").expect("short");
    let changed = turn(&mut sealed, bytes);
    assert_eq!(backup.channel.open_message(&sealed).is_err(), changed);
    assert!(backup.channel.open_message(bytes).is_err());
    // It goes on with the next one.
    let next = owner.channel.seal_message(b"next").expect("short");
    assert_eq!(backup.channel.open_message(&next).as_deref(), Ok(&b"next"[..]));
}

fn key(n: u64) -> RecordKey {
    RecordKey { kind: 1, vip: 0, id: n }
}

/// What write `number` writes.
fn payload(number: u64) -> Vec<u8> {
    number.to_le_bytes().iter().copied().cycle().take(8 + number as usize % 30).collect()
}

fn block_of(number: u64) -> u32 {
    (number / 5 % 2) as u32
}

fn entries(number: u64) -> Vec<CounterEntry> {
    vec![CounterEntry { spi: 7, lease: number, edge: number, horizon: number }; 3]
}

fn check(record: &Record) {
    let number = record.bytes.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    assert!(
        *record.bytes == payload(number) && record.key == key(number % 4),
        "a record that nobody wrote: {record:?}"
    );
}

fn check_block(block: &CounterBlock) {
    let number = block.entries.first().map_or(0, |entry| entry.lease);
    assert!(
        block.entries == entries(number) && block_of(number) == block.index,
        "a block that nobody wrote: {block:?}"
    );
}

fn check_changes(changes: &[Change]) {
    for change in changes {
        if let Change::Stored(record) = change {
            check(record);
        }
    }
}

/// A region in use, whose words are changed: eleven bytes each, when (8), where (16), what (64).
pub(crate) fn region(bytes: &[u8]) {
    thread_local! {
        static PAIRED: RefCell<(Pairing, Reader)> = RefCell::new({
            let (owner, backup) = paired(|_, _| {}).expect("nobody interferes");
            let region = Arc::new(Region::anonymous(owner.peer.geometry.clone(), owner.peer.region));
            (owner, Reader::new(region, backup.reader))
        });
    }
    PAIRED.with_borrow_mut(|(owner, reader)| region_of(owner, reader, bytes));
}

/// A join empties it.
fn region_of(owner: &mut Pairing, reader: &mut Reader, bytes: &[u8]) {
    const WRITES: u64 = 12;
    let region = reader.region().clone();
    let grant = reader.join(&mut StdRng::seed_from_u64(3)).expect("there are many");
    let mut writer = Writer::new(LocalMemory::new(region.clone()), &mut owner.writer, grant).expect("a fresh grant");
    let mut stranger = LocalMemory::new(region);
    let words = Geometry::new(sizes()).expect("sensible sizes").bytes() / 8;

    for number in 1..=WRITES {
        let written = match number % 5 {
            4 => writer.put_counters(block_of(number), &entries(number)).map(Some),
            3 => writer.remove(key((number + 1) % 4)),
            _ => writer.put(key(number % 4), Epoch(1), &payload(number)).map(Some),
        };
        // Whoever changes the grant deposes the writer.
        if written.and_then(|_| writer.poll_acknowledged()).is_err() {
            break;
        }
        for change in bytes.as_chunks::<11>().0 {
            let [when, low, high, what @ ..] = *change;
            if u64::from(when) % (WRITES + 1) == number {
                let at = usize::from(u16::from_le_bytes([low, high])) % words;
                stranger.write(at, &[u64::from_le_bytes(what)]).expect("in the region");
            }
        }
        if number.is_multiple_of(3) {
            check_changes(&reader.poll_changes(5));
        }
    }
    reader.fence();
    if let Some(conclusion) = reader.conclude().expect("granted and fenced") {
        check_changes(&conclusion.changes);
        conclusion.counters.iter().flatten().for_each(check_block);
    }
    let snapshot = reader.copy().expect("granted and fenced");
    snapshot.records().flatten().for_each(|record| check(&record));
    snapshot.counters().flatten().for_each(|block| check_block(&block));
}
