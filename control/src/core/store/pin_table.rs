//! A group's pins, as they stand in the store: many in a record, so that one write and one tag carry many.
//!
//! A block is written anew when anything in it changes, whole. So blocks are filled one after the other: connections that begin
//! together are written together.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use vipsec_dataplane::api::RestoredPin;
use vipsec_distribute::service::Origin;
use vipsec_distribute::tuple::FiveTuple;
use vipsec_store::{SizeClass, WriteId};

/// Bytes of a pin.
const PIN_BYTES: usize = 40;
/// The part of them that says which connection it is.
const KEY_BYTES: usize = 23;
/// Pins of a block.
pub(in crate::core) const BLOCK_PINS_MAX: usize = 100;
/// Bytes of the store's records in which blocks are kept.
pub const PIN_RECORD_BYTES: u32 = 4096;
const _: () = assert!(BLOCK_PINS_MAX * PIN_BYTES <= PIN_RECORD_BYTES as usize);

const FROM_TUNNEL: u8 = 0;
const IN_CLEAR: u8 = 1;

/// Which connection, as in a record: protocol, VIP, the two ports, the remote host.
type Key = [u8; KEY_BYTES];

/// A pin and the workers that have its connection, a bit each: more than one after a takeover, when nobody knows yet where its packets
/// will arrive.
#[derive(Debug, Clone, Copy)]
struct Pin {
    record: [u8; PIN_BYTES],
    workers: u32,
}

impl Pin {
    fn key(&self) -> Key {
        *self.record.first_chunk().unwrap_or(&[0; KEY_BYTES])
    }
}

/// Where a pin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::core) struct Spot {
    block: u32,
    at: u8,
}

/// All places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct Full;

/// A record is not a block of pins, or has no place among ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct NoBlock;

/// The pins of a group: those of its owner, who changes them; or as a backup reads them, block by block, until it takes them over.
#[derive(Debug, Default)]
pub(in crate::core) struct PinTable {
    blocks: Vec<Vec<Pin>>,
    blocks_max: usize,
    index: HashMap<Key, Spot>,
    /// The writes by which blocks were read.
    read: Vec<WriteId>,
    /// Pins in all blocks. Of those that were read more may have one name: then the one that was written last is in the index.
    held: usize,
    /// Blocks with room beside the one that is being filled, the emptiest first.
    room: BTreeSet<(usize, u32)>,
    /// It is left only when it is full.
    filling: u32,
    /// Blocks that changed since somebody asked.
    changed: BTreeSet<u32>,
    /// Connections that found no room.
    left_out: u64,
}

impl PinTable {
    /// For that many pins at least.
    pub(in crate::core) fn new(pins_max: u32) -> Self {
        Self { blocks_max: (pins_max as usize).div_ceil(BLOCK_PINS_MAX), ..Self::default() }
    }

    /// Forgets all of them.
    pub(in crate::core) fn clear(&mut self) {
        *self = Self { blocks_max: self.blocks_max, left_out: self.left_out, ..Self::default() };
    }

    pub(in crate::core) fn len(&self) -> usize {
        self.index.len()
    }

    /// How many there is room for.
    pub(in crate::core) fn pins_max(&self) -> usize {
        self.blocks_max * BLOCK_PINS_MAX
    }

    /// Memory that their records take in a copy.
    pub(in crate::core) fn bytes_in_copy(&self) -> usize {
        self.blocks().count() * SizeClass { records: 1, bytes: PIN_RECORD_BYTES }.place_bytes()
    }

    /// Connections that found no room, so far.
    pub(in crate::core) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// A worker's connection is on that target.
    pub(in crate::core) fn pin(&mut self, worker: u8, pin: &RestoredPin) -> Result<(), Full> {
        self.put(encode(pin), 1 << (worker % 32))
    }

    /// A block stands in the store as it was written with that write.
    pub(in crate::core) fn read(&mut self, number: u32, write: WriteId, bytes: &[u8]) -> Result<(), NoBlock> {
        let (records, rest) = bytes.as_chunks::<PIN_BYTES>();
        if !rest.is_empty() || records.len() > BLOCK_PINS_MAX || number as usize >= self.blocks_max {
            return Err(NoBlock);
        }
        if self.blocks.len() <= number as usize {
            self.blocks.resize_with(number as usize + 1, Vec::new);
            self.read.resize(number as usize + 1, WriteId::default());
        }
        let has_doubles = self.held != self.index.len();
        let Self { blocks, read, index, held, .. } = self;
        let Some(block) = blocks.get_mut(number as usize) else { return Err(NoBlock) };
        // Most of them are where they were.
        let stays = |at: usize, pin: &Pin| records.get(at).is_some_and(|record| *record == pin.record);
        for (at, pin) in block.iter().enumerate().filter(|(at, pin)| !stays(*at, pin)) {
            if index.get(&pin.key()) == Some(&Spot { block: number, at: at as u8 }) {
                index.remove(&pin.key());
            }
        }
        for (at, record) in records.iter().enumerate() {
            let pin = Pin { record: *record, workers: 0 };
            let was_there = block.get(at).is_some_and(|before| stays(at, before));
            if was_there && !has_doubles {
                continue;
            }
            let newer = index.get(&pin.key()).is_some_and(|other| {
                other.block != number && read.get(other.block as usize).is_some_and(|theirs| *theirs > write)
            });
            if !newer {
                index.insert(pin.key(), Spot { block: number, at: at as u8 });
            }
        }
        *held = *held - block.len() + records.len();
        block.clear();
        block.extend(records.iter().map(|record| Pin { record: *record, workers: 0 }));
        if let Some(version) = read.get_mut(number as usize) {
            *version = write;
        }
        Ok(())
    }

    /// A block is gone from the store.
    pub(in crate::core) fn read_removal(&mut self, number: u32) {
        if (number as usize) < self.blocks.len() {
            let _ = self.read(number, WriteId::default(), &[]);
        }
    }

    /// What was read is ours from now on, and grows to that many pins at least.
    pub(in crate::core) fn take_over(&mut self, pins_max: u32) {
        self.blocks_max = Self::new(pins_max).blocks_max;
        self.read = Vec::new();
        for (number, block) in (0..).zip(&mut self.blocks) {
            if self.held != self.index.len() {
                let index = &self.index;
                let mut at = 0;
                let before = block.len();
                block.retain(|pin| {
                    at += 1;
                    index.get(&pin.key()) == Some(&Spot { block: number, at: at - 1 })
                });
                self.held -= before - block.len();
                self.index.extend(block.iter().zip(0..).map(|(pin, at)| (pin.key(), Spot { block: number, at })));
            }
            if block.len() < BLOCK_PINS_MAX {
                self.room.insert((block.len(), number));
            }
        }
        // As if it had just become full.
        self.filling = self.blocks.len() as u32;
    }

    /// The pins of a block as workers take them over, with their places. What names no VIP of ours is none.
    pub(in crate::core) fn restorable(
        &self,
        block: u32,
        vip_address: impl Fn(u16) -> Option<IpAddr>,
    ) -> impl Iterator<Item = (Spot, Option<RestoredPin>)> {
        let pins = self.blocks.get(block as usize).map(Vec::as_slice).unwrap_or_default();
        pins.iter().zip(0..).map(move |(pin, at)| (Spot { block, at }, decode(&pin.record, &vip_address)))
    }

    /// Blocks, empty ones included.
    pub(in crate::core) fn blocks_len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// These workers have taken over a connection.
    pub(in crate::core) fn restored(&mut self, spot: Spot, workers: u32) {
        let pin = self.blocks.get_mut(spot.block as usize).and_then(|block| block.get_mut(usize::from(spot.at)));
        if let Some(pin) = pin {
            pin.workers = workers;
        }
    }

    /// Nobody has taken over these connections.
    pub(in crate::core) fn remove(&mut self, mut spots: Vec<Spot>) {
        // From behind: what is moved into a gap stays.
        spots.sort_unstable();
        spots.into_iter().rev().for_each(|spot| self.take_out(spot));
    }

    fn put(&mut self, record: [u8; PIN_BYTES], workers: u32) -> Result<(), Full> {
        let new = Pin { record, workers };
        let key = new.key();
        if let Some(spot) = self.index.get(&key).copied() {
            let pin = self.blocks.get_mut(spot.block as usize).and_then(|block| block.get_mut(usize::from(spot.at)));
            if let Some(pin) = pin {
                // Who had it on another target had it before.
                pin.workers = if pin.record == record { pin.workers | workers } else { workers };
                if pin.record != record {
                    pin.record = record;
                    self.changed.insert(spot.block);
                }
            }
            return Ok(());
        }
        let Some(block) = self.block_with_room() else {
            self.left_out += 1;
            return Err(Full);
        };
        let Some(pins) = self.blocks.get_mut(block as usize) else { return Err(Full) };
        let before = pins.len();
        pins.push(new);
        self.held += 1;
        self.index.insert(key, Spot { block, at: before as u8 });
        self.resized(block, before, before + 1);
        Ok(())
    }

    /// The block that is being filled; then one that is half empty, then a new one, then any.
    fn block_with_room(&mut self) -> Option<u32> {
        let has_room = |block: u32, blocks: &[Vec<Pin>]| {
            blocks.get(block as usize).is_some_and(|pins| pins.len() < BLOCK_PINS_MAX)
        };
        if !has_room(self.filling, &self.blocks) {
            let emptiest = self.room.first().copied();
            let half_empty = emptiest.filter(|(len, _)| *len <= BLOCK_PINS_MAX / 2);
            self.filling = if half_empty.is_none() && self.blocks.len() < self.blocks_max {
                self.blocks.push(Vec::new());
                self.blocks.len() as u32 - 1
            } else {
                self.room.pop_first()?.1
            };
        }
        Some(self.filling)
    }

    fn resized(&mut self, block: u32, before: usize, after: usize) {
        if block != self.filling {
            self.room.remove(&(before, block));
            self.room.insert((after, block));
        }
        self.changed.insert(block);
    }

    /// A worker doesn't have the connection any more, or a successor computes it.
    pub(in crate::core) fn release(&mut self, worker: u8, vip: u16, tuple: &FiveTuple) {
        let key = key(vip, tuple);
        let Some(Spot { block, at }) = self.index.get(&key).copied() else { return };
        let Some(pins) = self.blocks.get_mut(block as usize) else { return };
        let Some(pin) = pins.get_mut(usize::from(at)) else { return };
        pin.workers &= !(1 << (worker % 32));
        if pin.workers == 0 {
            self.take_out(Spot { block, at });
        }
    }

    fn take_out(&mut self, spot: Spot) {
        let Some(pins) = self.blocks.get_mut(spot.block as usize) else { return };
        let before = pins.len();
        if usize::from(spot.at) >= before {
            return;
        }
        let gone = pins.swap_remove(usize::from(spot.at));
        if let Some(moved) = pins.get(usize::from(spot.at)) {
            self.index.insert(moved.key(), spot);
        }
        self.index.remove(&gone.key());
        self.held -= 1;
        self.resized(spot.block, before, before - 1);
    }

    /// The blocks that hold something.
    pub(in crate::core) fn blocks(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.blocks).filter(|(_, pins)| !pins.is_empty()).map(|(block, _)| block)
    }

    /// The blocks that have changed since the last call.
    pub(in crate::core) fn take_changed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.changed)
    }

    /// What a block holds, as a record; nothing: there is none.
    pub(in crate::core) fn block(&self, block: u32, bytes: &mut Vec<u8>) {
        bytes.clear();
        let pins = self.blocks.get(block as usize).map(Vec::as_slice).unwrap_or_default();
        pins.iter().for_each(|pin| bytes.extend_from_slice(&pin.record));
    }

    /// How many pins a block holds.
    pub(in crate::core) fn in_block(&self, block: u32) -> u64 {
        self.blocks.get(block as usize).map_or(0, Vec::len) as u64
    }

    /// The store had no room for so many.
    pub(in crate::core) fn leave_out(&mut self, pins: u64) {
        self.left_out += pins;
    }
}

/// IPv4 as an IPv4-mapped address (RFC 4291 §2.5.5.2).
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn key(vip: u16, tuple: &FiveTuple) -> Key {
    let mut bytes = [0; KEY_BYTES];
    let [vip_high, vip_low] = vip.to_be_bytes();
    let ([remote_high, remote_low], [port_high, port_low]) =
        (tuple.remote_port.to_be_bytes(), tuple.vip_port.to_be_bytes());
    let (head, remote) = bytes.split_at_mut(KEY_BYTES - 16);
    head.copy_from_slice(&[tuple.protocol, vip_high, vip_low, remote_high, remote_low, port_high, port_low]);
    remote.copy_from_slice(&address_bytes(tuple.remote));
    bytes
}

fn encode(pin: &RestoredPin) -> [u8; PIN_BYTES] {
    let mut record = [0; PIN_BYTES];
    let (head, tail) = record.split_at_mut(KEY_BYTES);
    head.copy_from_slice(&key(pin.vip, &pin.tuple));
    if let Some((origin, target)) = tail.split_first_mut() {
        *origin = match pin.origin {
            Origin::Decrypted => FROM_TUNNEL,
            Origin::Clear => IN_CLEAR,
        };
        target.copy_from_slice(&address_bytes(pin.target));
    }
    record
}

/// Reads a pin; `vip_address` says the address of a VIP.
fn decode(record: &[u8; PIN_BYTES], vip_address: &impl Fn(u16) -> Option<IpAddr>) -> Option<RestoredPin> {
    let (&[protocol, vip_high, vip_low, remote_high, remote_low, port_high, port_low], rest) =
        record.split_first_chunk::<7>()?;
    let (remote, rest) = rest.split_first_chunk::<16>()?;
    let (origin, target) = rest.split_first()?;
    let vip_number = u16::from_be_bytes([vip_high, vip_low]);
    let vip = vip_address(vip_number)?;
    let remote = Ipv6Addr::from_octets(*remote);
    let remote = match vip {
        IpAddr::V4(_) => IpAddr::V4(remote.to_ipv4_mapped()?),
        IpAddr::V6(_) => IpAddr::V6(remote),
    };
    let target = Ipv6Addr::from_octets(*target.first_chunk()?);
    Some(RestoredPin {
        vip: vip_number,
        tuple: FiveTuple {
            protocol,
            remote,
            remote_port: u16::from_be_bytes([remote_high, remote_low]),
            vip,
            vip_port: u16::from_be_bytes([port_high, port_low]),
        },
        origin: match *origin {
            FROM_TUNNEL => Origin::Decrypted,
            IN_CLEAR => Origin::Clear,
            _ => return None,
        },
        target: target.to_ipv4_mapped().map_or(IpAddr::V6(target), IpAddr::V4),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const VIPS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

    fn address(vip: u16) -> Option<IpAddr> {
        VIPS.get(usize::from(vip)).map(|vip| vip.parse().unwrap())
    }

    fn pin(vip: u16, port: u16, target: u8) -> RestoredPin {
        let remote = if vip == 0 { IpAddr::from([10, 9, 0, 1]) } else { "2001:db8:9::1".parse().unwrap() };
        let tuple = FiveTuple { protocol: 17, remote, remote_port: port, vip: address(vip).unwrap(), vip_port: 53 };
        let origin = if port.is_multiple_of(2) { Origin::Decrypted } else { Origin::Clear };
        RestoredPin { vip, tuple, origin, target: IpAddr::from([10, 1, 0, target]) }
    }

    /// What a store holds.
    #[derive(Default)]
    struct Store {
        blocks: BTreeMap<u32, (WriteId, Vec<u8>)>,
        writes: u64,
    }

    impl Store {
        fn write(&mut self, table: &mut PinTable) {
            let changed = table.take_changed();
            self.write_blocks(table, changed);
        }

        fn write_blocks(&mut self, table: &PinTable, blocks: impl IntoIterator<Item = u32>) {
            let mut bytes = Vec::new();
            for block in blocks {
                table.block(block, &mut bytes);
                assert!(bytes.len() <= PIN_RECORD_BYTES as usize);
                self.writes += 1;
                self.blocks.insert(block, (WriteId(self.writes), bytes.clone()));
            }
        }

        /// What a backup that comes now makes of it.
        fn pins(&self) -> Vec<RestoredPin> {
            let mut table = PinTable::new(1000);
            self.blocks.iter().for_each(|(block, (write, bytes))| table.read(*block, *write, bytes).unwrap());
            restored(table)
        }
    }

    /// A backup looks, and reads what is new to it.
    fn follow(backup: &mut PinTable, store: &Store) {
        for (number, (write, bytes)) in &store.blocks {
            if backup.read.get(*number as usize) != Some(write) {
                backup.read(*number, *write, bytes).unwrap();
            }
        }
    }

    /// What a successor takes over.
    fn restored(mut table: PinTable) -> Vec<RestoredPin> {
        table.take_over(1000);
        let restorable = (0..table.blocks_len()).flat_map(|block| table.restorable(block, address).collect::<Vec<_>>());
        let mut pins: Vec<_> = restorable.map(|(_, pin)| pin.unwrap()).collect();
        assert_eq!((pins.len(), table.held), (table.len(), table.len()));
        pins.sort_by_key(|pin| (pin.vip, pin.tuple.remote_port));
        pins
    }

    #[test]
    fn a_record_tells_what_was_written() {
        let mut all = vec![pin(0, 1, 21), pin(0, 2, 22), pin(1, 1, 21)];
        all.push(RestoredPin { target: "2001:db8:2::7".parse().unwrap(), ..pin(1, 2, 0) });
        let mut table = PinTable::new(100);
        all.iter().for_each(|pin| table.pin(0, pin).unwrap());
        let mut store = Store::default();
        store.write(&mut table);
        assert_eq!((store.pins(), store.blocks.len()), (all, 1), "in one write");
        let bytes = store.blocks[&0].1.clone();
        let mut copy = PinTable::new(100);
        assert_eq!(copy.read(0, WriteId(1), &bytes[1..]), Err(NoBlock));
        assert_eq!(copy.read(0, WriteId(1), &bytes[..PIN_BYTES].repeat(BLOCK_PINS_MAX + 1)), Err(NoBlock));
        assert_eq!(copy.read(1, WriteId(1), &bytes), Err(NoBlock), "there is no such block");
        let mut wrong = bytes.clone();
        wrong[KEY_BYTES] = 2;
        copy.read(0, WriteId(1), &wrong).unwrap();
        assert_eq!(copy.restorable(0, address).filter(|(_, pin)| pin.is_none()).count(), 1);
        assert!(copy.restorable(0, |_| None).all(|(_, pin)| pin.is_none()), "of a VIP that isn't ours");
    }

    #[test]
    fn of_two_records_of_a_connection_the_newer_one_counts() {
        let block = |target| {
            let mut table = PinTable::new(100);
            table.pin(0, &pin(0, 1, target)).unwrap();
            table.pin(0, &pin(0, u16::from(target), target)).unwrap();
            let mut bytes = Vec::new();
            table.block(0, &mut bytes);
            bytes
        };
        for order in [[0, 1], [1, 0]] {
            let mut table = PinTable::new(1000);
            for number in order {
                table.read(number, WriteId(7 - u64::from(number)), &block(21 + number as u8)).unwrap();
            }
            assert_eq!(restored(table), [pin(0, 1, 21), pin(0, 21, 21), pin(0, 22, 22)]);
        }
    }

    #[test]
    fn what_no_worker_took_is_gone_and_its_room_is_used() {
        let mut table = PinTable::new(BLOCK_PINS_MAX as u32);
        (0..BLOCK_PINS_MAX as u16).for_each(|port| table.pin(0, &pin(0, port, 21)).unwrap());
        let spots: Vec<_> = table.restorable(0, address).map(|(spot, _)| spot).collect();
        table.remove(vec![spots[3], spots[99], spots[0]]);
        for port in 200..203 {
            table.pin(0, &pin(0, port, 21)).unwrap();
        }
        assert_eq!(table.pin(0, &pin(0, 203, 21)), Err(Full));
        table.pin(0, &pin(0, 98, 22)).unwrap();
        assert_eq!((table.len(), table.held), (BLOCK_PINS_MAX, BLOCK_PINS_MAX), "those that moved are found");
    }

    #[test]
    fn what_finds_no_room_is_counted_and_room_comes_back() {
        let mut table = PinTable::new(BLOCK_PINS_MAX as u32);
        for port in 0..BLOCK_PINS_MAX as u16 {
            table.pin(0, &pin(0, port, 21)).unwrap();
        }
        assert_eq!((table.pin(0, &pin(0, 999, 21)), table.left_out()), (Err(Full), 1));
        assert_eq!(table.pin(0, &pin(0, 7, 22)), Ok(()), "what is there can change");
        table.release(0, 0, &pin(0, 8, 21).tuple);
        assert_eq!((table.pin(0, &pin(0, 999, 21)), table.len()), (Ok(()), BLOCK_PINS_MAX));
    }

    /// After a takeover several workers may have a connection that none of them has seen: one that forgets it doesn't speak for all.
    #[test]
    fn a_pin_goes_with_the_last_worker_that_has_it() {
        let mut table = PinTable::new(100);
        let shared = pin(0, 1, 21);
        table.pin(7, &shared).unwrap();
        table.restored(Spot { block: 0, at: 0 }, 0b11);
        table.release(1, 0, &shared.tuple);
        table.release(5, 0, &shared.tuple);
        assert_eq!(table.len(), 1);
        table.pin(2, &pin(0, 1, 22)).unwrap();
        table.release(0, 0, &shared.tuple);
        assert_eq!(table.len(), 1, "the worker on the new target has it");
        table.release(2, 0, &shared.tuple);
        assert_eq!(table.len(), 0);
    }

    proptest! {
        #[test]
        fn the_store_holds_what_is_pinned(
            steps in proptest::collection::vec((0u16..400, proptest::option::weighted(0.6, 21u8..24), 0u8..20), 1..1200),
        ) {
            let mut table = PinTable::new(1000);
            let mut store = Store::default();
            let mut backup = PinTable::new(1000);
            let mut expected = BTreeMap::new();
            for (port, target, write) in steps {
                match target {
                    Some(target) => {
                        table.pin(0, &pin(0, port, target)).unwrap();
                        expected.insert(port, pin(0, port, target));
                    }
                    None => {
                        table.release(0, 0, &pin(0, port, 0).tuple);
                        expected.remove(&port);
                    }
                }
                if write == 0 {
                    store.write(&mut table);
                }
                if write < 3 {
                    follow(&mut backup, &store);
                }
            }
            store.write(&mut table);
            follow(&mut backup, &store);
            prop_assert_eq!(restored(backup), store.pins());
            prop_assert_eq!(store.pins(), expected.values().copied().collect::<Vec<_>>());
            prop_assert_eq!(table.len(), expected.len());
            // A copy that joins gets everything.
            let mut other = Store::default();
            other.write_blocks(&table, table.blocks());
            prop_assert_eq!(other.pins(), store.pins());
        }
    }
}
