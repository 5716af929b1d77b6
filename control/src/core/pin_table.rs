//! A group's pins, as they stand in the store: many in a record, so that one write and one tag carry many.
//!
//! A block is written anew when anything in it changes, whole. So blocks are filled one after the other: connections that begin
//! together are written together.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use vipsec_dataplane::api::RestoredPin;
use vipsec_distribute::service::Origin;
use vipsec_distribute::tuple::FiveTuple;

/// Bytes of a pin.
const PIN_BYTES: usize = 40;
/// The part of them that says which connection it is.
const KEY_BYTES: usize = 23;
/// Pins of a block.
pub(super) const BLOCK_PINS_MAX: usize = 100;
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
#[derive(Debug, Clone, Copy)]
struct Spot {
    block: u32,
    at: u8,
}

/// All places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The pins of a group.
#[derive(Debug, Default)]
pub(super) struct PinTable {
    blocks: Vec<Vec<Pin>>,
    blocks_max: usize,
    index: HashMap<Key, Spot>,
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
    pub(super) fn new(pins_max: u32) -> Self {
        Self { blocks_max: (pins_max as usize).div_ceil(BLOCK_PINS_MAX), ..Self::default() }
    }

    /// The same, with memory for that many taken at once.
    pub(super) fn with_capacity(pins_max: u32, pins: usize) -> Self {
        Self { index: HashMap::with_capacity(pins), ..Self::new(pins_max) }
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self { blocks_max: self.blocks_max, left_out: self.left_out, ..Self::default() };
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Connections that found no room, so far.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// A worker's connection is on that target.
    pub(super) fn pin(&mut self, worker: u8, pin: &RestoredPin) -> Result<(), Full> {
        self.put(encode(pin), 1 << (worker % 32))
    }

    /// These workers have taken over a connection.
    pub(super) fn restore(&mut self, workers: u32, pin: &RestoredPin) -> Result<(), Full> {
        self.put(encode(pin), workers)
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
    pub(super) fn release(&mut self, worker: u8, vip: u16, tuple: &FiveTuple) {
        let key = key(vip, tuple);
        let Some(Spot { block, at }) = self.index.get(&key).copied() else { return };
        let Some(pins) = self.blocks.get_mut(block as usize) else { return };
        let Some(pin) = pins.get_mut(usize::from(at)) else { return };
        pin.workers &= !(1 << (worker % 32));
        if pin.workers != 0 {
            return;
        }
        let before = pins.len();
        pins.swap_remove(usize::from(at));
        if let Some(moved) = pins.get(usize::from(at)) {
            self.index.insert(moved.key(), Spot { block, at });
        }
        self.index.remove(&key);
        self.resized(block, before, before - 1);
    }

    /// The blocks that hold something.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.blocks).filter(|(_, pins)| !pins.is_empty()).map(|(block, _)| block)
    }

    /// The blocks that have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.changed)
    }

    /// What a block holds, as a record; nothing: there is none.
    pub(super) fn block(&self, block: u32, bytes: &mut Vec<u8>) {
        bytes.clear();
        let pins = self.blocks.get(block as usize).map(Vec::as_slice).unwrap_or_default();
        pins.iter().for_each(|pin| bytes.extend_from_slice(&pin.record));
    }

    /// How many pins a block holds.
    pub(super) fn in_block(&self, block: u32) -> u64 {
        self.blocks.get(block as usize).map_or(0, Vec::len) as u64
    }

    /// The store had no room for so many.
    pub(super) fn leave_out(&mut self, pins: u64) {
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

/// Reads a block; `vip_address` says the address of a VIP.
pub(super) fn open_pins(bytes: &[u8], vip_address: impl Fn(u16) -> Option<IpAddr>) -> Option<Vec<RestoredPin>> {
    let (records, rest) = bytes.as_chunks::<PIN_BYTES>();
    if !rest.is_empty() || records.len() > BLOCK_PINS_MAX {
        return None;
    }
    records.iter().map(|record| decode(record, &vip_address)).collect()
}

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
    struct Store(BTreeMap<u32, Vec<u8>>);

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
                self.0.insert(block, bytes.clone());
            }
        }

        fn pins(&self) -> Vec<RestoredPin> {
            let mut pins: Vec<_> = self.0.values().flat_map(|bytes| open_pins(bytes, address).unwrap()).collect();
            pins.sort_by_key(|pin| (pin.vip, pin.tuple.remote_port));
            pins
        }
    }

    #[test]
    fn a_record_tells_what_was_written() {
        let mut all = vec![pin(0, 1, 21), pin(0, 2, 22), pin(1, 1, 21)];
        all.push(RestoredPin { target: "2001:db8:2::7".parse().unwrap(), ..pin(1, 2, 0) });
        let mut table = PinTable::new(100);
        all.iter().for_each(|pin| table.pin(0, pin).unwrap());
        let mut store = Store::default();
        store.write(&mut table);
        assert_eq!((store.pins(), store.0.len()), (all, 1), "in one write");
        let bytes = store.0[&0].clone();
        assert_eq!(open_pins(&bytes[1..], address), None);
        assert_eq!(open_pins(&bytes, |_| None), None, "of a VIP that isn't configured");
        let mut wrong = bytes.clone();
        wrong[KEY_BYTES] = 2;
        assert_eq!(open_pins(&wrong, address), None);
        assert_eq!(open_pins(&bytes[..PIN_BYTES].repeat(BLOCK_PINS_MAX + 1), address), None);
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
        table.restore(0b11, &shared).unwrap();
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
            }
            store.write(&mut table);
            prop_assert_eq!(store.pins(), expected.values().copied().collect::<Vec<_>>());
            prop_assert_eq!(table.len(), expected.len());
            // A copy that joins gets everything.
            let mut other = Store::default();
            other.write_blocks(&table, table.blocks());
            prop_assert_eq!(other.pins(), store.pins());
        }
    }
}
