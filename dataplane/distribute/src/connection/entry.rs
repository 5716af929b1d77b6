//! An entry of the connection table: one cache line, for IPv4 and IPv6 alike.
//!
//! The VIP's address and the target's stand in registries that hold each once; an entry names their slots. So a connection's key is
//! three words, which one comparison each and three multiplications take.

use std::net::{IpAddr, Ipv6Addr};

use super::clock::{Moment, Tick};
use super::state::{ConnectionState, Direction};
use super::{PacketInfo, Traffic};
use crate::service::Origin;
use crate::tuple::{FiveTuple, address_bits};

/// What tells connections apart: the remote address in two words, then VIP slot, ports and protocol, and a byte that is 1 in every
/// key of a connection, so that no connection has the key of a free place.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Key([u64; 3]);

impl PartialEq for Key {
    /// Word by word, as a key is written: a wider read of what was just written would wait until it reached the cache.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]) | (self.0[2] ^ other.0[2]) == 0
    }
}

impl Eq for Key {}

impl Key {
    /// `None`: the two ends are of different families, which no packet is.
    #[inline]
    pub(super) fn new(tuple: &FiveTuple, vip: u16) -> Option<Self> {
        if tuple.remote.is_ipv4() != tuple.vip.is_ipv4() {
            return None;
        }
        let remote = address_bits(tuple.remote);
        let ports = u64::from(tuple.remote_port) << 16 | u64::from(tuple.vip_port);
        let rest = ports << 32 | u64::from(vip) << 16 | u64::from(tuple.protocol) << 8 | 1;
        Some(Self([(remote >> 64) as u64, remote as u64, rest]))
    }

    pub(super) const fn is_connection(&self) -> bool {
        self.0[2] != 0
    }

    /// The remote address, an IPv4 one mapped.
    pub(super) const fn remote_bits(&self) -> u128 {
        (self.0[0] as u128) << 64 | self.0[1] as u128
    }

    /// The rest of the key in one word.
    pub(super) const fn rest(&self) -> u64 {
        self.0[2]
    }

    /// The slot of the VIP.
    pub(super) const fn vip(&self) -> u16 {
        (self.0[2] >> 16) as u16
    }

    /// The connection, given its VIP's address.
    pub(super) fn tuple(&self, vip: IpAddr) -> FiveTuple {
        let remote = Ipv6Addr::from_bits(self.remote_bits());
        let remote = match vip {
            IpAddr::V4(_) => remote.to_ipv4_mapped().map_or(IpAddr::V6(remote), IpAddr::V4),
            IpAddr::V6(_) => IpAddr::V6(remote),
        };
        let rest = self.0[2];
        FiveTuple {
            protocol: (rest >> 8) as u8,
            remote,
            remote_port: (rest >> 48) as u16,
            vip,
            vip_port: (rest >> 32) as u16,
        }
    }
}

/// What else is to be known of a connection, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flags(u8);

impl Flags {
    /// A successor couldn't compute its target.
    pub(super) const PINNED: Self = Self(1);
    /// Every counted copy has acknowledged the pin.
    pub(super) const ACKNOWLEDGED: Self = Self(1 << 1);
    /// The pin was reported last: a copy may hold a record of it.
    pub(super) const TOLD: Self = Self(1 << 2);
    /// There is something to report that found no room yet.
    pub(super) const OWED: Self = Self(1 << 3);
    /// The target has sent a packet.
    pub(super) const ANSWERED: Self = Self(1 << 4);
    /// The remote side has sent more than one packet since somebody looked for an entry that gives way.
    pub(super) const SEEN: Self = Self(1 << 5);
    /// It comes in the clear.
    pub(super) const CLEAR: Self = Self(1 << 6);
    /// Its service keeps affinities.
    pub(super) const AFFINE: Self = Self(1 << 7);

    #[inline]
    pub(super) const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    #[must_use]
    #[inline]
    pub(super) const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    #[must_use]
    pub(super) const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }

    pub(super) const fn of_origin(origin: Origin) -> Self {
        match origin {
            Origin::Decrypted => Self(0),
            Origin::Clear => Self::CLEAR,
        }
    }

    #[inline]
    pub(super) const fn origin(self) -> Origin {
        if self.has(Self::CLEAR) { Origin::Clear } else { Origin::Decrypted }
    }
}

/// An entry, or a free place.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Entry {
    pub(super) key: Key,
    /// To the target, to the remote host.
    bytes: [u64; 2],
    /// The low 32 of 48 bits.
    packets: [u32; 2],
    packets_high: [u16; 2],
    /// In seconds since the table was made.
    pub(super) created: u32,
    pub(super) last_packet: Tick,
    /// The target's slot.
    pub(super) target: u16,
    pub(super) state: ConnectionState,
    pub(super) flags: Flags,
}

/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = size_of::<Entry>();
const _: () = assert!(ENTRY_BYTES == 64, "an entry is one cache line");

impl Entry {
    pub(super) const FREE: Self = Self {
        key: Key([0; 3]),
        bytes: [0; 2],
        packets: [0; 2],
        packets_high: [0; 2],
        created: 0,
        last_packet: Tick::ZERO,
        target: 0,
        state: ConnectionState::Other,
        flags: Flags(0),
    };

    /// A connection's entry, on no target yet.
    pub(super) const fn new(key: Key, now: Moment, state: ConnectionState, flags: Flags) -> Self {
        Self { key, created: now.second, last_packet: now.tick, state, flags, ..Self::FREE }
    }

    /// Counts a packet of a known connection and follows its state. Returns whether the connection was active and isn't any more.
    #[inline]
    pub(super) fn touch(&mut self, now: Tick, direction: Direction, packet: &PacketInfo) -> bool {
        let before = self.state;
        self.state = before.after(direction, packet.tcp);
        self.flags = self.flags.with(match direction {
            Direction::ToTarget => Flags::SEEN,
            Direction::ToRemote => Flags::ANSWERED,
        });
        self.last_packet = now;
        self.count(direction, packet);
        before.is_active() && !self.state.is_active()
    }

    #[inline]
    pub(super) fn count(&mut self, direction: Direction, packet: &PacketInfo) {
        let way = direction as usize;
        self.bytes[way] = self.bytes[way].wrapping_add(u64::from(packet.bytes));
        let (packets, wrapped) = self.packets[way].overflowing_add(1);
        self.packets[way] = packets;
        if wrapped {
            self.packets_high[way] = self.packets_high[way].wrapping_add(1);
        }
    }

    pub(super) fn traffic(&self, direction: Direction) -> Traffic {
        let way = direction as usize;
        Traffic {
            packets: u64::from(self.packets_high[way]) << 32 | u64::from(self.packets[way]),
            bytes: self.bytes[way],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_its_connection_back() {
        for (remote, vip) in [("10.9.0.1", "192.0.2.1"), ("2001:db8::9", "2001:db8::1"), ("::ffff:1.2.3.4", "::1")] {
            let (remote, vip) = (remote.parse().unwrap(), vip.parse().unwrap());
            let tuple = FiveTuple { protocol: 255, remote, remote_port: 65535, vip, vip_port: 1 };
            let key = Key::new(&tuple, 0xfffe).unwrap();
            assert_eq!((key.tuple(vip), key.vip()), (tuple, 0xfffe));
            assert!(key.is_connection() && key != Entry::FREE.key);
        }
    }

    #[test]
    fn packets_are_counted_beyond_32_bits() {
        let mut entry = Entry { packets: [u32::MAX, 7], ..Entry::FREE };
        entry.count(Direction::ToTarget, &PacketInfo { tcp: None, bytes: 1500 });
        assert_eq!(entry.traffic(Direction::ToTarget), Traffic { packets: 1 << 32, bytes: 1500 });
        assert_eq!(entry.traffic(Direction::ToRemote), Traffic { packets: 7, bytes: 0 });
    }
}
