//! How packets of a VIP get to a neighbour: port and Ethernet header, made once and kept until tables or neighbours change.

use std::net::IpAddr;

use vipsec_wire::ethernet::HEADER_LEN;
use vipsec_wire::ip::{Address, Version};

use crate::own_hash::KeyedMap;
use crate::route::NextHop;

/// Tables and neighbours as they were at some time. What was made under another one is made anew. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Generation(pub(crate) u32);

/// From a VIP to a neighbour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) next_hop: NextHop,
    /// The whole header. While the neighbour is not resolved, the destination in it is blank.
    pub(crate) ethernet: [u8; HEADER_LEN],
    /// Largest IP packet, in bytes.
    pub(crate) mtu: u16,
    pub(crate) is_resolved: bool,
}

/// Paths to targets, bounded by targets and VIPs: only what is resolved is kept.
#[derive(Debug)]
pub(crate) struct TargetPaths {
    paths: KeyedMap<(u16, Version, Address), Path>,
    generation: Generation,
}

impl TargetPaths {
    pub(crate) fn new() -> Self {
        Self { paths: KeyedMap::default(), generation: Generation::default() }
    }

    /// The path that was kept, if it is of this generation.
    #[inline]
    pub(crate) fn get(&mut self, generation: Generation, vip: u16, version: Version, target: IpAddr) -> Option<Path> {
        if self.generation != generation {
            self.generation = generation;
            self.paths.clear();
        }
        self.paths.get(&(vip, version, target.into())).copied()
    }

    /// Keeps a path.
    pub(crate) fn put(&mut self, vip: u16, version: Version, target: IpAddr, path: Path) {
        if path.is_resolved {
            self.paths.insert((vip, version, target.into()), path);
        }
    }
}
